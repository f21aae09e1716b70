"""The autoencoder in overlapping tiles: a large picture in the memory of a small one.

Only the levels that change the resolution are tiled, for there the memory goes. The middle, with its attention over all
places, works on the whole picture at the size of the latents. The tiles overlap by more than most of a level's sight
and are blended with ramps. What is left of a seam comes from the group norms: each takes its mean and variance over the
tile instead of the picture (`docs/decisions`). So a first pass over the tiles collects the statistics, and the second
uses their mean for all tiles. `norms="tile"` leaves the first pass out: half the time, and seams that can be seen.

Shapes: B batch, C channels, h w rows and columns of the latents, H W of the pixels.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gesso.models.vae import AutoencoderKL, Posterior

Norms = Literal["picture", "tile"]
MIN_TILE = 16  # latents a side
OVERLAP = 8  # latents; half of the smallest tile


def decode_tiled(vae: AutoencoderKL, latents: Tensor, tile: int, *, norms: Norms = "picture") -> Tensor:
    """`AutoencoderKL.decode` in tiles of `tile` latents a side.  [B, C, h, w] -> [B, 3, H, W]

    Raises ValueError for a tile below MIN_TILE.
    """
    decoder = vae.decoder
    x = decode_front(vae, latents)
    if max(x.shape[-2:]) <= tile:
        return decode_tail(vae, x)
    return _in_tiles(lambda part: decode_tail(vae, part), decoder, x, tile, OVERLAP, norms)


def decode_front(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """The part of the decoder at the size of the latents."""
    return vae.decoder.mid(vae.decoder.conv_in(vae.post_quant_conv(latents / vae.config.scaling_factor)))


def decode_tail(vae: AutoencoderKL, x: Tensor) -> Tensor:
    """The rest of the decoder; `decode_tail(vae, decode_front(vae, latents))` is `vae.decode(latents)`."""
    decoder = vae.decoder
    for level in decoder.levels:
        x = level(x)
    return F.pixel_shuffle(decoder.conv_out(F.silu(decoder.norm_out(x))), decoder.patch_size)


def encode_tiled(vae: AutoencoderKL, pixels: Tensor, tile: int, *, norms: Norms = "picture") -> Posterior:
    """`AutoencoderKL.encode` in tiles of `tile` latents a side.  pixels [B, 3, H, W] -> Posterior of [B, C, h, w]

    Raises ValueError for a tile below MIN_TILE, and for sides that are no multiples of the VAE's.
    """
    scale = vae.config.downscale
    if pixels.shape[-2] % scale or pixels.shape[-1] % scale:
        raise ValueError(f"pixels {list(pixels.shape)}: sides must be multiples of {scale}")
    if max(pixels.shape[-2:]) <= tile * scale:
        return vae.encode(pixels)
    features = _in_tiles(
        lambda part: encode_front(vae, part), vae.encoder, pixels, tile * scale, OVERLAP * scale, norms, scale
    )
    return encode_tail(vae, features)


def encode_front(vae: AutoencoderKL, pixels: Tensor) -> Tensor:
    """The part of the encoder that halves the size.  [B, 3, H, W] -> [B, channels, h, w]"""
    encoder = vae.encoder
    x = encoder.conv_in(F.pixel_unshuffle(pixels, encoder.patch_size))
    for level in encoder.levels:
        x = level(x)
    return x


def encode_tail(vae: AutoencoderKL, features: Tensor) -> Posterior:
    """The rest of the encoder."""
    encoder = vae.encoder
    moments = vae.quant_conv(encoder.conv_out(F.silu(encoder.norm_out(encoder.mid(features)))))
    mean, logvar = moments.chunk(2, dim=1)
    factor = vae.config.scaling_factor
    return Posterior(mean=mean * factor, std=torch.exp(0.5 * logvar.clamp(-30.0, 20.0)) * factor)


def _in_tiles(
    run: Callable[[Tensor], Tensor],
    network: nn.Module,
    x: Tensor,
    tile: int,
    overlap: int,
    norms: Norms,
    shrink: int = 1,
) -> Tensor:
    """run over tiles of x, blended. tile and overlap in places of x; run shrinks by `shrink` or enlarges."""
    if tile < MIN_TILE * shrink:
        raise ValueError(f"tiles of {tile // shrink} latents, expected {MIN_TILE} or more")
    corners = [(top, left) for top in starts(x.shape[-2], tile, overlap) for left in starts(x.shape[-1], tile, overlap)]
    parts = [x[..., top : top + tile, left : left + tile] for top, left in corners]
    if norms == "tile" or len(parts) == 1:
        return _blend(run, x, parts, corners, overlap)
    statistics = _Statistics()
    with statistics.collected(network):
        for part in parts:
            run(part)
    with statistics.used(network):
        return _blend(run, x, parts, corners, overlap)


def _blend(
    run: Callable[[Tensor], Tensor], x: Tensor, parts: list[Tensor], corners: list[tuple[int, int]], overlap: int
) -> Tensor:
    """Weighted mean of the tiles, with ramps over the overlap. The sum is kept in float32."""
    whole = total = torch.empty(0)
    for part, (top, left) in zip(parts, corners, strict=True):
        made = run(part)
        if not whole.numel():
            up, down = made.shape[-1], part.shape[-1]  # made is up / down times as large
            height, width = x.shape[-2] * up // down, x.shape[-1] * up // down
            whole = torch.zeros(*made.shape[:2], height, width, device=made.device)
            total = torch.zeros(height, width, device=made.device)
        weight = _ramps(part.shape, x.shape, top, left, overlap, made)
        rows = slice(top * up // down, top * up // down + made.shape[-2])
        columns = slice(left * up // down, left * up // down + made.shape[-1])
        whole[..., rows, columns] += made.float() * weight
        total[rows, columns] += weight
    return (whole / total).to(made.dtype)


def starts(side: int, tile: int, overlap: int) -> list[int]:
    """Where tiles begin that cover a side: as few as the overlap allows, evenly spread.  (10, 4, 2) -> [0, 2, 4, 6]"""
    if side <= tile:
        return [0]
    count = -(-(side - overlap) // (tile - overlap))
    return [round(i * (side - tile) / (count - 1)) for i in range(count)]


def _ramps(part: torch.Size, x: torch.Size, top: int, left: int, overlap: int, made: Tensor) -> Tensor:
    """Weight of each pixel of a tile: falling towards sides where another tile follows."""
    lines = []
    for first, own, all_, size in (
        (top, part[-2], x[-2], made.shape[-2]),
        (left, part[-1], x[-1], made.shape[-1]),
    ):
        width = min(overlap * size // own, size // 2)
        line = torch.ones(size, device=made.device)
        rise = (torch.arange(width, device=made.device) + 0.5) / width
        if first > 0:
            line[:width] = rise
        if first + own < all_:
            line[size - width :] = torch.minimum(line[size - width :], rise.flip(0))
        lines.append(line)
    return lines[0][:, None] * lines[1]


class _Statistics:
    """Mean and variance of each group at each group norm: collected over tiles, then used for all of them."""

    def __init__(self) -> None:
        self._found: dict[nn.Module, list[tuple[Tensor, Tensor]]] = {}

    @contextmanager
    def collected(self, network: nn.Module) -> Iterator[None]:
        """Looks on while the tiles are computed, each with its own statistics."""

        def collect(norm: nn.Module, inputs: tuple[Tensor, ...], _output: Tensor) -> None:
            assert isinstance(norm, nn.GroupNorm)
            grouped = _grouped(norm, inputs[0])
            mean = grouped.mean(dim=2)
            self._found.setdefault(norm, []).append((mean, (grouped**2).mean(dim=2)))

        yield from _hooked(network, collect)

    @contextmanager
    def used(self, network: nn.Module) -> Iterator[None]:
        """Each group norm takes the mean of what was collected."""
        fixed = {}
        for norm, found in self._found.items():
            mean = torch.stack([mean for mean, _ in found]).mean(dim=0)
            square = torch.stack([square for _, square in found]).mean(dim=0)
            fixed[norm] = (mean, (square - mean**2).clamp(min=0))

        def replace(norm: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            assert isinstance(norm, nn.GroupNorm)
            if norm not in fixed:
                return output
            mean, variance = fixed[norm]
            gain = (variance + norm.eps).rsqrt()
            each = norm.num_channels // norm.num_groups
            gain, mean = (value.repeat_interleave(each, dim=1) for value in (gain, mean))
            scale = gain * norm.weight.float()
            shift = norm.bias.float() - mean * scale
            return torch.addcmul(shift[..., None, None].to(output), inputs[0], scale[..., None, None].to(output))

        yield from _hooked(network, replace)


def _grouped(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    """[B, C, h, w] -> float32 [B, groups, all of a group]"""
    return x.float().reshape(len(x), norm.num_groups, -1)


def _hooked(network: nn.Module, hook: Callable[..., Any]) -> Iterator[None]:
    handles = [part.register_forward_hook(hook) for part in network.modules() if isinstance(part, nn.GroupNorm)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
