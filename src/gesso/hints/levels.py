"""Converts pictures of any mode to 8-bit RGB: 16-bit grey levels, transparency."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def is_deep(image: Image.Image) -> bool:
    """Whether a picture has grey levels of more than 8 bits."""
    return image.mode == "F" or image.mode.startswith("I")


def deep_levels(image: Image.Image) -> NDArray[np.float64]:
    """Levels of a deep picture, [H, W] from 0 to 255. Raises ValueError unless they are whole and of 16 bits."""
    levels = np.asarray(image).astype(np.float64)
    if image.mode == "F" or levels.min() < 0 or levels.max() > 65535:
        raise ValueError("levels of 32 bits, expected 8 or 16 a channel")
    return levels / 257


def eight_bits(image: Image.Image) -> Image.Image:
    """The nearest levels of 8 bits; Pillow's own conversion would make all above 255 of 65535 white.

    A picture that is not deep comes back as it is. Raises ValueError as `deep_levels` does.
    """
    return Image.fromarray((deep_levels(image) + 0.5).astype(np.uint8)) if is_deep(image) else image


def on_white(image: Image.Image) -> Image.Image:
    """RGB; what is transparent lies on white."""
    if "A" in image.getbands() or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")
