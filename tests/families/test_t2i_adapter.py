"""T2I-Adapters from both spellings: names and shapes of real files, and their numbers beside diffusers."""

import gzip
import json
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from families.test_control_network import PUBLISHED
from gesso.checkpoints import keymap
from gesso.checkpoints.errors import ModelFileError
from gesso.checkpoints.t2i_adapters import t2i_adapter_layout
from gesso.families.base import Family
from gesso.families.control_network import load_control_network
from gesso.families.parts import on_meta
from gesso.families.sd15 import SD15
from gesso.families.sdxl import SDXL
from gesso.models.t2i_adapter import T2IAdapter
from tiny_sd import TINY_SD, TINY_SDXL

with warnings.catch_warnings():  # theirs, not ours
    warnings.simplefilter("ignore")
    from diffusers import T2IAdapter as TheirAdapter

TOLERANCE = 1e-5


@pytest.mark.parametrize(
    ("name", "family"), [("diffusers.sd15.t2i_adapter", SD15), ("diffusers.sdxl.t2i_adapter", SDXL)]
)
def test_every_published_list_is_made_name_for_name_and_shape_for_shape(name: str, family: Family) -> None:
    listed = json.loads(gzip.decompress(PUBLISHED.read_bytes()))["files"][name]
    shapes = {key: tuple(shape) for key, (shape, _) in listed.items()}
    config, rules = t2i_adapter_layout(shapes, name)
    with on_meta():
        network = T2IAdapter(config)
    keymap.plan(rules, shapes, keymap.shapes_of(network.state_dict()), where=name)
    assert keymap.shapes_of(keymap.save(rules, network.state_dict())) == shapes
    assert config.channels[: len(family.unet.channels)] == family.unet.channels


def their_adapter(family: Family, *, light: bool = False, channels: int = 3) -> TheirAdapter:
    """Their T2I-Adapter of a family's sizes with random numbers."""
    xl = family.layout == "sdxl"
    widths = (*family.unet.channels, family.unet.channels[-1])[:4]
    torch.manual_seed(5)
    network = TheirAdapter(
        in_channels=channels,
        channels=list(widths[:3] if light else widths),
        num_res_blocks=4 if light else 2,
        downscale_factor=16 if xl else 8,
        adapter_type="light_adapter" if light else "full_adapter_xl" if xl else "full_adapter",
    )
    network.eval().requires_grad_(False)
    return network


def own_names(tensors: Mapping[str, Tensor], *, light: bool) -> dict[str, Tensor]:
    """The same under the names of the adapter's authors."""

    def renamed(name: str) -> str:
        name = name.removeprefix("adapter.")
        if light:
            return name.replace(".resnets.", ".body.")
        if found := re.fullmatch(r"body\.(\d)\.(?:resnets\.(\d)\.)?(.*)", name):
            return f"body.{2 * int(found[1]) + int(found[2] or 0)}.{found[3]}"
        return name

    return {renamed(name): tensor for name, tensor in tensors.items()}


@torch.no_grad()
@pytest.mark.parametrize(
    ("family", "settings"),
    [(TINY_SD, {}), (TINY_SD, {"channels": 1}), (TINY_SD, {"light": True}), (TINY_SDXL, {})],
    ids=["sd15", "grey", "light", "sdxl"],
)
@pytest.mark.parametrize("form", ["diffusers", "own"])
def test_network_beside_diffusers(family: Family, settings: dict[str, Any], form: str, tmp_path: Path) -> None:
    light = settings.get("light", False)
    reference = their_adapter(family, **settings)
    tensors: Mapping[str, Tensor] = reference.state_dict()
    save_file(dict(tensors) if form == "diffusers" else own_names(tensors, light=light), tmp_path / "a.safetensors")
    found = load_control_network(tmp_path / "a.safetensors", family)
    assert found.hint_scale == 8
    hint = torch.rand(1, settings.get("channels", 3), 64, 96)
    network = found.network
    assert isinstance(network, T2IAdapter)
    gaps = [(a - b).abs().max().item() for a, b in zip(network(hint), reference(hint), strict=True)]
    print(f"{family.name} {settings} {form}: largest difference {max(gaps):.1e}")
    assert max(gaps) < TOLERANCE


def test_another_architecture_is_refused_and_both_are_named(tmp_path: Path) -> None:
    save_file(their_adapter(TINY_SDXL).state_dict(), tmp_path / "xl.safetensors")
    with pytest.raises(ModelFileError, match=r"a T2I-Adapter for Stable Diffusion XL .*, the model is 'sd15'"):
        load_control_network(tmp_path / "xl.safetensors", TINY_SD)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"adapter.conv_in.weight": torch.zeros(32, 5, 3, 3)}, "architecture_mismatch"),
        ({"adapter.body.1.resnets.0.block1.weight": None}, "architecture_mismatch"),
        ({"adapter.body.0.resnets.1.block2.weight": None}, "missing_key"),
        ({"adapter.body.9.resnets.0.block1.weight": torch.zeros(1)}, "unknown_key"),
        ({"adapter.body.3.resnets.1.block2.weight": torch.zeros(4, 4, 1, 1)}, "shape"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, changes: dict[str, Tensor | None], reason: str) -> None:
    tensors: dict[str, Tensor | None] = {**their_adapter(TINY_SD).state_dict(), **changes}
    save_file({name: t for name, t in tensors.items() if t is not None}, tmp_path / "bad.safetensors")
    with pytest.raises(ModelFileError) as caught:
        load_control_network(tmp_path / "bad.safetensors", TINY_SD)
    assert caught.value.reason == reason


def sizes(*, taken: int = 192, blocks: int = 2, widths: tuple[int, ...] = (320, 640, 1280, 1280)) -> dict[str, Any]:
    """Shapes of the published layout as far as they decide the sizes: blocks are numbered through all levels."""
    found = {"conv_in.weight": (widths[0], taken, 3, 3)}
    for number in range(4 * blocks):
        found[f"body.{number}.block1.weight"] = (widths[number // max(blocks, 1)], 1, 3, 3)
    return found


def test_sizes_follow_from_shapes():
    config, _ = t2i_adapter_layout(sizes(), "x")
    assert (config.image_channels, config.patch, config.num_blocks, config.light) == (3, 8, 2, False)
    assert config.channels == (320, 640, 1280, 1280) and config.halves == (False, True, True, True)
    config, _ = t2i_adapter_layout({f"adapter.{name}": shape for name, shape in sizes(taken=256).items()}, "x")
    assert (config.image_channels, config.patch, config.halves) == (1, 16, (False, False, True, False))
    assert t2i_adapter_layout(sizes(blocks=16), "x")[0].num_blocks == 16
    assert t2i_adapter_layout(sizes(widths=(1, 2, 3, 8192)), "x")[0].channels[-1] == 8192


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        (sizes(taken=100), "its first convolution takes 100 channels"),
        (sizes(blocks=0), "0 blocks a level, expected 1 to 16"),
        (sizes(blocks=17), "17 blocks a level, expected 1 to 16"),
        (sizes(widths=(1, 2, 3, 8193)), "features 8193 wide, at most 8192"),
    ],
)
def test_sizes_of_no_adapter_are_refused(shapes: dict[str, Any], words: str):
    with pytest.raises(ModelFileError, match=f"^here: .*{words}"):
        t2i_adapter_layout(shapes, "here")
