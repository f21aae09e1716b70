"""Pictures that go in."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gesso.errors import GessoError
from gesso.pictures.reading import hint_picture_digest, mask_digest, picture_digest, read_image, read_mask
from gesso.pipelines.source_images import drawable_size, fit, latent_mask, mask_pixels, paste_back, soften, to_pixels


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def half(width: int, height: int) -> Image.Image:
    """Black at the left, white at the right."""
    levels = np.zeros((height, width), dtype=np.uint8)
    levels[:, width // 2 :] = 255
    return Image.fromarray(levels)


def test_reading_flattens_transparency_onto_white_and_turns_as_exif_says(tmp_path: Path):
    clear = Image.new("RGBA", (4, 2), (10, 20, 30, 0))
    clear.putpixel((0, 0), (10, 20, 30, 255))
    clear.save(tmp_path / "x.png")
    image = read_image(tmp_path / "x.png")
    assert image.mode == "RGB"
    assert [image.getpixel((0, 0)), image.getpixel((1, 0))] == [(10, 20, 30), (255, 255, 255)]
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    noise(6, 4).save(tmp_path / "y.jpg", exif=exif)
    assert read_image(tmp_path / "y.jpg").size == (4, 6)
    assert read_mask(tmp_path / "x.png").mode == "L"


def test_sixteen_bits_become_the_nearest_of_eight(tmp_path: Path):
    """Pillow's own conversion would give white above 255: a depth map would be lost."""
    levels = np.array([[0, 128, 129, 257, 32768, 65535]], dtype=np.uint16)
    for name in ("x.png", "x.tiff"):
        Image.fromarray(levels).save(tmp_path / name)
        assert np.array(read_mask(tmp_path / name)).tolist() == [[0, 0, 1, 1, 128, 255]]
        assert np.array(read_image(tmp_path / name))[..., 1].tolist() == [[0, 0, 1, 1, 128, 255]]
    Image.fromarray(levels.astype(np.float32)).save(tmp_path / "f.tiff")
    with pytest.raises(GessoError, match="32 bits, expected 8 or 16"):
        read_image(tmp_path / "f.tiff")


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"\x89PNG\r\n\x1a\nxxxx", b"<svg/>"])
def test_what_is_no_picture_is_an_error_in_one_line(tmp_path: Path, content: bytes):
    path = tmp_path / "x.png"
    path.write_bytes(content)
    with pytest.raises(GessoError, match="not a readable picture"):
        read_image(path)
    with pytest.raises(GessoError, match="no such file"):
        read_mask(tmp_path / "y.png")


def test_a_picture_is_known_by_its_pixels_not_by_its_file(tmp_path: Path):
    image = noise(8, 8)
    image.save(tmp_path / "a.png")
    image.save(tmp_path / "b.bmp")
    assert picture_digest(read_image(tmp_path / "a.png")) == picture_digest(read_image(tmp_path / "b.bmp"))
    assert picture_digest(image) != picture_digest(noise(8, 8, seed=1))
    assert mask_digest(half(8, 8)) != mask_digest(half(8, 4).resize((4, 8)))


def test_names_of_pictures_in_recipes_are_frozen():
    """Recipes that were written name a picture, and a mask, by these: height and width as big-endian 32 bits, then the
    levels row by row."""
    mask = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3))
    assert mask_digest(mask) == hashlib.sha256(bytes([0, 0, 0, 2, 0, 0, 0, 3, 0, 1, 2, 3, 4, 5])).hexdigest()
    assert mask_digest(mask).startswith("1a22220fddb400ec")
    picture = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(1, 2, 3))
    assert picture_digest(picture) == hashlib.sha256(bytes([0, 0, 0, 1, 0, 0, 0, 2, 0, 1, 2, 3, 4, 5])).hexdigest()
    assert picture_digest(picture).startswith("85b768afbbda36c5")


def test_pixels_are_levels_by_255():
    pixels = to_pixels(Image.fromarray(np.array([[[0, 255, 51]]], dtype=np.uint8)))
    assert pixels.shape == (1, 3, 1, 1)
    assert pixels.flatten().tolist() == pytest.approx([-1, 1, -0.6], abs=1e-6)  # float32


def test_sizes():
    assert drawable_size(Image.new("RGB", (70, 41)), 8) == (64, 40)
    assert drawable_size(Image.new("RGB", (3, 3)), 8) == (8, 8)
    width, height = drawable_size(Image.new("RGB", (6000, 3000)), 64)
    assert width * height <= 2048 * 2048
    assert fit(noise(70, 41), 64, 40).size == (64, 40)


