"""Settings from the metadata of InvokeAI (the text chunk "invokeai_metadata")."""

from typing import Any

from gesso.metadata.picture_metadata import Draft, PictureMetadata, real, whole
from gesso.request.checks import parse_json_object
from gesso.request.parts import HiresPass, LoraUse
from gesso.request.request import called_by

_SPECIAL = ("clip_skip",)  # one less than ours
_NOT_CARRIED = (
    "controlnets",
    "ipAdapters",
    "t2iAdapters",
    "vae",
    "refiner_model",
    "init_image",
    "positive_style_prompt",
)


def from_invokeai(text: str) -> PictureMetadata:
    """The settings of a picture. Raises RequestError (a GessoError) for what is no JSON object."""
    stored = parse_json_object(text, "invokeai_metadata")
    draft = Draft(preset="gesso", syntax="compel", emphasis="compel")
    draft.set("prompt", stored.get("positive_prompt"), "positive_prompt")
    draft.set("negative_prompt", stored.get("negative_prompt") or "", "negative_prompt")
    for key, row in called_by("invokeai"):
        if row.is_number and key not in _SPECIAL:
            draft.set(row.path, whole(stored.get(key)) if row.kind == "whole" else real(stored.get(key)), key)
    draft.set("noise", "nv" if stored.get("rand_device") == "cuda" else "cpu", "rand_device")
    scheduler = stored.get("scheduler")
    if isinstance(scheduler, str):  # dpmpp_2m_k: with the sigmas of Karras
        karras = scheduler.endswith("_k")
        draft.sampler(scheduler.removesuffix("_k"), "karras" if karras else None)
    axes = "".join(axis for axis in "xy" if stored.get(f"seamless_{axis}") is True)
    draft.set("tiling", axes or None, "seamless")
    if skip := whole(stored.get("clip_skip")):
        draft.set("clip_skip", skip + 1, "clip_skip")
    _loras(draft, stored.get("loras"))
    if stored.get("hrf_enabled") is True:
        strength, method = real(stored.get("hrf_strength")), stored.get("hrf_method")
        draft.values["hires"] = draft.part(
            HiresPass, "hrf", scale=2.0, strength=strength, upscaler=method if isinstance(method, str) else None
        )
    for key in _NOT_CARRIED:
        if stored.get(key):
            draft.note(f"not supported, ignored: {key}")
    model: Any = stored.get("model")
    called: Any = model.get("name") if isinstance(model, dict) else model
    pairs = {str(key)[:64]: str(value)[:200] for key, value in list(stored.items())[:100]}
    return draft.build("InvokeAI", pairs=pairs, model=called if isinstance(called, str) else "")


def _loras(draft: Draft, entries: Any) -> None:
    uses = []
    for entry in entries[:32] if isinstance(entries, list) else []:
        model: Any = entry.get("model", entry.get("lora")) if isinstance(entry, dict) else None
        called: Any = model.get("name", model.get("model_name")) if isinstance(model, dict) else None
        if isinstance(called, str):
            uses.append(draft.part(LoraUse, "lora", name=called, weight=real(entry.get("weight"))))
    draft.values["loras"] = tuple(use for use in uses if use is not None)
