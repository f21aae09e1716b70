"""Enlarges an uploaded picture, for jobs of the kind "upscale"."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gesso.errors import GessoError, short
from gesso.pipelines.upscaling import UPSCALERS, enlarged_rows, own_scale, scaled_size
from gesso.request.checks import MAX_SIDE
from gesso.request.hires import upscaler_name
from gesso.request.request import MAX_PIXELS
from gesso.runtime.upscaling import Upscaler
from gesso.studio.studio import Studio

MAX_SCALE = 16.0
OnRows = Callable[[int, int], None]  # (rows done, rows in all)


def enlarge(image: Image.Image, name: str, request: Mapping[str, Any], studio: Studio, on_rows: OnRows) -> Image.Image:
    """The picture in another size -> RGB, or RGBA where something is transparent.

    name     of the upscaler: one of `UPSCALERS`, or a network of the library
    request  {"scale": 2.0}, or {"width": ..., "height": ...} in pixels; {} takes the upscaler's own scale
    on_rows  is told how far it is, some rows at a time; what it raises ends the work
    Raises GessoError for an unknown upscaler and a size that is out of range.
    """
    known = UPSCALERS.find(upscaler_name(name))
    with _ready(name, studio) if known is None else nullcontext(known) as upscaler:
        width, height = _size(image, request, upscaler)
        done, bands = 0, []
        for band in enlarged_rows(image, (width, height), upscaler):
            bands.append(band)
            done += len(band)
            on_rows(done, height)
    return Image.fromarray(np.concatenate(bands))


@contextmanager
def _ready(name: str, studio: Studio) -> Iterator[Upscaler]:
    path = Path(studio.resolve(name, kinds=("upscaler",)))
    engine = studio.engine
    with engine.device_lock, engine.load_upscaler(path).ready(engine.precision.unet) as network:
        yield network


def _size(image: Image.Image, request: Mapping[str, Any], upscaler: Upscaler | str) -> tuple[int, int]:
    if unknown := sorted(request.keys() - {"scale", "width", "height"}):
        raise GessoError(
            f"`request` {short(unknown[0])}: an upscale job has scale, or width and height",
            code="invalid_field",
            field=unknown[0][:64],
        )
    width, height, scale = (request.get(name) for name in ("width", "height", "scale"))
    if width is None and height is None:
        scale = own_scale(upscaler) if scale is None else _number("scale", scale, MAX_SCALE)
        size = scaled_size(image.size, scale)
    elif scale is not None:
        raise GessoError("`scale`: give it, or width and height, not both", code="invalid_field", field="scale")
    else:
        size = round(_number("width", width, MAX_SIDE)), round(_number("height", height, MAX_SIDE))
    if min(size) < 1 or max(size) > MAX_SIDE or size[0] * size[1] > MAX_PIXELS:
        raise GessoError(
            f"{image.width}x{image.height} would become {size[0]}x{size[1]}, expected sides of 1 to {MAX_SIDE} and at "
            f"most {MAX_PIXELS} pixels",
            code="too_large",
            field="scale" if scale is not None else "width",
        )
    return size


def _number(field: str, value: object, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= most:
        raise GessoError(
            f"`{field}` {short(value)}: expected a number above 0, at most {most:g}", code="invalid_field", field=field
        )
    return float(value)
