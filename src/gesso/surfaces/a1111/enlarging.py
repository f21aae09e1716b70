"""The "Extras" of the web UI, as far as they need no network: enlarging by interpolation."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image

from gesso.errors import short
from gesso.request.checks import MAX_SIDE
from gesso.request.request import MAX_PIXELS
from gesso.surfaces.a1111.errors import refusal

PLAIN = {
    "None": Image.Resampling.LANCZOS,
    "Lanczos": Image.Resampling.LANCZOS,
    "Nearest": Image.Resampling.NEAREST,
}
MAX_FACTOR = 8.0


@dataclass(frozen=True, kw_only=True)
class Enlargement:
    """What is asked for.

    factor  by which both sides grow; None: to `size`
    crop    to the size exactly, where the shape differs; else the picture covers it
    """

    how: Image.Resampling
    factor: float | None
    size: tuple[int, int]
    crop: bool


def read_extras(given: Mapping[str, Any], networks: Mapping[str, str]) -> Enlargement:
    """The fields of extra-single-image and extra-batch-images. Raises HttpError.

    networks  names of upscaler networks, which are refused with another reason than names of nothing
    """
    for name, what in (
        ("gfpgan_visibility", "face restoration"),
        ("codeformer_visibility", "face restoration"),
        ("extras_upscaler_2_visibility", "a second upscaler"),
    ):
        if given.get(name) not in (None, 0, 0.0):
            raise refusal(f"{name} {short(given[name])}: {what} is not supported", name)
    name = given.get("upscaler_1") or "None"
    if name in networks:
        raise refusal(
            f"upscaler_1 {short(name)} is a network, which draws in the second pass alone: use it as hr_upscaler",
            "upscaler_1",
        )
    if name not in PLAIN:
        raise refusal(
            f"upscaler_1: no upscaler is called {short(name)}; GET /sdapi/v1/upscalers lists them", "upscaler_1"
        )
    mode = given.get("resize_mode", 0)
    if mode not in (0, 1):
        raise refusal(f"resize_mode is {short(mode)}, expected 0 (by a factor) or 1 (to a size)", "resize_mode")
    factor = _number(given, "upscaling_resize", 2.0, 1.0, MAX_FACTOR)
    size = (
        int(_number(given, "upscaling_resize_w", 512, 1, MAX_SIDE)),
        int(_number(given, "upscaling_resize_h", 512, 1, MAX_SIDE)),
    )
    if name == "None" and mode == 0:
        factor = 1.0  # None leaves a picture as it is
    crop = bool(given.get("upscaling_crop", True))
    return Enlargement(how=PLAIN[name], factor=factor if mode == 0 else None, size=size, crop=crop)


def _number(given: Mapping[str, Any], name: str, default: float, low: float, high: float) -> float:
    value = given.get(name)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise refusal(f"{name} is {short(value)}, expected {low:g} to {high:g}", name, code="invalid_value")
    return float(value)


def enlarged(image: Image.Image, asked: Enlargement) -> Image.Image:
    """The picture. Raises HttpError where it would be too large."""
    if asked.factor is not None:
        width, height = round(image.width * asked.factor), round(image.height * asked.factor)
    else:
        scale = max(asked.size[0] / image.width, asked.size[1] / image.height)
        width, height = round(image.width * scale), round(image.height * scale)
    if width * height > 4 * MAX_PIXELS or max(width, height) > 2 * MAX_SIDE:
        raise refusal(f"{width}x{height} is too large", "upscaling_resize", code="too_large")
    large = image if (width, height) == image.size else image.resize((width, height), asked.how)
    if asked.factor is None and asked.crop and large.size != asked.size:
        left, top = (large.width - asked.size[0]) // 2, (large.height - asked.size[1]) // 2
        large = large.crop((left, top, left + asked.size[0], top + asked.size[1]))
    return large
