"""Edges, lines and strokes of pictures whose edges are known."""

import sys

import cv2
import numpy as np
import pytest
from PIL import Image

from gesso.errors import GessoError
from gesso.hints.registry import PREPROCESSORS, preprocess

EDGES = ("canny", "softedge", "lineart", "scribble")


def step(height: int = 32, low: int = 50, high: int = 200) -> Image.Image:
    """Dark to the left of column 32, light from there on."""
    levels = np.full((height, 64, 3), low, dtype=np.uint8)
    levels[:, 32:] = high
    return Image.fromarray(levels)


def pen_line(width: int = 3) -> Image.Image:
    """A black line down white paper, around column 32."""
    levels = np.full((64, 64, 3), 255, dtype=np.uint8)
    levels[:, 32 - width // 2 : 32 + width // 2 + 1] = 0
    return Image.fromarray(levels)


def grey(image: Image.Image) -> np.ndarray:
    levels = np.array(image)
    assert image.mode == "RGB" and (levels == levels[..., :1]).all()
    return levels[..., 0]


def test_canny_is_one_line_where_the_step_is():
    edge = grey(preprocess("canny", step()))
    assert set(np.unique(edge)) == {0, 255}
    assert (edge == 255).sum(axis=1).tolist() == [1] * 32
    assert set(np.flatnonzero(edge.any(axis=0))) <= {31, 32}


def test_canny_has_the_thresholds_that_people_know():
    """A step of s levels has |dx| = 4 s under a 3x3 Sobel filter: 49 levels stay below 200, 51 do not."""
    assert not grey(preprocess("canny", step(high=99))).any()
    assert grey(preprocess("canny", step(high=101))).any()
    assert grey(preprocess("canny", step(high=99), parameters={"high": 190})).any()
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8))
    assert (grey(preprocess("canny", noise)) == cv2.Canny(np.array(noise), 100, 200)).all()


def test_canny_sees_an_edge_between_colours_of_one_brightness():
    levels = np.zeros((16, 16, 3), dtype=np.uint8)
    levels[:, :8], levels[:, 8:] = (149, 0, 0), (0, 76, 0)  # both are 45 as grey levels
    assert grey(preprocess("canny", Image.fromarray(levels))).any()


def test_a_soft_edge_is_the_slope_of_a_blurred_step():
    """A step behind a Gaussian of sigma has a Gaussian's slope, of the same sigma but for the filter's own width."""
    edge = grey(preprocess("softedge", step(), parameters={"sigma": 3})).astype(float)[16]
    columns = np.arange(64) + 0.5
    centre = (edge * columns).sum() / edge.sum()
    width = np.sqrt((edge * (columns - centre) ** 2).sum() / edge.sum())
    assert centre == pytest.approx(32, abs=0.05)
    assert width == pytest.approx(3, rel=0.1)
    assert edge.max() == 255


def test_steps_leave_so_many_grey_levels():
    assert len(np.unique(grey(preprocess("softedge", step(), parameters={"sigma": 4, "steps": 3})))) == 4


def test_faint_noise_gives_no_edges():
    faint = Image.fromarray(np.random.default_rng(0).integers(126, 130, (64, 64, 3), dtype=np.uint8))
    assert grey(preprocess("softedge", faint)).max() < 64
    for name in ("canny", "scribble"):
        assert not grey(preprocess(name, faint)).any()


@pytest.mark.parametrize("name", ["lineart", "scribble"])
def test_a_pen_line_becomes_a_white_line(name: str):
    line = grey(preprocess(name, pen_line()))
    assert (line[:, 31:34] > 100).all()
    assert not line[:, :20].any() and not line[:, 45:].any()
    assert not grey(preprocess(name, Image.new("RGB", (32, 32), "white"))).any()


def test_line_art_is_what_is_darker_than_the_surroundings():
    """On white paper, in the middle of a long black line, the Gaussian sees the line's share of its weight."""
    levels = np.array(pen_line(), dtype=np.float32)
    darker = (cv2.GaussianBlur(levels, (0, 0), 6.0) - levels).min(axis=2).clip(0, 255)
    middle = np.median(darker[darker > 8])
    assert grey(preprocess("lineart", pen_line()))[32, 32] == int(min(255, darker[32, 32] / middle * 127))


@pytest.mark.parametrize("name", EDGES)
def test_a_hint_has_the_size_that_is_asked_for_and_is_made_there(name: str):
    hint = preprocess(name, step(), (96, 48))
    assert hint.size == (96, 48)
    larger = step().resize((96, 48), Image.Resampling.LANCZOS)
    assert hint.tobytes() == preprocess(name, larger).tobytes()


@pytest.mark.parametrize("name", EDGES)
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (2, 3), (7, 7)])
def test_tiny_pictures_are_no_trouble(name: str, size: tuple[int, int]):
    assert preprocess(name, Image.new("RGB", size, "grey")).size == size


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "CMYK", "LA"])
def test_every_mode_is_read(mode: str):
    assert preprocess("canny", step().convert("RGB").convert("L").convert(mode)).mode == "RGB"


def test_what_is_transparent_lies_on_white():
    hidden = Image.new("RGBA", (32, 32), (0, 0, 0, 0))
    hidden.paste((200, 0, 0, 0), (8, 8, 24, 24))
    for name in EDGES:
        assert not grey(preprocess(name, hidden)).any()


def test_names_of_other_tools():
    assert preprocess("Scribble_XDoG", pen_line()).tobytes() == preprocess("scribble", pen_line()).tobytes()
    known = [name for key, row in PREPROCESSORS.items() for name in (key, *row.aliases)]
    assert len(known) == len(set(known))


@pytest.mark.parametrize(
    ("name", "parameters", "said"),
    [
        ("cany", {}, "did you mean 'canny'"),
        ("canny", {"hgh": 3}, "unknown parameter 'hgh', known: low, high"),
        ("canny", {"high": 1e9}, "high is 1000000000.0, expected 0 to 2040"),
        ("canny", {"low": float("nan")}, "expected a number"),
        ("canny", {"low": -(10**400)}, "low is -1000.*, expected 0 to 2040"),
        ("canny", {"low": float("inf")}, "low is inf, expected 0 to 2040"),
        ("canny", {"low": True}, "expected a number"),
        ("canny", {"low": "9"}, "expected a number"),
        ("softedge", {"steps": 1.5}, "expected a whole number"),
    ],
)
def test_what_cannot_be_is_told(name: str, parameters: dict[str, float], said: str):
    with pytest.raises(GessoError, match=said):
        preprocess(name, step(), parameters=parameters)


@pytest.mark.parametrize("size", [(0, 5), (5, -1), (8193, 1), (8000, 8000)])
def test_a_size_that_cannot_be(size: tuple[int, int]):
    with pytest.raises(GessoError, match="sides are 1 to 8192, at most 16777216 pixels"):
        preprocess("canny", step(), size)


def test_without_opencv_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(GessoError, match=r"pip install 'gesso\[hints\]'"):
        preprocess("canny", step())
