"""Upscaling without diffusion (A1111: Extras): by interpolation, or by an upscaler network and then interpolation.

Pictures are processed in bands from top to bottom, so that a result need not fit into memory.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from gesso.arguments import check_number, check_size, check_type
from gesso.errors import GessoError
from gesso.hints.sizing import Size
from gesso.pictures.given import GivenPicture, as_picture
from gesso.registry import Registry
from gesso.request.checks import nearest, unknown_data
from gesso.runtime.upscaling import RIM, TILE, Upscaler

RESAMPLERS = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
REACH = {"nearest": 1, "box": 1, "bilinear": 1, "bicubic": 2, "lanczos": 3}  # radius of each filter in pixels
TO_SIZE = "lanczos"  # from a network's output to the requested size, as in A1111
MAX_PASSES = 3  # how often a network is applied to its own output, as in A1111
BAND = 256  # rows at a time

Rows = NDArray[np.uint8]  # [H, W, 3], or 4 channels with alpha


@dataclass(frozen=True)
class ImageUpscaler:
    """An upscaler that is chosen by name: an interpolation, or the code of a plug-in.

    label    its name in A1111
    enlarge  (RGB picture, requested size) -> picture; a result of another size is resized by Lanczos
    help     one line
    aliases  its names in other tools
    scale    default scale, if no size is requested
    """

    label: str
    enlarge: Callable[[Image.Image, Size], Image.Image]
    help: str = ""
    aliases: tuple[str, ...] = ()
    scale: float = 2.0


def _interpolated(image: Image.Image, size: Size, *, resampler: str) -> Image.Image:
    return image.resize(size, RESAMPLERS[resampler])


_LABELS = {"nearest": "Nearest", "box": "Box", "bilinear": "Bilinear", "bicubic": "Bicubic", "lanczos": "Lanczos"}

UPSCALERS: Registry[ImageUpscaler] = Registry(
    ImageUpscaler,
    "gesso.upscalers",
    {
        name: ImageUpscaler(label, partial(_interpolated, resampler=name), "Interpolates pixels.")
        for name, label in _LABELS.items()
    },
)


@dataclass(frozen=True)
class UpscalerTiles:
    """Tiles of an upscaler network: side and rim in pixels; see `gesso.runtime.upscaling`."""

    side: int = TILE
    rim: int = RIM


def upscale(
    image: GivenPicture,
    size: Size | None = None,
    upscaler: Upscaler | str = "lanczos",
    tiles: UpscalerTiles = UpscalerTiles(),
    *,
    scale: float | None = None,
) -> Image.Image:
    """Enlarges (or shrinks) a picture -> RGB, or RGBA where something is transparent.

    image     or a path, an array, a tensor; see `gesso.pictures.given`
    size      requested width and height in pixels; or
    scale     how many times larger. Without either: the upscaler's own scale, 2 for interpolation
    upscaler  a name in UPSCALERS, or a network from `load_upscaler`, which is applied until the picture is large
              enough, three times at most. Its result is resized to the requested size by Lanczos
    tiles     tiles of a network
    Needs the memory of the result and of a tile. Raises GessoError for an unknown name, ValueError for an invalid size
    or scale.
    """
    image = as_picture(image, "image")
    check_size("size", size, optional=True)
    check_type("upscaler", upscaler, (str, Upscaler), "the name of an upscaler, or a network from load_upscaler")
    check_type("tiles", tiles, UpscalerTiles, "UpscalerTiles")
    if scale is not None:
        check_number("scale", scale, "how many times larger, such as 2")
    if size is not None and scale is not None:
        raise ValueError(f"size {size} and scale {scale}: give one or the other")
    if isinstance(upscaler, str):
        name = UPSCALERS.find(upscaler)
        if name is None:
            raise GessoError(
                f"unknown upscaler {upscaler[:64]!r}{nearest(upscaler, UPSCALERS)}. Known: {', '.join(UPSCALERS)}",
                code="unknown_name",
                field="upscaler",
                data=unknown_data(upscaler, UPSCALERS),
            )
        upscaler = name
    if size is None:
        size = scaled_size(image.size, own_scale(upscaler) if scale is None else scale)
    return Image.fromarray(np.concatenate(list(enlarged_rows(image, size, upscaler, tiles))))


def own_scale(upscaler: Upscaler | str) -> float:
    """The default scale of an upscaler."""
    return UPSCALERS[upscaler].scale if isinstance(upscaler, str) else upscaler.scale


def scaled_size(size: Size, scale: float) -> Size:
    """A size multiplied by a scale, in whole pixels. Raises ValueError unless the scale is above 0 and finite."""
    if not 0 < scale < math.inf:  # not NaN either
        raise ValueError(f"scale {scale}: expected a number above 0")
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def enlarged_rows(
    image: Image.Image, size: Size, upscaler: Upscaler | str, tiles: UpscalerTiles = UpscalerTiles()
) -> Iterator[Rows]:
    """As `upscale`, some rows at a time from top to bottom: for results that do not fit into memory.

    The colours of a picture with transparency are enlarged by the upscaler, its alpha by interpolation. What is clear
    takes the colours beside it, so that none shines through at the edges. Raises ValueError for a size below 1 and for
    an unknown name.
    """
    if min(size) < 1:
        raise ValueError(f"size {size[0]}x{size[1]}: expected 1 or more")
    if image.mode == "RGBA":
        levels = np.asarray(image)
        by = upscaler if isinstance(upscaler, str) and upscaler in RESAMPLERS else TO_SIZE
        alpha = np.repeat(levels[..., 3:], 3, axis=2)
        colours = enlarged_rows(Image.fromarray(spread_colours(levels)), size, upscaler, tiles)
        yield from _with_alpha(colours, _resized(iter([alpha]), image.size, size, by))
        return
    image = image.convert("RGB")
    if isinstance(upscaler, str):
        if upscaler not in UPSCALERS:
            raise ValueError(f"upscaler {upscaler!r}, expected one of {', '.join(UPSCALERS)}")
        if upscaler in RESAMPLERS:
            yield from _resized(iter([np.asarray(image)]), image.size, size, upscaler)
            return
        with UPSCALERS.guard(upscaler):
            larger = UPSCALERS[upscaler].enlarge(image, size).convert("RGB")
        yield from _resized(iter([np.asarray(larger)]), larger.size, size, TO_SIZE)
        return
    for _ in range(_passes(image.size, size, upscaler.scale) - 1):
        image = Image.fromarray(np.concatenate(list(_bands(image, upscaler, tiles))))
    output_size = (image.width * upscaler.scale, image.height * upscaler.scale)
    yield from _resized(_bands(image, upscaler, tiles), output_size, size, TO_SIZE)


def spread_colours(levels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The colours [H, W, 3] of a picture [H, W, 4]; what is clear takes the colours around it."""
    visible = levels[..., 3] > 0
    colours = levels[..., :3]
    if visible.all() or not visible.any():
        return np.ascontiguousarray(colours)
    spread = _spread(np.where(visible[..., None], colours, 0).astype(np.float32), visible)
    return np.where(visible[..., None], colours, np.rint(spread)).astype(np.uint8)


