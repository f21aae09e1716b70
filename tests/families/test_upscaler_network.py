"""Upscaler networks from files: against spandrel's numbers, in every spelling, and what is none."""

import re
from contextlib import suppress
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from gesso.checkpoints.detect import detect
from gesso.checkpoints.errors import ModelFileError
from gesso.checkpoints.keymap import plan, shapes_of
from gesso.checkpoints.upscalers import is_upscaler, upscaler_layout
from gesso.checkpoints.weight_file import open_weights
from gesso.families.parts import on_meta
from gesso.families.upscaler_network import load_upscaler_network
from gesso.models.rrdb import RRDBNet, RRDBNetConfig
from gesso.models.srvgg import SRVGG, SRVGGConfig
from upscaler_files import (
    COMPACT_FILES,
    RRDB_FILES,
    compact_shapes,
    golden_picture,
    rrdb_shapes,
    upscaler_weights,
    weights,
)

OTHER = "architecture_mismatch"
SAVED = load_file(Path(__file__).parents[1] / "golden" / "upscalers.safetensors")


def written(folder: Path, tensors: dict[str, Tensor]) -> Path:
    save_file(tensors, folder / "x.safetensors")
    return folder / "x.safetensors"


@pytest.mark.parametrize("name", [*RRDB_FILES, *COMPACT_FILES])
def test_every_spelling_gives_spandrels_numbers(tmp_path: Path, name: str):
    path = written(tmp_path, upscaler_weights(name))
    network, files = load_upscaler_network(path)
    assert files == (path,)
    with torch.no_grad():
        found = network(golden_picture() * 2 - 1) / 2 + 0.5
    assert found.shape == SAVED[name].shape
    gap = (found - SAVED[name]).abs().max().item() / SAVED[name].std().item()
    assert gap < 2e-5, gap  # float32, summed in another order
    assert network.config.scale == SAVED[name].shape[-1] // 13


@pytest.mark.parametrize("prefix", ["module.", "netG.", "generator."])
@pytest.mark.parametrize("name", ["numbered_x4", "compact_x2"])
def test_names_behind_the_prefix_of_a_wrapper(tmp_path: Path, name: str, prefix: str):
    tensors = upscaler_weights(name)
    path = written(tmp_path, {prefix + key: tensor for key, tensor in tensors.items()})
    assert is_upscaler(open_weights(path).tensors)
    network, _ = load_upscaler_network(path)
    (tmp_path / "plain").mkdir()
    plain, _ = load_upscaler_network(written(tmp_path / "plain", tensors))
    for key, tensor in plain.state_dict().items():
        assert torch.equal(network.state_dict()[key], tensor), key


def test_counters_of_a_training_are_left_out(tmp_path: Path):
    tensors = upscaler_weights("real_x2plus")
    path = written(tmp_path, tensors | {"bn.num_batches_tracked": torch.tensor(5)})
    network, _ = load_upscaler_network(path)
    assert torch.equal(network.conv_in.weight, tensors["conv_first.weight"])


def test_messages_name_the_file_that_was_given_and_not_its_copy(tmp_path: Path):
    torch.save(upscaler_weights("real_x4") | {"more": torch.zeros(3)}, tmp_path / "x.pth")
    with pytest.raises(ModelFileError, match=r"x\.pth: 1 tensors fit nothing in the model: '?more") as caught:
        load_upscaler_network(tmp_path / "x.pth", converted=tmp_path / "converted")
    assert "converted" not in caught.value.message


@pytest.mark.parametrize("wrapper", ["params_ema", "params", "state_dict", None])
def test_pytorch_files_as_they_are_published(tmp_path: Path, wrapper: str | None):
    tensors = upscaler_weights("real_x4")
    torch.save({wrapper: tensors} if wrapper else tensors, tmp_path / "x.pth")
    network, _ = load_upscaler_network(tmp_path / "x.pth")
    assert torch.equal(network.conv_in.weight, tensors["conv_first.weight"])


def test_the_header_tells_the_sizes_that_are_published():
    """RealESRGAN_x4plus (16.7 million parameters), its anime version, x2plus, realesr-general-x4v3, 4x of the wiki."""
    full = {"channels": 64, "growth": 32, "num_enlargements": 2}
    layout = upscaler_layout(rrdb_shapes("real", enlargements=2, channels=64, blocks=23), "x")
    assert layout[0] == RRDBNetConfig(**full, num_blocks=23, fold=1)
    layout = upscaler_layout(rrdb_shapes("real", enlargements=2, channels=64, blocks=6), "x")
    assert layout[0] == RRDBNetConfig(**full, num_blocks=6, fold=1)
    layout = upscaler_layout(rrdb_shapes("real", enlargements=2, fold=2, channels=64, blocks=23), "x")
    assert layout[0] == RRDBNetConfig(**full, num_blocks=23, fold=2)
    assert (layout[0].scale, layout[0].sight) == (2, 2 * (23 * 15 + 4))
    layout = upscaler_layout(rrdb_shapes("numbered", enlargements=2, channels=64, blocks=23), "x")
    assert layout[0] == RRDBNetConfig(**full, num_blocks=23, fold=1)
    layout = upscaler_layout(compact_shapes(4, channels=64, convs=32), "x")
    assert layout[0] == SRVGGConfig(channels=64, num_convs=32, scale=4)


