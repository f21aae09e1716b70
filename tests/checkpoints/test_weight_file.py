"""Row F of hostile files, and one way into every container."""

import gzip
import io
import os
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch

from foreign_files import FLOATS, gguf, pickled, saved, table, tensor, torch_zip
from gesso.checkpoints.errors import ModelFileError
from gesso.checkpoints.foreign import container_of
from gesso.checkpoints.gguf_file import GgufFile
from gesso.checkpoints.pickle_file import SOURCE_KEY
from gesso.checkpoints.safetensors_file import SafetensorsFile, open_safetensors, write_safetensors
from gesso.checkpoints.sharded import ShardedFile
from gesso.checkpoints.tensor_file import TensorFile
from gesso.checkpoints.weight_file import PickleFile, open_weights

W = torch.tensor([[1.0, 2.0], [3.0, 4.0]])


def files(folder: Path) -> dict[str, Path]:
    """The same tensor in every container, all under a name that says nothing."""
    made = {kind: folder / f"{kind}.weights" for kind in ("safetensors", "zip", "stacked", "gguf", "index")}
    write_safetensors(made["safetensors"], {"w": W}, {})
    made["zip"].write_bytes(saved({"state_dict": {"w": W}, "epoch": 1}))
    made["stacked"].write_bytes(saved({"w": W}, stacked=True))
    made["gguf"].write_bytes(gguf(data=FLOATS))
    write_safetensors(folder / "part.safetensors", {"w": W}, {})
    made["index"].write_text('{"weight_map": {"w": "part.safetensors"}}')
    return made


@pytest.mark.parametrize(
    ("kind", "made_by"),
    [
        ("safetensors", SafetensorsFile),
        ("zip", PickleFile),
        ("stacked", PickleFile),
        ("gguf", GgufFile),
        ("index", ShardedFile),
    ],
)
def test_every_container_reads_alike(tmp_path: Path, kind: str, made_by: type) -> None:
    path = files(tmp_path)[kind]
    file: TensorFile = open_weights(path)
    assert isinstance(file, made_by)
    assert file.path == path
    assert {name: (info.dtype, info.shape) for name, info in file.tensors.items()} == {"w": (torch.float32, (2, 2))}
    assert all(part.is_file() for part in file.files)
    assert file.nbytes == sum(part.stat().st_size for part in file.files)
    with file.reader() as reader:
        found = reader["w"]
    assert torch.equal(found, W)  # also after the reader was closed


def test_a_pytorch_file_is_converted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = files(tmp_path)["zip"]
    copies = tmp_path / "cache" / "converted"
    first = open_weights(path, converted=copies)
    assert first.path == path
    assert os.listdir(copies) == [f"{path.stem}.{first.metadata[SOURCE_KEY][:10]}.safetensors"]
    assert first.nbytes == first.files[0].stat().st_size
    monkeypatch.setattr("gesso.checkpoints.pickle_file.convert_pickle", None)
    second = open_weights(path, converted=copies)
    assert second.path == first.path
    with second.reader() as reader:
        assert torch.equal(reader["w"], W)


def test_a_copy_of_another_file_is_made_again(tmp_path: Path) -> None:
    path = files(tmp_path)["zip"]
    (copy,) = open_weights(path, converted=tmp_path / "copies").files
    write_safetensors(copy, {"w": torch.zeros(9)}, {})
    assert open_weights(path, converted=tmp_path / "copies").tensors["w"].shape == (2, 2)
    copy.write_bytes(b"damaged since")
    assert open_weights(path, converted=tmp_path / "copies").tensors["w"].shape == (2, 2)


# ---- what is no weights at all ---------------------------------------------------------------------------------------


def zipped(file_name: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(file_name, "content " * 99)
    return out.getvalue()


def tarred() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("storages"), None)
    return out.getvalue()


WRONG: dict[str, tuple[bytes, str, str]] = {
    "git-lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "not_safetensors", "git lfs pull"),
    "a web page": (b"<!DOCTYPE html>\n<html><title>Sign in</title>", "not_safetensors", "web page"),
    "a web page with a mark of order": (b"\xef\xbb\xbf<html>", "not_safetensors", "web page"),
    "an XML error of a bucket": (b'<?xml version="1.0"?><Error/>', "not_safetensors", "web page"),
    "a JSON error of a server": (b'{"error": "Access denied"}', "shard_index", "weight_map"),
    "a zip archive": (zipped("readme.txt"), "not_safetensors", "readme.txt"),
    "an empty zip archive": (b"PK\x05\x06" + bytes(18), "not_safetensors", "empty zip"),
    "a zip archive cut off": (saved({"w": W})[:-30], "truncated", "cut off"),
    "a tar archive": (tarred(), "not_safetensors", "tar archive"),
    "a gzip archive": (gzip.compress(b"x"), "not_safetensors", "gzip"),
    "a 7-Zip archive": (b"7z\xbc\xaf'\x1c" + bytes(40), "not_safetensors", "7-Zip"),
    "a plain pickle": (pickle.dumps({"a": [1]}, 4), "pickle_content", "pickle"),
    "a pickle of Python 2": (b"(dp0\nS'a'\np1\nI1\ns." + bytes(40), "header_length", "not safetensors"),
    "a GGUF file cut off": (gguf()[:20], "truncated", "download it again"),
    "a GGML file": (b"lmgg" + bytes(40), "not_safetensors", "GGUF has replaced"),
    "a NumPy file": (b"\x93NUMPY\x01\0" + bytes(40), "not_safetensors", "NumPy"),
    "Keras": (b"\x89HDF\r\n\x1a\n" + bytes(40), "not_safetensors", "HDF5"),
    "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(40), "not_safetensors", "PNG"),
    "a program": (b"MZ\x90\0" + bytes(40), "not_safetensors", "program"),
    "a script": (b"#!/bin/sh\nrm -rf /\n", "not_safetensors", "script"),
    "zeros": (bytes(1000), "not_safetensors", "zeros"),
    "nothing": (b"", "truncated", "empty"),
    "a byte": (b"\x80", "truncated", "1 bytes"),
    "a letter": (b"Dear Sir or Madam, ", "not_safetensors", "plain text"),
}


