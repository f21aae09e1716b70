"""Batches of composed pictures, the same for the same (seed, step)."""

import numpy as np
import torch
from torch import Tensor

from gesso.scenes.render import Renderer
from gesso.scenes.scene import Scene, SceneSampler


def to_pixels(images: np.ndarray) -> Tensor:
    """uint8 [B, H, W, 3] -> float32 [B, 3, H, W] in [-1, 1], channels last in memory"""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


class Pictures:
    """Draws scenes and renders them."""

    def __init__(self, sampler: SceneSampler, renderer: Renderer, size: int) -> None:
        self.sampler, self.renderer, self.size = sampler, renderer, size

    def scenes(self, count: int, *key: int) -> list[Scene]:
        rng = np.random.default_rng(key)
        return [self.sampler(rng) for _ in range(count)]

    def pixels(self, scenes: list[Scene], size: int | None = None) -> Tensor:
        """-> float32 [B, 3, size, size] in [-1, 1]"""
        return to_pixels(np.stack([self.renderer(scene, size or self.size) for scene in scenes]))
