"""Maps that pass through, checked; hints that keep colours; what a network reads."""

import numpy as np
import pytest
import torch
from PIL import Image

from gesso.errors import GessoError
from gesso.hints.maps import ade20k_colours
from gesso.hints.pixels import hint_pixels
from gesso.hints.registry import preprocess

SKY, GRASS = (6, 230, 230), (4, 250, 7)


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def halves(left: tuple[int, ...], right: tuple[int, ...], size: int = 64) -> Image.Image:
    image = Image.new("RGB", (size, size), left)
    image.paste(right, (size // 2, 0, size, size))
    return image


# ---- depth -----------------------------------------------------------------------------------------------------------


def test_depth_of_eight_bits_passes_untouched():
    ramp = Image.fromarray(np.tile(np.arange(256, dtype=np.uint8), (4, 1)))
    hint = preprocess("depth", ramp)
    assert hint.mode == "RGB"
    assert (np.array(hint) == np.array(ramp)[..., None]).all()
    turned = preprocess("depth", ramp.convert("RGB"), parameters={"invert": 1})
    assert (np.array(turned)[..., 0] == 255 - np.array(ramp)).all()


def test_depth_of_sixteen_bits_keeps_its_order_and_its_fine_steps():
    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    hint = np.array(preprocess("depth", Image.fromarray(levels)))[..., 0]
    assert (hint == np.round(levels / 257)).all()
    millimetres = Image.fromarray((2000 + np.arange(256, dtype=np.uint16)).reshape(16, 16))  # less than 1 of 255 levels
    with pytest.raises(GessoError, match=r"of one level .* stretch=1 uses what it has"):
        preprocess("depth", millimetres)
    stretched = np.array(preprocess("depth", millimetres, parameters={"stretch": 1}))[..., 0]
    assert (stretched.flatten() == np.arange(256)).all()


def test_what_is_no_depth_map():
    with pytest.raises(GessoError, match="a depth map is grey, near is white; this picture has colours"):
        preprocess("depth", halves((0, 0, 255), (255, 0, 0)))
    with pytest.raises(GessoError, match="of one level"):
        preprocess("depth", Image.new("L", (8, 8), 7), parameters={"stretch": 1})
    with pytest.raises(GessoError, match="32 bits, expected 8 or 16"):
        preprocess("depth", Image.fromarray(np.ones((4, 4), dtype=np.float32)))


def test_depth_is_brought_to_size_without_new_extremes():
    hint = np.array(preprocess("depth", halves((100, 100, 100), (200, 200, 200)), (48, 40)))
    assert hint.shape == (40, 48, 3)
    assert (hint.min(), hint.max()) == (100, 200)


# ---- segmentation ----------------------------------------------------------------------------------------------------


def test_ade20k_has_150_things_two_of_them_in_one_colour():
    names = ade20k_colours()
    assert len(names) == 149
    assert names[0x8C8C8C] == "road, skyscraper"
    assert names[0x06E6E6] == "sky"
    assert sum(len(name.split(", ")) for name in names.values()) == 150


def test_a_map_of_things_gets_no_new_colours():
    hint = preprocess("segmentation", halves(SKY, GRASS), (23, 17))
    assert hint.size == (23, 17)
    assert {colour for _, colour in hint.getcolors()} == {SKY, GRASS}
    assert preprocess("seg", halves(SKY, (0, 0, 0))).tobytes() == halves(SKY, (0, 0, 0)).tobytes()


def test_strange_colours_are_told_snapped_or_let_through():
    near = halves((8, 228, 231), GRASS)
    with pytest.raises(
        GessoError, match="2048 of 4096 pixels have none of the colours of ADE20K, most of them #08e4e7"
    ):
        preprocess("segmentation", near)
    snapped = preprocess("segmentation", near, parameters={"snap": 1})
    assert snapped.tobytes() == halves(SKY, GRASS).tobytes()
    assert preprocess("segmentation", near, parameters={"any": 1}).tobytes() == near.tobytes()


def test_snapping_takes_the_nearest_of_all():
    snapped = np.array(preprocess("segmentation", noise(9, 7), parameters={"snap": 1}), dtype=int)
    known = np.array([[code >> 16, code >> 8 & 255, code & 255] for code in (*ade20k_colours(), 0)])
    distances = ((np.array(noise(9, 7), dtype=int)[:, :, None] - known) ** 2).sum(-1)
    assert (((np.array(noise(9, 7), dtype=int) - snapped) ** 2).sum(-1) == distances.min(-1)).all()
    assert (snapped[:, :, None] == known).all(-1).any(-1).all()


# ---- hints that keep colours -----------------------------------------------------------------------------------------


def test_tile_and_colour_keep_what_is_coarse():
    image = noise(64, 64)
    assert preprocess("tile", image).tobytes() == image.tobytes()
    levels = np.array(image, dtype=float)
    for hint in (
        preprocess("tile", image, parameters={"factor": 16}),
        preprocess("color", image, parameters={"block": 16}),
    ):
        assert hint.size == (64, 64)
        assert np.array(hint, dtype=float).mean() == pytest.approx(levels.mean(), abs=2)
        assert np.array(hint, dtype=float).std() < levels.std() / 4
    grid = np.array(preprocess("colour", image, parameters={"block": 16})).reshape(4, 16, 4, 16, 3)
    assert (grid == grid[:, :1, :, :1]).all()
    assert preprocess("colour", noise(10, 5)).getcolors()[0][0] == 50  # smaller than one square: one colour


def test_shuffle_moves_colours_and_depends_on_its_seed_alone():
    image = halves(SKY, GRASS, 128)
    first, again, other = (preprocess("shuffle", image, parameters={"seed": seed, "waves": 32}) for seed in (1, 1, 2))
    assert first.tobytes() == again.tobytes() != other.tobytes()
    counts = {colour: count for count, colour in first.getcolors(10_000)}
    assert counts[SKY] + counts[GRASS] > 0.9 * 128 * 128  # the rest lies between the two
    assert first.tobytes() != image.tobytes()


def test_invert():
    assert preprocess("invert", halves((0, 10, 255), SKY)).tobytes() == halves((255, 245, 0), (249, 25, 25)).tobytes()


def test_inpaint_leaves_a_hole_that_a_network_reads_as_minus_one():
    image, mask = noise(8, 8), Image.new("L", (8, 8))
    mask.paste(255, (0, 0, 4, 8))
    hint = preprocess("inpaint", image, mask=mask)
    assert hint.mode == "RGBA"
    assert not np.array(hint)[:, :4].any()  # nothing of what was there is kept
    pixels = hint_pixels(hint)
    assert pixels.shape == (1, 3, 8, 8) and pixels.dtype == torch.float32
    assert (pixels[..., :4] == -1).all()
    kept = torch.from_numpy(np.array(image)[:, 4:]).permute(2, 0, 1) / 255
    assert torch.equal(pixels[0, :, :, 4:], kept)
    assert preprocess("inpaint", image, (16, 24), mask=mask).size == (16, 24)
    for name, given in (("inpaint", None), ("canny", mask)):
        with pytest.raises(GessoError, match=f"{name}: a mask is (missing|given, but not used)"):
            preprocess(name, image, mask=given)


def test_a_hint_is_read_in_0_to_1():
    assert hint_pixels(Image.new("RGB", (2, 1), (0, 51, 255)))[0, :, 0, 0].tolist() == pytest.approx([0, 0.2, 1])


@pytest.mark.parametrize("name", ["tile", "colour", "shuffle", "invert"])
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (2, 3), (7, 7)])
def test_tiny_pictures_are_no_trouble(name: str, size: tuple[int, int]):
    assert preprocess(name, noise(*size)).size == size
