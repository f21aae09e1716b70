"""Preprocessors for ready-made maps: depth, and segmentation in the colours of ADE20K."""

from collections.abc import Mapping
from functools import cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gesso.errors import GessoError

UNLABELLED = 0x000000  # what the colouring of ADE20K leaves where it knows nothing


def depth(image: Image.Image, settings: Mapping[str, float]) -> Image.Image:
    """A depth map, near is white, as MiDaS and its followers give it; which end is near cannot be detected.

    image    grey levels from 0 to 255, mode F
    invert   1: near is black in the picture
    stretch  1: the nearest becomes white and the farthest black; for maps that hold millimetres
    """
    levels = np.asarray(image, dtype=np.float64)
    low, high = levels.min(), levels.max()
    if high - low < 1 and not (settings["stretch"] and high > low):
        raise GessoError(
            f"a depth map of one level ({low:.3f} to {high:.3f} of 255) carries no depth"
            + ("; stretch=1 uses what it has" if high > low else ""),
            code="unsuitable_hint",
        )
    if settings["stretch"]:
        levels = (levels - low) / (high - low) * 255
    if settings["invert"]:
        levels = 255 - levels
    return Image.fromarray((levels + 0.5).astype(np.uint8)).convert("RGB")


def segmentation(image: Image.Image, settings: Mapping[str, float]) -> Image.Image:
    """A map of things in the 150 colours of ADE20K, untouched.

    snap  1: a pixel of another colour takes the nearest of them; for maps that went through JPEG or were smoothed
    any   1: all colours pass; for ControlNets that learned others
    """
    if settings["any"]:
        return image
    channels = np.asarray(image, dtype=np.uint32)
    codes = channels[..., 0] << 16 | channels[..., 1] << 8 | channels[..., 2]
    unique, where, counts = np.unique(codes, return_inverse=True, return_counts=True)
    strange = ~np.isin(unique, [*ade20k_colours(), UNLABELLED])
    if not strange.any():
        return image
    if not settings["snap"]:
        most = unique[strange][counts[strange].argmax()]
        raise GessoError(
            f"{counts[strange].sum()} of {codes.size} pixels have none of the colours of ADE20K, most of them "
            f"#{most:06x}. snap=1 takes the nearest, any=1 lets all pass",
            code="unsuitable_hint",
        )
    unique[strange] = _nearest(unique[strange])
    return Image.fromarray(_channels(unique[where].reshape(codes.shape)).astype(np.uint8))


@cache
def ade20k_colours() -> Mapping[int, str]:
    """Colour, as 0xRRGGBB -> what it stands for; where two things share a colour, both, with a comma."""
    names: dict[int, str] = {}
    text = (files("gesso.hints") / "ade20k.txt").read_text(encoding="utf-8")
    for line in text.splitlines():
        code, _, name = line.partition(" ")
        names[int(code, 16)] = ", ".join(filter(None, [names.get(int(code, 16)), name]))
    return names


def _nearest(codes: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """For each colour that of ADE20K at the smallest distance in RGB."""
    colours = _channels(codes)
    best, smallest = np.zeros_like(codes), np.full(codes.shape, np.iinfo(np.int64).max)
    for known in (*ade20k_colours(), UNLABELLED):
        distance = ((colours - _channels(np.array(known))) ** 2).sum(axis=-1)
        closer = distance < smallest
        best[closer], smallest[closer] = known, distance[closer]
    return best


def _channels(codes: NDArray[np.integer]) -> NDArray[np.int64]:
    """0xRRGGBB [...] -> [..., 3]"""
    return np.stack([codes >> 16 & 255, codes >> 8 & 255, codes & 255], axis=-1).astype(np.int64)
