"""A large picture denoised in overlapping tiles (MultiDiffusion, Bar-Tal et al. 2023, arXiv:2302.08113, equation 5).

In every call the network sees one tile after the other; where tiles overlap, what they predict is averaged. So memory
is bounded by the tile, the sampler knows nothing of it, and no place has a step at which two tiles are put together.
The average is weighted: a tile's say falls off smoothly towards its edge, where it knows least of what lies beyond.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gesso.diffusion.calls import CallGenerator, Function, GeneratorFunction, calls_of


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


class TiledDenoiser(GeneratorFunction):
    """denoise(x, sigma) for x [B, C, H, W] of any size, by denoisers of its tiles.

    parts    each tile with what denoises it
    overlap  places over which a tile's say falls off, from 1 to 0
    """

    def __init__(self, parts: Sequence[tuple[Tile, Function]], overlap: int) -> None:
        self.parts, self.overlap = parts, overlap

    def calls(self, x: Tensor, level: Tensor | float, *, uncond: bool = False) -> CallGenerator[Tensor]:
        """x [B, C, H, W] -> x0 of the same shape, uncond: [2, B, C, H, W]; the calls of one tile after the other."""
        total: Tensor | None = None
        weights = x.new_zeros(x.shape[-2:])
        for tile, denoise in self.parts:
            x0 = yield from calls_of(denoise, tile.of(x).contiguous(), level, uncond=uncond)
            if total is None:
                total = x0.new_zeros(*x0.shape[:-2], *x.shape[-2:])
            weight = _fade(tile.height, self.overlap, x)[:, None] * _fade(tile.width, self.overlap, x)
            tile.of(total).add_(x0 * weight)
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
