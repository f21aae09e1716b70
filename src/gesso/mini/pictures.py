"""Batches of composed pictures, the same for the same (seed, step)."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gesso.mini.compositor import Compositor, SceneLayout, lay_out
from gesso.scenes.render import Renderer
from gesso.scenes.scene import Scene, SceneSampler
from gesso.training.ahead import Ahead

SceneBatch = list[Scene] | SceneLayout  # what is in a batch of pictures, as far as drawing needs to know


def to_pixels(images: np.ndarray) -> Tensor:
    """uint8 [B, H, W, 3] -> float32 [B, 3, H, W] in [-1, 1], channels last in memory"""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


@dataclass(frozen=True)
class LayoutMaker:
    """The layout of the scenes of a step; a value that worker processes get."""

    sampler: SceneSampler
    count: int
    seed: int

    def __call__(self, step: int) -> SceneLayout:
        return lay_out(scenes_of(self.sampler, self.count, self.seed, step))


class Pictures:
    """Draws scenes and renders them on a device.

    renderer: a Renderer draws one at a time on the CPU, a Compositor many at a time on its own device.
    workers: processes that lay out the scenes of the steps to come, for a Compositor.
    """

    def __init__(
        self,
        sampler: SceneSampler,
        renderer: Renderer | Compositor,
        size: int,
        *,
        device: str | torch.device = "cpu",
        workers: int = 0,
    ) -> None:
        self.sampler, self.renderer, self.size = sampler, renderer, size
        self.device, self.workers = torch.device(device), workers
        self._ahead: Ahead[SceneLayout] | None = None

    def scenes(self, count: int, *key: int) -> list[Scene]:
        return scenes_of(self.sampler, count, *key)

    def at(self, step: int, count: int, seed: int) -> SceneBatch:
        """What a step of a training shows: `scenes(count, seed, step)`, made ahead where there are workers."""
        if isinstance(self.renderer, Renderer):
            return self.scenes(count, seed, step)
        maker = LayoutMaker(self.sampler, count, seed)
        if self._ahead is None or self._ahead.make != maker:
            self._ahead = Ahead(maker, self.workers)
        return self._ahead(step)

    def pixels(self, batch: SceneBatch, size: int | None = None) -> Tensor:
        """-> float32 [B, 3, size, size] in [-1, 1] on the device"""
        side = size or self.size
        if isinstance(self.renderer, Compositor):
            return self.renderer(batch if isinstance(batch, SceneLayout) else lay_out(batch), side)
        assert not isinstance(batch, SceneLayout), "layouts are for a compositor"
        return to_pixels(np.stack([self.renderer(scene, side) for scene in batch])).to(self.device)


def scenes_of(sampler: SceneSampler, count: int, *key: int) -> list[Scene]:
    rng = np.random.default_rng(key)
    return [sampler(rng) for _ in range(count)]
