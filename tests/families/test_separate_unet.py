"""A UNet in a file of its own: every form that it is published in, and what becomes of the model around it."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from gesso.checkpoints import ldm
from gesso.checkpoints.errors import ModelFileError
from gesso.families.base import Family
from gesso.families.loading import load_parts
from gesso.families.parts import ModelParts
from gesso.families.registry import FAMILIES
from gesso.families.saving import folder_tensors, ldm_tensors
from tiny_sd import (
    TINY_INPAINT,
    TINY_LCM,
    TINY_SD,
    TINY_SD21,
    TINY_SDXL,
    TINY_SDXL_LCM,
    save_tiny_file,
    save_tiny_folder,
    tiny_parts,
)


def unet_file(path: Path, family: Family, form: str, seed: int = 1) -> Path:
    """Another UNet of a family in a file: with the names of a whole model, without their prefix, or of a folder."""
    parts = tiny_parts(family, seed)
    if form == "folder":
        tensors = folder_tensors(parts, "unet")
    else:
        named = {name: tensor for name, tensor in ldm_tensors(parts).items() if name.startswith(ldm.UNET)}
        tensors = {name.removeprefix(ldm.UNET if form == "bare" else ""): tensor for name, tensor in named.items()}
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, path)
    return path


def same(found: torch.nn.Module, expected: torch.nn.Module) -> bool:
    theirs: dict[str, Tensor] = expected.state_dict()
    ours: dict[str, Tensor] = found.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Family], tuple[Path, ModelParts]]:
    """The folder of a family, and what it is by itself."""

    @cache
    def made(family: Family) -> tuple[Path, ModelParts]:
        folder = save_tiny_folder(tmp_path_factory.mktemp("base") / family.name, family)
        return folder, load_parts(folder)

    return made


@pytest.mark.parametrize("form", ["prefixed", "bare", "folder"])
@pytest.mark.parametrize("family", [TINY_SD, TINY_SD21, TINY_SDXL], ids=lambda family: family.name)
@pytest.mark.sampled(5)
def test_it_takes_the_place_of_the_models(tmp_path: Path, bases: Any, family: Family, form: str) -> None:
    base, whole = bases(family)
    other = unet_file(tmp_path / "unet.safetensors", family, form)
    found = load_parts(base, unet=other)
    assert found.family == whole.family
    assert same(found.unet, tiny_parts(family, 1).unet)
    assert same(found.vae, tiny_parts(family).vae)
    assert other in found.files
    assert len(found.files) == len(whole.files)


def test_in_a_single_file(tmp_path: Path) -> None:
    save_tiny_file(tmp_path / "base.safetensors")
    other = unet_file(tmp_path / "unet.safetensors", TINY_SD, "folder")
    found = load_parts(tmp_path / "base.safetensors", family=TINY_SD, unet=other)
    assert same(found.unet, tiny_parts(TINY_SD, 1).unet)
    assert found.files == (tmp_path / "base.safetensors", other)


@pytest.mark.parametrize(
    ("base", "unet", "name"),
    [
        (TINY_SD, TINY_INPAINT, "sd15-inpaint"),
        (TINY_SD, TINY_LCM, "sd15-lcm-full"),
        (TINY_SDXL, TINY_SDXL_LCM, "sdxl-lcm-full"),
    ],
    ids=["channels", "guidance", "guidance-xl"],
)
@pytest.mark.sampled(3)
def test_a_unet_that_takes_more_makes_another_family(tmp_path: Path, base: Family, unet: Family, name: str) -> None:
    """As the distilled UNet of SDXL (lcm-sdxl) is published: a UNet and nothing else."""
    folder = save_tiny_folder(tmp_path / "base", base)
    found = load_parts(folder, unet=unet_file(tmp_path / "unet.safetensors", unet, "folder"))
    assert (found.family.name, found.family.concat) == (name, unet.concat)
    assert (found.family.unet, found.family.defaults) == (unet.unet, FAMILIES[name].defaults)
    with pytest.raises(ModelFileError, match=f"makes a '{name}' of this model.*Try: `family={name}`"):
        load_parts(folder, family=base.name, unet=tmp_path / "unet.safetensors")


def test_a_name_gives_its_settings(tmp_path: Path) -> None:
    folder = save_tiny_folder(tmp_path / "base", TINY_SDXL)
    other = unet_file(tmp_path / "sdxl_lightning_4step_unet.safetensors", TINY_SDXL, "folder")
    assert load_parts(folder, unet=other).family.defaults == TINY_SDXL.defaults
    found = load_parts(folder, family="sdxl-lightning", unet=other).family
    assert (found.name, found.defaults) == ("sdxl-lightning", FAMILIES["sdxl-lightning"].defaults)


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    folder = save_tiny_folder(tmp_path / "base", TINY_SD)
    with pytest.raises(ModelFileError) as caught:
        load_parts(folder, unet=unet_file(tmp_path / "xl.safetensors", TINY_SDXL, "folder"))
    assert caught.value.reason in ("unknown_key", "missing_key", "shape")
    save_file({"encoder.down.0.block.0.norm1.weight": torch.zeros(4)}, tmp_path / "vae.safetensors")
    with pytest.raises(ModelFileError, match="expected a UNet"):
        load_parts(folder, unet=tmp_path / "vae.safetensors")
    few = {"down_blocks.0.x": torch.zeros(4)}
    save_file(few | {"conv_in.weight": torch.zeros(4)}, tmp_path / "odd.safetensors")
    with pytest.raises(ModelFileError, match=r"conv_in\.weight is \[4\], expected 4 dimensions"):
        load_parts(folder, unet=tmp_path / "odd.safetensors")
    save_file(few | {"conv_in.weight": torch.zeros(4, 6, 3, 3)}, tmp_path / "six.safetensors")
    with pytest.raises(ModelFileError, match="takes 6 channels"):
        load_parts(folder, unet=tmp_path / "six.safetensors")
