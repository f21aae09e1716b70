"""Hires fix, the second pass of a request: fills in what is not set. Imports no torch."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from gesso.request.checks import MAX_SIDE, RequestError, check_known, check_multiple
from gesso.request.parts import HiresPass
from gesso.request.request import MAX_PIXELS

DEFAULT_SCALE = 2.0
MAX_STRETCH = 4

# Ways to interpolate latents: name -> torch's mode, and whether it is smoothed before (which only matters where sides
# shrink; A1111 has them, so they are here).
LATENT_UPSCALERS: Mapping[str, tuple[str, bool]] = MappingProxyType(
    {
        "latent_nearest": ("nearest", False),
        "latent_nearest_exact": ("nearest-exact", False),
        "latent_bilinear": ("bilinear", False),
        "latent_bilinear_antialiased": ("bilinear", True),
        "latent_bicubic": ("bicubic", False),
        "latent_bicubic_antialiased": ("bicubic", True),
    }
)
# What A1111 calls these, two ways to interpolate pictures, and the files of the networks that it fetches itself.
A1111_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "Latent": "latent_bilinear",
        "Latent (antialiased)": "latent_bilinear_antialiased",
        "Latent (bicubic)": "latent_bicubic",
        "Latent (bicubic antialiased)": "latent_bicubic_antialiased",
        "Latent (nearest)": "latent_nearest",
        "Latent (nearest-exact)": "latent_nearest_exact",
        "Lanczos": "lanczos",
        "Nearest": "nearest",
        "None": "lanczos",
        "R-ESRGAN 4x+": "RealESRGAN_x4plus",
        "R-ESRGAN 4x+ Anime6B": "RealESRGAN_x4plus_anime_6B",
        "R-ESRGAN 2x+": "RealESRGAN_x2plus",
        "R-ESRGAN General 4xV3": "realesr-general-x4v3",
        "R-ESRGAN General WDN 4xV3": "realesr-general-wdn-x4v3",
        "R-ESRGAN AnimeVideo": "realesr-animevideov3",
    }
)
_ALIASES = {name.lower(): ours for name, ours in A1111_NAMES.items()}


def upscaler_name(name: str) -> str:
    """gesso's name for an upscaler of another tool; any other name is that of a file and is returned as it is."""
    plain = name.strip().lower()
    if (spelled := plain.replace(" ", "_").replace("-", "_")) in LATENT_UPSCALERS:  # "latent nearest-exact"
        return spelled
    return _ALIASES.get(plain, name)


def a1111_name(upscaler: str) -> str:
    """A1111's name for an upscaler; a name that it lacks, or that of a file, is returned as it is."""
    return next((name for name, ours in A1111_NAMES.items() if ours == upscaler), upscaler)


def filled(
    hires: HiresPass,
    values: Mapping[str, Any],
    *,
    multiple: int,
    presets: Mapping[str, Any],
    schedule: str,
    samplers: Collection[str],
    schedules: Collection[str],
) -> HiresPass:
    """The second pass with all settings filled in, except prompts, which default to those of the first pass.

    values    the resolved fields of the first pass, by their paths
    presets   the preset's upscaler and strength
    schedule  the model's default
    samplers, schedules  known names
    Raises RequestError for a size that the model cannot draw, that is too large, or smaller than the first.
    """
    width, height = _size(hires, values["width"], values["height"], multiple)
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise RequestError(
            "hires", f"hires: {width}x{height}, expected at most {MAX_PIXELS} pixels and {MAX_SIDE} a side"
        )
    if width < values["width"] or height < values["height"]:
        raise RequestError(
            "hires", f"hires: {width}x{height} is smaller than the first pass, {values['width']}x{values['height']}"
        )
    across, down = width / values["width"], height / values["height"]
    if max(across, down) > MAX_STRETCH * min(across, down):  # all that covers the larger shape is made, then cut
        raise RequestError(
            "hires",
            f"hires: {width}x{height} out of {values['width']}x{values['height']} changes the shape too much; "
            f"one side may grow at most {MAX_STRETCH} times as much as the other",
        )
    sampler = hires.sampler or values["sampler"]
    first = schedule if values["sigmas"] is not None else values["schedule"]  # own sigmas are those of the first pass
    spacing = hires.schedule or first
    check_known("sampler", sampler, samplers)
    check_known("schedule", spacing, schedules)
    strength, guidance = hires.strength, hires.guidance_scale
    return replace(
        hires,
        scale=None,
        width=width,
        height=height,
        upscaler=upscaler_name(hires.upscaler or presets["hires.upscaler"]),
        strength=presets["hires.strength"] if strength is None else strength,
        num_steps=hires.num_steps or values["num_steps"],
        sampler=sampler,
        schedule=spacing,
        guidance_scale=values["guidance_scale"] if guidance is None else guidance,
    )


def _size(hires: HiresPass, width: int, height: int, multiple: int) -> tuple[int, int]:
    """Width and height of the finished picture; sides that are computed are rounded down to what the model draws."""
    if hires.width is not None and hires.height is not None:
        if hires.scale is not None:
            raise RequestError("hires", "hires: give either a scale or a size")
        check_multiple("hires.width", hires.width, multiple)
        check_multiple("hires.height", hires.height, multiple)
        return hires.width, hires.height
    if hires.width is not None:
        check_multiple("hires.width", hires.width, multiple)
        return hires.width, height * hires.width // width // multiple * multiple
    if hires.height is not None:
        check_multiple("hires.height", hires.height, multiple)
        return width * hires.height // height // multiple * multiple, hires.height
    scale = DEFAULT_SCALE if hires.scale is None else hires.scale
    return int(width * scale) // multiple * multiple, int(height * scale) // multiple * multiple
