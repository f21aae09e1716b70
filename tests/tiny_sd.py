"""Every release of Stable Diffusion in every respect but size, with random numbers."""

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch

from gesso.checkpoints import ldm
from gesso.families.base import Family
from gesso.families.instruct_pix2pix import INSTRUCT_PIX2PIX
from gesso.families.lcm import SD15_LCM_FULL, SDXL_LCM_FULL
from gesso.families.parts import ModelParts
from gesso.families.saving import save_diffusers, save_ldm
from gesso.families.sd2_inpaint import SD2_INPAINT
from gesso.families.sd15 import SD15
from gesso.families.sd15_inpaint import SD15_INPAINT
from gesso.families.sd21 import SD21
from gesso.families.sd21_base import SD21_BASE
from gesso.families.sdxl import SDXL
from gesso.families.sdxl_inpaint import SDXL_INPAINT
from gesso.families.sdxl_refiner import SDXL_REFINER
from gesso.families.x4_upscaler import X4_UPSCALER
from gesso.models.clip import CLIPTextModel
from gesso.models.unet import UNet
from gesso.models.vae import AutoencoderKL
from gesso.text.tokenizer import Tokenizer

_VAE = {"channels": (32, 64, 32, 32)}
_CLIP_L = replace(SD15.text, dim=32, num_layers=2, num_heads=4, mlp_dim=64)
_SIZE_DIM = 8  # of the sinusoid of each size: 256 in the releases

TINY_SD = replace(
    SD15,
    unet=replace(SD15.unet, channels=(32, 64, 32, 32), context_dim=32),
    vae=replace(SD15.vae, **_VAE),
    text=_CLIP_L,
    native_size=64,
)


def _tiny_sd1(family: Family) -> Family:
    """A relative of SD 1.5 with its own first convolution."""
    unet = replace(TINY_SD.unet, in_channels=family.unet.in_channels)
    return replace(family, unet=unet, vae=TINY_SD.vae, text=TINY_SD.text, native_size=TINY_SD.native_size)


TINY_INPAINT = _tiny_sd1(SD15_INPAINT)
TINY_EDIT = _tiny_sd1(INSTRUCT_PIX2PIX)


def _tiny_sd2(family: Family) -> Family:
    return replace(
        family,
        unet=replace(family.unet, channels=(32, 64, 64, 64), num_heads=(2, 4, 4, 4), context_dim=32),
        vae=replace(family.vae, channels=_VAE["channels"][: len(family.vae.channels)]),
        text=replace(family.text, dim=32, num_layers=3, num_heads=4, mlp_dim=64, projection_dim=24),
        native_size=64,
    )


TINY_SD21, TINY_SD21_BASE, TINY_SD2_INPAINT = _tiny_sd2(SD21), _tiny_sd2(SD21_BASE), _tiny_sd2(SD2_INPAINT)
TINY_X4 = _tiny_sd2(X4_UPSCALER)

_BIGG = replace(SDXL_REFINER.text, dim=48, num_layers=3, num_heads=4, mlp_dim=96, projection_dim=48)
TINY_SDXL = replace(
    SDXL,
    unet=replace(
        SDXL.unet,
        channels=(32, 64, 64),
        attention=(0, 1, 2),
        mid_attention=2,
        num_heads=(2, 4, 4),
        context_dim=32 + 48,
        added_dim=48 + 6 * _SIZE_DIM,
    ),
    vae=replace(SDXL.vae, **_VAE),
    text=_CLIP_L,
    text_2=_BIGG,
    native_size=64,
)
TINY_SDXL_INPAINT = replace(
    TINY_SDXL, name=SDXL_INPAINT.name, unet=replace(TINY_SDXL.unet, in_channels=9), concat="inpaint"
)
TINY_REFINER = replace(
    SDXL_REFINER,
    unet=replace(
        SDXL_REFINER.unet,
        channels=(32, 64, 64, 64),
        attention=(0, 2, 2, 0),
        mid_attention=2,
        num_heads=(2, 4, 4, 4),
        context_dim=48,
        added_dim=48 + 5 * _SIZE_DIM,
    ),
    vae=TINY_SDXL.vae,
    text=_BIGG,
    native_size=64,
)


def _tiny_lcm(family: Family, tiny: Family) -> Family:
    """A family that is told its guidance, at the sizes of another."""
    unet = replace(tiny.unet, guidance_dim=16)
    return replace(tiny, name=family.name, unet=unet, defaults=family.defaults, scheduler=family.scheduler)


TINY_LCM, TINY_SDXL_LCM = _tiny_lcm(SD15_LCM_FULL, TINY_SD), _tiny_lcm(SDXL_LCM_FULL, TINY_SDXL)

TINY_FAMILIES = {
    family.name: family
    for family in (
        TINY_SD,
        TINY_INPAINT,
        TINY_EDIT,
        TINY_SD21,
        TINY_SD21_BASE,
        TINY_SD2_INPAINT,
        TINY_X4,
        TINY_SDXL,
        TINY_SDXL_INPAINT,
        TINY_REFINER,
        TINY_LCM,
        TINY_SDXL_LCM,
    )
}


@cache
def clip_tokenizer(*, openclip: bool = False) -> Tokenizer:
    """CLIP's own, read once; OpenCLIP pads with 0."""
    return Tokenizer.clip(pad=0 if openclip else None)


@cache
def tiny_parts(family: Family = TINY_SD, seed: int = 0) -> ModelParts:
    """A whole random model, not to be changed; its biases are random too, since torch starts some at zero."""
    torch.manual_seed(seed)
    unet, vae, text = UNet(family.unet), AutoencoderKL(family.vae), CLIPTextModel(family.text)
    text_2 = None if family.text_2 is None else CLIPTextModel(family.text_2)
    for network in (unet, vae, text, text_2):
        if network is None:
            continue
        network.requires_grad_(False).eval()
        for param in network.parameters():
            if param.ndim == 1:
                param.add_(0.1 * torch.randn_like(param))
    openclip = {tower.component: tower.openclip for tower in ldm.TOWERS[family.layout]}
    return ModelParts(
        family=family,
        unet=unet,
        vae=vae,
        text=text,
        text_2=text_2,
        upscaler=None,
        tokenizer=clip_tokenizer(openclip=openclip["text"]),
        tokenizer_2=None if text_2 is None else clip_tokenizer(openclip=openclip["text_2"]),
        files=(),
    )


def save_tiny_folder(folder: Path, family: Family = TINY_SD, seed: int = 0) -> Path:
    """The diffusers folder of a tiny random model: a copy of one that is written once, since each takes a while."""
    if folder.exists():
        raise FileExistsError(folder)
    shutil.copytree(_written_once(save_diffusers, family, seed), folder)
    return folder


def save_tiny_file(path: Path, family: Family = TINY_SD, seed: int = 0) -> Path:
    """The single file of LDM names of a tiny random model; a copy as well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return shutil.copy(_written_once(save_ldm, family, seed), path)


@cache  # so nothing that writes may be replaced in the test that asks first
def _written_once(save: Callable[[Path, ModelParts], None], family: Family, seed: int) -> Path:
    path = _folder() / f"{len(os.listdir(_folder()))}"
    save(path, tiny_parts(family, seed))
    return path


@cache
def _folder() -> Path:
    """A folder that goes when this process ends, and not when one that was forked from it does."""
    path, owner = Path(tempfile.mkdtemp(prefix="gesso-tiny-")), os.getpid()
    atexit.register(lambda: os.getpid() == owner and shutil.rmtree(path, ignore_errors=True))
    return path
