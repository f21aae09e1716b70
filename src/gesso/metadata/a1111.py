"""Settings from the text of AUTOMATIC1111's web UI, its relatives, and gesso, which writes the same."""

import re
from collections.abc import Mapping
from typing import Any

from gesso.metadata.picture_metadata import Draft, PictureMetadata, real, whole
from gesso.pictures.infotext_reading import Infotext
from gesso.request.hires import upscaler_name
from gesso.request.parts import HiresPass
from gesso.request.request import ROWS

_SIZE = re.compile(r"(\d{1,6})x(\d{1,6})")
_EMPHASIS = {"none": "ignore"}  # what an old version calls it
# Fields that stand there as single numbers.
_NUMBERS = (
    *(
        "num_steps",
        "guidance_scale",
        "source.guidance_scale",
        "guidance_rescale",
        "clip_skip",
        "conventions.ensd",
        "eta",
    ),
    *("source.noise_level", "refiner_switch_at"),
)
_SAME = ("Use same sampler", "Use same scheduler", "Use same checkpoint", "")
# Keys that change the picture there and have no place in our request.
_ELSEWHERE = (
    *("VAE", "Face restoration", "Token merging ratio", "Conditional mask weight", "NGMS", "Mask mode", "FP8 weight"),
    *(
        "Hires checkpoint",
        "Init image hash",
        "Schedule min sigma",
        "Schedule max sigma",
        "Schedule rho",
        "AddNet Enabled",
    ),
)


def from_infotext(text: Infotext) -> PictureMetadata:
    """The settings that a text tells, by the rules of the tool that its "Version" names."""
    pairs = text.pairs
    ours = pairs.get("Version", "").startswith("gesso")
    draft = Draft(prompt=text.prompt, negative_prompt=text.negative_prompt)
    draft.set("preset", pairs.get("Preset", "gesso") if ours else "a1111", "Preset")
    _numbers(draft, pairs)
    draft.sampler(pairs.get("Sampler"), pairs.get("Schedule type"))
    _sizes(draft, pairs)
    _noise(draft, pairs, ours=ours)
    _passes(draft, pairs)
    _masks(draft, pairs)
    draft.set(
        "conventions.emphasis",
        _word(pairs, "conventions.emphasis") or _EMPHASIS.get(pairs.get("Emphasis", "").lower()),
        "Emphasis",
    )
    if pairs.get("Tiling", "") not in ("", "False"):
        draft.set("tiling", {"True": "xy"}.get(pairs["Tiling"], pairs["Tiling"].lower()), "Tiling")
    for key in pairs:
        if key in _ELSEWHERE or key.startswith(("ControlNet", "Regional", "Dynamic thresholding")):
            draft.note(f"not supported, ignored: {key}: {pairs[key]}")
    tool = "gesso" if ours else "A1111"
    return draft.build(tool, pairs=pairs, model=pairs.get("Model", ""), model_hash=pairs.get("Model hash", ""))


def _numbers(draft: Draft, pairs: Mapping[str, str]) -> None:
    for name in _NUMBERS:
        row = ROWS[name]
        if (key := row.field.infotext) in pairs:
            value: Any = whole(pairs[key]) if row.kind == "whole" else real(pairs[key])
            draft.set(name, value if value is not None else pairs[key], key)
    if pairs.get("Discard penultimate sigma") == "True":
        draft.set("conventions.discard_penultimate_sigma", True, "Discard penultimate sigma")
    if pairs.get("SGM noise multiplier") == "True":
        draft.set("conventions.initial_noise", "variance", "SGM noise multiplier")
    if "Sigmas" in pairs:
        levels = [real(part) for part in pairs["Sigmas"].split()]
        draft.set("sigmas", tuple(levels), "Sigmas")


def _sizes(draft: Draft, pairs: Mapping[str, str]) -> None:
    for key, names in (("Size", ("width", "height")), ("Seed resize from", ("variation.width", "variation.height"))):
        if (match := _SIZE.fullmatch(pairs.get(key, ""))) and int(match[1]) and int(match[2]):
            for name, side in zip(names, match.groups(), strict=True):
                draft.set(name, int(side), key)


def _noise(draft: Draft, pairs: Mapping[str, str], *, ours: bool) -> None:
    draft.set("seed", whole(pairs.get("Seed")), "Seed")
    draft.set("variation.strength", real(pairs.get("Variation seed strength")), "Variation seed strength")
    if "variation.strength" in draft.values:
        draft.set("variation.seed", whole(pairs.get("Variation seed")), "Variation seed")
    source = pairs.get("RNG", "").lower()
    if ours and "Noise" in pairs:
        draft.set("noise", pairs["Noise"], "Noise")
        draft.set("first_index", whole(pairs.get("Picture index")), "Picture index")
    elif source in ("cpu", "nv"):
        draft.set("noise", source, "RNG")
    elif not ours:
        draft.set("noise", "nv", "RNG")  # their GPU source, to the last bit or two


def _passes(draft: Draft, pairs: Mapping[str, str]) -> None:
    """A second pass, or else the strength of an image to image run."""
    strength = real(pairs.get("Denoising strength"))
    resized = _SIZE.fullmatch(pairs.get("Hires resize", ""))
    if "Hires upscale" not in pairs and "Hires upscaler" not in pairs and not (resized and int(resized[1])):
        draft.set("source.strength", strength, "Denoising strength")
        return
    size = resized if resized and int(resized[1]) and int(resized[2]) else None
    sampler = Draft()
    names = [pairs.get(key, "") for key in ("Hires sampler", "Hires schedule type")]
    sampler.sampler(*(None if name in _SAME else name for name in names))
    draft.note_all(sampler.notices)
    draft.values["hires"] = draft.part(
        HiresPass,
        "Hires",
        scale=None if size else real(pairs.get("Hires upscale")),
        width=int(size[1]) if size else None,
        height=int(size[2]) if size else None,
        upscaler=upscaler_name(pairs["Hires upscaler"]) if "Hires upscaler" in pairs else None,
        strength=strength,
        num_steps=whole(pairs.get("Hires steps")) or None,
        guidance_scale=real(pairs.get("Hires CFG Scale")),
        prompt=pairs.get("Hires prompt"),
        negative_prompt=pairs.get("Hires negative prompt"),
        **sampler.values,
    )


def _masks(draft: Draft, pairs: Mapping[str, str]) -> None:
    draft.set("mask.blur", real(pairs.get("Mask blur")), "Mask blur")
    draft.set("mask.content", _word(pairs, "mask.content"), "Masked content")
    draft.set("mask.area", _word(pairs, "mask.area"), "Inpaint area")
    if draft.values.get("mask.area") == "masked":
        draft.set("mask.padding", whole(pairs.get("Masked area padding", "32")), "Masked area padding")


def _word(pairs: Mapping[str, str], name: str) -> str | None:
    """gesso's word for the value of a field; None for an unknown word."""
    about = ROWS[name].field
    word = pairs.get(about.infotext, "").lower()
    return next((ours for ours, theirs in about.words.items() if theirs.lower() == word), None)
