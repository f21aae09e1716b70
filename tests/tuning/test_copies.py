"""Copies are found however they were cut, mirrored or recoloured, and pictures that are none are not."""

import io
import math
import random

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps

from gesso.errors import GessoError
from gesso.tuning.copies import THRESHOLD, CopyCheck, Copying, Outlines, sscd

COUNT = 10


def made(kind: str, rng: random.Random, side: int = 128) -> Image.Image:
    """A picture of shapes on a flat ground, or a field of clouds with the spectrum of photographs."""
    if kind == "clouds":
        noise, place = np.random.default_rng(rng.randrange(2**31)), np.fft.fftfreq(side)
        away = np.hypot(place[:, None], place[None])
        away[0, 0] = 1.0
        field = np.real(np.fft.ifft2(np.fft.fft2(noise.standard_normal((side, side))) / away**1.2))
        levels = ((field - field.min()) / np.ptp(field) * 255).astype(np.uint8)
        return Image.merge("RGB", [Image.fromarray(levels)] * 3)
    image = Image.new("RGB", (side, side), tuple(rng.choices(range(256), k=3)))
    draw = ImageDraw.Draw(image)
    for _ in range(rng.randint(3, 6)):
        colour = tuple(rng.choices(range(256), k=3))
        points = [(rng.uniform(0, side), rng.uniform(0, side)) for _ in range(rng.randint(3, 6))]
        if rng.random() < 0.5:
            draw.polygon(points, fill=colour)
        else:
            (x, y), size = points[0], rng.uniform(0.1, 0.3) * side
            draw.ellipse((x - size, y - size, x + size, y + size), fill=colour)
    return image


def crop(image: Image.Image, rng: random.Random, area: float = 0.65) -> Image.Image:
    share, (width, height) = math.sqrt(area), image.size
    left, top = rng.uniform(0, width * (1 - share)), rng.uniform(0, height * (1 - share))
    return image.resize(image.size, box=(left, top, left + share * width, top + share * height))


def turned_hue(image: Image.Image, rng: random.Random) -> Image.Image:
    hue, *others = image.convert("HSV").split()
    by = rng.randint(60, 200)
    return Image.merge("HSV", (hue.point(lambda value: (value + by) % 256), *others)).convert("RGB")


def jpeg(image: Image.Image, rng: random.Random) -> Image.Image:
    data = io.BytesIO()
    image.save(data, "JPEG", quality=30)
    return Image.open(data).convert("RGB")


def set_into(image: Image.Image, rng: random.Random) -> Image.Image:
    side = image.width
    ground, small = Image.new("RGB", image.size, "white"), image.resize((side * 3 // 4, side * 3 // 4))
    ground.paste(small, (rng.randint(0, side // 4), rng.randint(0, side // 4)))
    return ground


CHANGES = {
    "the same": lambda image, rng: image,
    "saved again": jpeg,
    "blurred": lambda image, rng: image.filter(ImageFilter.GaussianBlur(1.5)),
    "mirrored": lambda image, rng: ImageOps.mirror(image),
    "inverted": lambda image, rng: ImageOps.invert(image),
    "brighter": lambda image, rng: ImageEnhance.Brightness(image).enhance(1.3),
    "cropped": crop,
    "cropped to half": lambda image, rng: crop(image, rng, 0.5),
    "mirrored and cropped": lambda image, rng: ImageOps.mirror(crop(image, rng)),
    "set into another": set_into,
    "of another hue": turned_hue,
}


@pytest.mark.parametrize("kind", ["shapes", "clouds"])
@pytest.mark.sampled(2)
def test_copies_are_told_from_others(kind):
    """Copies against the nearest of ten pictures that are none; the clouds have no hue and lose more to scaling."""
    rng = random.Random(3)
    trained, others = ([made(kind, rng) for _ in range(COUNT)] for _ in range(2))
    nearest = Outlines(trained)(others).max(axis=1)
    assert (nearest >= THRESHOLD).mean() <= 0.1
    found, areas = {}, {}
    for name, change in CHANGES.items():
        if kind == "clouds" and name in ("of another hue", "set into another"):
            continue
        similar = Outlines(trained)([change(image, rng) for image in trained])
        assert (similar.argmax(axis=1) == range(COUNT)).mean() >= 0.9, name
        own = np.diag(similar)
        areas[name] = (own[:, None] > nearest[None]).mean()  # under the ROC
        found[name] = (own >= THRESHOLD).mean()
    assert min(areas.values()) >= 0.9 and np.mean(list(areas.values())) >= 0.97, areas
    assert min(found.values()) >= 0.7 and np.mean(list(found.values())) >= 0.95, found


def test_nothing_is_like_nothing():
    """Flat pictures have no outlines: they are copies of nothing, nor of each other."""
    flat = [Image.new("RGB", (64, 64), colour) for colour in ("red", "white")]
    assert np.abs(Outlines(flat)(flat)).max() < 0.05
    assert Outlines(flat)([]).shape == (0, 2) and Outlines([])(flat).shape == (2, 0)


def test_pictures_that_are_alike_raise_the_threshold():
    rng = random.Random(5)
    one = made("shapes", rng)
    alike = [one, jpeg(one, rng), made("shapes", rng)]
    found = CopyCheck(alike)([one, made("shapes", rng)])
    assert found.threshold > 0.95 and found.alike[0] == pytest.approx(found.alike[1], abs=0.02)
    assert found.nearest[0] == (0, pytest.approx(1.0, abs=1e-3)) and found.copies == 1
    assert CopyCheck([one])([]) == Copying(THRESHOLD, (), (), "outlines")


def test_of_many_only_the_nearest_are_compared_by_parts(monkeypatch):
    monkeypatch.setattr("gesso.tuning.copies.SHORT_LIST", 1)
    rng = random.Random(6)
    trained = [made("shapes", rng, 64) for _ in range(5)]
    similar = Outlines(trained)([ImageOps.mirror(trained[3])])
    assert similar[0].argmax() == 3 and similar[0, 3] > 0.99


def test_sscd_says_what_it_needs(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(GessoError, match=r"needs onnxruntime, which is not installed\. .*gesso\[sscd\]") as error:
        sscd(tmp_path / "sscd.onnx")
    assert error.value.code == "missing_extra"
