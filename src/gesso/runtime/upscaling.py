"""Upscaler networks at work: pictures of any size, tile by tile.

A tile is computed with a rim of pixels around it, which is then cut off. A rim as wide as the network sees gives the
very numbers of the whole picture, but for the order of sums; far narrower ones do in practice, since what a network
makes of a place depends little on what is far away. docs/upscaling.md has the figures.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from gesso.errors import GessoError
from gesso.families.upscaler_network import load_upscaler_network
from gesso.models.rrdb import RRDBNet
from gesso.models.srvgg import SRVGG
from gesso.runtime.residency import Component, settled
from gesso.runtime.tiling import Cell, cells_of

TILE = 192  # pixels a side; with the rim about 1 GiB at four times the size in float32
RIM = 16
MIN_TILE = 16


@dataclass(frozen=True, eq=False)
class Upscaler:
    """An upscaler network that is loaded. Get one from `load_upscaler`.

    scale  how many times larger a picture becomes
    sight  pixels around a place that its result depends on; a rim of so many leaves no seam at all
    files  that it was read from, for hashes
    """

    network: RRDBNet | SRVGG
    files: tuple[Path, ...] = ()

    @property
    def scale(self) -> int:
        return self.network.config.scale

    @property
    def sight(self) -> int:
        return self.network.config.sight

    def upscale(self, pixels: Tensor, tile: int | None = TILE, rim: int = RIM) -> Tensor:
        """Pixels to more pixels.

        pixels [B, 3, H, W] in [-1, 1] -> float32 [B, 3, scale * H, scale * W], clamped to [-1, 1], on the same device;
               or uint8, levels -> uint8, the nearest levels
        tile   pixels a side of what is computed at a time; None: the whole picture at once
        Raises ValueError for a tile below MIN_TILE or a rim below 0, GessoError where numbers leave the format.
        """
        return torch.cat(list(self.bands(pixels, tile, rim)), dim=-2)

    def bands(self, pixels: Tensor, tile: int | None = TILE, rim: int = RIM) -> Iterator[Tensor]:
        """The same from top to bottom in bands of a row of tiles each, for pictures that are too large as a whole.

        -> [B, 3, scale * (tile or less), scale * W] each, as in `upscale`
        """
        tile = max(pixels.shape[-2:]) if tile is None else tile
        if rim < 0 or (tile < MIN_TILE and tile < max(pixels.shape[-2:])):
            raise ValueError(f"tiles of {tile} pixels with a rim of {rim}: expected {MIN_TILE} or more, and 0 or more")
        multiple = self.network.config.fold if isinstance(self.network, RRDBNet) else 1
        tile, rim = (-(-side // multiple) * multiple for side in (tile, rim))
        band: list[Tensor] = []
        top = 0
        for cell in cells_of(pixels, tile, rim):
            if cell.top != top:
                yield torch.cat(band, dim=-1)
                band, top = [], cell.top
            band.append(self._tile(pixels, cell))
        yield torch.cat(band, dim=-1)

    @torch.no_grad()
    def _tile(self, pixels: Tensor, cell: Cell) -> Tensor:
        weight, seen = self.network.conv_out.weight, cell.seen(pixels)
        levels = pixels.dtype == torch.uint8
        seen = seen.to(weight.device).float() / 127.5 - 1 if levels else seen.to(weight.device)
        made = cell.own(self.network(seen.to(weight.dtype)), self.scale, 1).float()
        if not made.isfinite().all():
            raise GessoError(
                f"the upscaler's numbers leave {weight.dtype}; load it as float32 (`dtype=float32`)", code="overflow"
            )
        made = made.clamp(-1, 1)
        return ((made + 1) * 127.5).round().byte().to(pixels.device) if levels else made.to(pixels.device)


@dataclass(frozen=True, eq=False)
class RestingUpscaler:
    """One that has memory only while it works."""

    upscaler: Upscaler
    component: Component

    @contextmanager
    def ready(self, dtype: torch.dtype) -> Iterator[Upscaler]:
        """Within the block it may be used. Raises ModelFileError for numbers that are not finite."""
        with settled(self.component, dtype):
            yield self.upscaler


def load_upscaler(
    path: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = torch.float32,
    converted: Path | None = None,
) -> Upscaler:
    """An upscaler network from a file: ESRGAN, Real-ESRGAN or SRVGGNetCompact, safetensors or .pth.

    dtype, converted  as for `load_upscaler_network`
    Raises ModelFileError.
    """
    return Upscaler(*load_upscaler_network(path, device, dtype, converted=converted))
