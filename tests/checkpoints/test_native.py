import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gesso.checkpoints.errors import ModelFileError
from gesso.checkpoints.native import CONFIG_KEY, TOKENIZER_KEY, load_native, save_native
from gesso.checkpoints.safetensors_file import open_safetensors, tensor_data_sha256, write_safetensors
from gesso.families.gesso_mini import config_of
from gesso.text.tokenizer import Tokenizer
from tiny_models import WORDS, tiny_family

TOKENIZER = Tokenizer.from_words(WORDS, length=16).to_json()
MODELSPEC = {"title": "tiny", "resolution": "64x64", "date": "2026-11-23"}
TENSORS: dict[str, dict[str, Tensor]] = {
    "unet": {"a": torch.tensor([1.0, 1 / 3]), "b.c": torch.ones(2, 2)},
    "vae": {"x": torch.zeros(3)},
}


def save(path: Path, components: Any = None, **changes: Any) -> Path:
    arguments = {
        "config": config_of(tiny_family()),
        "tokenizer": TOKENIZER,
        "modelspec": MODELSPEC,
        **changes,
    }
    save_native(path, TENSORS if components is None else components, **arguments)
    return path


def test_what_a_file_says(tmp_path: Path) -> None:
    path = save(tmp_path / "m.safetensors")
    file = open_safetensors(path)
    assert list(file.tensors) == ["unet.a", "unet.b.c", "vae.x"]
    assert {info.dtype for info in file.tensors.values()} == {torch.float16}
    assert {key: value for key, value in file.metadata.items() if key.startswith("modelspec.")} == {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": "gesso-mini",
        "modelspec.implementation": "gesso",
        "modelspec.title": "tiny",
        "modelspec.resolution": "64x64",
        "modelspec.date": "2026-11-23",
        "modelspec.prediction_type": "v",
        "modelspec.hash_sha256": f"0x{tensor_data_sha256(file)}",
    }
    found = load_native(path)
    assert found.components == ("unet", "vae")
    assert found.tokenizer == TOKENIZER
    assert found.config == json.loads(json.dumps(config_of(tiny_family())))
    assert torch.equal(found.load("unet")["a"], torch.tensor([1.0, 1 / 3]).half())
    assert found.load("text") == {}


def test_the_same_arguments_give_the_same_bytes(tmp_path: Path) -> None:
    assert save(tmp_path / "a").read_bytes() == save(tmp_path / "b").read_bytes()


def test_a_module_or_its_tensors(tmp_path: Path) -> None:
    module = torch.nn.Linear(2, 3)
    one = save(tmp_path / "a", {"unet": module}).read_bytes()
    assert one == save(tmp_path / "b", {"unet": module.state_dict()}).read_bytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"components": {"decoder": {}}}, "unknown components"),
        ({"components": {"unet": {"a": torch.tensor([float("nan")])}}}, "unet.a holds numbers that are not finite"),
        ({"components": {"unet": {"a": torch.tensor([1e6])}}}, "not finite in torch.float16"),
        ({"modelspec": {"title": "x"}}, "needs resolution"),
        ({"config": {"x": object()}}, "object cannot be stored in a configuration"),
        ({"config": {"x": float("nan")}}, "not JSON compliant"),
    ],
)
def test_what_is_not_written(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        save(tmp_path / "m.safetensors", **changes)
    assert list(tmp_path.iterdir()) == []


def test_other_dtypes(tmp_path: Path) -> None:
    path = save(tmp_path / "m.safetensors", dtype=torch.float32)
    assert torch.equal(load_native(path).load("unet")["a"], TENSORS["unet"]["a"])


@pytest.mark.parametrize(
    ("metadata", "tensors", "reason", "message"),
    [
        ({}, {}, "architecture_mismatch", "not a gesso model"),
        ({CONFIG_KEY: "{}"}, {}, "architecture_mismatch", "not a gesso model"),
        ({CONFIG_KEY: "{", TOKENIZER_KEY: "{}"}, {}, "config", "not valid JSON"),
        ({CONFIG_KEY: "[]", TOKENIZER_KEY: "{}"}, {}, "config", "expected an object"),
        ({CONFIG_KEY: "{}", TOKENIZER_KEY: "{}"}, {}, "config", "format None version None"),
        (
            {CONFIG_KEY: '{"format": "gesso-model", "version": 2}', TOKENIZER_KEY: "{}"},
            {},
            "config",
            "version 2, expected 'gesso-model' version 1; update gesso",
        ),
        (
            {CONFIG_KEY: '{"format": "gesso-model", "version": 1}', TOKENIZER_KEY: "{}"},
            {"lora.x": torch.zeros(2)},
            "unknown_key",
            "lora.x",
        ),
    ],
)
def test_what_is_no_native_file(
    tmp_path: Path, metadata: dict[str, str], tensors: dict[str, Tensor], reason: str, message: str
) -> None:
    path = tmp_path / "m.safetensors"
    write_safetensors(path, {"unet.a": torch.zeros(2), **tensors}, metadata)
    with pytest.raises(ModelFileError, match=message) as caught:
        load_native(path)
    assert caught.value.reason == reason
