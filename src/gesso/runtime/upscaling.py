"""Upscaler networks (ESRGAN, Real-ESRGAN) on pictures of any size, tile by tile.

A tile is computed with a rim of pixels around it, which is then cut off. A rim as wide as the network's receptive field
gives the same result as the whole picture, up to the order of sums; in practice a far narrower one will do, since a
pixel depends little on what is far away. docs/upscaling.md has the figures.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from gesso.errors import GessoError, as_path
from gesso.families.upscaler_network import load_upscaler_network
from gesso.models.rrdb import RRDBNet
from gesso.models.srvgg import SRVGG
from gesso.runtime.residency import Component, onloaded
from gesso.runtime.tiling import Cell, cells_of

TILE = 192  # pixels a side; with the rim about 1 GiB at four times the size in float32
RIM = 16
MIN_TILE = 16


@dataclass(frozen=True, eq=False)
class Upscaler:
    """An upscaler network that is loaded. `load_upscaler` makes one.

    scale  how many times larger a picture becomes
    sight  radius of the receptive field in pixels; a rim of that width leaves no seam
    files  that it was loaded from, for hashes
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
        """Enlarges pixels.

        pixels [B, 3, H, W] in [-1, 1] -> float32 [B, 3, scale * H, scale * W], clamped to [-1, 1], on the same device;
               or uint8, levels -> uint8, the nearest levels
        tile   pixels a side of each tile; None: the whole picture at once
        Raises ValueError for a tile below MIN_TILE or a rim below 0, GessoError if the dtype overflows.
        """
        return torch.cat(list(self.bands(pixels, tile, rim)), dim=-2)

    def bands(self, pixels: Tensor, tile: int | None = TILE, rim: int = RIM) -> Iterator[Tensor]:
        """The same as bands from top to bottom, each a row of tiles, for pictures that do not fit into memory.

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
        weight, tile = self.network.conv_out.weight, cell.with_rim(pixels)
        levels = pixels.dtype == torch.uint8
        tile = tile.to(weight.device).float() / 127.5 - 1 if levels else tile.to(weight.device)
        output = cell.own(self.network(tile.to(weight.dtype)), self.scale, 1).float()
        if not output.isfinite().all():
            raise GessoError(
                f"the upscaler overflows {weight.dtype}; load it in float32 (`dtype=float32`)", code="overflow"
            )
        output = output.clamp(-1, 1)
        return ((output + 1) * 127.5).round().byte().to(pixels.device) if levels else output.to(pixels.device)


@dataclass(frozen=True, eq=False)
class OffloadedUpscaler:
    """An upscaler that is in memory only while it works."""

    upscaler: Upscaler
    component: Component

    @contextmanager
    def ready(self, dtype: torch.dtype) -> Iterator[Upscaler]:
        """The upscaler is in memory within the block. Raises ModelFileError for weights that are not finite."""
        with onloaded(self.component, dtype):
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
    return Upscaler(*load_upscaler_network(as_path(path, "path"), device, dtype, converted=converted))
