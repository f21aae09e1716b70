"""Makes the pictures and masks that a graph describes before anything is drawn, as ComfyUI's nodes make them.

Pictures are float32 [H, W, 3] and masks float32 [H, W], both in 0..1. numpy and Pillow: the server has no torch.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gesso.hints.levels import eight_bits
from gesso.serving.jobs import Upload
from gesso.surfaces.comfy.values import (
    AlphaMask,
    BorderMask,
    ChannelMask,
    Cropped,
    CroppedMask,
    FittedMask,
    Greyed,
    GrownMask,
    Inverted,
    InvertedMask,
    Loaded,
    Mask,
    OfMask,
    Padded,
    Picture,
    Scaled,
    Size,
    SolidMask,
)

Pixels = NDArray[np.float32]
Open = Callable[[Upload], Image.Image]

_CHANNELS = {"red": 0, "green": 1, "blue": 2}


def picture_image(picture: Picture, open: Open) -> Image.Image:
    """A picture, RGB.  open: an uploaded one as it is stored"""
    return Image.fromarray(_levels(_picture(picture, open)))


def mask_image(mask: Mask, open: Open) -> Image.Image:
    """A mask, grey; white is redrawn."""
    return Image.fromarray(_levels(_mask(mask, open)))


def _shares(image: Image.Image) -> Pixels:
    """Levels as 0..1."""
    shares: Pixels = np.asarray(image, dtype=np.float32) / np.float32(255)
    return shares


def _levels(pixels: Pixels) -> NDArray[np.uint8]:
    return np.round(np.clip(pixels, 0, 1) * 255).astype(np.uint8)


def _plain(image: Image.Image) -> Image.Image:
    """A stored picture in RGB: transparency is forgotten, not filled, as in ComfyUI."""
    return eight_bits(image).convert("RGB")


def _picture(picture: Picture, open: Open) -> Pixels:
    match picture:
        case Loaded(upload):
            return _shares(_plain(open(upload)))
        case Scaled(inner, method, size, crop):
            return _scaled(_picture(inner, open), method, size, crop)
        case Inverted(inner):
            return 1 - _picture(inner, open)
        case Padded(inner, sides):
            left, top, right, bottom = sides
            around = ((top, bottom), (left, right), (0, 0))
            return np.pad(_picture(inner, open), around, constant_values=0.5)
        case Cropped(inner, size):
            return _middle(_picture(inner, open), size)
        case Greyed(inner, mask):
            kept = 1 - np.round(_mask(mask, open))[..., None]
            return (_picture(inner, open) - np.float32(0.5)) * kept + np.float32(0.5)
        case OfMask(mask):
            return np.repeat(_mask(mask, open)[..., None], 3, axis=2)
    raise ValueError(f"{type(picture).__name__} is not known before it is drawn")


def _mask(mask: Mask, open: Open) -> Pixels:
    match mask:
        case AlphaMask(upload):
            image = open(upload)
            if "A" not in image.getbands() and "transparency" not in image.info:
                return np.zeros((upload.height, upload.width), np.float32)
            return 1 - _shares(image.convert("RGBA").getchannel("A"))
        case ChannelMask(picture, channel):
            return _picture(picture, open)[..., _CHANNELS[channel]]
        case InvertedMask(inner):
            return 1 - _mask(inner, open)
        case GrownMask(inner, pixels, tapered, rounded):
            values = _mask(inner, open)
            return _widened(np.round(values), pixels) if rounded else _grown(values, pixels, tapered)
        case SolidMask(value, size):
            return np.full((size[1], size[0]), value, np.float32)
        case BorderMask(inside, sides, feathering):
            return _border(inside, sides, feathering)
        case FittedMask(inner, size):
            return _interpolated(_mask(inner, open)[..., None], size, _linear)[..., 0]
        case CroppedMask(inner, size):
            return _middle(_mask(inner, open), size)


# ---- sizes -----------------------------------------------------------------------------------------------------------


def _middle(pixels: Pixels, size: Size) -> Pixels:
    height, width = pixels.shape[:2]
    left, top = (width - size[0]) // 2, (height - size[1]) // 2
    return pixels[top : top + size[1], left : left + size[0]]


def _scaled(pixels: Pixels, method: str, size: Size, crop: str) -> Pixels:
    """As ComfyUI's common_upscale: cut to the shape in the middle, then interpolated without smoothing."""
    height, width = pixels.shape[:2]
    if crop == "center":
        old, new = width / height, size[0] / size[1]
        x = round((width - width * (new / old)) / 2) if old > new else 0
        y = round((height - height * (old / new)) / 2) if old < new else 0
        pixels = pixels[y : height - y, x : width - x]
    if pixels.shape[1::-1] == tuple(size):
        return pixels
    match method:
        case "lanczos":
            return _shares(Image.fromarray(_levels(pixels)).resize(size, Image.Resampling.LANCZOS))
        case "nearest-exact":
            # Of each new pixel the old one at its middle.
            rows, columns = (
                ((np.arange(new) + 0.5) * (old / new)).astype(int).clip(0, old - 1)
                for new, old in ((size[1], pixels.shape[0]), (size[0], pixels.shape[1]))
            )
            return pixels[rows][:, columns]
        case "area":
            return _interpolated(pixels, size, _area)
        case "bilinear":
            return _interpolated(pixels, size, _linear)
        case "bicubic":
            return _interpolated(pixels, size, _cubic)
    raise ValueError(f"{method} is no way to scale")


