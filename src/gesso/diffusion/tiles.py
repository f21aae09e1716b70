"""A large picture denoised in overlapping tiles (MultiDiffusion, Bar-Tal et al. 2023, arXiv:2302.08113, equation 5).

In every call the network sees one tile after the other; where tiles overlap, what they predict is averaged. So memory
is bounded by the tile, the sampler knows nothing of it, and no place has a step at which two tiles are put together.
The average is weighted: a tile's say falls off smoothly towards its edge, where it knows least of what lies beyond.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tile:
    """Rows and columns of the latents."""

    top: int
    left: int
    height: int
    width: int

    def of(self, x: Tensor) -> Tensor:
        """The tile's part of x [..., H, W]."""
        return x[..., self.top : self.top + self.height, self.left : self.left + self.width]


def tiles_of(height: int, width: int, tile: int, overlap: int) -> list[Tile]:
    """Tiles of `tile` places a side that cover everything, as evenly as may be, two at least `overlap` in common.

    A side that is no longer than a tile has one. Raises ValueError unless 0 <= overlap < tile.
    """
    if not 0 <= overlap < tile:
        raise ValueError(f"tiles of {tile} that overlap by {overlap}: expected an overlap of 0 to {tile - 1}")
    return [
        Tile(top, left, min(tile, height), min(tile, width))
        for top in _starts(height, tile, overlap)
        for left in _starts(width, tile, overlap)
    ]


def _starts(length: int, tile: int, overlap: int) -> list[int]:
    if length <= tile:
        return [0]
    count = math.ceil((length - overlap) / (tile - overlap))
    return [(length - tile) * i // (count - 1) for i in range(count)]


class Denoising(Protocol):
    """The seam of `denoiser`."""

    def __call__(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """x [B, ...] -> x0 [B, ...]"""

    def with_uncond(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """The same, and beside it x0 without the prompt: [2, B, ...]"""


class TiledDenoiser:
    """denoise(x, sigma) for x [B, C, H, W] of any size, by denoisers of its tiles.

    parts    each tile with what denoises it
    overlap  places over which a tile's say falls off, from 1 to 0
    """

    def __init__(self, parts: Sequence[tuple[Tile, Denoising]], overlap: int) -> None:
        self.parts, self.overlap = parts, overlap

    def __call__(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        return self._averaged(x, lambda denoise, part: denoise(part, sigma))

    def with_uncond(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """x [B, C, H, W] -> [2, B, C, H, W]"""
        return self._averaged(x, lambda denoise, part: denoise.with_uncond(part, sigma))

    def _averaged(self, x: Tensor, predict: Callable[[Denoising, Tensor], Tensor]) -> Tensor:
        total: Tensor | None = None
        weights = x.new_zeros(x.shape[-2:])
        for tile, denoise in self.parts:
            found = predict(denoise, tile.of(x).contiguous())
            if total is None:
                total = found.new_zeros(*found.shape[:-2], *x.shape[-2:])
            weight = _fade(tile.height, self.overlap, x)[:, None] * _fade(tile.width, self.overlap, x)
            tile.of(total).add_(found * weight)
            tile.of(weights).add_(weight)
        assert total is not None
        return total / weights


def _fade(length: int, overlap: int, like: Tensor) -> Tensor:
    """1 in the middle, and above 0 at the ends: a quarter of a sine wave, squared, so that two in step add up to 1."""
    if overlap == 0:
        return like.new_ones(length)
    place = torch.arange(length, dtype=torch.float64)
    nearer = torch.minimum(place, length - 1 - place) + 0.5
    return ((nearer / overlap).clamp(max=1.0) * math.pi / 2).sin().square().to(like)
