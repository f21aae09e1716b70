import hashlib
import json
import os
import stat
import struct
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from gesso.checkpoints import safetensors_file
from gesso.checkpoints.errors import ModelFileError
from gesso.checkpoints.hashing import sha256_of
from gesso.checkpoints.keymap import Rule, plan, shapes_of
from gesso.checkpoints.safetensors_file import (
    DTYPES,
    SafetensorsFile,
    open_safetensors,
    tensor_data_sha256,
    write_safetensors,
)

TENSORS: dict[str, Tensor] = {
    "b.weight": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "a.bias": torch.tensor([1.5, -2.0], dtype=torch.float16),
    "count": torch.tensor(7),
}


def raw(header: Any, data: bytes = b"", *, length: int | None = None) -> bytes:
    """A file with this header, valid or not."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {
        "dtype": dtype,
        "shape": list(shape) if isinstance(shape, tuple) else shape,
        "data_offsets": list(offsets) if isinstance(offsets, tuple) else offsets,
    }


GOOD = raw({"x": entry()}, b"\0" * 8)
X = b'"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'

# What is wrong -> the bytes, or what makes those that are many, the reason, a word of the message.
BAD: dict[str, tuple[bytes | Callable[[], bytes], str, str]] = {
    "empty": (b"", "truncated", "empty"),
    "seven bytes": (b"\x10\0\0\0\0\0\0", "truncated", "7 bytes"),
    "no header": (b"\x10\0\0\0\0\0\0\0", "truncated", "header"),
    "header of 0 bytes": (raw(b"", length=0), "header_length", "0 bytes"),
    "header of 2**63 bytes": (raw(b"{}", length=2**63), "header_length", "at most"),
    "header above the limit": (raw(b"{}", length=16 * 2**20 + 1), "header_length", "at most"),
    "header beyond the end": (raw(b"{}", length=100), "truncated", "header alone"),
    "not JSON": (raw(b"{nonsense}"), "header_json", "JSON"),
    "not UTF-8": (raw(b'{"\xff\xfe":1}'), "header_json", "JSON"),
    "UTF-16": (raw('{"x":1}'.encode("utf-16-le")), "header_json", "JSON"),
    "a list": (raw([1]), "header_json", "object"),
    "a leading space": (raw(b" {" + X + b"}", b"\0" * 8), "header_json", "object"),
    "100,000 deep": (raw(b'{"x":' * 100_000), "header_json", "JSON"),
    "a number of 10,000 digits": (raw(b'{"x":' + b"9" * 10_000 + b"}"), "header_json", "JSON"),
    "NaN in the header": (raw(b'{"x":NaN}'), "header_json", "JSON"),
    "nothing in it": (raw({}), "header_json", "no tensors"),
    "metadata alone": (raw({"__metadata__": {"a": "b"}}), "header_json", "no tensors"),
    "a name twice": (raw(b"{" + X + b"," + X + b"}", b"\0" * 8), "duplicate_key", "twice"),
    "a field twice": (
        raw(b'{"x":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}', b"\0" * 8),
        "duplicate_key",
        "twice",
    ),
    "a further field": (raw({"x": {**entry(), "code": "x"}}, b"\0" * 8), "header_json", "entry"),
    "a field less": (raw({"x": {"dtype": "F32", "shape": [2]}}, b"\0" * 8), "header_json", "entry"),
    "an empty name": (raw({"": entry()}, b"\0" * 8), "header_json", "name"),
    "a long name": (raw({"x" * 10_000: entry()}, b"\0" * 8), "header_json", "name"),
    "half a character": (raw(b'{"\\ud800":' + X[4:] + b"}", b"\0" * 8), "header_json", "name"),
    "unknown dtype": (raw({"x": entry("F5")}, b"\0" * 8), "dtype", "F5"),
    "a dtype that is a list": (raw({"x": entry(["F32"])}, b"\0" * 8), "dtype", "dtype"),
    "a negative side": (raw({"x": entry(shape=(-2,))}, b"\0" * 8), "overflow", "shape"),
    "a side that is true": (raw({"x": entry(shape=(True, 2))}, b"\0" * 8), "overflow", "shape"),
    "a fractional side": (raw({"x": entry(shape=(2.0,))}, b"\0" * 8), "overflow", "shape"),
    "a shape that is a text": (raw({"x": entry(shape="2")}, b"\0" * 8), "overflow", "shape"),
    "2**40 x 2**40": (raw({"x": entry(shape=(2**40, 2**40))}, b"\0" * 8), "overflow", "shape"),
    "0 x 2**62": (raw({"x": entry(shape=(0, 2**62), offsets=(0, 0))}), "overflow", "shape"),
    "10,000 dimensions": (raw({"x": entry(shape=(1,) * 10_000)}, b"\0" * 8), "overflow", "shape"),
    "a product beyond the file": (raw({"x": entry(shape=(2**31, 2**31))}, b"\0" * 8), "offsets", "bytes"),
    "bytes against shape": (raw({"x": entry(shape=(3,))}, b"\0" * 8), "offsets", "bytes"),
    "reversed offsets": (raw({"x": entry(offsets=(8, 0))}, b"\0" * 8), "offsets", "data_offsets"),
    "negative offsets": (raw({"x": entry(offsets=(-8, 0))}, b"\0" * 8), "offsets", "data_offsets"),
    "minus zero as an offset": (
        raw(b'{"x":{"dtype":"F32","shape":[2],"data_offsets":[-0,8]}}', b"\0" * 8),
        "offsets",
        "data_offsets",
    ),
    "minus zero as a side": (
        raw(b'{"x":{"dtype":"F32","shape":[-0],"data_offsets":[0,0]}}'),
        "overflow",
        "shape",
    ),
    "three offsets": (raw({"x": entry(offsets=(0, 4, 8))}, b"\0" * 8), "offsets", "data_offsets"),
    "overlap": (raw({"x": entry(), "y": entry(offsets=(4, 12))}, b"\0" * 12), "offsets", "expected 8"),
    "the same bytes twice": (raw({"x": entry(), "y": entry()}, b"\0" * 8), "offsets", "expected 8"),
    "a hole": (raw({"x": entry(), "y": entry(offsets=(12, 20))}, b"\0" * 20), "offsets", "expected 8"),
    "a hole in front": (raw({"x": entry(offsets=(4, 12))}, b"\0" * 12), "offsets", "expected 0"),
    "data cut off": (raw({"x": entry()}, b"\0" * 7), "truncated", "ends after"),
    "trailing bytes": (GOOD + b"PK\x03\x04", "offsets", "follow"),
    "metadata of numbers": (raw({"__metadata__": {"a": 1}, "x": entry()}, b"\0" * 8), "metadata", "strings"),
    "metadata as a list": (raw({"__metadata__": [], "x": entry()}, b"\0" * 8), "metadata", "strings"),
    "13 MB of metadata": (
        lambda: raw({"__metadata__": {"a": "b" * 13 * 2**20}, "x": entry()}, b"\0" * 8),
        "metadata",
        "metadata",
    ),
    "50 MB of metadata": (
        lambda: raw({"__metadata__": {"a": "b" * 50_000_000}, "x": entry()}, b"\0" * 8),
        "header_length",
        "at most",
    ),
    "200,000 tensors": (
        lambda: raw({f"t{i}": entry(shape=(0,), offsets=(0, 0)) for i in range(20_001)}),
        "header_json",
        "tensors",
    ),
    "a pickle": (b"\x80\x02}q\0." * 9, "not_safetensors", "pickle"),
    "a PyTorch file": (b"PK\x03\x04" + b"\0" * 60, "not_safetensors", "zip"),
    "GGUF": (b"GGUF\x03\0\0\0" + b"\0" * 60, "not_safetensors", "GGUF"),
    "a git-lfs pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4265146304\n",
        "not_safetensors",
        "git-lfs",
    ),
    "a web page": (b"\n\n<!DOCTYPE html><html><title>Log in</title></html>", "not_safetensors", "web page"),
    "a picture": (b"\x89PNG\r\n\x1a\n" + b"\0" * 60, "not_safetensors", "PNG"),
    "some text": (b"Dear reader,\r\n\tthis is no model at all.", "not_safetensors", "plain text"),
    "text in another script": ("это не модель ".encode() * 40, "not_safetensors", "plain text"),
    "bytes without a meaning": (bytes(range(128, 256)) * 4, "header_length", "not safetensors"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_files_are_refused_with_a_reason(tmp_path: Path, what: str) -> None:
    data, reason, word = BAD[what]
    path = tmp_path / "model.safetensors"
    path.write_bytes(data() if callable(data) else data)
    with pytest.raises(ModelFileError) as caught:
        open_safetensors(path)
    assert caught.value.reason == reason
    assert word in caught.value.message
    assert caught.value.message.startswith(str(path))
    assert len(caught.value.one_line) < 500  # names and numbers of a stranger are cut


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    whole = tmp_path / "whole.safetensors"
    write_safetensors(whole, TENSORS, {"format": "pt"})
    data = whole.read_bytes()
    path = tmp_path / "cut.safetensors"
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(ModelFileError) as caught:
            open_safetensors(path)
        assert caught.value.reason == "truncated", length


STRANGE_NAMES = ("../../etc/passwd", "a\0b", "\u202egnp.exe", "<img src=x onerror=alert(1)>", "\x1b[31m", "__class__")


@pytest.mark.parametrize("name", STRANGE_NAMES)
def test_a_strange_name_has_no_place_in_a_model(tmp_path: Path, name: str) -> None:
    """Row S7. A name is only ever looked up in the model's own table; what is shown of it is harmless."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(raw({name: entry(), "known": entry(offsets=(8, 16))}, b"\0" * 16))
    file = open_safetensors(path)
    with pytest.raises(ModelFileError) as caught:
        plan([Rule("known", "known")], shapes_of(file.tensors), {"known": (2,)}, where=path)
    assert caught.value.reason == "unknown_key"
    assert caught.value.one_line.isprintable()


