"""An upscaler: from a picture to a larger one. gesso brings it to the size that was asked for."""

import numpy as np
from PIL import Image

from gesso import ImageUpscaler


def scale2x(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Scale2x (EPX, Johnston 1992) for pixel art: twice the size, over and over until it is large enough.

    RGB -> RGB. A new pixel takes the colour of two neighbours that agree, so that edges stay sharp and slopes are even.
    """
    pixels = np.asarray(image)
    while pixels.shape[1] < size[0] or pixels.shape[0] < size[1]:
        pixels = _doubled(pixels)
    return Image.fromarray(pixels)


def _doubled(pixels: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] -> [2H, 2W, 3]"""
    around = np.pad(pixels, ((1, 1), (1, 1), (0, 0)), mode="edge")
    above, below = around[:-2, 1:-1], around[2:, 1:-1]
    left, right = around[1:-1, :-2], around[1:-1, 2:]

    def same(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a == b).all(axis=2, keepdims=True)

    edge = ~same(left, right) & ~same(above, below)
    larger = pixels.repeat(2, axis=0).repeat(2, axis=1)
    larger[::2, ::2] = np.where(edge & same(above, left), above, pixels)
    larger[::2, 1::2] = np.where(edge & same(above, right), above, pixels)
    larger[1::2, ::2] = np.where(edge & same(below, left), below, pixels)
    larger[1::2, 1::2] = np.where(edge & same(below, right), below, pixels)
    return larger


SCALE2X = ImageUpscaler("Scale2x", scale2x, "Doubles pixel art without blurring it.", aliases=("epx",))
