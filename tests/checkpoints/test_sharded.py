"""Several files under an index."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from gesso.checkpoints.diffusers import weight_file
from gesso.checkpoints.errors import ModelFileError
from gesso.checkpoints.safetensors_file import write_safetensors
from gesso.checkpoints.sharded import open_sharded
from gesso.checkpoints.weight_file import open_weights

FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def folder_of(tmp_path: Path, index: Any = None, **parts: dict[str, torch.Tensor]) -> Path:
    held = parts or {"first": {"b": torch.ones(2)}, "second": {"a": torch.zeros(3), "c": torch.tensor(5)}}
    for file_name, tensors in zip((FIRST, SECOND), held.values(), strict=False):
        write_safetensors(tmp_path / file_name, tensors, {"format": "pt"})
    places = {"b": FIRST, "a": SECOND, "c": SECOND}
    path = tmp_path / "model.safetensors.index.json"
    text = index if isinstance(index, (str, bytes)) else json.dumps({"weight_map": places} if index is None else index)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_several_files_are_one(tmp_path: Path) -> None:
    file = open_sharded(folder_of(tmp_path))
    assert list(file.tensors) == ["b", "a", "c"]
    assert file.metadata == {"format": "pt"}
    assert file.files == (tmp_path / FIRST, tmp_path / SECOND)
    assert file.nbytes == sum(path.stat().st_size for path in file.files)
    with file.reader() as reader:
        found = {name: reader[name] for name in file.tensors}
    assert [tensor.tolist() for tensor in found.values()] == [[1, 1], [0, 0, 0], 5]


def test_shards_of_pytorch(tmp_path: Path) -> None:
    """As folders had them before 2023."""
    torch.save({"b": torch.ones(2)}, tmp_path / "pytorch_model-00001-of-00002.bin")
    torch.save({"a": torch.zeros(3)}, tmp_path / "pytorch_model-00002-of-00002.bin")
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(
        json.dumps({"weight_map": {"b": "pytorch_model-00001-of-00002.bin", "a": "pytorch_model-00002-of-00002.bin"}})
    )
    assert weight_file(tmp_path, "model") == index
    for converted in (None, tmp_path / "copies"):
        file = open_weights(index, converted=converted)
        with file.reader() as reader:
            assert {name: reader[name].tolist() for name in file.tensors} == {"b": [1, 1], "a": [0, 0, 0]}


def test_an_index_is_no_shard(tmp_path: Path) -> None:
    index = tmp_path / "x.bin"
    index.write_text(json.dumps({"weight_map": {"b": "x.bin"}}))
    with pytest.raises(ModelFileError, match="names another index") as caught:
        open_weights(index)
    assert caught.value.reason == "shard_index"


def weight_map(**places: Any) -> dict[str, Any]:
    return {"metadata": {"total_size": 1}, "weight_map": {"b": FIRST, "a": SECOND, "c": SECOND, **places}}


BAD: dict[str, tuple[Any, str]] = {
    "not JSON": ("{nonsense", "shard_index"),
    "UTF-16": ("{}".encode("utf-16"), "shard_index"),
    "a list": ([], "shard_index"),
    "100,000 deep": ('{"weight_map":' * 100_000, "shard_index"),
    "no map": ({"metadata": {}}, "shard_index"),
    "an empty map": ({"weight_map": {}}, "shard_index"),
    "a map that is a list": ({"weight_map": [FIRST]}, "shard_index"),
    "a file that is a number": (weight_map(b=1), "shard_index"),
    "a file that is a list": (weight_map(b=[FIRST]), "shard_index"),
    "an empty name": (weight_map(**{"": FIRST}), "shard_index"),
    "a long name": (weight_map(**{"x" * 513: FIRST}), "shard_index"),
    "20,001 tensors": ({"weight_map": {f"t{i}": FIRST for i in range(20_001)}}, "shard_index"),
    "a million texts": (lambda: json.dumps({"x": [str(i) for i in range(400_000)]}), "shard_index"),
    "1,001 files": ({"weight_map": {f"t{i}": f"m{i}.safetensors" for i in range(1001)}}, "shard_index"),
    "a name twice": (f'{{"weight_map": {{"b": "{FIRST}", "b": "{SECOND}"}}}}', "duplicate_key"),
    "a path upwards": (weight_map(b=f"../{FIRST}"), "shard_name"),
    "a path upwards, Windows": (weight_map(b=f"..\\{FIRST}"), "shard_name"),
    "a folder": (weight_map(b=f"unet/{FIRST}"), "shard_name"),
    "an absolute path": (weight_map(b="/etc/passwd"), "shard_name"),
    "an absolute path of safetensors": (weight_map(b="/tmp/x.safetensors"), "shard_name"),
    "a drive": (weight_map(b="C:x.safetensors"), "shard_name"),
    "a NUL": (weight_map(b="x\0.safetensors"), "shard_name"),
    "a line break": (weight_map(b="x.safetensors\n"), "shard_name"),
    "a dot file": (weight_map(b="..safetensors"), "shard_name"),
    "an address": (weight_map(b="http://example.org/x.safetensors"), "shard_name"),
    "a PyTorch file that is not there": (weight_map(b="pytorch_model-00001-of-00002.bin"), "missing"),
    "another kind of file": (weight_map(b="model.ckpt"), "shard_name"),
    "256 characters": (weight_map(b="x" * 245 + ".safetensors"), "shard_name"),
    "a file that is not there": (weight_map(b="other.safetensors"), "missing"),
    "a tensor that is not there": (weight_map(d=FIRST), "missing_key"),
    "a tensor in the other file": (weight_map(b=SECOND, a=SECOND, x=FIRST), "missing_key"),
    "a tensor that it does not name": ({"weight_map": {"b": FIRST, "a": SECOND}}, "unknown_key"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_a_bad_index_is_refused_with_a_reason(tmp_path: Path, what: str) -> None:
    index, reason = BAD[what]
    with pytest.raises(ModelFileError) as caught:
        open_sharded(folder_of(tmp_path, index() if callable(index) else index))
    assert caught.value.reason == reason, caught.value.message
    assert len(caught.value.one_line) < 600


def test_a_tensor_in_two_files_is_refused(tmp_path: Path) -> None:
    parts = {"first": {"b": torch.ones(2), "a": torch.ones(3)}, "second": {"a": torch.zeros(3), "c": torch.tensor(5)}}
    with pytest.raises(ModelFileError) as caught:
        open_sharded(folder_of(tmp_path, **parts))
    assert caught.value.reason == "duplicate_key"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_named_pipe_as_a_part_does_not_hang(tmp_path: Path) -> None:
    index = folder_of(tmp_path)
    (tmp_path / SECOND).unlink()
    os.mkfifo(tmp_path / SECOND)
    with pytest.raises(ModelFileError, match="not a regular file"):
        open_sharded(index)


def test_a_damaged_part_is_refused(tmp_path: Path) -> None:
    index = folder_of(tmp_path)
    (tmp_path / SECOND).write_bytes((tmp_path / SECOND).read_bytes()[:-1])
    with pytest.raises(ModelFileError) as caught:
        open_sharded(index)
    assert caught.value.reason == "truncated"
