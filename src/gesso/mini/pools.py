"""Training data as cached latents with captions, made a segment at a time and used several times.

Encoding costs a third of a training step, so each picture is used `passes` times, each time with new noise, a new time
and a new caption. A segment follows from (seed, number of the segment) alone, so a resumed run sees the same.

Latents are the posterior's mean: with its noise in them (a fifth of a deviation, the price of smooth latents) the UNet
would learn to leave that noise in the picture.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from gesso.mini.compositor import SceneLayout, lay_out, upload
from gesso.mini.pictures import Pictures, scenes_of
from gesso.models.vae import AutoencoderKL
from gesso.scenes.caption import Captioner
from gesso.scenes.scene import Scene, SceneSampler
from gesso.text.tokenizer import Tokenizer
from gesso.training.ahead import Ahead
from gesso.training.task import generator_for

EMPTY_SHARE = 0.1  # captions left out, for classifier-free guidance
ENCODE_BATCH = 64
CHUNK = 1024  # pictures that a worker prepares at a time

SegmentKey = tuple[int, int, bool]


@dataclass(frozen=True)
class Captions:
    """Scenes to token ids, in words drawn from rng."""

    captioner: Captioner
    tokenizer: Tokenizer

    def ids(self, scenes: Sequence[Scene], rng: np.random.Generator, empty_share: float = 0.0) -> Tensor:
        """-> int64 [B, L]; a share of the captions is left out."""

        def word(scene: Scene) -> str:
            return "" if empty_share > 0 and rng.random() < empty_share else self.captioner(scene, rng)

        return self.tokenizer.encode([word(scene) for scene in scenes])


class Pool(Protocol):
    """What a task on latents needs of a pool."""

    vae: AutoencoderKL
    captions: Captions
    phases: Sequence[tuple[int, Pictures]]
    device: torch.device

    def batch(self, step: int, batch_size: int, seed: int) -> tuple[Tensor, Tensor]:
        """Token ids [B, L] and latents [B, C, h, w] of one step, on the device."""
        ...


class LatentPool:
    """Pictures drawn and put into words by the training process itself: for a CPU, whose time the networks take."""

    def __init__(
        self,
        vae: AutoencoderKL,
        captions: Captions,
        phases: Sequence[tuple[int, Pictures]],
        *,
        size: int,
        passes: int,
        device: str | torch.device = "cpu",
    ) -> None:
        """phases: (number of samples, pictures) in their order; the last goes on for ever."""
        self.vae, self.captions, self.phases, self.size, self.passes = vae, captions, phases, size, passes
        self.device = torch.device(device)
        self._segment: tuple[SegmentKey, list[Scene], Tensor] | None = None

    def batch(self, step: int, batch_size: int, seed: int) -> tuple[Tensor, Tensor]:
        scenes, latents = self.scenes_and_latents(step, batch_size, seed)
        return self.captions.ids(scenes, np.random.default_rng((seed, step, 3)), EMPTY_SHARE).to(self.device), latents

    def scenes_and_latents(self, step: int, batch_size: int, seed: int) -> tuple[list[Scene], Tensor]:
        """What is in the pictures of one step, and their latents [B, C, h, w]."""
        steps_a_pass = self.size // batch_size
        segment, within = divmod(step, steps_a_pass * self.passes)
        key = _segment_key(seed, segment, self.device)
        if self._segment is None or self._segment[0] != key:
            self._segment = (key, *self._encode(segment, seed))
        _, scenes, latents = self._segment
        number, place = divmod(within, steps_a_pass)
        order = np.random.default_rng((seed, segment, number, 1)).permutation(self.size)
        rows = order[place * batch_size : (place + 1) * batch_size]
        return [scenes[i] for i in rows], latents[rows]

    @torch.no_grad()
    def _encode(self, segment: int, seed: int) -> tuple[list[Scene], Tensor]:
        pictures = self.phases[_phase(self.phases, segment * self.size * self.passes)][1]
        scenes = pictures.scenes(self.size, seed, segment, 2)
        parts = [scenes[i : i + ENCODE_BATCH] for i in range(0, self.size, ENCODE_BATCH)]
        return scenes, torch.cat([self.vae.encode(pictures.pixels(part)).mean.float() for part in parts])


@dataclass(frozen=True)
class ChunkMaker:
    """Layouts and all captions of a chunk of a segment; a value that worker processes get.

    Chunk number n belongs to segment n // chunks.
    """

    captions: Captions
    phases: tuple[tuple[int, SceneSampler], ...]
    seed: int
    size: int  # of a segment
    chunk: int
    passes: int

    def __call__(self, number: int) -> tuple[SceneLayout, np.ndarray]:
        """-> layouts of B pictures, token ids int16 [passes, B, L]"""
        segment, part = divmod(number, self.size // self.chunk)
        sampler = self.phases[_phase(self.phases, segment * self.size * self.passes)][1]
        scenes = scenes_of(sampler, self.chunk, self.seed, segment, 2, part)
        ids = [
            self.captions.ids(scenes, np.random.default_rng((self.seed, segment, 3, part, number_of_pass)), EMPTY_SHARE)
            for number_of_pass in range(self.passes)
        ]
        return lay_out(scenes), torch.stack(ids).numpy().astype(np.int16)


class PreparedPool:
    """Pictures laid out and put into words by worker processes, drawn and encoded on the device: for a GPU.

    A segment's latents and the captions of all its passes lie on the device, so a step costs the CPU next to nothing;
    while they are used the workers prepare the next segment. The pictures must come from a Compositor.
    """

    def __init__(
        self,
        vae: AutoencoderKL,
        captions: Captions,
        phases: Sequence[tuple[int, Pictures]],
        *,
        size: int,
        passes: int,
        workers: int,
        device: str | torch.device,
    ) -> None:
        """size: pictures of a segment, CHUNK or less or a multiple of it."""
        self.vae, self.captions, self.phases, self.size, self.passes = vae, captions, phases, size, passes
        self.device, self.workers, self.chunk = torch.device(device), workers, min(CHUNK, size)
        if size % self.chunk:
            raise ValueError(f"a segment of {size} pictures does not divide into chunks of {self.chunk}")
        if captions.tokenizer.size > np.iinfo(np.int16).max:
            raise ValueError(f"{captions.tokenizer.size} token ids do not fit into 16 bits")
        self._ahead: Ahead[tuple[SceneLayout, np.ndarray]] | None = None
        self._segment: tuple[SegmentKey, Tensor, Tensor] | None = None
        self._order: tuple[tuple[int, int, int], Tensor] | None = None

    def batch(self, step: int, batch_size: int, seed: int) -> tuple[Tensor, Tensor]:
        steps_a_pass = self.size // batch_size
        segment, within = divmod(step, steps_a_pass * self.passes)
        key = _segment_key(seed, segment, self.device)
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

    @torch.no_grad()
    def _encode(self, segment: int, seed: int) -> tuple[Tensor, Tensor]:
        """-> ids int16 [passes, size, L], latents float32 [size, C, h, w]"""
        chunks = self.size // self.chunk
        if self._ahead is None or self._ahead.make.seed != seed:  # type: ignore[attr-defined]
            samplers = tuple((count, pictures.sampler) for count, pictures in self.phases)
            maker = ChunkMaker(self.captions, samplers, seed, self.size, self.chunk, self.passes)
            self._ahead = Ahead(maker, self.workers, depth=max(4, 1 + chunks // max(self.workers, 1)))
        pictures = self.phases[0][1]  # all draw alike; which scenes they show was the workers' business
        ids, latents = [], []
        for number in range(segment * chunks, (segment + 1) * chunks):
            layout, chunk_ids = self._ahead(number)
            ids.append(upload(chunk_ids, self.device))
            latents.append(self.vae.encode(pictures.pixels(layout)).mean.float())
        return torch.cat(ids, dim=1), torch.cat(latents)


def _segment_key(seed: int, segment: int, device: torch.device) -> SegmentKey:
    """What the latents of a segment follow from: the precision too, which is tried out before a training starts."""
    return seed, segment, torch.is_autocast_enabled(device.type)


def _phase(phases: Sequence[tuple[int, object]], samples: int) -> int:
    """Which phase shows the pictures after so many samples."""
    for index, (count, _) in enumerate(phases[:-1]):
        if samples < count:
            return index
        samples -= count
    return len(phases) - 1
