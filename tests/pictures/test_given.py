"""Pictures as callers have them become PIL pictures, or are refused in one line that says what to pass."""

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import gesso
from gesso import read_image, read_mask, read_metadata, read_recipe
from gesso.errors import GessoError
from gesso.pictures.given import as_hint, as_mask, as_picture
from gesso.request.checks import RequestError

LEVELS = np.arange(2 * 4 * 3, dtype=np.uint8).reshape(2, 4, 3) * 10
PICTURE = Image.fromarray(LEVELS)


@pytest.mark.parametrize(
    "given",
    [
        PICTURE,
        LEVELS,
        LEVELS[None],
        LEVELS / 255,
        (LEVELS / 255).astype(np.float16),
        torch.from_numpy(LEVELS).permute(2, 0, 1),
        torch.from_numpy(LEVELS).permute(2, 0, 1)[None] / 255,
        (torch.from_numpy(LEVELS).permute(2, 0, 1) / 255).bfloat16().requires_grad_(),
        [PICTURE],
        (LEVELS,),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_picture_in_any_form(given: Any):
    image = as_picture(given, "image")
    assert (image.mode, image.size) == ("RGB", (4, 2))
    assert np.abs(np.asarray(image).astype(int) - LEVELS).max() <= 1  # bfloat16 has 8 bits


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [(-0.5, 1.0, "from -0.5 to 1"), (0.0, 255.0, "from 0 to 255"), (-1.0, math.nan, "from nan to nan")],
)
def test_levels_out_of_range_are_refused_with_both_ends(low: float, high: float, words: str):
    with pytest.raises(RequestError, match=f"`image` has values {words}, expected 0 to 1"):
        as_picture(np.linspace(low, high, 24).reshape(2, 4, 3), "image")


def test_a_path_is_read_as_read_image_does(tmp_path: Path):
    PICTURE.save(tmp_path / "a.png")
    for path in (tmp_path / "a.png", str(tmp_path / "a.png")):
        assert np.array_equal(np.asarray(as_picture(path, "image")), LEVELS)


@pytest.mark.parametrize(
    "given",
    [
        np.array([[True, False], [False, True]]),
        torch.tensor([[True, False], [False, True]]),
        torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]),
        np.array([[255, 0], [0, 255]], dtype=np.uint8)[..., None],
    ],
)
def test_a_mask_in_any_form(given: Any):
    mask = as_mask(given, "mask")
    assert (mask.mode, np.asarray(mask).tolist()) == ("L", [[255, 0], [0, 255]])


def test_hints_keep_transparency_and_deep_levels():
    clear = np.zeros((2, 2, 4), dtype=np.uint8)
    assert as_hint(clear, "hints").mode == "RGBA"
    deep = np.array([[0, 300], [40_000, 65_535]], dtype=np.uint16)
    assert np.array_equal(np.asarray(as_hint(deep, "hints")), deep)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (5, "`image` is an int, expected a PIL picture, the path"),
        (b"\x89PNG", "`image` is a bytes, expected a PIL picture"),
        ([PICTURE, PICTURE], "`image` is a list, expected a PIL picture"),
        ({}, "`image` is a dict"),
        (np.zeros((3, 8, 8), np.uint8), r"shape \[3, 8, 8\], expected \[H, W\], \[H, W, 3\]"),
        (torch.zeros(8, 8, 3), r"shape \[8, 8, 3\], expected \[1, H, W\], \[3, H, W\]"),
        (torch.zeros(2, 3, 8, 8), r"shape \[2, 3, 8, 8\]"),
        (np.zeros((0, 8, 3), np.uint8), r"shape \[0, 8, 3\]"),
        (np.zeros((8,), np.uint8), r"shape \[8\]"),
        (torch.full((3, 8, 8), -1.0), r"values from -1 to -1, expected 0 to 1.*x / 2 \+ 0.5"),
        (torch.full((3, 8, 8), 255.0), r"values from 255 to 255, expected 0 to 1.*x / 255"),
        (np.full((8, 8, 3), np.nan), "values from nan to nan"),
        (np.zeros((8, 8, 3), np.int64), "an array of int64, expected uint8"),
        (np.array([["a"]]), "an array of <U1, expected uint8"),
    ],
)
def test_anything_else_is_refused_in_one_line(given: Any, words: str):
    with pytest.raises(RequestError, match=words) as caught:
        as_picture(given, "image")
    assert caught.value.field == "image"
    assert "\n" not in caught.value.message


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a POSIX system")
@pytest.mark.parametrize("reader", [read_image, read_mask, read_metadata, read_recipe])
def test_a_pipe_or_a_device_is_told_from_a_missing_file(reader: Any, tmp_path: Path):
    os.mkfifo(pipe := tmp_path / "pipe")
    words = {pipe: "not a regular file", Path(os.devnull): "not a regular file", tmp_path: "a folder"}
    for path, what in (words | {tmp_path / "none": "no such file"}).items():
        with pytest.raises(GessoError, match=f"{what}, expected a picture"):
            reader(path)


@pytest.mark.parametrize("given", [None, 3, b"a.png", ["a.png"], object()], ids=lambda given: type(given).__name__)
@pytest.mark.parametrize(
    "call",
    [
        gesso.read_image,
        gesso.read_mask,
        gesso.read_recipe,
        gesso.read_metadata,
        gesso.replay,
        gesso.Library,
    ],
    ids=lambda call: call.__name__,
)
def test_what_is_no_path_is_refused_in_one_line(call: Any, given: Any):
    with pytest.raises(gesso.GessoError, match="expected a path") as caught:
        call(given)
    assert caught.value.code == "invalid_value" and "\n" not in str(caught.value)
