"""Settings from the JSON of SwarmUI (the text "parameters"), which draws by ComfyUI."""

from collections.abc import Mapping
from typing import Any

from gesso.errors import short
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
from gesso.request.parts import HiresPass

_NUMBERS = {
    "steps": "num_steps",
    "cfgscale": "guidance_scale",
    "seed": "seed",
    "width": "width",
    "height": "height",
    "variationseedstrength": "variation.strength",
}
_READ = (
    *(*_NUMBERS, "prompt", "negativeprompt", "model", "sampler", "comfyuisampler", "scheduler", "comfyuischeduler"),
    *("variationseed", "clipstopatlayer", "loras", "loraweights", "seamlesstileable", "initimagecreativity"),
    *("refinerupscale", "refinercontrolpercentage", "refinerupscalemethod"),
)
# What tells where the picture comes from, and changes nothing in it.
_PROVENANCE = ("images", "swarm_version", "original_prompt", "originalprompt", "date", "personalnote", "aspectratio")
_TILING = {"true": "xy", "x-only": "x", "y-only": "y"}


def from_swarmui(stored: Mapping[str, Any]) -> PictureMetadata:
    """The settings of a picture, from the whole object or the one in its "sui_image_params"."""
    inner = stored.get("sui_image_params")
    said: Mapping[str, Any] = inner if isinstance(inner, dict) else stored
    draft = Draft(**COMFYUI)
    for key, path in (("prompt", "prompt"), ("negativeprompt", "negative_prompt")):
        draft.set(path, said.get(key) or "", key)
    for key, path in _NUMBERS.items():
        draft.number(path, said.get(key), key)
    if "variation.strength" in draft.values:
        draft.number("variation.seed", said.get("variationseed"), "variationseed")
    draft.sampler(*(said.get(key, said.get(f"comfyui{key}")) for key in ("sampler", "scheduler")))
    if (layer := whole(said.get("clipstopatlayer"))) is not None:
        draft.set("clip_skip", abs(layer), "clipstopatlayer")
    if not says_nothing(tiling := said.get("seamlesstileable")):
        draft.set("tiling", _TILING.get(str(tiling).lower(), str(tiling)), "seamlesstileable")
    if not says_nothing(said.get("initimage")) or "initimagecreativity" in said:
        draft.number("source.strength", said.get("initimagecreativity"), "initimagecreativity")
    weights = _listed(said.get("loraweights"))
    for at, name in enumerate(_listed(said.get("loras"))):
        draft.lora(name, weights[at] if at < len(weights) else None)
    _second_pass(draft, said)
    if "<" in draft.values.get("prompt", ""):
        text = "gesso reads SwarmUI's <tags> in the prompt as text"
        draft.note(text, code="syntax_differs", field="prompt")
    draft.ignored(said, (*_READ, *_PROVENANCE))
    model = said.get("model")
    pairs = pairs_of(said)
    return draft.build("SwarmUI", pairs=pairs, model=stem_of(model))


def _second_pass(draft: Draft, said: Mapping[str, Any]) -> None:
    """SwarmUI's "Refine / Upscale": an enlargement, of which a share is drawn again."""
    scale, share = real(said.get("refinerupscale")), real(said.get("refinercontrolpercentage"))
    if scale is None or scale <= 1:
        if share and not says_nothing(said.get("refinermodel")):
            draft.set("refiner_switch_at", 1 - share, "refinercontrolpercentage")
        return
    method = said.get("refinerupscalemethod")
    if not share:
        draft.note(
            f"SwarmUI enlarged the picture {scale:g} times ({short(method)}) without drawing it again", field="hires"
        )
        return
    kind, _, name = method.partition("-") if isinstance(method, str) else ("", "", "")
    upscaler = {"pixel": name, "model": stem_of(name), "latent": f"latent_{name.replace('-', '_')}"}.get(kind)
    draft.values["hires"] = draft.part(HiresPass, "refinerupscale", scale=scale, strength=share, upscaler=upscaler)


def _listed(value: Any) -> list[Any]:
    """A list, or one that is written as text with commas."""
    if isinstance(value, list):
        return value[:32]
    if isinstance(value, str):
        return [part.strip() for part in value.split(",")[:32]] if value.strip() else []
    return [] if value is None else [value]