@pytest.mark.parametrize("name", [*RRDB_FILES, *COMPACT_FILES])
def test_a_file_is_known_by_its_header(tmp_path: Path, name: str):
    assert "upscaler network" in detect(open_weights(written(tmp_path, upscaler_weights(name)))).what


SHALLOW = {"conv_first.weight": (1, 3, 3, 3), "conv_last.weight": (3, 1, 3, 3)}


def _without(name: str, key: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in upscaler_weights(name).items() if name != key}


def _changed(name: str, **more: Tensor) -> dict[str, Tensor]:
    return upscaler_weights(name) | {key.replace("__", "."): tensor for key, tensor in more.items()}


@pytest.mark.parametrize(
    ("tensors", "reason", "said"),
    [
        ({"a.weight": torch.zeros(3)}, OTHER, "no tensor names of ESRGAN"),
        (_without("real_x4", "conv_hr.bias"), "missing_key", "conv_hr.bias"),
        (_without("real_x4", "conv_last.weight"), OTHER, "conv_last.weight is missing"),
        (_changed("real_x4", body__7__rdb1__conv1__weight=torch.zeros(32, 8, 3, 3)), "unknown_key", "body.7.rdb1"),
        (_changed("real_x4", stray=torch.zeros(3)), "unknown_key", "stray"),
        (_changed("real_x4", conv_hr__weight=torch.zeros(8, 4, 3, 3)), "shape", "conv_hr.weight is"),
        (_changed("real_x4", conv_last__weight=torch.zeros(1, 8, 3, 3)), OTHER, "to 1 channels"),
        (_changed("real_x4", conv_first__weight=torch.zeros(8, 5, 3, 3)), OTHER, "from 5 to 3"),
        (_changed("real_x4", conv_first__weight=torch.zeros(8)), OTHER, r"conv_first.weight is \[8\]"),
        (_changed("real_x4", conv_hr__bias=torch.full((8,), torch.nan)), "nonfinite", "conv_hr.bias"),
        (_changed("numbered_x4", model__11__weight=torch.zeros(3, 8, 3, 3)), OTHER, "model.11"),
        (_changed("numbered_x4", model__1__sub__0__RDB1__conv1x1__weight=torch.zeros(1)), OTHER, "ESRGAN+"),
        (_changed("compact_x2", body__8__weight=torch.zeros(7, 8, 3, 3)), OTHER, "from 3 to 7"),
        (_changed("compact_x2", body__9998__weight=torch.zeros(3, 8, 3, 3)), OTHER, "4998 convolutions"),
        (
            weights(dict(SHALLOW, **{f"body.{i}.rdb1.conv1.weight": (1, 1, 3, 3) for i in range(65)})),
            OTHER,
            "65 blocks",
        ),
    ],
)
def test_what_is_no_upscaler_is_told(tmp_path: Path, tensors: dict[str, Tensor], reason: str, said: str):
    with pytest.raises(ModelFileError, match=said) as caught:
        load_upscaler_network(written(tmp_path, tensors))
    assert caught.value.reason == reason


@cache
def shapes_in(name: str) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in upscaler_weights(name).items()}


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_header_that_was_tampered_with_is_told(data: st.DataObject):
    """Whatever names and shapes a header has: sizes and a plan, or one line."""
    name = data.draw(st.sampled_from([*RRDB_FILES, *COMPACT_FILES]))
    shapes = dict(shapes_in(name))
    sizes = st.lists(st.sampled_from([0, 1, 3, 8, 12, 32, 48, 4096]), max_size=5).map(tuple)
    for _ in range(data.draw(st.integers(1, 3))):
        key = data.draw(st.sampled_from(sorted(shapes)))
        change = data.draw(st.sampled_from(["leave out", "shape", "number"]))
        if change == "number":
            number = data.draw(st.sampled_from(["0", "7", "63", "999", "99999", "x", ""]))
            shapes[re.sub(r"\d+", number, key, count=1)] = shapes.pop(key)
        elif change == "shape":
            shapes[key] = data.draw(sizes)
        else:
            shapes.pop(key)
    with suppress(ModelFileError), on_meta():
        config, rules = upscaler_layout(shapes, "x")
        assert 1 <= config.scale <= 16
        network = RRDBNet(config) if isinstance(config, RRDBNetConfig) else SRVGG(config)
        plan(rules, shapes, shapes_of(network.state_dict()), where="x")
