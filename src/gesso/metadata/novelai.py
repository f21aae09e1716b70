"""Settings of NovelAI: "Description" is the prompt, "Comment" a JSON object with the rest.

They stand in text chunks, in one JSON object of a WebP's comment, or hidden in the pixels.
"""

from collections.abc import Mapping
from typing import Any

from gesso.metadata.picture_metadata import Draft, PictureMetadata, pairs_of, says_nothing
from gesso.request.checks import parse_json_object
from gesso.request.request import called_by

_READ = ("prompt", "uc", "v4_prompt", "v4_negative_prompt", "sampler", "noise_schedule")
# Versions, formats, what every picture has at the same value, and what goes with something that is named itself.
_PROVENANCE = (
    *("request_type", "signed_hash", "version", "params_version", "n_samples", "image_format", "stream"),
    *("add_original_image", "extra_noise_seed", "legacy", "legacy_v3_extend", "hide_debug_overlay"),
    *("cfg_sched_eligibility", "explike_fine_detail", "minimize_sigma_inf", "uncond_per_vibe", "prefer_brownian"),
    *("wonky_vibe_correlation", "deliberate_euler_ancestral_bug", "lora_clip_weights", "qualityToggle", "ucPreset"),
    *("dynamic_thresholding_percentile", "dynamic_thresholding_mimic_scale", "skip_cfg_below_sigma"),
)
_DEFAULTS = {"uncond_scale": 1, "controlnet_strength": 1, "cfg_rescale": 0}  # where nothing was chosen


def is_novelai(texts: Mapping[str, Any]) -> bool:
    """Whether these texts, or these fields of an object, are NovelAI's."""
    named = any(str(texts.get(key, "")).startswith("NovelAI") for key in ("Software", "Source", "Title"))
    return named and isinstance(texts.get("Comment"), str)


def from_novelai(texts: Mapping[str, Any]) -> PictureMetadata:
    """The settings of a picture. Raises RequestError (a GessoError) where "Comment" is no JSON object."""
    return from_comment(parse_json_object(texts.get("Comment", "{}"), "Comment"), texts)


def from_comment(comment: Mapping[str, Any], texts: Mapping[str, Any]) -> PictureMetadata:
    """The settings in the object of "Comment".  texts: what stands beside it"""
    draft = Draft(preset="a1111", ensd=31337, clip_skip=2, noise="cpu")  # how its first models are drawn elsewhere
    prompt, characters = _captions(comment, "prompt", "v4_prompt", texts.get("Description", ""))
    avoid, avoided = _captions(comment, "uc", "v4_negative_prompt", "")
    draft.set("prompt", ", ".join(filter(None, [prompt, *characters])), "prompt")
    draft.set("negative_prompt", ", ".join(filter(None, [avoid, *avoided])), "uc")
    if characters or avoided:
        text = "NovelAI draws each character in a place of its own; gesso appends their words to the prompt"
        draft.note(text, code="syntax_differs", field="prompt")
    numbers = [(key, row) for key, row in called_by("novelai") if row.is_number]
    for key, row in numbers:
        draft.number(row.path, comment.get(key), key)
    sampler, schedule = comment.get("sampler"), comment.get("noise_schedule")
    draft.sampler(
        sampler.removeprefix("k_") if isinstance(sampler, str) else None,
        schedule if isinstance(schedule, str) and schedule != "native" else None,
    )
    if any(sign in draft.values.get("prompt", "") for sign in ("{", "}", "::")):
        text = "gesso reads NovelAI's {braces} and 1.5::weights:: as text; for a weight of 1.05, write (text:1.05)"
        draft.note(text, code="syntax_differs", field="prompt")
    source = texts.get("Source")
    text = (
        f"drawn by {source[:80] if isinstance(source, str) and source else 'a model of NovelAI'}, which is not public"
    )
    draft.note(text, code="model_unavailable", field="model")
    plain = [key for key, value in _DEFAULTS.items() if comment.get(key) == value]
    draft.ignored(comment, (*_READ, *_PROVENANCE, *plain, *(key for key, _ in numbers)))
    pairs = pairs_of(comment)
    return draft.build("NovelAI", pairs=pairs)


def _captions(comment: Mapping[str, Any], key: str, nested: str, other: Any) -> tuple[str, list[str]]:
    """The words for the whole picture, and those for each character."""
    outer: Any = comment.get(nested)
    caption: Any = outer.get("caption") if isinstance(outer, dict) else None
    held: Any = caption if isinstance(caption, dict) else {}
    words = next((text for text in (comment.get(key), held.get("base_caption"), other) if isinstance(text, str)), "")
    listed = held.get("char_captions")
    captions = [one.get("char_caption") for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
    return words, [text for text in captions[:32] if isinstance(text, str) and not says_nothing(text)]
