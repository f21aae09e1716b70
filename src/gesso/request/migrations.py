"""Migrations: requests of earlier versions are converted to the current one in explicit steps.

Version 1 had only text to image; 2 added image to image, inpainting and the conventions of other tools; 3 added LoRA,
ControlNet and hires fix; 4 put fields into groups. Each step fills in what its version did without a field. The fields
of old versions are frozen here, independent of the current table of fields.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from gesso.errors import short
from gesso.request.checks import RequestError, nearest, unknown_data

SCHEMA = "gesso.text-to-image"
VERSION = 4

# Version -> its fields, of those that are not the present one.
FIELDS_OF_VERSION: dict[int, tuple[str, ...]] = {}
FIELDS_OF_VERSION[1] = (
    *("prompt", "negative_prompt", "width", "height", "num_steps", "guidance_scale", "guidance_rescale", "sampler"),
    *("schedule", "eta", "seed", "noise", "num_images", "first_index", "clip_skip"),
)
FIELDS_OF_VERSION[2] = (
    *FIELDS_OF_VERSION[1],
    *("sigmas", "image", "strength", "mask", "mask_content", "image_guidance_scale", "noise_level"),
    *("refiner_switch_at", "preset", "initial_noise", "timestep_spacing", "round_timesteps"),
    *(
        "discard_penultimate_sigma",
        "sigma_table",
        "strength_rule",
        "vae_encode",
        "mask_blend",
        "mask_blur",
        "paste_back",
    ),
    *("refiner_rule", "sde_noise", "syntax", "emphasis", "chunks", "empty_negative", "clip_skip_everywhere", "levels"),
    "ensd",
)

FIELDS_OF_VERSION[3] = (
    *FIELDS_OF_VERSION[2],
    *("variation_seed", "variation_strength", "seed_width", "seed_height", "tiling", "resize", "outpaint", "mask_area"),
    *("mask_padding", "hires", "tile", "tile_overlap", "loras", "controls", "prompt_timing", "lora_mode"),
    *("uneven_chunks", "control_rule"),
)
_CONVENTIONS = (
    *("initial_noise", "timestep_spacing", "round_timesteps", "discard_penultimate_sigma", "sigma_table"),
    *("strength_rule", "vae_encode", "mask_blend", "paste_back", "refiner_rule", "sde_noise", "syntax", "emphasis"),
    *("chunks", "prompt_timing", "lora_mode", "uneven_chunks", "control_rule", "empty_negative"),
    *("clip_skip_everywhere", "levels", "ensd"),
)
# Fields that stood flat up to version 3 -> their places in version 4.
MOVED: Mapping[str, str] = MappingProxyType(
    {
        "image": "source.image",
        "strength": "source.strength",
        "resize": "source.resize",
        "outpaint": "source.outpaint",
        "image_guidance_scale": "source.guidance_scale",
        "noise_level": "source.noise_level",
        "mask_content": "mask.content",
        "mask_area": "mask.area",
        "mask_padding": "mask.padding",
        "mask_blur": "mask.blur",
        "variation_seed": "variation.seed",
        "variation_strength": "variation.strength",
        "seed_width": "variation.width",
        "seed_height": "variation.height",
        "tile": "tiles.size",
        "tile_overlap": "tiles.overlap",
        **{name: f"conventions.{name}" for name in _CONVENTIONS},
    }
)


def migrated(old: Mapping[str, Any], *, resolved: bool) -> dict[str, Any]:
    """The fields of a request of any version as the present one has them, without schema and version.

    resolved: nothing may be left open, so that what an earlier version did is filled in; else it stays open. Raises
    RequestError for another schema, a version that is not known, and a field that its version did not have.
    """
    version = old.get("version")
    if old.get("schema") != SCHEMA or type(version) is not int or not 1 <= version <= VERSION:
        raise RequestError(
            "schema",
            f"request of schema {short(old.get('schema'))}, version {short(version)}; "
            f"expected {SCHEMA!r}, version 1 to {VERSION}. If a newer gesso wrote it, update gesso",
        )
    values = {key: value for key, value in old.items() if key not in ("schema", "version")}
    known = FIELDS_OF_VERSION.get(version)
    if known is not None and (unknown := sorted(map(str, values.keys() - set(known)))):
        raise RequestError(
            unknown[0][:64],
            f"request: unknown field {short(unknown[0])} in version {version}{nearest(unknown[0], known)}",
            data=unknown_data(unknown[0], known),
        )
    for step in range(version, VERSION):
        values = _STEPS[step](values, resolved)
    return values


def _from_1(values: dict[str, Any], resolved: bool) -> dict[str, Any]:
    """There were no conventions: it behaved like the preset gesso, with prompts as plain text."""
    if not resolved:
        return values
    return {
        "preset": "gesso",
        "initial_noise": "sigma",
        "timestep_spacing": "schedule",
        "round_timesteps": False,
        "discard_penultimate_sigma": False,
        "sigma_table": "exact",
        "strength_rule": "share",
        "vae_encode": "mean",
        "mask_blend": "x0",
        "mask_blur": 0.0,
        "paste_back": True,
        "refiner_rule": "calls",
        "sde_noise": "brownian",
        "syntax": "plain",
        "emphasis": "ignore",
        "chunks": "first",
        "empty_negative": "as_trained",
        "clip_skip_everywhere": False,
        "levels": "round",
        "ensd": 0,
    } | values


def _from_2(values: dict[str, Any], resolved: bool) -> dict[str, Any]:
    """There was no prompt editing, LoRA or ControlNet; uneven prompts were padded."""
    if not resolved:
        return values
    came = {"prompt_timing": "steps", "lora_mode": "run", "uneven_chunks": "padded", "control_rule": "a1111"}
    return came | values


def _from_3(values: dict[str, Any], resolved: bool) -> dict[str, Any]:
    """Source picture, mask, variation, tiles and conventions were flat fields; "mask" was the picture alone."""
    grouped: dict[str, Any] = {}
    for name, value in values.items():
        group, dot, key = (_MASK_IMAGE if name == "mask" else MOVED.get(name, name)).partition(".")
        if dot:
            grouped.setdefault(group, {})[key] = value
        else:
            grouped[name] = value
    return grouped


_MASK_IMAGE = "mask.image"
_STEPS: dict[int, Callable[[dict[str, Any], bool], dict[str, Any]]] = {1: _from_1, 2: _from_2, 3: _from_3}
