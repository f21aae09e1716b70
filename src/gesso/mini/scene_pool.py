"""Scenes as training data: pictures for networks that see pixels, latents with captions for those that do not.

Everything follows from (seed, number of the block), whoever makes it, so a run that was cut off sees the same. Worker
processes make scenes and captions ahead; pictures are composed many at a time on the device that trains.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from random import Random
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from gesso.models.vae import AutoencoderKL
from gesso.text.tokenizer import Tokenizer
from gesso.training.ahead import Ahead
from gesso.training.loop import eager
from gesso.training.task import generator_for
from gesso.world.caption import Captioner, caption_ids
from gesso.world.compositor import Compositor
from gesso.world.sampler import SceneSampler
from gesso.world.scene import Scene, SceneLayout, lay_out

EMPTY_SHARE = 0.1  # captions left out, for classifier-free guidance
ENCODE_BATCH = 256
CHUNK = 4096  # scenes that a worker makes at a time

Shape = tuple[int, int]  # height and width in pixels


@dataclass(frozen=True)
class Phase:
    """A part of a training."""

    samples: int  # that it lasts; the last phase goes on for ever
    sampler: SceneSampler


def phase_at(phases: Sequence[Phase], samples: int) -> Phase:
    """The phase after so many samples."""
    for phase in phases[:-1]:
        if samples < phase.samples:
            return phase
        samples -= phase.samples
    return phases[-1]


def scenes_of(sampler: SceneSampler, count: int, shape: Shape, *key: int) -> list[Scene]:
    """Scenes that follow from the key."""
    rng = Random("-".join(map(str, key)))
    return [sampler(rng, aspect=shape[1] / shape[0]) for _ in range(count)]


@dataclass(frozen=True)
class LayoutMaker:
    """The scenes of a block as numbers; a value that worker processes get."""

    sampler: SceneSampler
    count: int
    shape: Shape
    seed: int

    def __call__(self, block: int) -> SceneLayout:
        return lay_out(scenes_of(self.sampler, self.count, self.shape, self.seed, block))


class ScenePictures:
    """Composed pictures, a block of several batches at a time: composing costs a device many small steps."""

    def __init__(
        self, sampler: SceneSampler, compositor: Compositor, shape: Shape, *, workers: int = 0, block: int = 1024
    ) -> None:
        self.sampler, self.compositor, self.shape = sampler, compositor, shape
        self.workers, self.block = workers, block
        self._ahead: Ahead[SceneLayout] | None = None
        self._shown: tuple[int, int, SceneLayout, Tensor] | None = None

    def batch(self, step: int, count: int, seed: int) -> tuple[SceneLayout, Tensor]:
        """What a step shows and its pixels, float32 [count, 3, H, W] in [-1, 1]. `count` divides the block."""
        number, place = divmod(step, max(1, self.block // count))
        if self._shown is None or self._shown[:2] != (seed, number):
            size = max(1, self.block // count) * count
            maker = LayoutMaker(self.sampler, size, self.shape, seed)
            if self._ahead is None or self._ahead.make != maker:
                self._ahead = Ahead(maker, self.workers)
            layout = self._ahead(number)
            self._shown = None  # its memory is wanted
            self._shown = (seed, number, layout, self.pixels(layout))
        rows = slice(place * count, (place + 1) * count)
        return self._shown[2].part(rows.start, rows.stop), self._shown[3][rows]

    def scenes(self, count: int, *key: int) -> list[Scene]:
        return scenes_of(self.sampler, count, self.shape, *key)

    def pixels(self, shown: SceneLayout | Sequence[Scene]) -> Tensor:
        """-> float32 [B, 3, H, W] in [-1, 1] on the compositor's device"""
        return self.compositor(shown if isinstance(shown, SceneLayout) else lay_out(shown), *self.shape)


@dataclass(frozen=True)
class Captions:
    """Scenes to token ids."""

    captioner: Captioner
    tokenizer: Tokenizer

    def ids(self, scenes: Sequence[Scene], rng: Random, empty_share: float = 0.0) -> np.ndarray:
        """-> int16 [B, L]; a share of the captions is left out."""
        return caption_ids(scenes, self.captioner, self.tokenizer, rng, empty_share)


@dataclass(frozen=True)
class SegmentPlan:
    """Which pictures are in a segment of a `ScenePool`."""

    phases: tuple[Phase, ...]
    shapes: tuple[Shape, ...]  # of segment 0, 1, 2, ... and again
    size: int  # pictures
    chunk: int
    passes: int  # that each picture is used, with a new caption, a new time and new noise
    seed: int

    def shape(self, segment: int) -> Shape:
        return self.shapes[segment % len(self.shapes)]


