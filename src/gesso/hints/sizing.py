"""Resizes a picture to the size of its hint, before the hint is made."""

import numpy as np
from PIL import Image

from gesso.errors import GessoError
from gesso.hints.levels import deep_levels, eight_bits, is_deep, on_white

GREY_TOLERANCE = 8  # levels between channels: what JPEG makes of grey

MAX_SIDE = 8192
MAX_PIXELS = 4096 * 4096  # filters keep some float32 copies of the picture: about 1 GiB at this size

Size = tuple[int, int]  # width, height


def check_size(size: Size) -> None:
    """Raises GessoError for a size that no hint can have."""
    width, height = size
    if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE and width * height <= MAX_PIXELS):
        raise GessoError(
            f"a hint of {width}x{height}: sides are 1 to {MAX_SIDE}, at most {MAX_PIXELS} pixels in all. Use the "
            "size of the picture to draw",
            code="unsuitable_hint",
        )


def smooth(image: Image.Image, size: Size) -> Image.Image:
    """RGB, by Lanczos."""
    return _at(on_white(eight_bits(image)), size, Image.Resampling.LANCZOS)


def nearest(image: Image.Image, size: Size) -> Image.Image:
    """RGB of no colour that was not there before."""
    return _at(on_white(eight_bits(image)), size, Image.Resampling.NEAREST)


def deep(image: Image.Image, size: Size) -> Image.Image:
    """Grey levels from 0 to 255 as float32 (mode F), so that 16 bits stay; bilinear. Raises GessoError for colours."""
    if is_deep(image):
        levels = deep_levels(image)
    else:
        channels = np.asarray(on_white(image), dtype=np.int16)
        if (spread := int(np.ptp(channels, axis=2).max(initial=0))) > GREY_TOLERANCE:
            raise GessoError(
                f"a depth map is grey, near is white; this picture has colours (channels {spread} levels apart). Give "
                "the grey map of a depth estimator, without a colour scale",
                code="unsuitable_hint",
            )
        levels = channels.mean(axis=2)
    return _at(Image.fromarray(levels.astype(np.float32)), size, Image.Resampling.BILINEAR)


def _at(image: Image.Image, size: Size, resampling: Image.Resampling) -> Image.Image:
    return image if image.size == size else image.resize(size, resampling)
