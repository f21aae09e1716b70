"""Styles: what they keep of a picture and what they change."""

import numpy as np
import pytest

from gesso.scenes.scene import Item, Scene
from gesso.scenes.styles import INK, STYLES, StyledRenderer
from gesso.scenes.vocabulary import BACKGROUNDS, COLOURS
from toy_training import glyphs

SIZE = 256


def scene(background="white", tint=None, size=0.72):
    return Scene("single", background, (Item(1, 0.5, 0.5, size, tint),))  # a disc


def drawn(style, *arguments, **options):
    return StyledRenderer(glyphs(), style)(scene(*arguments, **options), SIZE).astype(int)


def rim(picture):
    """The colour that is furthest from white along the middle row, near the disc's left end."""
    row = picture[SIZE // 2, : SIZE // 2]
    return row[np.abs(row - 255).sum(axis=1).argmax()]


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("background", ["red", "green", "black"])
def test_what_is_beside_the_objects_stays(style, background):
    """A style changes no point that the object and its line do not cover: a disc of 72 points' radius."""
    y, x = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    free = np.hypot(x, y) > 84
    assert (drawn(style, background)[free] == BACKGROUNDS[background]).all()


def test_line_art_is_lines_on_white():
    picture = drawn("line-art")
    assert (np.abs(rim(picture) - INK) < 8).all()
    inside = picture[SIZE // 2 - 20 : SIZE // 2 + 20, SIZE // 2 - 50 : SIZE // 2 - 30]
    assert picture.mean() > 200
    assert inside.max() == 255


@pytest.mark.parametrize("style", ["line-art", "woodcut"])
@pytest.mark.parametrize("tint", COLOURS)
def test_a_tint_is_the_ink(style, tint):
    assert (np.abs(rim(drawn(style, "white", tint)) - COLOURS[tint]) < 12).all()


def one_colour(style, background="white"):
    """A plain blue square in a style, its middle and the points from its left edge inwards."""
    glyph = np.zeros((1, 128, 128, 4), np.uint8)
    glyph[:, 14:114, 14:114] = (40, 80, 200, 255)
    picture = StyledRenderer(glyph, style)(Scene("single", background, (Item(0, 0.5, 0.5, 0.72),)), SIZE).astype(int)
    return picture[SIZE // 2, SIZE // 2], picture[SIZE // 2, : SIZE // 2]


@pytest.mark.parametrize(("background", "line"), [("white", INK), ("black", 255 - INK)])
def test_a_comic_keeps_the_colours_within_a_line(background, line):
    middle, row = one_colour("comic", background)
    assert (np.abs(middle - (40, 80, 200)) < 3).all()
    thick = (np.abs(row - line) < 12).all(axis=1).sum()
    assert 4 <= thick <= 16


def test_a_woodcut_of_one_tone_shows_on_black():
    """Its ink would not: it is printed as a negative."""
    glyph = np.zeros((1, 128, 128, 4), np.uint8)
    glyph[:, 30:98, 30:98] = (90, 90, 90, 255)
    one = Scene("single", "black", (Item(0, 0.5, 0.5, 0.72),))
    picture = StyledRenderer(glyph, "woodcut")(one, SIZE)
    assert (picture[SIZE // 2, SIZE // 2] > 200).all()


def test_the_same_scene_gives_the_same_picture_again():
    renderer = StyledRenderer(glyphs(), "woodcut")
    first = renderer(scene("blue"), 64)
    renderer(scene("black"), 64)  # the other print of the same object
    assert (renderer(scene("blue"), 64) == first).all()