@pytest.mark.parametrize("part", [b'"name":0,', b'"text",', b"[],", b"9,", b'{"":[]},'])
def test_a_header_of_many_small_parts_takes_no_memory(tmp_path: Path, part: bytes) -> None:
    """12 MB of them would be a gigabyte of objects. The header itself is in memory twice."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(raw(b'{"a":[' + part * (12 * 2**20 // len(part)) + b"0]}"))
    tracemalloc.start()
    try:
        with pytest.raises(ModelFileError, match="more than any model needs") as caught:
            open_safetensors(path)
        assert tracemalloc.get_traced_memory()[1] < 40 * 2**20
    finally:
        tracemalloc.stop()
    assert caught.value.reason == "header_json"


def test_metadata_that_quotes_much_is_read(tmp_path: Path) -> None:
    """Tables of tags as trainers write them: JSON inside a string, a quote in every third byte."""
    table = json.dumps({f"tag {i}": i for i in range(40_000)})
    path = tmp_path / "model.safetensors"
    path.write_bytes(raw({"__metadata__": {"ss_tag_frequency": table}, "x": entry()}, b"\0" * 8))
    assert open_safetensors(path).metadata["ss_tag_frequency"] == table


def test_metadata_is_text_and_no_more(tmp_path: Path) -> None:
    """Row S10. Pages, false claims and tables stay the strings that they are."""
    claims = {"modelspec.architecture": "<script>alert(1)</script>", "ss_tag_frequency": '{"a":' * 1000, "": "\u202e"}
    path = tmp_path / "model.safetensors"
    path.write_bytes(raw({"__metadata__": claims, "x": entry()}, b"\0" * 8))
    assert open_safetensors(path).metadata == claims


def test_eight_bit_floats_are_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    header = {"a": entry("F8_E4M3", (4,), (0, 4)), "b": entry("F8_E5M2", (4,), (4, 8))}
    path.write_bytes(raw(header, bytes([0x38, 0xB8, 0x00, 0x7E, 0x3C, 0xBC, 0x00, 0x7B])))
    with open_safetensors(path).reader() as reader:
        assert reader["a"].float().tolist() == [1, -1, 0, 448]  # 448 and 57344: the largest numbers of the formats
        assert reader["b"].float().tolist() == [1, -1, 0, 57344]


@pytest.mark.skipif(os.name != "posix", reason="elsewhere a mapped file cannot be replaced")
def test_a_file_that_is_replaced_while_it_is_mapped_stays_what_it_was(tmp_path: Path) -> None:
    """Row F2, as `write_safetensors` and careful tools replace files: the old one lives as long as its mapping."""
    path = tmp_path / "model.safetensors"
    write_safetensors(path, {"w": torch.ones(100_000)}, {})
    with open_safetensors(path).reader() as reader:
        write_safetensors(path, {"w": torch.zeros(3)}, {})
        tensor = reader["w"]
    path.unlink()
    assert torch.equal(tensor, torch.ones(100_000))


def test_other_things_than_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="no such file"):
        open_safetensors(tmp_path / "missing.safetensors")
    with pytest.raises(ModelFileError, match="is a folder"):
        open_safetensors(tmp_path)
    with pytest.raises(ModelFileError, match="cannot be opened"):
        open_safetensors("a\0b")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_named_pipe_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    found: list[BaseException] = []

    def run() -> None:
        try:
            open_safetensors(tmp_path / "pipe")
        except ModelFileError as error:
            found.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(5)
    assert [str(error) for error in found] == [f"{tmp_path / 'pipe'}: is not a regular file, expected a file"]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=4))
def test_damage_is_refused_or_harmless(tmp_path: Path, changes: list[tuple[int, int]]) -> None:
    """Whatever bytes change: a ModelFileError, or a file that the library reads in the same way."""
    data = bytearray(save(TENSORS, {"format": "pt"}))
    for position, value in changes:
        data[position % len(data)] = value
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(data)
    try:
        file = open_safetensors(path)
    except ModelFileError:
        return
    with safe_open(path, framework="pt") as handle, file.reader() as reader:
        assert set(handle.keys()) == set(file.tensors)
        for name, info in file.tensors.items():
            tensor = reader[name]
            assert tuple(tensor.shape) == info.shape
            assert tensor.dtype == info.dtype
            assert bytes_of(tensor) == bytes_of(handle.get_tensor(name))


def bytes_of(tensor: Tensor) -> bytes:
    return tensor.reshape(-1).view(torch.uint8).numpy().tobytes()


def test_reading_copies_nothing(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    write_safetensors(path, TENSORS, {})
    file = open_safetensors(path)
    with file.reader() as reader:
        first, second = reader["b.weight"], reader["b.weight"]
    assert torch.equal(first, TENSORS["b.weight"])
    assert first.data_ptr() == second.data_ptr()
    first[0, 0] = 9.0  # in memory alone: the mapping is private
    assert torch.equal(load_file(path)["b.weight"], TENSORS["b.weight"])


def test_a_file_that_changes_between_header_and_numbers_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    write_safetensors(path, TENSORS, {})
    file = open_safetensors(path)
    write_safetensors(path, {"other": torch.zeros(3)}, {})
    with pytest.raises(ModelFileError, match="changed"), file.reader():
        pass
    write_safetensors(path, {**TENSORS, "count": torch.zeros(4)}, {})
    with pytest.raises(ModelFileError, match="changed"), file.reader() as reader:
        reader["count"]


# ---------------------------------------------------------------------------------------------------------------------


def test_the_bytes_are_those_of_the_library(tmp_path: Path) -> None:
    """Every dtype, unsorted names, an empty tensor, one without dimensions."""
    tensors = {
        f"{prefix}.{name}": torch.arange(5).to(dtype) for prefix in ("z", "a") for name, dtype in DTYPES.items()
    } | {"empty": torch.zeros(0, 3), "scalar": torch.tensor(1.0), "name ü": torch.ones(2)}
    path = tmp_path / "model.safetensors"
    write_safetensors(path, tensors, {"format": "pt"})
    assert path.read_bytes() == save(tensors, {"format": "pt"})


def test_strided_tensors_and_views_are_written_as_they_look(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    tensors = {"transposed": base.t(), "slice": base[:, 1:3], "expanded": torch.ones(1).expand(4)}
    path = tmp_path / "model.safetensors"
    write_safetensors(path, tensors, {})
    found = load_file(path)
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


def test_the_hash_of_the_numbers(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    write_safetensors(path, TENSORS, {"b": "2", "a": "1"}, hash_key="modelspec.hash_sha256")
    file = open_safetensors(path)
    assert list(file.metadata) == ["a", "b", "modelspec.hash_sha256"]
    data = path.read_bytes()[file.header_nbytes :]
    assert file.metadata["modelspec.hash_sha256"] == f"0x{hashlib.sha256(data).hexdigest()}"
    assert tensor_data_sha256(file) == hashlib.sha256(data).hexdigest()


def failing(at: str) -> Callable[..., Any]:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise OSError(28, f"No space left on device ({at})")

    return fail


@pytest.mark.parametrize("at", ["fsync", "replace"])
def test_a_failed_save_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    path = tmp_path / "model.safetensors"
    write_safetensors(path, TENSORS, {})
    before = path.read_bytes()
    monkeypatch.setattr(os, at, failing(at))
    with pytest.raises(ModelFileError, match="No space left") as caught:
        write_safetensors(path, {"x": torch.zeros(2)}, {})
    assert caught.value.reason == "unwritable"
    assert os.listdir(tmp_path) == ["model.safetensors"]
    assert path.read_bytes() == before


def test_an_interrupted_save_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(tensor: Tensor) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(safetensors_file, "_bytes_of", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_safetensors(tmp_path / "model.safetensors", TENSORS, {})
    assert os.listdir(tmp_path) == []


def test_unwritable_places(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="cannot be written"):
        write_safetensors(tmp_path / "no" / "such" / "folder.safetensors", TENSORS, {})
    (tmp_path / "file").touch()
    with pytest.raises(ModelFileError, match="cannot be written"):
        write_safetensors(tmp_path / "file" / "x.safetensors", TENSORS, {})
    (tmp_path / "folder").mkdir()
    with pytest.raises(ModelFileError, match="cannot be written"):
        write_safetensors(tmp_path / "folder", TENSORS, {})
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_what_gesso_could_not_read_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="complex"):
        write_safetensors(tmp_path / "m.safetensors", {"x": torch.zeros(2, dtype=torch.complex64)}, {})
    too_many = {f"t{i}": torch.zeros(0) for i in range(20_001)}
    with pytest.raises(ValueError, match="20001 tensors"):
        write_safetensors(tmp_path / "m.safetensors", too_many, {})
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(os.name != "posix", reason="permission bits are POSIX")
def test_a_saved_file_has_ordinary_permissions(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    write_safetensors(path, TENSORS, {})
    (tmp_path / "plain").write_bytes(b"")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_sha256_follows_the_file(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"one")
    assert sha256_of(path) == hashlib.sha256(b"one").hexdigest()
    assert sha256_of(str(path)) == hashlib.sha256(b"one").hexdigest()
    path.write_bytes(b"other")
    assert sha256_of(path) == hashlib.sha256(b"other").hexdigest()


def test_sha256_reads_an_unchanged_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"one")
    first = sha256_of(path)
    monkeypatch.setattr(hashlib, "file_digest", failing("hash"))
    assert sha256_of(path) == first


def test_the_header_is_kept_in_its_order(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(raw({"z": entry(), "a": entry(offsets=(8, 16))}, b"\0" * 16))
    file: SafetensorsFile = open_safetensors(path)
    assert list(file.tensors) == ["z", "a"]
    assert file.nbytes == path.stat().st_size
    assert file.tensors["z"].count == 2


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="no file that opens and cannot be read")
def test_errors_of_reading_name_the_file(tmp_path: Path):
    path = tmp_path / "model.safetensors"
    path.symlink_to("/proc/self/mem")
    for read in (open_safetensors, sha256_of):
        with pytest.raises(ModelFileError, match=r"model\.safetensors: cannot be read: Input/output error"):
            read(path)
