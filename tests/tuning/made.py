"""Small data sets and trainings for the tests of this folder."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from gesso.families.base import Family
from gesso.families.parts import ModelParts
from gesso.training.task import generator_for
from gesso.tuning.buckets import Framing
from gesso.tuning.dataset import Example, Subset
from gesso.tuning.distilling import DistilTask
from gesso.tuning.latents import Encoded
from gesso.tuning.learners import FullLearner, LoraLearner, make_learner
from gesso.tuning.run import objective_of
from gesso.tuning.settings import TuningSettings, completed
from gesso.tuning.survey import Found
from gesso.tuning.task import TuningTask
from tiny_sd import tiny_parts

CAPTIONS = (
    "a red cat",
    "a blue cat on a yellow background",
    "two cats, red",
    "a turtle",
    "a yellow turtle, red",
    "a cat",
)


def save_picture(path: Path, seed: int, size: tuple[int, int] = (96, 96)) -> Path:
    """A picture of soft colours that follow from a seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    levels = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    Image.fromarray(levels).resize(size, Image.Resampling.BICUBIC).save(path)
    return path


def save_folder(folder: Path, count: int = 6, size: tuple[int, int] = (96, 96)) -> Path:
    """A folder of pictures with captions beside them."""
    for number in range(count):
        save_picture(folder / f"{number:02}.png", number, size)
        (folder / f"{number:02}.txt").write_text(CAPTIONS[number % len(CAPTIONS)] + "\n", encoding="utf-8")
    return folder


def found(
    captions: Sequence[str],
    size: tuple[int, int] = (80, 72),
    subset: Subset | None = None,
    bucket: tuple[int, int] = (64, 64),
) -> list[Found]:
    """Pictures that were looked at, without files; their crops are not in the middle."""
    return [
        Found(
            example=Example(Path(f"{number}.png"), caption, None, 0),
            subset=subset or Subset(where=Path("pictures")),
            digest=str(number),
            size=size,
            look=np.zeros((16, 16, 3), np.int16),
            framing=Framing(bucket, (bucket[0] + 8, bucket[1] + 2), 8, 1),
            scale=1,
            has_mask=False,
        )
        for number, caption in enumerate(captions)
    ]


def double(family: Family) -> ModelParts:
    """A tiny model in float64, to be changed."""
    parts = copy.deepcopy(tiny_parts(family))
    for network in parts.networks.values():
        network.double()
    return parts


def made_task(
    parts: ModelParts, pictures: Sequence[Found], settings: TuningSettings | None = None, *, held: Sequence[int] = ()
) -> TuningTask:
    """A task on latents of random numbers, with factors that already do something."""
    settings = completed(
        replace(settings or TuningSettings(rank=4, caption_dropout=0.0), preset="cpu"), parts.family, len(pictures)
    )
    dtype = next(parts.unet.parameters()).dtype
    for network in parts.networks.values():
        network.requires_grad_(False)
    tokenizers = [parts.tokenizer, parts.tokenizer_2 or parts.tokenizer]
    learner = make_learner(parts.networks, tokenizers, settings, generator_for(0, 1))
    for module in learner.modules.values():
        module.to(dtype)
    generator = torch.Generator().manual_seed(7)
    if isinstance(learner, LoraLearner):
        with torch.no_grad():
            for name, parameter in learner.factors.named_parameters():
                if name.endswith((".up", ".w2", ".w2_b")):  # those that begin at zero
                    parameter.normal_(0, 0.05, generator=generator)
                elif name.endswith(".magnitude"):
                    parameter.mul_(1 + 0.1 * torch.rand(parameter.shape, generator=generator, dtype=dtype))
    latents = {}
    for place, one in enumerate(pictures):
        width, height = one.framing.bucket
        down = parts.family.vae.downscale
        mean = torch.randn(parts.family.vae.latent_channels, height // down, width // down, generator=generator)
        for flip in (False, True):
            latents[place, flip] = Encoded(mean.flip(-1) if flip else mean, torch.full_like(mean, 0.1), None)
    return (DistilTask if settings.kind == "distil" else TuningTask)(
        parts,
        learner,
        pictures,
        latents,
        objective_of(settings, parts),
        batch_size=settings.batch_size or 1,
        seed=settings.seed,
        held=held,
        text_rate=settings.text_rate,
        checkpointing=bool(settings.checkpointing),
        preserved=(settings.trigger, settings.preserve) if settings.preserve else None,
        before=learner.before if settings.prior_answers and isinstance(learner, LoraLearner | FullLearner) else None,
        trigger=settings.trigger,
    )
