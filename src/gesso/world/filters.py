"""Styles that change the whole picture: line drawing, pixel art, pencil, watercolour, neon, grey tones.

Widths grow with the picture, so that a style looks the same at every size.
Shapes: B pictures of one style, H W rows and columns; pictures float32 [B, 3, H, W] from 0 to 1.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from gesso.world.backgrounds import constant, hashed, luma


def blurred(field: Tensor, sigma: float) -> Tensor:
    """A Gaussian blur, sigma in pixels; wide ones are computed on a smaller picture.  [B, C, H, W] -> the same"""
    if sigma < 0.2:
        return field
    if sigma > 3.0 and min(field.shape[-2:]) >= 16:
        small = F.avg_pool2d(field, 2, ceil_mode=True, count_include_pad=False)
        return F.interpolate(blurred(small, sigma / 2), field.shape[-2:], mode="bilinear", align_corners=False)
    radius = math.ceil(2.5 * sigma)
    weights = [math.exp(-0.5 * (i / sigma) ** 2) for i in range(-radius, radius + 1)]
    total = sum(weights)
    height, width = field.shape[-2:]
    padded = F.pad(field, (radius, radius, 0, 0), mode="replicate")
    across = torch.zeros_like(field)
    for place, weight in enumerate(weights):
        across.add_(padded[..., place : place + width], alpha=weight / total)
    padded = F.pad(across, (0, 0, radius, radius), mode="replicate")
    down = torch.zeros_like(field)
    for place, weight in enumerate(weights):
        down.add_(padded[..., place : place + height, :], alpha=weight / total)
    return down


def _steepness(field: Tensor, step: int) -> Tensor:
    """Length of the change of all channels over 2 * step pixels.  [B, C, H, W] -> [B, 1, H, W]"""
    padded = F.pad(field, (step, step, step, step), mode="replicate")
    across = padded[..., step:-step, 2 * step :] - padded[..., step:-step, : -2 * step]
    down = padded[..., 2 * step :, step:-step] - padded[..., : -2 * step, step:-step]
    return across.square_().add_(down.square_()).sum(1, keepdim=True).sqrt_()


def _ramp(field: Tensor, low: float, high: float) -> Tensor:
    """Smoothly from 0 at `low` to 1 at `high`."""
    share = ((field - low) / (high - low)).clamp_(0, 1)
    return share * share * (3 - 2 * share)


def _noise(seeds: Tensor, height: int, width: int, count: int, salt: int) -> Tensor:
    """Smooth blotches, `count` a shorter side.  -> [B, 1, H, W], about 0 to 1"""
    short = min(height, width)
    rows, columns = math.ceil(height / short * count) + 1, math.ceil(width / short * count) + 1
    table = hashed(seeds, rows * columns, salt).view(-1, 1, rows, columns)
    return F.interpolate(table, (height, width), mode="bicubic", align_corners=True)


def _lines(picture: Tensor, owners: Tensor, low: float, high: float) -> Tensor:
    """Lines along the borders of colours and, always, of objects.  -> [B, 1, H, W]"""
    scale = min(picture.shape[-2:]) / 256
    step = max(1, round(scale))
    inner = _ramp(_steepness(blurred(picture, 0.9 * scale), step), low, high)
    outer = _ramp(_steepness(blurred(owners, 0.9 * scale), step), 0.05, 0.22)
    return torch.maximum(inner, outer)


def outline(picture: Tensor, owners: Tensor, seeds: Tensor) -> Tensor:
    """Black lines on white."""
    del seeds
    objects = (owners > 0.02).float()
    inked = _lines(picture, owners, 0.18, 0.45)
    return (1 - inked * (0.5 + 0.5 * blurred(objects, 1.5))).expand_as(picture)


def pixel(picture: Tensor, owners: Tensor, seeds: Tensor) -> Tensor:
    """Blocks of a 32nd of the shorter side, in a reduced palette."""
    del owners, seeds
    height, width = picture.shape[-2:]
    block = max(2, round(min(height, width) / 32))
    rows, columns = math.ceil(height / block), math.ceil(width / block)
    padded = F.pad(picture, (0, columns * block - width, 0, rows * block - height), mode="replicate")
    small = F.avg_pool2d(padded, block)
    small = (small + 0.5 * (small - blurred(small, 0.8))).clamp_(0, 1)  # averages are dull
    small = (small * 12).round_().div_(12)
    return small.repeat_interleave(block, 2).repeat_interleave(block, 3)[..., :height, :width]


def pencil(picture: Tensor, owners: Tensor, seeds: Tensor) -> Tensor:
    """A grey sketch: contours, and strokes where it is dark."""
    del seeds
    height, width = picture.shape[-2:]
    short = min(height, width)
    scale = short / 256
    grey = luma(picture)
    # A dark scene keeps some paper. Rounding may leave a black a little below zero, which has no such power.
    tone = blurred(grey, 1.0 * scale).clamp_(min=0) ** 0.75
    lines = _lines(picture, owners, 0.1, 0.6)
    x = torch.arange(width, device=picture.device) / short
    y = (torch.arange(height, device=picture.device) / short)[:, None]
    ink = (1 - tone) * 0.25
    for slope, low, high in ((1.0, 0.88, 0.3), (-0.8, 0.5, 0.05)):
        wave = (2 * math.pi * 25 * (x + slope * y) / math.sqrt(1 + slope * slope)).sin()
        dark = ((low - tone) / (low - high)).clamp_(0, 1)
        ink = ink + 0.34 * _ramp(wave + 2.2 * dark - 1.1, -0.25, 0.5) * dark.sqrt()
    ink = torch.maximum(ink.clamp_(0, 0.8), lines * 0.82)
    paper = constant((0.975, 0.965, 0.94), picture.device)
    lead = constant((0.16, 0.16, 0.19), picture.device)
    return torch.lerp(paper, lead, ink)


def watercolor(picture: Tensor, owners: Tensor, seeds: Tensor) -> Tensor:
    """Flat washes with darker rims, uneven pigment and a torn edge on rough paper."""
    height, width = picture.shape[-2:]
    short = min(height, width)
    scale = short / 256
    wet = _warped(picture, seeds, 0.006)
    wet = _kuwahara(wet, max(1, round(3 * scale)))
    soft = blurred(wet, 3 * scale)
    rims = _ramp(_steepness(blurred(wet, 1.2 * scale), max(1, round(scale))), 0.05, 0.5)
    amount = (
        0.72 + 0.5 * _noise(seeds, height, width, 5, 9001) * 0.6 + 0.16 * (_noise(seeds, height, width, 13, 9002) - 0.5)
    )
    pigment = (1 - wet) * amount + (soft - wet) * 0.35 + rims * (1 - soft) * 0.28
    x = (torch.arange(width, device=picture.device) + 0.5) / short
    y = ((torch.arange(height, device=picture.device) + 0.5) / short)[:, None]
    border = torch.minimum(torch.minimum(x, width / short - x), torch.minimum(y, height / short - y))
    wobble = _noise(seeds, height, width, 9, 9003) * 0.045
    pigment = pigment * _ramp(border - wobble, -0.004, 0.022)
    paper = constant((0.992, 0.984, 0.96), picture.device)
    return paper * (1 - pigment.clamp_(0, 1))


def _warped(picture: Tensor, seeds: Tensor, reach: float) -> Tensor:
    height, width = picture.shape[-2:]
    short = min(height, width)
    shifts = [(_noise(seeds, height, width, 14, 9004 + axis)[:, 0] - 0.5) * 4 * reach for axis in range(2)]
    x = (torch.arange(width, device=picture.device) + 0.5) / width * 2 - 1 + shifts[0] * short / width
    y = ((torch.arange(height, device=picture.device) + 0.5) / height * 2 - 1)[:, None] + shifts[1] * short / height
    return F.grid_sample(picture, torch.stack((x, y), dim=-1), padding_mode="border", align_corners=False)


def _kuwahara(picture: Tensor, radius: int) -> Tensor:
    """At each pixel the mean of that of four neighbouring squares whose colours differ least."""
    size = radius + 1
    height, width = picture.shape[-2:]
    padded = F.pad(picture, (radius, radius, radius, radius), mode="replicate")
    mean = F.avg_pool2d(padded, size, stride=1)
    spread = (F.avg_pool2d(padded * padded, size, stride=1) - mean * mean).sum(1, keepdim=True)
    best = mean[..., :height, :width]
    least = spread[..., :height, :width]
    for top, left in ((0, radius), (radius, 0), (radius, radius)):
        other = spread[..., top : top + height, left : left + width]
        best = torch.where(other < least, mean[..., top : top + height, left : left + width], best)
        least = torch.minimum(other, least)
    return best


def neon(picture: Tensor, owners: Tensor, seeds: Tensor) -> Tensor:
    """Glowing tubes along the borders, on a dark wall."""
    del seeds
    scale = min(picture.shape[-2:]) / 256
    lines = _lines(picture, owners, 0.2, 0.55)
    base = blurred(picture, 2.5 * scale)
    high, low = base.amax(1, keepdim=True), base.amin(1, keepdim=True)
    grey = ((high - low) < 0.12).float()
    vivid = (base - low) / (high - low).clamp(min=0.05)
    vivid = torch.lerp(vivid, constant((0.25, 0.85, 1.0), picture.device), grey)
    vivid = blurred(vivid, 1.5 * scale)
    vivid = vivid / vivid.amax(1, keepdim=True).clamp(min=0.3)
    tube = vivid * lines
    glow = blurred(tube, 3 * scale) * 0.9 + blurred(tube, 9 * scale) * 0.9
    wall = constant((0.035, 0.03, 0.085), picture.device) + base * 0.05
    return (wall + glow * (1 - 0.3 * lines) + lines * (vivid * 0.75 + 0.3)).clamp_(0, 1)


def grayscale(picture: Tensor, owners: Tensor, seeds: Tensor) -> Tensor:
    """Grey tones."""
    del owners, seeds
    return luma(picture).expand_as(picture)


FILTERS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    one.__name__: one for one in (outline, pixel, pencil, watercolor, neon, grayscale)
}
"""Styles that are drawn from the plain picture: picture [B, 3, H, W], owners [B, 1, H, W], seeds int64 [B] -> picture.

owners: which object is seen at each pixel, as a number above 0; 0 where none is.
"""
