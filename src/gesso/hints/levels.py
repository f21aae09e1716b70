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


COLOURED = 8  # levels between channels from which paint is a colour and no grey


def mask_levels(mask: Image.Image) -> Image.Image:
    """The grey levels of a mask: white areas are redrawn.

    Of a mask on a transparent layer, what is painted is redrawn, and what is clear stays: black and white paint by its
    level, as on black; paint of any other colour, or black alone, wherever it is, as in A1111.
    """
    if "A" not in mask.getbands() and "transparency" not in mask.info:
        return mask.convert("L")
    layer = mask.convert("RGBA")
    alpha = layer.getchannel("A")
    if alpha.getextrema() == (255, 255):
        return layer.convert("RGB").convert("L")
    levels = np.asarray(layer)
    painted = levels[levels[..., 3] > 0][:, :3].astype(np.int16)
    if len(painted) and painted.max() >= 128 and np.ptp(painted, axis=1).max() <= COLOURED:
        return Image.composite(layer.convert("RGB").convert("L"), Image.new("L", layer.size), alpha)
    return alpha
