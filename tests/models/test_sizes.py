"""Names, shapes, number formats and sizes in bytes of what was published, of every release."""

import gzip
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gesso.checkpoints import diffusers, ldm, taesd
from gesso.checkpoints.keymap import Shape, plan, save, shapes_of
from gesso.families.base import Family
from gesso.families.parts import ModelParts, empty_networks, on_meta, param_shapes
from gesso.families.registry import FAMILIES
from gesso.families.saving import folder_rules, folder_tensors, ldm_tensors
from gesso.families.sd15 import SD15
from gesso.models.taesd import TAESD, TAESDConfig
from tiny_sd import clip_tokenizer

Listed = Mapping[str, tuple[Shape, torch.dtype]]
FILES = json.loads(gzip.decompress((Path(__file__).parents[1] / "golden" / "published.json.gz").read_bytes()))["files"]


def published(file: str) -> Listed:
    return {name: (tuple(shape), getattr(torch, dtype)) for name, (shape, dtype) in FILES[file].items()}


def shapes(listed: Listed) -> dict[str, Shape]:
    return {name: shape for name, (shape, _) in listed.items()}


def listed(tensors: Mapping[str, Tensor]) -> Listed:
    return {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}


@cache
def whole(family: Family, dtype: torch.dtype = torch.float32) -> ModelParts:
    """The model at its real size, without memory for its numbers."""
    networks: dict[str, Any] = {name: net.to(dtype) for name, net in empty_networks(family, "published").items()}
    return ModelParts(
        family=family,
        unet=networks["unet"],
        vae=networks["vae"],
        text=networks["text"],
        text_2=networks.get("text_2"),
        upscaler=None,
        tokenizer=clip_tokenizer(),
        files=(),
    )


_FORMATS = {torch.float32: "F32", torch.float16: "F16", torch.int64: "I64", torch.int32: "I32"}