Weights = Callable[[int, int], tuple[NDArray[np.intp], Pixels]]


def _interpolated(pixels: Pixels, size: Size, weights: Weights) -> Pixels:
    """Rows, then columns, each a sum of a few of the old ones."""
    for axis, new in ((0, size[1]), (1, size[0])):
        places, shares = weights(pixels.shape[axis], new)
        moved = np.moveaxis(pixels, axis, 0)
        out = np.zeros((new, *moved.shape[1:]), np.float32)
        for tap in range(places.shape[1]):
            out += moved[places[:, tap]] * shares[:, tap].reshape(-1, *[1] * (moved.ndim - 1))
        pixels = np.moveaxis(out, 0, axis)
    return pixels


def _linear(old: int, new: int) -> tuple[NDArray[np.intp], Pixels]:
    """torch's bilinear, align_corners=False, antialias=False."""
    at = np.maximum((np.arange(new) + 0.5) * (old / new) - 0.5, 0)
    low = np.floor(at).astype(np.intp).clip(0, old - 1)
    share = (at - low).astype(np.float32)
    return np.stack([low, (low + 1).clip(0, old - 1)], 1), np.stack([1 - share, share], 1)


def _cubic(old: int, new: int) -> tuple[NDArray[np.intp], Pixels]:
    """torch's bicubic (a = -0.75), align_corners=False, antialias=False."""
    at = (np.arange(new) + 0.5) * (old / new) - 0.5
    low = np.floor(at).astype(np.intp)
    share, a = at - low, -0.75

    def near(x: NDArray[np.float64]) -> NDArray[np.float64]:
        return ((a + 2) * x - (a + 3)) * x * x + 1

    def far(x: NDArray[np.float64]) -> NDArray[np.float64]:
        return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a

    shares = np.stack([far(share + 1), near(share), near(1 - share), far(2 - share)], 1).astype(np.float32)
    return np.stack([low - 1, low, low + 1, low + 2], 1).clip(0, old - 1), shares


def _area(old: int, new: int) -> tuple[NDArray[np.intp], Pixels]:
    """torch's area: the mean of whole pixels that a new one touches."""
    first = np.arange(new) * old // new
    last = -(-(np.arange(new) + 1) * old // new)
    taps = int((last - first).max())
    places = first[:, None] + np.arange(taps)
    inside = places < last[:, None]
    shares = inside / (last - first)[:, None]
    return places.clip(0, old - 1), shares.astype(np.float32)


# ---- masks -----------------------------------------------------------------------------------------------------------


def _widened(values: Pixels, pixels: int) -> Pixels:
    """VAEEncodeForInpaint's mask: a square of so many pixels around each."""
    if pixels == 0:
        return values
    return _over(values, pixels, (pixels - 1) // 2, np.maximum)


def _over(values: Pixels, side: int, before: int, choose: Callable[..., Pixels]) -> Pixels:
    """The greatest or least value of a window."""
    for axis in (0, 1):
        out = values
        for shift in range(-before, side - before):
            moved = np.roll(values, shift, axis)
            edge: list[slice] = [slice(None), slice(None)]
            edge[axis] = slice(0, shift) if shift > 0 else slice(max(values.shape[axis] + shift, 0), None)
            if shift:
                moved[tuple(edge)] = values[tuple(edge)]
            out = choose(out, moved)
        values = out
    return values


def _grown(values: Pixels, pixels: int, tapered: bool) -> Pixels:
    """GrowMask: pixel by pixel, by a square or, tapered, by a cross."""
    choose = np.maximum if pixels > 0 else np.minimum
    for _ in range(abs(pixels)):
        around = np.pad(values, 1, mode="edge")
        out = values
        for y in range(3):
            for x in range(3):
                if not (tapered and y != 1 and x != 1):
                    out = choose(out, around[y : y + values.shape[0], x : x + values.shape[1]])
        values = out
    return values


def _border(inside: Size, sides: tuple[int, int, int, int], feathering: int) -> Pixels:
    """ImagePadForOutpaint's mask: 1 outside of the old picture, falling with the square of the distance inside."""
    width, height = inside
    left, top, right, bottom = sides
    values = np.zeros((height, width), np.float32)
    if feathering > 0 and feathering * 2 < min(inside):
        rows, columns = np.arange(height)[:, None], np.arange(width)[None]
        far = np.full((height, width), np.inf)
        for is_open, distance in (
            (top, rows),
            (bottom, height - rows),
            (left, columns),
            (right, width - columns),
        ):
            if is_open:
                far = np.minimum(far, distance)
        share = np.clip((feathering - far) / feathering, 0, 1)
        values = (share * share).astype(np.float32)
    return np.pad(values, ((top, bottom), (left, right)), constant_values=1.0)
