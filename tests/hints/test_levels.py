"""Masks with and without transparency as grey levels."""

import numpy as np
import pytest
from PIL import Image

from gesso.hints.levels import mask_levels

CLEAR, SOFT = 0, 128


def layer(*pixels: tuple[int, int, int, int]) -> Image.Image:
    return Image.fromarray(np.array([pixels], dtype=np.uint8))


@pytest.mark.parametrize(
    ("mask", "levels"),
    [
        (layer((255, 255, 255, 255), (255, 255, 255, CLEAR)), [255, 0]),  # white on clear white
        (layer((255, 255, 255, 255), (0, 0, 0, CLEAR)), [255, 0]),
        (layer((255, 255, 255, SOFT), (0, 0, 0, CLEAR)), [128, 0]),
        (layer((255, 255, 255, 255), (0, 0, 0, 255), (255, 255, 255, CLEAR)), [255, 0, 0]),  # black keeps
        (layer((0, 0, 0, 255), (0, 0, 0, CLEAR)), [255, 0]),  # black alone is paint
        (layer((255, 0, 0, 255), (0, 0, 255, SOFT), (0, 0, 0, CLEAR)), [255, 128, 0]),  # so is any colour
        (layer((255, 255, 255, 255), (0, 0, 0, 255)), [255, 0]),  # nothing is clear
        (layer((255, 255, 255, CLEAR), (0, 0, 0, CLEAR)), [0, 0]),  # nothing is painted
        (Image.fromarray(np.array([[7, 200]], dtype=np.uint8)), [7, 200]),
        (layer((255, 255, 255, 255), (255, 255, 255, CLEAR)).convert("LA"), [255, 0]),
    ],
)
def test_what_is_painted_is_redrawn(mask: Image.Image, levels: list[int]):
    assert np.asarray(mask_levels(mask)).tolist() == [levels]


def test_a_transparent_colour_of_a_palette():
    mask = Image.fromarray(np.array([[0, 1]], dtype=np.uint8), "L").convert("P")
    mask.putpalette([255, 255, 255, 255, 255, 255])
    mask.info["transparency"] = 0
    assert np.asarray(mask_levels(mask)).tolist() == [[0, 255]]
