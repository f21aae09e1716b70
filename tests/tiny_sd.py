"""Stable Diffusion 1 in every respect but size, with random numbers."""

from dataclasses import replace
from functools import cache

import torch

from gesso.families.base import Family
from gesso.families.parts import Parts
from gesso.families.sd15 import SD15
from gesso.models.clip import CLIPTextModel
from gesso.models.unet import UNet
from gesso.models.vae import AutoencoderKL
from gesso.text.tokenizer import Tokenizer

TINY_SD = replace(
    SD15,
    unet=replace(SD15.unet, channels=(32, 64, 32, 32), context_dim=32),
    vae=replace(SD15.vae, channels=(32, 64, 32, 32)),
    text=replace(SD15.text, dim=32, num_layers=2, num_heads=4, mlp_dim=64),
    native_size=64,
)


@cache
def clip_tokenizer() -> Tokenizer:
    """CLIP's own, read once."""
    return Tokenizer.clip()


@cache
def tiny_parts(family: Family = TINY_SD, seed: int = 0) -> Parts:
    """A whole random model, not to be changed; its biases are random too, since torch starts some at zero."""
    torch.manual_seed(seed)
    unet, vae, text = UNet(family.unet), AutoencoderKL(family.vae), CLIPTextModel(family.text)
    for network in (unet, vae, text):
        network.requires_grad_(False).eval()
        for param in network.parameters():
            if param.ndim == 1:
                param.add_(0.1 * torch.randn_like(param))
    return Parts(family=family, unet=unet, vae=vae, text=text, upscaler=None, tokenizer=clip_tokenizer(), files=())
