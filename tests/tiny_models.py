"""Models of a few thousand random numbers, for tests that need a whole model and not a good one."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from gesso.checkpoints.native import save_native
from gesso.families.base import Family, FamilyDefaults, ScheduleConfig
from gesso.families.gesso_mini import config_of
from gesso.models.clip import CLIPTextConfig, CLIPTextModel
from gesso.models.unet import UNet, UNetConfig
from gesso.models.upscaler import MiniUpscaler, MiniUpscalerConfig
from gesso.models.vae import AutoencoderKL, VAEConfig
from gesso.text.tokenizer import Tokenizer

WORDS = (
    "a",
    "red",
    "blue",
    "cat",
    "cats",
    "turtle",
    "kitty",
    "yellow",
    "background",
    "on",
    "two",
    ",",
    "slice",
    "of",
    "pizza",
)
OBJECTS = {"cat": ("kitty",), "turtle": (), "slice of pizza": ("pizza",)}


def tiny_family(*, upscale: bool = True) -> Family:
    """gesso-mini in every respect but size: 32 pixels a side, 64 with the upscaler."""
    tokenizer = Tokenizer.from_words(WORDS, length=16)
    return Family(
        name="gesso-mini",
        unet=UNetConfig(
            in_channels=4,
            out_channels=4,
            channels=(16, 32),
            attention=(0, 1),
            mid_attention=1,
            num_heads=(2, 2),
            num_res_blocks=1,
            context_dim=16,
            added_dim=16,
            norm_groups=8,
        ),
        vae=VAEConfig(
            channels=(16, 16), num_res_blocks=1, latent_channels=4, scaling_factor=0.5, patch_size=2, norm_groups=8
        ),
        text=CLIPTextConfig(
            vocab_size=tokenizer.size,
            max_length=16,
            dim=16,
            num_layers=2,
            num_heads=2,
            mlp_dim=32,
            activation="gelu",
            eos_id=tokenizer.eos,
        ),
        upscaler=MiniUpscalerConfig(scale=2, channels=(8, 8), num_blocks=(1, 1), sharpness=2.0) if upscale else None,
        prediction="v",
        schedule=ScheduleConfig(beta_start=0.00085, beta_end=0.012, num_timesteps=1000, zero_terminal_snr=True),
        native_size=32,
        defaults=FamilyDefaults(num_steps=4, guidance_scale=3.0, sampler="dpmpp_2m", schedule="uniform"),
        objects=OBJECTS,
    )


def save_tiny_mini(
    path: Path, *, upscale: bool = True, seed: int = 0, objects: Mapping[str, tuple[str, ...]] = OBJECTS
) -> Path:
    """A native file of a random tiny gesso-mini."""
    family = replace(tiny_family(upscale=upscale), objects=objects)
    torch.manual_seed(seed)
    networks = {"unet": UNet(family.unet), "text": CLIPTextModel(family.text), "vae": AutoencoderKL(family.vae)}
    if family.upscaler is not None:
        networks["upscaler"] = MiniUpscaler(family.upscaler)
    modelspec = {"title": "tiny", "resolution": f"{family.output_size}x{family.output_size}"}
    save_native(path, networks, config_of(family), Tokenizer.from_words(WORDS, length=16).to_json(), modelspec)
    return path
