"""Source pictures and masks as tensors: resize, mask blur, latent masks, paste-back.

Pixels are float32 [1, 3, H, W] in [-1, 1]; a mask is a grey picture, of which the white part is redrawn.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from gesso.hints.levels import mask_levels
from gesso.request.request import MAX_PIXELS

_LINES, _FEW = 256, 64  # lines that are convolved at a time; up to how many weights are summed directly, without FFT


def fit(image: Image.Image, width: int, height: int) -> Image.Image:
    """The picture resized to width x height (Lanczos, as in A1111 and diffusers)."""
    return image if image.size == (width, height) else image.resize((width, height), Image.Resampling.LANCZOS)


def to_pixels(image: Image.Image) -> Tensor:
    """RGB of 8 bits -> float32 [1, 3, H, W] in [-1, 1]."""
    levels = torch.from_numpy(np.array(image.convert("RGB"), dtype=np.float32))
    return (levels / 255 * 2 - 1).permute(2, 0, 1)[None].contiguous()


def soften(mask: Image.Image, radius: float) -> Image.Image:
    """Mask blur: a Gaussian of standard deviation `radius` and 2 * int(2.5 * radius + 0.5) + 1 points, as in A1111.

    radius 0: no blur; the mask becomes black and white, split at the middle level.
    """
    levels = np.asarray(mask_levels(mask))
    if radius == 0:
        return Image.fromarray(np.where(levels >= 128, 255, 0).astype(np.uint8))
    reach = reach_of(radius)
    bounds = mask_levels(mask).getbbox()
    if bounds is None:
        return mask_levels(mask)
    left, top, right, bottom = bounds  # beyond twice the reach all is black and stays black
    box = np.s_[max(top - 2 * reach, 0) : bottom + 2 * reach, max(left - 2 * reach, 0) : right + 2 * reach]
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / radius) ** 2)
    grey = levels[box].astype(np.float64)
    for axis in (0, 1):
        grey = _convolve(grey, weights / weights.sum(), axis)
    soft = np.zeros_like(levels)
    soft[box] = grey.round().clip(0, 255).astype(np.uint8)
    return Image.fromarray(soft)


def reach_of(radius: float) -> int:
    """Pixels that the mask blur reaches beyond an edge."""
    return int(2.5 * radius + 0.5)


def _convolve(grey: NDArray[np.float64], weights: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """Convolves along an axis, some lines at a time, by FFT if there are many weights: for any radius, time and memory
    are those of a few copies."""
    lines = grey if axis == 1 else grey.T
    size, reach = lines.shape[1], len(weights) // 2
    result = np.empty_like(lines)
    for first in range(0, len(lines), _LINES):
        padded = np.pad(lines[first : first + _LINES], [(0, 0), (reach, reach)], mode="symmetric")
        if len(weights) > _FEW:
            length = padded.shape[1] + len(weights) - 1
            product = np.fft.rfft(padded, length) * np.fft.rfft(weights, length)
            total = np.fft.irfft(product, length)[:, 2 * reach : 2 * reach + size]
        else:
            total = np.zeros((len(padded), size))
            for start, weight in enumerate(weights):
                total += weight * padded[:, start : start + size]
        result[first : first + _LINES] = total
    return result if axis == 1 else result.T


def mask_pixels(mask: Image.Image) -> Tensor:
    """The mask as float32 [1, 1, H, W], 0 or 1; 1 is redrawn."""
    grey = torch.from_numpy(np.array(mask_levels(mask), dtype=np.float32))
    return (grey >= 127.5).float()[None, None]


def latent_mask(mask: Image.Image, rows: int, columns: int, blend: str) -> Tensor:
    """The mask at the size of the latents, 0 or 1, float32 [1, 1, rows, columns]; 1 is redrawn.

    blend x0: shrunk by PIL's bicubic filter and rounded, as in A1111. blend x: nearest pixel, as in diffusers and
    inpainting models. blend differential: shrunk by the mean and not rounded, 0..1.
    """
    if blend == "differential":
        means = mask_levels(mask).resize((columns, rows), Image.Resampling.BOX)
        return torch.from_numpy(np.asarray(means, dtype=np.float32) / 255)[None, None]
    if blend == "x":
        return F.interpolate(mask_pixels(mask), size=(rows, columns))
    small = mask_levels(mask).resize((columns, rows), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.asarray(small, dtype=np.float32) / 255).round()[None, None]


def paste_back(drawn: Image.Image, original: Image.Image, mask: Image.Image) -> Image.Image:
    """The drawn picture where the mask is white, the original bit by bit where it is black, blended in between."""
    weight = np.asarray(mask_levels(mask), dtype=np.int32)[..., None]
    new, old = (np.asarray(image.convert("RGB"), dtype=np.int32) for image in (drawn, original))
    return Image.fromarray(((new * weight + old * (255 - weight) + 127) // 255).astype(np.uint8))


def drawable_size(image: Image.Image, multiple: int) -> tuple[int, int]:
    """Width and height of a picture rounded down to the model's multiple; reduced if the picture is huge."""
    shrink = min(1.0, math.sqrt(MAX_PIXELS / (image.width * image.height)))
    width, height = (max(multiple, int(side * shrink) // multiple * multiple) for side in image.size)
    return width, height
