"""The trainings of the default model at toy size, on a few drawn shapes instead of the font's glyphs."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from gesso.checkpoints.native import save_native
from gesso.families.gesso_mini import config_of
from gesso.families.loading import load_parts
from gesso.mini.recipes import CPU, GPU, STAGES, ModelRecipe
from gesso.mini.trained_model import TrainedModel
from gesso.models.clip import CLIPTextModel
from gesso.models.unet import UNet
from gesso.models.upscaler import MiniUpscaler
from gesso.models.vae import AutoencoderKL
from gesso.scenes.caption import all_words
from gesso.scenes.vocabulary import things
from gesso.text.tokenizer import learn_vocabulary

OBJECTS = things()[:6]


def toy(recipe: ModelRecipe) -> ModelRecipe:
    """A recipe with tiny networks and plans of eight steps."""
    return replace(
        recipe,
        device="cpu",
        precision="float32",
        compile=False,
        native_size=32,
        vae=replace(recipe.vae, channels=(8, 16), norm_groups=4),
        unet=replace(
            recipe.unet,
            channels=(8, 16),
            attention=(0, 1),
            num_heads=(1, 2),
            context_dim=16,
            added_dim=16,
            draft_size=8,
            norm_groups=4,
        ),
        text_dim=16,
        text_layers=1,
        text_heads=2,
        upscaler=replace(recipe.upscaler, channels=(8, 8), num_blocks=(1, 1)),
        pool_size=16,
        pool_passes=2,
        workers=0,
        scaling_pictures=32,
        report_pictures=4,
        first_samples=16,
        full_samples=8,
        **{
            stage: replace(
                getattr(recipe, stage), batch_size=4, total_samples=32, minutes=None, warmup_samples=4, ema_decay=0.9
            )
            for stage in STAGES
        },
    )


SMALL = toy(CPU)
PREPARED = toy(GPU)


def glyphs() -> np.ndarray:
    """Discs and squares of six colours, lighter at the top, in place of the font's glyphs."""
    rng = np.random.default_rng(0)
    drawn = np.zeros((len(OBJECTS), 128, 128, 4), np.uint8)
    y, x = np.mgrid[:128, :128] - 63.5
    for i, glyph in enumerate(drawn):
        inside = x**2 + y**2 < 50**2 if i % 2 else np.maximum(abs(x), abs(y)) < 50
        colour = rng.integers(100, 256, 3) * (0.75 - y / 256)[..., None]
        glyph[inside] = np.concatenate([colour, np.full((128, 128, 1), 255)], axis=2)[inside].clip(0, 255)
    return drawn


def model_file(path: Path) -> Path:
    """A model of random weights with the sizes of SMALL that draws OBJECTS."""
    torch.manual_seed(0)
    tokenizer = learn_vocabulary(all_words(OBJECTS), 4096, length=SMALL.text_length)
    family = SMALL.family(tokenizer, OBJECTS, 1.0)
    assert family.upscaler is not None
    networks = {
        "unet": UNet(family.unet),
        "text": CLIPTextModel(family.text),
        "vae": AutoencoderKL(family.vae),
        "upscaler": MiniUpscaler(family.upscaler),
    }
    save_native(path, networks, config_of(family), tokenizer.to_json(), {"title": "toy", "resolution": "128x128"})
    return path


def trained_model(path: Path) -> TrainedModel:
    """That model with what it was trained on."""
    return TrainedModel(load_parts(model_file(path)), OBJECTS, glyphs())