def test_a_softened_mask_is_a_gaussian_step():
    """The step's profile is the sum of the kernel's weights up to there."""
    radius, reach = 2.0, 5
    soft = np.asarray(soften(half(40, 4), radius))[1]
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / radius) ** 2)
    expected = [round(255 * weights[: k + 1].sum() / weights.sum()) for k in range(2 * reach + 1)]
    assert soft[15:26].tolist() == expected
    assert (soft[:15] == 0).all()
    assert (soft[25:] == 255).all()
    grey = Image.fromarray(np.array([[0, 127, 128, 255]], dtype=np.uint8))
    assert np.asarray(soften(grey, 0)).tolist() == [[0, 0, 255, 255]]


def test_masks_of_the_latents():
    mask = half(32, 16)
    assert latent_mask(mask, 2, 4, "x").tolist() == [[[[0, 0, 1, 1]] * 2]]
    assert latent_mask(mask, 2, 4, "x0").tolist() == [[[[0, 0, 1, 1]] * 2]]
    dot = Image.new("L", (16, 16))
    dot.putpixel((8, 8), 255)
    assert latent_mask(dot, 2, 2, "x").sum() == 1  # the pixel that is picked
    assert latent_mask(dot, 2, 2, "x0").sum() == 0  # a dot is lost in the average
    assert mask_pixels(dot).sum() == 1


def test_what_is_not_masked_comes_back_bit_by_bit():
    old, new = noise(40, 8), noise(40, 8, seed=1)
    mask = soften(half(40, 8), 2)
    pasted, weight = np.asarray(paste_back(new, old, mask)), np.asarray(mask)
    assert (pasted[weight == 0] == np.asarray(old)[weight == 0]).all()
    assert (pasted[weight == 255] == np.asarray(new)[weight == 255]).all()
    assert ((weight > 0) & (weight < 255)).any()


def test_between_black_and_white_the_two_are_mixed_to_the_nearest_level():
    """Every grey of a mask between every fifth level of the one picture and of the other. No part of 255 is a half."""
    levels = np.arange(0, 256, 5, dtype=np.uint8)
    weight, drawn, original = (
        np.ascontiguousarray(grid.reshape(256, -1))
        for grid in np.meshgrid(np.arange(256), levels, levels, indexing="ij")
    )
    pictures = (Image.fromarray(np.repeat(grid[..., None], 3, axis=2)) for grid in (drawn, original))
    pasted = np.asarray(paste_back(*pictures, Image.fromarray(weight.astype(np.uint8))))
    exact = (drawn * weight + original * (255.0 - weight)) / 255
    assert (pasted == np.rint(exact)[..., None]).all()


def blurred(levels: np.ndarray, radius: float) -> np.ndarray:
    """A Gaussian by its definition, the picture mirrored beyond its edges."""
    reach = int(2.5 * radius + 0.5)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / radius) ** 2)
    weights /= weights.sum()
    found = levels.astype(float)
    for axis in (0, 1):
        padded = np.pad(found, [(reach, reach) if axis == a else (0, 0) for a in (0, 1)], mode="symmetric")
        found = sum(
            weight * np.take(padded, np.arange(start, start + levels.shape[axis]), axis)
            for start, weight in enumerate(weights)
        )
    return found


@pytest.mark.parametrize("radius", [0.6, 4.0, 12.5, 30.0])  # of 5, 21, 63 and 151 weights: the last by FFT
def test_a_mask_of_any_shape_is_softened_as_by_definition(radius: float):
    levels = np.zeros((300, 70), dtype=np.uint8)  # more lines than are convolved at a time
    levels[3:20, 5:60] = np.random.default_rng(0).integers(0, 256, (17, 55))
    levels[280:299, 60:70] = 255
    found = np.asarray(soften(Image.fromarray(levels), radius)).astype(float)
    assert np.abs(found - blurred(levels, radius)).max() <= 0.5 + 1e-6  # rounded once
    assert found.shape == levels.shape


def test_a_black_mask_stays_black():
    assert not np.asarray(soften(Image.new("L", (9, 7)), 3.0)).any()


def test_names_of_control_images_are_frozen():
    """As those of pictures, but 16 bits and transparency count."""
    deep = Image.fromarray(np.array([[1, 256, 65535]], dtype=np.uint16))
    content = bytes([0, 0, 0, 1, 0, 0, 0, 3]) + b"uint16" + bytes([1, 0, 0, 1, 255, 255])
    assert hint_picture_digest(deep) == hashlib.sha256(content).hexdigest()
    clear = Image.new("RGBA", (2, 1), (1, 2, 3, 4))
    content = bytes([0, 0, 0, 1, 0, 0, 0, 2, 1, 2, 3, 4, 1, 2, 3, 4])
    assert hint_picture_digest(clear) == hashlib.sha256(content).hexdigest()
    assert hint_picture_digest(noise(8, 4)) == picture_digest(noise(8, 4))
    grey = Image.new("LA", (1, 1), (7, 9))
    content = bytes([0, 0, 0, 1, 0, 0, 0, 1, 7, 7, 7, 9])
    assert hint_picture_digest(grey) == hashlib.sha256(content).hexdigest()
