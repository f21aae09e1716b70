"""Tiled VAE: decodes and encodes a large picture in a fraction of the memory, with the same result.

Two things make tiles visible in other tools: the edge of a tile has no neighbours, and a group norm takes its mean and
variance over the tile instead of the picture. Here the picture goes through the levels one after the other, kept whole
between them, where it is small; within a level it goes tile by tile. Each tile is computed with a rim as wide as the
receptive field of the level, which is then cut off. And the statistics of each group norm are first summed over all
tiles, norm after norm, each sum needing the work up to its norm again: so this takes four to six times as long, and the
result differs from the whole by the order of sums. The middle block, with its attention, works on the whole picture.

Shapes: B batch, C channels, h w rows and columns of the latents, H W of the pixels.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gesso.models.upscaler import MiniUpscaler
from gesso.models.vae import AutoencoderKL, DecoderLevel, EncoderLevel, Posterior
from gesso.nn.resblock import silu_of

MIN_TILE = 16  # latents a side


@dataclass(frozen=True, eq=False)
class Stage:
    """A level of a VAE that can be computed tile by tile.

    run    [B, C, h, w] -> [B, C', h * up / down, w * up / down]
    parts  its modules, for their group norms
    rim    radius of the receptive field
    """

    run: Callable[[Tensor], Tensor]
    parts: tuple[nn.Module, ...]
    rim: int
    up: int = 1
    down: int = 1


def decoder_stages(vae: AutoencoderKL) -> list[Stage]:
    """The decoder after `decode_front`, split where the picture is smallest: before each upsampling."""
    decoder, stages = vae.decoder, []
    levels = [level for level in decoder.levels if isinstance(level, DecoderLevel)]
    for i, level in enumerate(levels):
        before: nn.Module | None = levels[i - 1].upsample if i else None
        last = (decoder.norm_out,) if i == len(levels) - 1 else ()
        up = 2 if before is not None else 1
        sight = 2 * len(level.blocks) + (before is not None) + bool(last)

        def run(
            x: Tensor, level: DecoderLevel = level, before: nn.Module | None = before, *, ends: bool = bool(last)
        ) -> Tensor:
            x = x if before is None else before(x)
            for block in level.blocks:
                x = block(x)
            return F.pixel_shuffle(decoder.conv_out(silu_of(decoder.norm_out, x)), decoder.patch_size) if ends else x

        whole = up * (decoder.patch_size if last else 1)
        stages.append(Stage(run, (level.blocks, *last), -(-sight // up), up=whole))
    return stages


def encoder_stages(vae: AutoencoderKL) -> list[Stage]:
    """The encoder before `encode_tail`; the first stage takes pixels that are folded already."""
    encoder, stages = vae.encoder, []
    for i, level in enumerate(encoder.levels):
        assert isinstance(level, EncoderLevel)
        halves = i < len(encoder.levels) - 1
        rim = 2 * len(level.blocks) + (i == 0) + 2 * halves

        def run(x: Tensor, level: nn.Module = level, *, first: bool = i == 0) -> Tensor:
            return level(encoder.conv_in(x) if first else x)

        stages.append(Stage(run, (level,), rim + rim % 2, down=2 if halves else 1))
    return stages


def decode_front(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """The part of the decoder at the size of the latents, with its attention."""
    return vae.decoder.mid(vae.decoder.conv_in(vae.post_quant_conv(latents / vae.config.scaling_factor)))


def encode_tail(vae: AutoencoderKL, features: Tensor) -> Posterior:
    """The part of the encoder at the size of the latents, with its attention."""
    encoder = vae.encoder
    moments = vae.quant_conv(encoder.conv_out(silu_of(encoder.norm_out, encoder.mid(features))))
    mean, logvar = moments.chunk(2, dim=1)
    factor = vae.config.scaling_factor
    return Posterior(mean=mean * factor, std=torch.exp(0.5 * logvar.clamp(-30.0, 20.0)) * factor)


def decode_tiled(vae: AutoencoderKL, latents: Tensor, tile: int) -> Tensor:
    """`AutoencoderKL.decode` in tiles of `tile` latents a side.  [B, C, h, w] -> [B, 3, H, W]

    Raises ValueError for a tile below MIN_TILE.
    """
    _check(tile)
    x = decode_front(vae, latents)
    places = tile  # of x in one tile
    for stage in decoder_stages(vae):
        x = in_tiles(stage, x, places)
        places *= stage.up
    return x


def encode_tiled(vae: AutoencoderKL, pixels: Tensor, tile: int) -> Posterior:
    """`AutoencoderKL.encode` in tiles of `tile` latents a side.  pixels [B, 3, H, W] -> Posterior of [B, C, h, w]

    Raises ValueError for a tile below MIN_TILE, and for sides that are no multiples of the VAE's.
    """
    _check(tile)
    scale = vae.config.downscale
    if pixels.shape[-2] % scale or pixels.shape[-1] % scale:
        raise ValueError(f"pixels {list(pixels.shape)}: sides must be multiples of {scale}")
    x = F.pixel_unshuffle(pixels, vae.encoder.patch_size)
    places = tile * scale // vae.encoder.patch_size
    for stage in encoder_stages(vae):
        x = in_tiles(stage, x, places)
        places //= stage.down
    return encode_tail(vae, x)


def upscale_tiled(upscaler: MiniUpscaler, pixels: Tensor, tile: int) -> Tensor:
    """`MiniUpscaler.forward` in tiles of `tile` input pixels a side, each with a rim as wide as its receptive field.

    pixels [B, 3, H, W] -> [B, 3, sH, sW]. Raises ValueError for a tile that the network's levels do not divide.
    """
    config = upscaler.config
    if tile < 1 or tile % config.multiple:
        raise ValueError(f"tiles of {tile} pixels, expected a multiple of {config.multiple}")
    whole: Tensor | None = None
    for cell in cells_of(pixels, tile, config.sight):
        output = cell.own(upscaler(cell.with_rim(pixels)), config.scale, 1)
        if whole is None:
            whole = output.new_empty(*output.shape[:2], *(side * config.scale for side in pixels.shape[-2:]))
        top, left = cell.top * config.scale, cell.left * config.scale
        whole[..., top : top + output.shape[-2], left : left + output.shape[-1]] = output
    assert whole is not None
    return whole


def _check(tile: int) -> None:
    if tile < MIN_TILE or tile % 2:
        raise ValueError(f"tiles of {tile} latents, expected an even number of {MIN_TILE} or more")


def in_tiles(stage: Stage, x: Tensor, tile: int) -> Tensor:
    """Runs a stage over x in tiles of `tile` places a side, each with a rim that is cut off."""
    cells = list(cells_of(x, tile, stage.rim))
    if len(cells) == 1:
        return stage.run(x)
    norms = [module for part in stage.parts for module in part.modules() if isinstance(module, nn.GroupNorm)]
    statistics = _Statistics()
    whole: Tensor | None = None
    with statistics.watching(norms):
        for _ in norms:
            for cell in cells:
                statistics.cell = cell
                with suppress(_EnoughError):
                    stage.run(cell.with_rim(x))
            statistics.finish_norm()
        for cell in cells:
            output = cell.own(stage.run(cell.with_rim(x)), stage.up, stage.down)
            if whole is None:
                height, width = (side * stage.up // stage.down for side in x.shape[-2:])
                whole = output.new_empty(len(x), output.shape[1], height, width).to(memory_format=torch.channels_last)
            top, left = cell.top * stage.up // stage.down, cell.left * stage.up // stage.down
            whole[..., top : top + output.shape[-2], left : left + output.shape[-1]] = output
    assert whole is not None
    return whole


def cells_of(x: Tensor, tile: int, rim: int) -> Iterator["Cell"]:
    """The tiles of x [..., H, W], row by row; the last of a row and of a column may be smaller."""
    for top in range(0, x.shape[-2], tile):
        for left in range(0, x.shape[-1], tile):
            yield Cell(top, left, tile, rim, x)


class Cell:
    """A tile of x, and the part of x that is computed for it: the tile with its rim."""

    def __init__(self, top: int, left: int, tile: int, rim: int, x: Tensor) -> None:
        height, width = x.shape[-2:]
        self.top, self.left = top, left
        self.height, self.width = min(tile, height - top), min(tile, width - left)
        self._rows = slice(max(0, top - rim), min(height, top + tile + rim))
        self._columns = slice(max(0, left - rim), min(width, left + tile + rim))

    def with_rim(self, x: Tensor) -> Tensor:
        """The tile with its rim."""
        return x[..., self._rows, self._columns]

    def own(self, output: Tensor, up: int, down: int) -> Tensor:
        """The tile's part of an output for `with_rim` that is up / down times as large."""
        top, left = (self.top - self._rows.start) * up // down, (self.left - self._columns.start) * up // down
        height, width = self.height * up // down, self.width * up // down
        return output[..., top : top + height, left : left + width]

    def own_at(self, output: Tensor) -> Tensor:
        """The same, with the scale taken from the size of the output."""

        return self.own(output, output.shape[-1], self._columns.stop - self._columns.start)


class _EnoughError(Exception):
    """A tile has reached the norm whose statistics are being summed."""


class _Statistics:
    """Mean and variance of each group at each group norm, over all tiles."""

    def __init__(self) -> None:
        self.cell: Cell | None = None
        self._sums: dict[nn.Module, tuple[Tensor, Tensor, int]] = {}
        self._fixed: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    @contextmanager
    def watching(self, norms: list[nn.GroupNorm]) -> Iterator[None]:
        """Within the block the first norm without final statistics adds the tile to its sums and stops the tile."""
        handles = [norm.register_forward_pre_hook(self._collect) for norm in norms]
        handles += [norm.register_forward_hook(self._normalise) for norm in norms]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def finish_norm(self) -> None:
        """Computes mean and variance of the norms whose sums are complete: all tiles have been added."""
        for norm, (total, squares, count) in self._sums.items():
            mean = total / count
            self._fixed[norm] = (mean, (squares / count - mean**2).clamp(min=0))
        self._sums.clear()

    def _collect(self, norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if norm in self._fixed:
            return
        assert isinstance(norm, nn.GroupNorm) and self.cell is not None
        own = self.cell.own_at(inputs[0])
        grouped = own.float().reshape(len(own), norm.num_groups, -1)
        total, squares, count = self._sums.get(norm, (0, 0, 0))
        # Sums of float32 lose digits where there are millions of numbers; those of the tiles are added in float64.
        self._sums[norm] = (
            total + grouped.sum(dim=2, dtype=torch.float64),
            squares + grouped.square().sum(dim=2, dtype=torch.float64),
            count + grouped.shape[2],
        )
        raise _EnoughError

    def _normalise(self, norm: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        assert isinstance(norm, nn.GroupNorm)
        mean, variance = self._fixed[norm]
        each = norm.num_channels // norm.num_groups
        gain, mean = ((variance + norm.eps).rsqrt().repeat_interleave(each, 1), mean.repeat_interleave(each, 1))
        scale = gain * norm.weight.double()
        shift = norm.bias.double() - mean * scale
        return torch.addcmul(shift[..., None, None].to(output), inputs[0], scale[..., None, None].to(output))