def _spread(colours: NDArray[np.float32], known: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Where no colour is known, that of the same picture at half the size, and so on."""
    if known.all():
        return colours
    height, width = known.shape
    rows, columns = -(-height // 2), -(-width // 2)
    wide = np.zeros((2 * rows, 2 * columns, 4), dtype=np.float32)
    wide[:height, :width, :3], wide[:height, :width, 3] = colours * known[..., None], known
    sums = wide.reshape(rows, 2, columns, 2, 4).sum(axis=(1, 3))
    counts = sums[..., 3:]
    smaller = _spread(sums[..., :3] / np.maximum(counts, 1), counts[..., 0] > 0)
    larger = smaller.repeat(2, axis=0).repeat(2, axis=1)[:height, :width]
    return np.where(known[..., None], colours, larger)


def _with_alpha(colours: Iterator[Rows], alphas: Iterator[Rows]) -> Iterator[Rows]:
    """Bands of colours with the rows of alpha that belong to them, which come in other bands."""
    held: list[Rows] = []
    for band in colours:
        while sum(map(len, held)) < len(band):
            held.append(next(alphas)[..., :1])
        alpha = np.concatenate(held)
        held = [alpha[len(band) :]]
        yield np.concatenate([band, alpha[: len(band)]], axis=2)


def network_input(size: Size, target: Size, scale: int) -> Size:
    """Size of the largest input of a network of that scale on the way from one size to another."""
    factor = int(scale ** (_passes(size, target, scale) - 1))
    return size[0] * factor, size[1] * factor


def _passes(size: Size, target: Size, scale: int) -> int:
    """How often a network is applied: at least once, since users choose it for its look, too."""
    if scale == 1:
        return 1
    ratio = max(target[0] / size[0], target[1] / size[1])
    return min(MAX_PASSES, max(1, math.ceil(math.log(ratio, scale) - 1e-9)))


def _bands(image: Image.Image, upscaler: Upscaler, tiles: UpscalerTiles) -> Iterator[Rows]:
    levels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
    for band in upscaler.bands(levels, tiles.side, tiles.rim):
        yield band[0].permute(1, 2, 0).numpy()


def _resized(bands: Iterator[Rows], size: Size, target: Size, resampler: str) -> Iterator[Rows]:
    """Bands of a picture of `size` -> bands of it at the target size.

    Rows of the source are kept only as long as a later row needs them.
    """
    if size == target:
        yield from bands
        return
    ratio = size[1] / target[1]
    reach = math.ceil(REACH[resampler] * max(1.0, ratio)) + 1
    kept, first = np.empty((0, size[0], 3), dtype=np.uint8), 0  # rows of the source from `first` on
    for top in range(0, target[1], BAND):
        bottom = min(top + BAND, target[1])
        begin, end = max(0, math.floor(top * ratio) - reach), min(size[1], math.ceil(bottom * ratio) + reach)
        parts = [kept[max(0, begin - first) :]]
        first = max(first, begin)
        while first + sum(map(len, parts)) < end:
            parts.append(next(bands))
        kept = np.concatenate(parts) if len(parts) > 1 else parts[0]
        strip = Image.fromarray(kept[: end - first])
        box = (0.0, top * ratio - first, float(size[0]), min(bottom * ratio - first, float(strip.height)))
        yield np.asarray(strip.resize((target[0], bottom - top), RESAMPLERS[resampler], box=box))