@pytest.mark.parametrize("extension", [".safetensors", ".ckpt"])
@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_file_says_what_it_looks_like(tmp_path: Path, what: str, extension: str) -> None:
    data, reason, word = WRONG[what]
    path = tmp_path / f"model{extension}"
    path.write_bytes(data)
    with pytest.raises(ModelFileError) as caught:
        open_weights(path)
    assert caught.value.reason == reason, caught.value.message
    assert word in caught.value.message
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("length", [640, 896, 1152, 1408, 0x5A4D, 0x2123, 0x8B1F, 0x7B20, 0x685A42])
def test_a_length_that_spells_a_magic_number_fools_nobody(tmp_path: Path, length: int) -> None:
    """A header of 640 bytes begins as a pickle does, one of 31,520 as JSON, one of 23,117 as a program."""
    header = b'{"w":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}'.ljust(length)
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", length) + header + FLOATS)
    assert container_of(path.read_bytes()[:512]) == "other"
    assert open_weights(path).tensors["w"].shape == (2, 2)
    assert open_safetensors(path).tensors["w"].shape == (2, 2)


def test_pytorch_files_say_how_to_use_them_where_safetensors_are_wanted(tmp_path: Path) -> None:
    for data in (saved({"w": W}), saved({"w": W}, stacked=True), torch_zip().build(), pickled(table(w=tensor()))):
        path = tmp_path / "model.safetensors"
        path.write_bytes(data)
        with pytest.raises(ModelFileError, match="gesso models import"):
            open_safetensors(path)


# ---- what is no ordinary file ----------------------------------------------------------------------------------------


def test_other_things_than_files(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="no such file"):
        open_weights(tmp_path / "none")
    with pytest.raises(ModelFileError, match="is a folder"):
        open_weights(tmp_path)
    with pytest.raises(ModelFileError, match="cannot be opened"):
        open_weights("a\0b")
    with pytest.raises(ModelFileError, match="cannot be opened"):
        open_weights(tmp_path / ("x" * 5000))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_pipes_devices_and_loops_of_links(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "pool")
    (tmp_path / "pool").symlink_to(tmp_path / "loop")
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    (tmp_path / "to the pipe").symlink_to(tmp_path / "pipe")
    reasons = {"pipe": "unreadable", "loop": "unreadable", "dangling": "missing", "to the pipe": "unreadable"}
    for file_name, reason in reasons.items():
        with pytest.raises(ModelFileError) as caught:
            open_weights(tmp_path / file_name)
        assert caught.value.reason == reason, file_name
    with pytest.raises(ModelFileError, match="not a regular file"):
        open_weights("/dev/zero")


@pytest.mark.skipif(os.name != "posix", reason="links need rights elsewhere")
def test_a_link_to_a_file_is_that_file(tmp_path: Path) -> None:
    """Folders of other tools and the cache of the hub are made of links."""
    (tmp_path / "link").symlink_to(files(tmp_path)["safetensors"])
    assert list(open_weights(tmp_path / "link").tensors) == ["w"]


def test_a_file_of_exabytes_costs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with open(path, "wb") as handle:
        handle.write(struct.pack("<Q", 100) + b"{")
        try:
            handle.truncate(2**42)
        except OSError:
            pytest.skip("the file system has no files of 4 TB")
    with pytest.raises(ModelFileError) as caught:
        open_weights(path)
    assert caught.value.reason == "header_json"


@pytest.mark.parametrize("file_name", ["a\nb.safetensors", "\x1b[31mred", "\u202egnp.ckpt", "CON", "x.safetensors.py"])
def test_odd_names_reach_no_terminal(tmp_path: Path, file_name: str) -> None:
    path = tmp_path / file_name
    path.write_bytes(b"no weights, by far")
    with pytest.raises(ModelFileError) as caught:
        open_weights(path)
    line = caught.value.one_line
    assert line.isprintable()
    assert "\u202e" not in line and "\x1b" not in line