def nbytes(tensors: Listed, *, padded: bool) -> int:
    """Of the safetensors file as it was published: tensors by name, {"format": "pt"}; later files pad the header."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (shape, dtype) in sorted(tensors.items()):
        begin, end = end, end + torch.Size(shape).numel() * dtype.itemsize
        header[name] = {"dtype": _FORMATS[dtype], "shape": shape, "data_offsets": [begin, end]}
    length = len(json.dumps(header, separators=(",", ":")))
    return 8 + length + (-length % 8 if padded else 0) + end


# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("part", "count"), [("unet", 859_520_964), ("text", 123_060_480), ("vae", 83_653_863)])
def test_parameter_counts(part: str, count: int) -> None:
    assert sum(param.numel() for param in whole(SD15).networks[part].parameters()) == count


# List -> family, number format. The average's bookkeeping is that of a training that we did not run: it comes from a
# file, and goes back into it.
SINGLE_FILES = {
    "sd-v1-5.ldm": ("sd15", torch.float32),
    "sd-v1-5-inpainting.ldm": ("sd15-inpaint", torch.float32),
    "sd-v2-1-base.ldm": ("sd21-base", torch.float32),
    "sd-v2-1.ldm": ("sd21", torch.float32),
    "sd-v2-inpainting.ldm": ("sd2-inpaint", torch.float32),
    "sd-x4-upscaler.ldm": ("x4-upscaler", torch.float32),
    "sdxl-base-1.0.ldm": ("sdxl", torch.float16),
    "sdxl-refiner-1.0.ldm": ("sdxl-refiner", torch.float16),
}
BOOKKEEPING = {"model_ema.decay": ((), torch.float32), "model_ema.num_updates": ((), torch.int32)}


@pytest.mark.parametrize("file", SINGLE_FILES)
@pytest.mark.sampled(2)
def test_the_single_file_has_every_published_name_shape_and_format(file: str) -> None:
    name, dtype = SINGLE_FILES[file]
    expected = published(file)
    kept = {name: value for name, value in BOOKKEEPING.items() if name in expected}
    assert listed(ldm_tensors(whole(FAMILIES[name], dtype))) == {n: v for n, v in expected.items() if n not in kept}
    assert {n: v for n, v in expected.items() if n.startswith(ldm.EMA)} == kept


@pytest.mark.parametrize("file", SINGLE_FILES)
@pytest.mark.sampled(2)
def test_the_published_single_file_loads(file: str) -> None:
    family = FAMILIES[SINGLE_FILES[file][0]]
    networks = whole(family).networks
    rules = ldm.file_rules(family.layout, family.unet, family.vae)
    rows = plan(rules, shapes(published(file)), param_shapes(networks), where="published")
    assert sum(len(row.natives) for row in rows) == sum(len(net.state_dict()) for net in networks.values())


@pytest.mark.parametrize(
    ("file", "size"),
    [
        ("sd-v1-5.ldm", 4_265_146_304),  # v1-5-pruned-emaonly.safetensors
        ("sd-v2-1.ldm", 5_214_604_494),  # v2-1_768-ema-pruned.safetensors
        ("sdxl-base-1.0.ldm", 6_938_078_334 - 37_159),  # sd_xl_base_1.0.safetensors without its ModelSpec
        ("sdxl-refiner-1.0.ldm", 6_075_981_930 - 37_852),  # sd_xl_refiner_1.0.safetensors, likewise
    ],
)
def test_the_size_of_the_published_single_file(file: str, size: int) -> None:
    name, dtype = SINGLE_FILES[file]
    kept = {name: value for name, value in BOOKKEEPING.items() if name in FILES[file]}
    assert nbytes({**listed(ldm_tensors(whole(FAMILIES[name], dtype))), **kept}, padded=False) == size


# List -> family, part.
FOLDER_FILES = {
    "diffusers.sd15.unet": ("sd15", "unet"),
    "diffusers.sd15.vae": ("sd15", "vae"),
    "diffusers.sd15.text_encoder": ("sd15", "text"),
    "diffusers.sd15-inpaint.unet": ("sd15-inpaint", "unet"),
    "diffusers.sd21-base.unet": ("sd21-base", "unet"),
    "diffusers.sd21.unet": ("sd21", "unet"),
    "diffusers.sd21.text_encoder": ("sd21", "text"),
    "diffusers.x4-upscaler.unet": ("x4-upscaler", "unet"),
    "diffusers.x4-upscaler.vae": ("x4-upscaler", "vae"),
    "diffusers.sdxl-base.unet": ("sdxl", "unet"),
    "diffusers.sdxl.vae": ("sdxl", "vae"),
    "diffusers.sdxl.text_encoder": ("sdxl", "text"),
    "diffusers.sdxl.text_encoder_2": ("sdxl", "text_2"),
    "diffusers.sdxl-refiner.unet": ("sdxl-refiner", "unet"),
}
POSITION_IDS = "text_model.embeddings.position_ids"  # in the published SD 1.5; loading drops it


@pytest.mark.parametrize("file", FOLDER_FILES)
def test_the_folder_has_every_published_name_and_shape(file: str) -> None:
    name, part = FOLDER_FILES[file]
    made = shapes_of(folder_tensors(whole(FAMILIES[name]), part))
    expected = shapes(published(file))
    assert made == {name: shape for name, shape in expected.items() if name != POSITION_IDS}
    params = whole(FAMILIES[name]).networks[part].state_dict()
    if file == "diffusers.sd21.text_encoder":  # without the last of 24 layers
        assert len(made) == 372
        params = {n: p for n, p in params.items() if not n.startswith(("layers.23.", "projection."))}
    plan(folder_rules(FAMILIES[name])[part], expected, shapes_of(params), where="published")


@pytest.mark.parametrize(
    ("file", "dtype", "size"),
    [
        ("diffusers.sd15.unet", torch.float32, 3_438_167_536),
        ("diffusers.sdxl-base.unet", torch.float16, 5_135_149_760),
        ("diffusers.sdxl.text_encoder_2", torch.float16, 1_389_382_176),
    ],
)
def test_the_size_of_the_published_file_of_a_folder(file: str, dtype: torch.dtype, size: int) -> None:
    name, part = FOLDER_FILES[file]
    assert nbytes(listed(folder_tensors(whole(FAMILIES[name], dtype), part)), padded=True) == size


def test_names_of_2022_load() -> None:
    expected = published("diffusers.sd15.vae.published-2022-names")
    assert nbytes(expected, padded=False) == 334_643_276
    assert sum(".query." in name or ".proj_attn." in name for name in expected) == 8
    params = shapes_of(whole(SD15).vae.state_dict())
    assert len(plan(diffusers.vae_rules(), shapes(expected), params, where="published")) == 248


def test_taesd_in_both_layouts() -> None:
    config = TAESDConfig()
    with on_meta():
        model: nn.Module = TAESD(config)
    for half, rules in (("encoder", taesd.encoder_rules(config)), ("decoder", taesd.decoder_rules(config))):
        made = shapes_of(save(rules, getattr(model, half).state_dict()))
        expected = shapes(published("taesd.original"))
        assert made == {n.removeprefix(f"{half}/"): s for n, s in expected.items() if n.startswith(f"{half}/")}
    assert shapes_of(save(taesd.diffusers_rules(config), model.state_dict())) == shapes(published("diffusers.taesd"))
    assert sum(param.numel() for param in model.parameters()) == 2_445_063
