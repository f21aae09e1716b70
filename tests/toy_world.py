"""The training of the default model on scenes at toy size, on a few drawn shapes instead of emoji."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from gesso.mini.world_model import CPU, WorldModel, WorldRecipe
from gesso.training.loop import Plan
from gesso.world.drawings import Drawings
from gesso.world.objects import things
from gesso.world.scene import LOOKS

OBJECTS = things()[:12]


def drawings(size: int = 48) -> Drawings:
    """Discs and squares of several colours, lighter at the top."""
    rng = np.random.default_rng(0)
    pixels = np.zeros((len(LOOKS), len(OBJECTS), size, size, 4), np.uint8)
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    half = size / 2
    for look in pixels:
        for row, drawing in enumerate(look):
            inside = x**2 + y**2 < half**2 if row % 2 else np.maximum(abs(x), abs(y)) < half
            colour = rng.integers(100, 256, 3) * (0.75 - y / (4 * half))[..., None]
            drawing[inside] = np.concatenate([colour, np.full((size, size, 1), 255)], axis=2)[inside].clip(0, 255)
    return Drawings(pixels, np.ones((len(LOOKS), len(OBJECTS)), dtype=bool))


def _short(plan: Plan) -> Plan:
    return replace(plan, batch_size=4, total_samples=32, minutes=None, warmup_samples=4, ema_decay=0.9)


TOY: WorldRecipe = replace(
    CPU,
    precision="float32",
    vae=replace(CPU.vae, channels=(8, 16), latent_channels=4, norm_groups=4),
    unet=replace(
        CPU.unet,
        in_channels=4,
        out_channels=4,
        channels=(8, 16),
        attention=(0, 1),
        num_heads=(1, 2),
        context_dim=16,
        added_dim=16,
        norm_groups=4,
    ),
    text_dim=16,
    text_layers=1,
    text_heads=2,
    memory_side=4,
    judge_sizes=replace(CPU.judge_sizes, channels=(8, 8, 16, 16), num_blocks=(1, 1, 1, 1), head_channels=16),
    autoencoder=_short(CPU.autoencoder),
    judge=_short(CPU.judge),
    denoising=_short(CPU.denoising),
    expected_samples=32,
    shapes=((64, 64), (48, 80)),
    pool_size=8,
    pool_passes=2,
    block=8,
    report_pictures=4,
)


def world_model(folder: Path, recipe: WorldRecipe = TOY) -> WorldModel:
    """A training in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    return WorldModel(recipe, folder, OBJECTS, drawings())
