"""Preprocessors that keep the colours: tile, colour grid, shuffle, invert, inpaint."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from gesso.hints.opencv import opencv


def tile(image: Image.Image, settings: Mapping[str, float]) -> Image.Image:
    """The picture without its details: `factor` times smaller and enlarged again; 1: as it is.

    A ControlNet for tiles draws details anew. What A1111 calls tile_resample.
    """
    factor = settings["factor"]
    small = (max(1, round(image.width / factor)), max(1, round(image.height / factor)))
    return image.resize(small, Image.Resampling.BOX).resize(image.size, Image.Resampling.LANCZOS)


def colour(image: Image.Image, settings: Mapping[str, float]) -> Image.Image:
    """A grid of colours, `block` pixels a square. What A1111 calls t2ia_color_grid."""
    block = int(settings["block"])
    small = (max(1, image.width // block), max(1, image.height // block))
    return image.resize(small, Image.Resampling.BICUBIC).resize(image.size, Image.Resampling.NEAREST)


def shuffle(image: Image.Image, settings: Mapping[str, float]) -> Image.Image:
    """The picture's colours and textures in places of their own: bent along a smooth random flow.

    seed   of the flow; numpy's generator, the same on every machine
    waves  about so many pixels from one bend to the next
    """
    cv2 = opencv("shuffle")
    random = np.random.default_rng(int(settings["seed"]))
    width, height = image.size
    across, down = (_waves(random, width, height, int(settings["waves"])) for _ in range(2))
    flow = np.stack([across * (width - 1), down * (height - 1)], axis=2).astype(np.float32)
    return Image.fromarray(cv2.remap(np.array(image), flow, None, cv2.INTER_LINEAR))


def _waves(random: np.random.Generator, width: int, height: int, reach: int) -> NDArray[np.float64]:
    """Smooth noise [height, width] from 0 to 1 that changes over `reach` pixels."""
    cv2 = opencv("shuffle")
    coarse = random.uniform(size=(height // reach + 2, width // reach + 2))
    fine = cv2.resize(coarse, (width + 2 * reach, height + 2 * reach), interpolation=cv2.INTER_CUBIC)
    fine = fine[reach : reach + height, reach : reach + width]
    low, high = fine.min(), fine.max()
    return (fine - low) / max(high - low, 1e-9)


def invert(image: Image.Image, settings: Mapping[str, float]) -> Image.Image:
    """Black becomes white: for a drawing of black lines on white paper, where the ControlNet learned white on black."""
    return ImageOps.invert(image)


def inpaint(image: Image.Image, settings: Mapping[str, float]) -> Image.Image:
    """The picture with a hole: RGBA as it comes, black where it is clear, so that nothing of what was there is seen.

    A ControlNet for inpainting reads -1 there; see `hint_pixels`.
    """
    channels = np.array(image)
    channels[channels[..., 3] == 0] = 0
    return Image.fromarray(channels)
