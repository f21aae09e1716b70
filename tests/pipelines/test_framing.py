"""Where a picture lies on what is drawn, and the way back."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gesso.pipelines.framing import Placement, border_mask, extend, inside_of, masked_region, size_notice
from gesso.pipelines.masks import fill_masked
from gesso.request.checks import RequestError
from tiny_models import tiny_family
from tiny_sd import TINY_SD

SIDES = st.integers(1, 300)


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_the_three_modes_of_a1111():
    wide, square = (400, 200), (128, 128)
    assert Placement.of(wide, square, "stretch") == Placement(square, square)
    assert Placement.of(wide, square, "crop") == Placement(square, (256, 128), -64, 0)
    assert Placement.of(wide, square, "fill") == Placement(square, (128, 64), 0, 32)
    assert Placement.of((200, 400), square, "crop") == Placement(square, (128, 256), 0, -64)
    assert Placement.of((200, 400), square, "fill") == Placement(square, (64, 128), 32, 0)


@given(SIDES, SIDES, SIDES, SIDES, st.sampled_from(["stretch", "crop", "fill"]))
def test_a_placed_picture_fills_its_canvas(width: int, height: int, wide: int, high: int, mode: str):
    placement = Placement.of((width, height), (wide, high), mode)
    left, top, right, bottom = placement.visible
    assert 0 <= left < right <= wide
    assert 0 <= top < bottom <= high
    assert (mode == "fill") or placement.visible == (0, 0, wide, high)
    assert placement.place(Image.new("RGB", (width, height))).size == (wide, high)


def test_beside_the_picture_its_edge_goes_on_and_the_way_back_is_exact():
    image = noise(64, 32)
    placement = Placement.of(image.size, (64, 64), "fill")
    placed = np.asarray(placement.place(image))
    assert (placed[:16] == np.asarray(image)[0]).all()
    assert (placed[48:] == np.asarray(image)[-1]).all()
    assert placement.back(Image.fromarray(placed), image.size).tobytes() == image.tobytes()
    larger = np.asarray(extend(image, (1, 2, 3, 4)))
    assert larger.shape == (38, 68, 3)
    assert (larger[2:34, 1:65] == np.asarray(image)).all()


def test_the_mask_of_a_border_reaches_into_the_picture():
    mask = np.asarray(border_mask((10, 6), (2, 0, 3, 0), 1))
    assert mask[0].tolist() == [255] * 3 + [0] * 3 + [255] * 4
    assert (mask == mask[0]).all()
    assert np.asarray(border_mask((8, 8), (3, 0, 3, 0), 9)).all()  # borders may meet
    with pytest.raises(RequestError, match="leave no room for the picture in 8x8"):
        inside_of((8, 8), (4, 0, 4, 0))


@given(SIDES, SIDES, SIDES, SIDES, st.integers(0, 400), st.integers(0, 299), st.integers(0, 299))
def test_a_region_holds_what_is_masked_and_has_the_shape_of_the_canvas(width, height, wide, high, padding, x, y):
    x, y = x % width, y % height
    mask = Image.new("L", (width, height))
    mask.putpixel((x, y), 1)
    left, top, right, bottom = masked_region(mask, padding, (wide, high))
    assert 0 <= left <= max(x - padding, 0)
    assert min(x + padding + 1, width) <= right <= width
    assert 0 <= top <= max(y - padding, 0)
    assert min(y + padding + 1, height) <= bottom <= height
    inner_wide, inner_high = right - left, bottom - top
    # The shape of the canvas to a pixel, but where the picture ends.
    if inner_wide < width and inner_high < height:
        assert abs(inner_wide * high - inner_high * wide) <= max(wide, high)


@settings(max_examples=30, deadline=None)
@given(*[st.integers(80, 300)] * 2, *[st.integers(5, 20)] * 2, st.sampled_from(["default", "crop", "fill"]))
def test_sizes_are_those_of_diffusers(width: int, height: int, wide: int, high: int, mode: str):
    """Which copied A1111's rules. Where the picture is to be seen all pixels are the same."""
    from diffusers.image_processor import VaeImageProcessor

    image, canvas = noise(width, height), (8 * wide, 8 * high)
    placement = Placement.of(image.size, canvas, "stretch" if mode == "default" else mode)
    theirs = VaeImageProcessor(vae_scale_factor=8).resize(image, canvas[1], canvas[0], resize_mode=mode)
    assert placement.place(image).crop(placement.visible).tobytes() == theirs.crop(placement.visible).tobytes()


@settings(max_examples=50, deadline=None)
@given(st.integers(16, 300), st.integers(16, 300), SIDES, SIDES, st.integers(0, 60), st.data())
def test_the_part_that_is_drawn_is_that_of_diffusers(
    width: int, height: int, wide: int, high: int, padding: int, data: st.DataObject
):
    """To a pixel: where the box grows, halves are rounded in another way."""
    from diffusers.image_processor import VaeImageProcessor

    left, top = data.draw(st.integers(0, width - 2)), data.draw(st.integers(0, height - 2))
    right, bottom = data.draw(st.integers(left + 1, width)), data.draw(st.integers(top + 1, height))
    mask = Image.new("L", (width, height))
    mask.paste(255, (left, top, right, bottom))
    theirs = VaeImageProcessor.get_crop_region(mask, wide, high, padding)
    ours = masked_region(mask, padding, (wide, high))
    assert max(abs(a - b) for a, b in zip(ours, theirs, strict=True)) <= 1


def test_what_is_filled_takes_the_colours_around_it():
    """A hole in an even picture is gone; what is not masked stays; the middle between two colours is between them."""
    hole = Image.new("L", (48, 48))
    hole.paste(255, (16, 16, 32, 32))
    even = Image.new("RGB", (48, 48), (200, 40, 90))
    even.paste((0, 255, 0), (16, 16, 32, 32))
    assert np.abs(np.asarray(fill_masked(even, hole), np.int16) - (200, 40, 90)).max() <= 4  # rounded opacities
    image = noise(48, 48)
    outside = np.asarray(hole) == 0
    assert (np.asarray(fill_masked(image, hole))[outside] == np.asarray(image)[outside]).all()
    halves = Image.new("RGB", (48, 48))
    halves.paste((255, 255, 255), (24, 0, 48, 48))
    row = np.asarray(fill_masked(halves, hole))[24, 16:32, 0].astype(int)
    assert (np.diff(row) >= -2).all()
    assert row[0] < 80 < row[8] < 180 < row[-1]


@pytest.mark.parametrize(
    ("family", "width", "height", "told"),
    [
        (tiny_family(), 64, 64, None),
        (tiny_family(), 128, 128, "use `size=64x64`, and enlarge the picture with `hires`"),
        (tiny_family(), 64, 32, "Its native size is 64x64: use `size=64x64`"),
        (TINY_SD, 1.0, 1.0, None),
        (TINY_SD, 1.25, 1.5, None),
        (TINY_SD, 0.5, 0.5, "which spoils pictures"),
        (TINY_SD, 2, 2, "with `hires`"),
    ],
)
def test_a_size_far_from_the_native_one_is_told(family, width, height, told):
    native = family.output_size
    sides = (width, height) if family.objects else (int(native * width), int(native * height))
    request = SimpleNamespace(
        width=sides[0], height=sides[1], tiles=SimpleNamespace(size=None), source=SimpleNamespace(outpaint=None)
    )
    notice = size_notice(request, family)
    assert (notice is None) == (told is None)
    if notice is not None:
        assert told in notice
        assert notice.data["native"] == native
    request.tiles = SimpleNamespace(size=32)
    assert size_notice(request, family) is None
