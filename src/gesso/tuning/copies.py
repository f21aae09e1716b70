"""The copy check: which training picture each drawn picture is most like, by shape, wherever it was cut or recoloured.

The outlines of one picture are laid over those of the other, at several scales, at every place, and mirrored, and the
best normalised cross-correlation counts (Lewis 1995, "Fast normalized cross-correlation"). Colours do not count. So
copies are found that were cropped, set into a larger picture, mirrored, recoloured, blurred or saved again. Nothing is
learned and nothing downloaded; docs/train-your-own.md has the measured rates. `sscd` describes pictures with Meta's
SSCD from an ONNX file of the user's instead.

O orientations, h w rows and columns of outlines, D numbers of a descriptor.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gesso.errors import GessoError, one_line
from gesso.extras import missing_extra

ORIENTATIONS = 4  # of half a turn
SIZES = (40, 45, 50, 57, 64)  # pixels a side of the outlines; the first is the whole that is laid over the others
FAINT = 0.04  # of the range of grey levels: a slope below it is noise
EMPTY = 0.25  # of the variance of all outlines that a part must have at least
THRESHOLD = 0.6  # of the similarity above which a picture is a copy; measured, see docs/train-your-own.md
SSCD_THRESHOLD = 0.5  # of its cosine; see Pizzi et al. 2022, arXiv:2202.10261
SHORT_LIST = 64  # training pictures that are compared by parts: those nearest as wholes
SAMPLED = 64  # training pictures that tell how alike they are among themselves

Compare = Callable[[Sequence[Image.Image]], np.ndarray]
"""Drawn pictures in RGB -> similarity of each to each training picture, at most 1: float32 [drawn, trained]"""
Prepare = Callable[[Sequence[Image.Image]], Compare]
"""Training pictures in RGB -> what compares others with them"""


@dataclass(frozen=True)
class Copying:
    """What the check found.

    threshold  similarity from which a picture counts as a copy
    nearest    of each drawn picture: place of the most similar training picture, and the similarity, at most 1
    alike      of training pictures: the similarity of each to the nearest other one; what one finds without any copying
    by         what compared the pictures
    """

    threshold: float
    nearest: tuple[tuple[int, float], ...]
    alike: tuple[float, ...]
    by: str

    @property
    def copies(self) -> int:
        """How many drawn pictures are copies."""
        return sum(similarity >= self.threshold for _, similarity in self.nearest)


def outlines(image: Image.Image, size: int) -> np.ndarray:
    """Slopes of grey levels by orientation, light to dark or dark to light.  -> float32 [O, size, size]"""
    grey = np.asarray(image.convert("L").resize((size, size), Image.Resampling.BOX), dtype=np.float32) / 255
    padded = np.pad(grey, 1, mode="edge")
    across, down = padded[1:-1, 2:] - padded[1:-1, :-2], padded[2:, 1:-1] - padded[:-2, 1:-1]
    slope = np.sqrt(np.maximum(np.hypot(across, down) - FAINT, 0))  # a root: a faint outline counts, too
    turn = (np.arctan2(down, across) / math.pi % 1.0) * ORIENTATIONS
    places = np.arange(ORIENTATIONS, dtype=np.float32)[:, None, None]
    apart = np.abs(turn[None] - places)
    planes = slope[None] * np.maximum(1 - np.minimum(apart, ORIENTATIONS - apart), 0)
    for axis in (1, 2):  # a pixel's neighbours count half: small shifts matter little
        edges = np.pad(planes, [(0, 0), *((1, 1) if one == axis else (0, 0) for one in (1, 2))], mode="edge")
        before, after = (edges[:, :-2], edges[:, 2:]) if axis == 1 else (edges[:, :, :-2], edges[:, :, 2:])
        planes = (before + 2 * planes + after) / 4
    return planes.astype(np.float32)


class Outlined:
    """The outlines of a picture at every scale, ready to be laid over those of others."""

    def __init__(self, image: Image.Image) -> None:
        self.planes = [outlines(image, size) for size in SIZES]

    @cached_property
    def whole(self) -> np.ndarray:
        """The smallest, without its mean and of length 1; zeros for a picture without outlines.  -> [O, h, w]"""
        centred = self.planes[0] - self.planes[0].mean()
        length = float(np.linalg.norm(centred))
        return centred / length if length > 1e-2 else np.zeros_like(centred)

    @cached_property
    def spectra(self) -> list[np.ndarray]:
        """Of the outlines at each scale."""
        return [np.fft.rfft2(planes) for planes in self.planes]

    @cached_property
    def whole_spectra(self) -> list[np.ndarray]:
        """Of the whole, with zeros around it up to each scale."""
        return [np.fft.rfft2(self.whole, s=(size, size)) for size in SIZES]

    @cached_property
    def deviations(self) -> list[np.ndarray]:
        """Of the part under the whole at every place, before their division by its number of values."""
        found = []
        for planes in self.planes:
            total = float(planes.var()) * ORIENTATIONS * SIZES[0] ** 2
            sums, squares = _box(planes.sum(axis=0)), _box((planes**2).sum(axis=0))
            variance = squares - sums**2 / (ORIENTATIONS * SIZES[0] ** 2)
            found.append(np.sqrt(np.maximum(variance, EMPTY * total) + 1e-4))
        return found

    def holds(self, other: "Outlined") -> float:
        """How well the whole of another picture fits over a part of this one, or over all of it; at most 1."""
        best = -1.0
        for place, size in enumerate(SIZES):
            products = (self.spectra[place] * other.whole_spectra[place].conj()).sum(axis=0)
            free = size - SIZES[0] + 1
            fits = np.fft.irfft2(products, s=(size, size))[:free, :free]
            best = max(best, float((fits / self.deviations[place]).max()))
        return best


def _box(values: np.ndarray) -> np.ndarray:
    """Sums over every square of the size of the whole.  [h, w] -> [h - 39, w - 39]"""
    side = SIZES[0]
    summed = np.pad(values.astype(np.float64).cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    return summed[side:, side:] - summed[:-side, side:] - summed[side:, :-side] + summed[:-side, :-side]


class Outlines:
    """A `Compare` without anything learned."""

    def __init__(self, trained: Sequence[Image.Image]) -> None:
        flipped = (one.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for one in trained)
        self._trained = [(Outlined(one), Outlined(other)) for one, other in zip(trained, flipped, strict=True)]

    def __call__(self, drawn: Sequence[Image.Image]) -> np.ndarray:
        found = np.full((len(drawn), len(self._trained)), -1.0, np.float32)
        if not self._trained:
            return found
        wholes = [np.stack([pair[side].whole.ravel() for pair in self._trained]) for side in (0, 1)]
        for row, picture in enumerate(drawn):
            one = Outlined(picture)
            near = np.maximum(*(whole @ one.whole.ravel() for whole in wholes))
            found[row] = near
            for place in np.argsort(-near)[:SHORT_LIST]:
                for other in self._trained[int(place)]:
                    found[row, place] = max(found[row, place], other.holds(one), one.holds(other))
        return found


class CopyCheck:
    """Looks for copies of training pictures.

    The threshold is raised to what all but one in twenty training pictures have with their nearest other one: where
    they are as alike as copies, likeness proves no copying. Of many, `SAMPLED` tell it.
    """

    def __init__(
        self,
        trained: Sequence[Image.Image],
        *,
        prepare: Prepare = Outlines,
        threshold: float = THRESHOLD,
        by: str = "outlines",
    ) -> None:
        self.by, self._compare = by, prepare(trained)
        self.alike: tuple[float, ...] = ()
        if len(trained) > 1:
            places = np.unique(np.linspace(0, len(trained) - 1, SAMPLED).astype(int))
            among = self._compare([trained[place] for place in places])
            among[np.arange(len(places)), places] = -1.0
            self.alike = tuple(float(value) for value in among.max(axis=1))
        self.threshold = max(threshold, float(np.quantile(self.alike, 0.95))) if self.alike else threshold

    def __call__(self, drawn: Sequence[Image.Image]) -> Copying:
        """The nearest training picture of each drawn one."""
        nearest = tuple((int(row.argmax()), float(row.max())) for row in self._compare(drawn)) if drawn else ()
        return Copying(self.threshold, nearest, self.alike, self.by)


def sscd(path: Path) -> Prepare:
    """`Prepare` by SSCD (Pizzi et al. 2022, arXiv:2202.10261) in an ONNX file.

    The input may be uint8 [1, 288, 288, 3], or float [1, 3, 288, 288] with the mean and deviation of ImageNet.
    Raises GessoError where onnxruntime is not installed, and for a file that is no such network.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise missing_extra(f"{path}: the network", "onnxruntime", "sscd", error) from None
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # whatever its parser raises
        raise GessoError(
            f"{path}: is no network that onnxruntime reads ({one_line(str(error))[:120]})",
            code="damaged",
            data={"path": str(path)},
        ) from None
    (given, *more), outputs = session.get_inputs(), session.get_outputs()
    if more or len(outputs) != 1 or len(given.shape) != 4:
        raise GessoError(
            f"{path}: has {1 + len(more)} inputs and {len(outputs)} outputs, expected a picture and its descriptor",
            code="wrong_kind",
            data={"path": str(path)},
        )
    is_bytes = "uint8" in given.type
    mean, std = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)

    def describe(image: Image.Image) -> np.ndarray:
        pixels: Any = np.asarray(image.convert("RGB").resize((288, 288), Image.Resampling.BICUBIC))
        if not is_bytes:
            pixels = (pixels.astype(np.float32) / 255 - mean) / std
        if given.shape[-1] != 3:
            pixels = pixels.transpose(2, 0, 1)
        vector = np.asarray(session.run(None, {given.name: pixels[None]})[0], np.float32).reshape(-1)
        length = float(np.linalg.norm(vector))
        return vector / length if length else vector

    def prepare(trained: Sequence[Image.Image]) -> Compare:
        theirs = np.stack([describe(one) for one in trained])
        return lambda drawn: (np.stack([describe(one) for one in drawn]) @ theirs.T).astype(np.float32)

    return prepare
