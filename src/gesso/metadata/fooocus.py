"""Settings from the JSON of Fooocus and its forks (the text "parameters")."""

import re
from collections.abc import Mapping
from typing import Any

from gesso.metadata.picture_metadata import (
    COMFYUI,
    Draft,
    PictureMetadata,
    pairs_of,
    real,
    says_nothing,
    stem_of,
    whole,
)

# Forks and older versions call the same by other names, or as their log shows it ("Negative Prompt").
_ALIASES = {
    "negative": "negative_prompt",
    "cfg": "guidance_scale",
    "sampler_name": "sampler",
    "base_model_name": "base_model",
    "software": "created_by",
}
_NUMBERS = {"steps": "num_steps", "guidance_scale": "guidance_scale", "seed": "seed", "clip_skip": "clip_skip"}
_READ = (
    *(*_NUMBERS, "prompt", "negative_prompt", "sampler", "scheduler", "resolution", "width", "height", "loras"),
    *("base_model", "base_model_hash", "refiner_model", "refiner_model_hash", "refiner_switch", "styles"),
)
# What tells where the picture comes from, and changes nothing in it. With the number of steps, a speed has no say.
_PROVENANCE = (
    *("metadata_scheme", "version", "created_by", "full_prompt", "full_negative_prompt", "performance"),
    *("image_number", "prompt_expansion", "fooocus_v2_expansion", "denoise", "start_step", "refiner_swap_method"),
)
_LORA = re.compile(r"(?:(?P<on>True|False) : )?(?P<name>.+?) : (?P<weight>[-+.\d]+)")
_SIZE = re.compile(r"\D*(\d{1,6})\D+(\d{1,6})\D*")


def from_fooocus(stored: Mapping[str, Any]) -> PictureMetadata:
    """The settings of a picture."""
    said = {_key(key): value for key, value in stored.items()}
    draft = Draft(**COMFYUI)
    for key in ("prompt", "negative_prompt"):
        value = said.get(key)
        draft.set(key, value if isinstance(value, str) else "", key)
    for key, path in _NUMBERS.items():
        draft.number(path, said.get(key), key)
    draft.sampler(said.get("sampler"), said.get("scheduler"))
    for side, value in zip(("width", "height"), _size(said), strict=True):
        draft.set(side, value, "resolution")
    used = _loras(draft, said)
    if not says_nothing(refiner := said.get("refiner_model")):
        draft.number("refiner_switch_at", said.get("refiner_switch"), "refiner_switch")
        draft.note(f"drawn with the refiner {str(refiner)[:80]}, which gesso does not look for; give it with `refiner`")
    styles = said.get("styles")
    if not says_nothing(styles) and styles != "[]":
        text = ", ".join(map(str, styles)) if isinstance(styles, list) else str(styles)
        draft.note(f"not supported, ignored: Fooocus's styles, which add words to both prompts: {text[:160]}")
    plain = ["vae"] if str(said.get("vae")).startswith("Default") else []
    draft.ignored(said, (*_READ, *_PROVENANCE, *used, *plain))
    model, digest = said.get("base_model"), said.get("base_model_hash")
    pairs = pairs_of(said)
    return draft.build(
        "Fooocus" if "ruined" not in str(said.get("created_by")).lower() else "RuinedFooocus",
        pairs=pairs,
        model=stem_of(model),
        model_hash=digest if isinstance(digest, str) else "",
    )


def _key(key: str) -> str:
    key = key.lower().replace(" ", "_")
    return _ALIASES.get(key, key)


def _size(said: Mapping[str, Any]) -> tuple[int | None, int | None]:
    if "width" in said:
        return whole(said["width"]), whole(said.get("height"))
    value = said.get("resolution")
    text = value if isinstance(value, str) else str(value)
    match = _SIZE.fullmatch(text[:64])
    return (int(match[1]), int(match[2])) if match else (None, None)


def _loras(draft: Draft, said: Mapping[str, Any]) -> list[str]:
    """The LoRA of a picture; gives the keys that they stand in, one each where they are not listed."""
    combined = [key for key in said if key.startswith(("lora_combined_", "lora_weight_", "lora_name_"))]
    listed = said.get("loras")
    if isinstance(listed, list) and listed:
        for entry in listed[:32]:
            if isinstance(entry, list) and len(entry) >= 2:
                first, second = (entry[1], entry[0]) if real(entry[1]) is None else (entry[0], entry[1])
                draft.lora(first, second)
        return combined
    for key in combined[:32]:
        match = _LORA.fullmatch(str(said[key])[:300])
        if match and match["on"] != "False":
            draft.lora(match["name"], match["weight"])
    return combined
