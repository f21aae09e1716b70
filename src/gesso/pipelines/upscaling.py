"""Pictures made larger without diffusion: by interpolation, or by an upscaler network and interpolation to the size.

Everything goes from top to bottom in bands, so that a result need not fit into memory.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from gesso.errors import GessoError
from gesso.registry import Registry
from gesso.runtime.upscaling import RIM, TILE, Upscaler

RESAMPLERS = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
REACH = {"nearest": 1, "box": 1, "bilinear": 1, "bicubic": 2, "lanczos": 3}  # pixels that a filter looks to either side
TO_SIZE = "lanczos"  # from what a network gives to the size that is asked for, as in A1111
MAX_PASSES = 3  # of a network over its own result, as in A1111
BAND = 256  # rows at a time

Size = tuple[int, int]  # width, height
Rows = NDArray[np.uint8]  # [H, W, 3]


@dataclass(frozen=True)
class ImageUpscaler:
    """A way to make pictures larger that is chosen by name: interpolation, or the code of a plug-in.

    label    what A1111 calls it, or what its users would
    enlarge  (picture, RGB; size that is wanted) -> picture; of another size it is brought to the wanted one by Lanczos
    help     one line
    aliases  what other tools call it
    scale    how many times larger a picture becomes where no size is asked for
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
        name: ImageUpscaler(label, partial(_interpolated, resampler=name), "Interpolation of pixels.")
        for name, label in _LABELS.items()
    },
)


@dataclass(frozen=True)
class Tiles:
    """How a network goes over a picture; see `gesso.runtime.upscaling`."""

    side: int = TILE
    rim: int = RIM


def upscale(
    image: Image.Image,
    size: Size | None = None,
    upscaler: Upscaler | str = "lanczos",
    tiles: Tiles = Tiles(),
    *,
    scale: float | None = None,
) -> Image.Image:
    """A picture made larger (or smaller), RGB.

    size      width and height that are wanted, in pixels; or
    scale     how many times larger. Without either: as the upscaler does by itself, twice for interpolation
    upscaler  a name in UPSCALERS, or a network from `load_upscaler`, which goes over the picture until it is large
              enough, three times at most. What either gives is brought to the size by Lanczos
    tiles     how a network goes over the picture
    Costs the memory of the result, and of a tile. Raises GessoError for an unknown name, ValueError for a size or scale
    that no picture has.
    """
    if size is not None and scale is not None:
        raise ValueError(f"size {size} and scale {scale}: give one or the other")
    if isinstance(upscaler, str):
        name = UPSCALERS.find(upscaler)
        if name is None:
            raise GessoError(
                f"unknown upscaler {upscaler[:64]!r}. Known: {', '.join(UPSCALERS)}",
                code="unknown_name",
                field="upscaler",
            )
        upscaler = name
    if size is None:
        size = scaled_size(image.size, own_scale(upscaler) if scale is None else scale)
    return Image.fromarray(np.concatenate(list(enlarged_rows(image, size, upscaler, tiles))))


def own_scale(upscaler: Upscaler | str) -> float:
    """How many times larger a picture becomes where nobody says how large."""
    return UPSCALERS[upscaler].scale if isinstance(upscaler, str) else upscaler.scale


def scaled_size(size: Size, scale: float) -> Size:
    """A size so many times larger, in whole pixels. Raises ValueError unless the scale is above 0 and finite."""
    if not 0 < scale < math.inf:  # not NaN either
        raise ValueError(f"scale {scale}: expected a number above 0")
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def enlarged_rows(image: Image.Image, size: Size, upscaler: Upscaler | str, tiles: Tiles = Tiles()) -> Iterator[Rows]:
    """The picture at another size, RGB, from top to bottom, some rows at a time: for results too large for memory.

    As `upscale`. Raises ValueError for a size below 1 and for an unknown name.
    """
    if min(size) < 1:
        raise ValueError(f"size {size[0]}x{size[1]}: expected 1 or more")
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
    made = (image.width * upscaler.scale, image.height * upscaler.scale)
    yield from _resized(_bands(image, upscaler, tiles), made, size, TO_SIZE)


def network_input(size: Size, wanted: Size, scale: int) -> Size:
    """The largest picture that a network of that scale is given on the way from one size to another."""
    grown = int(scale ** (_passes(size, wanted, scale) - 1))
    return size[0] * grown, size[1] * grown


def _passes(size: Size, wanted: Size, scale: int) -> int:
    """How often a network goes over the picture: once at least, since people ask for its look, too."""
    if scale == 1:
        return 1
    ratio = max(wanted[0] / size[0], wanted[1] / size[1])
    return min(MAX_PASSES, max(1, math.ceil(math.log(ratio, scale) - 1e-9)))


def _bands(image: Image.Image, upscaler: Upscaler, tiles: Tiles) -> Iterator[Rows]:
    levels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
    for band in upscaler.bands(levels, tiles.side, tiles.rim):
        yield band[0].permute(1, 2, 0).numpy()


def _resized(bands: Iterator[Rows], size: Size, wanted: Size, resampler: str) -> Iterator[Rows]:
    """Bands of a picture of `size` -> bands of it at the size that is wanted.

    Rows are kept only as long as a row to come looks at them.
    """
    if size == wanted:
        yield from bands
        return
    ratio = size[1] / wanted[1]
    reach = math.ceil(REACH[resampler] * max(1.0, ratio)) + 1
    kept, first = np.empty((0, size[0], 3), dtype=np.uint8), 0  # rows of the source from `first` on
    for top in range(0, wanted[1], BAND):
        bottom = min(top + BAND, wanted[1])
        begin, end = max(0, math.floor(top * ratio) - reach), min(size[1], math.ceil(bottom * ratio) + reach)
        parts = [kept[max(0, begin - first) :]]
        first = max(first, begin)
        while first + sum(map(len, parts)) < end:
            parts.append(next(bands))
        kept = np.concatenate(parts) if len(parts) > 1 else parts[0]
        strip = Image.fromarray(kept[: end - first])
        box = (0.0, top * ratio - first, float(size[0]), min(bottom * ratio - first, float(strip.height)))
        yield np.asarray(strip.resize((wanted[0], bottom - top), RESAMPLERS[resampler], box=box))