@dataclass(frozen=True)
class ChunkMaker:
    """Scenes and all captions of a chunk; a value that worker processes get. Chunk n belongs to segment n // chunks."""

    captions: Captions
    plan: SegmentPlan

    def __call__(self, number: int) -> tuple[SceneLayout, np.ndarray]:
        """-> the scenes as numbers, token ids int16 [passes, chunk, L]"""
        plan = self.plan
        segment, part = divmod(number, plan.size // plan.chunk)
        sampler = phase_at(plan.phases, segment * plan.size * plan.passes).sampler
        scenes = scenes_of(sampler, plan.chunk, plan.shape(segment), plan.seed, segment, 2, part)
        rng = Random(f"{plan.seed}-{segment}-3-{part}")
        ids = [self.captions.ids(scenes, rng, EMPTY_SHARE) for _ in range(plan.passes)]
        return lay_out(scenes), np.stack(ids)


class LatentSource(Protocol):
    """What a task on latents needs of a pool."""

    vae: AutoencoderKL
    captions: Captions
    device: torch.device

    def batch(self, step: int, batch_size: int, seed: int) -> tuple[Tensor, Tensor]:
        """Token ids [B, L] and latents [B, C, h, w] of one step, on the device."""
        ...


class ScenePool:
    """Latents and captions on the device, a segment at a time, while the workers make the next.

    Latents are the posterior's mean: with its noise in them the network would learn to leave that noise in the picture.
    """

    def __init__(
        self,
        vae: AutoencoderKL,
        captions: Captions,
        compositor: Compositor,
        phases: Sequence[Phase],
        *,
        shapes: Sequence[Shape],
        size: int,
        passes: int,
        workers: int = 0,
    ) -> None:
        """size: pictures of a segment, CHUNK or less or a multiple of it."""
        self.vae, self.captions, self.compositor, self.phases = vae, captions, compositor, tuple(phases)
        self.shapes, self.size, self.passes, self.workers = tuple(shapes), size, passes, workers
        self.device = compositor.device
        self.chunk = min(CHUNK, size)
        if size % self.chunk:
            raise ValueError(f"a segment of {size} pictures does not divide into chunks of {self.chunk}")
        if captions.tokenizer.size > np.iinfo(np.int16).max:
            raise ValueError(f"{captions.tokenizer.size} token ids do not fit into 16 bits")
        self._ahead: Ahead[tuple[SceneLayout, np.ndarray]] | None = None
        self._segment: tuple[tuple[int, int, bool], Tensor, Tensor] | None = None
        self._order: tuple[tuple[int, int, int], Tensor] | None = None

    def batch(self, step: int, batch_size: int, seed: int) -> tuple[Tensor, Tensor]:
        steps_a_pass = self.size // batch_size
        segment, within = divmod(step, steps_a_pass * self.passes)
        key = seed, segment, torch.is_autocast_enabled(self.device.type)
        if self._segment is None or self._segment[0] != key:
            self._segment = None  # its memory is wanted
            self._segment = (key, *self._encode(segment, seed))
        _, ids, latents = self._segment
        number, place = divmod(within, steps_a_pass)
        if self._order is None or self._order[0] != (seed, segment, number):
            generator = generator_for(seed, segment, number, 1, device=self.device)
            order = torch.randperm(self.size, generator=generator, device=self.device)
            self._order = ((seed, segment, number), order)
        rows = self._order[1][place * batch_size : (place + 1) * batch_size]
        return ids[number][rows].long(), latents[rows]

    def scenes(self, count: int, *key: int) -> list[Scene]:
        """Scenes of the last phase at the first shape."""
        return scenes_of(self.phases[-1].sampler, count, self.shapes[0], *key)

    def latents(self, scenes: Sequence[Scene]) -> Tensor:
        """Scenes at the first shape -> float32 [B, C, h, w]"""
        pixels = self.compositor(lay_out(scenes), *self.shapes[0])
        return torch.cat([self.vae.encode(part).mean.float() for part in pixels.split(64)])

    @torch.no_grad()
    def _encode(self, segment: int, seed: int) -> tuple[Tensor, Tensor]:
        """-> ids int16 [passes, size, L], latents float32 [size, C, h, w]"""
        chunks = self.size // self.chunk
        plan = SegmentPlan(self.phases, self.shapes, self.size, self.chunk, self.passes, seed)
        maker = ChunkMaker(self.captions, plan)
        if self._ahead is None or self._ahead.make != maker:
            self._ahead = Ahead(maker, self.workers, depth=max(4, 1 + chunks // max(self.workers, 1)))
        ids, latents = [], []
        for number in range(segment * chunks, (segment + 1) * chunks):
            layout, chunk_ids = self._ahead(number)
            ids.append(torch.from_numpy(chunk_ids).to(self.device, non_blocking=True))
            pixels = self.compositor(layout, *plan.shape(segment))
            with nullcontext() if plan.shape(segment) == self.shapes[0] else eager():
                latents += [self.vae.encode(part).mean.float() for part in pixels.split(ENCODE_BATCH)]
        return torch.cat(ids, dim=1), torch.cat(latents)
