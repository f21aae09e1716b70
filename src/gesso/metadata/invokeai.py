"""Settings of InvokeAI: "invokeai_metadata" of version 3 and later, "sd-metadata" or "Dream" of versions 1 and 2."""

import re
from collections.abc import Mapping
from typing import Any

from gesso.errors import GessoError
from gesso.metadata.picture_metadata import Draft, PictureMetadata, pairs_of, says_nothing, stem_of, whole
from gesso.request.checks import parse_json_object
from gesso.request.parts import HiresPass
from gesso.request.request import called_by

_SPECIAL = ("clip_skip",)  # one less than ours
_READ = (
    *("positive_prompt", "negative_prompt", "rand_device", "scheduler", "seamless_x", "seamless_y", "clip_skip"),
    *("loras", "model", "hrf_enabled", "hrf_strength", "hrf_method", "refiner_model", "refiner_start"),
)
# Lists of guides -> what they are called, and the key of the model.
_GUIDES = {
    "controlnets": ("ControlNet", "control_model"),
    "t2iAdapters": ("T2I-Adapter", "t2i_adapter_model"),
    "ipAdapters": ("IP-Adapter", "ip_adapter_model"),
}
# What tells where the picture comes from, and changes nothing in it.
_PROVENANCE = ("app_version", "generation_mode", "created_by", "imported", "type", "workflow", "graph")
_OLD_NUMBERS = {
    "steps": "num_steps",
    "cfg_scale": "guidance_scale",
    "seed": "seed",
    "width": "width",
    "height": "height",
}
_OLD_READ = (*_OLD_NUMBERS, "prompt", "sampler", "sampler_name", "seamless", "strength", "type", "strength_steps")
_OLD_PROVENANCE = ("orig_hash", "extra", "mask_image_path")
# The letters of the command that "Dream" holds.
_LETTERS = {
    "s": "steps",
    "S": "seed",
    "W": "width",
    "H": "height",
    "C": "cfg_scale",
    "A": "sampler",
    "f": "strength",
    "I": "init_image_path",
    "U": "upscale",
    "G": "facetool_strength",
    "ft": "facetool",
    "V": "variations",
}
_DREAM = re.compile(r'"(?P<prompt>.*)"(?P<flags>(?: .*)?)', re.DOTALL)
_AVOIDED = re.compile(r"(?<!\\)\[([^\[\]]*)(?<!\\)\]")


def from_invokeai(text: str) -> PictureMetadata:
    """The settings of a picture of version 3 or later. Raises RequestError where it is no JSON object."""
    return from_metadata(parse_json_object(text, "invokeai_metadata"))


def from_metadata(stored: Mapping[str, Any]) -> PictureMetadata:
    """The same, from the object."""
    draft = Draft(preset="gesso", syntax="compel", emphasis="compel")
    draft.set("prompt", stored.get("positive_prompt"), "positive_prompt")
    draft.set("negative_prompt", stored.get("negative_prompt") or "", "negative_prompt")
    numbers = [(key, row) for key, row in called_by("invokeai") if row.is_number and key not in _SPECIAL]
    for key, row in numbers:
        draft.number(row.path, stored.get(key), key)
    draft.set("noise", "nv" if stored.get("rand_device") == "cuda" else "cpu", "rand_device")
    _scheduler(draft, stored.get("scheduler"))
    axes = "".join(axis for axis in "xy" if stored.get(f"seamless_{axis}") is True)
    draft.set("tiling", axes or None, "seamless")
    if skip := whole(stored.get("clip_skip")):
        draft.set("clip_skip", skip + 1, "clip_skip")
    listed = stored.get("loras")
    for entry in listed[:32] if isinstance(listed, list) else ():
        if isinstance(entry, dict):
            draft.lora(_name(entry.get("model", entry.get("lora"))), entry.get("weight"))
    if stored.get("hrf_enabled") is True:
        strength, method = stored.get("hrf_strength"), stored.get("hrf_method")
        draft.values["hires"] = draft.part(
            HiresPass, "hrf", scale=2.0, strength=strength, upscaler=method if isinstance(method, str) else None
        )
    if (refiner := _name(stored.get("refiner_model"))) and not says_nothing(refiner):
        draft.number("refiner_switch_at", stored.get("refiner_start"), "refiner_start")
        draft.note(f"drawn with the refiner {refiner[:80]}, which gesso does not look for; give it with `refiner`")
    told = [key for key in _GUIDES if _guides(draft, key, stored.get(key))]
    if vae := _name(stored.get("vae")):
        draft.note(f"not taken over: the VAE {vae[:120]}; give it with --vae", code="vae_separate")
        told.append("vae")
    signs = ("positive", "negative")
    style = [f"{s}_style_prompt" for s in signs if stored.get(f"{s}_style_prompt") == stored.get(f"{s}_prompt")]
    draft.ignored(stored, (*_READ, *_PROVENANCE, *style, *told, *(key for key, _ in numbers)))
    return draft.build("InvokeAI", pairs=pairs_of(stored), model=_name(stored.get("model")))


def _guides(draft: Draft, key: str, listed: Any) -> bool:
    """A notice for each guide of a kind that has a model with a name; whether there are such."""
    what, model_key = _GUIDES[key]
    entries = [one for one in listed[:32] if isinstance(one, dict)] if isinstance(listed, list) else []
    named = [(one, name) for one in entries if (name := _name(one.get(model_key)))]
    for one, name in named:
        weight = one.get("control_weight", one.get("weight"))
        about = f" (weight {weight:g})" if isinstance(weight, int | float) and not isinstance(weight, bool) else ""
        draft.note(
            f"{what} {name[:100]}{about} is not taken over: its picture is not in the file. "
            "Give model and picture with --control",
            code="control_absent",
            field="controls",
        )
    return bool(named)


def from_invokeai_2(text: str) -> PictureMetadata:
    """The settings in "sd-metadata". Raises RequestError (a GessoError) for what is no JSON object, or has no image."""
    return from_old_metadata(parse_json_object(text, "sd-metadata"))


def from_old_metadata(stored: Mapping[str, Any]) -> PictureMetadata:
    """The same, from the object."""
    image: Any = stored.get("image", stored)
    if not isinstance(image, dict):
        raise GessoError("the text 'sd-metadata' has no settings of an image", code="no_settings")
    model = stored.get("model_weights", stored.get("model"))
    digest = stored.get("model_hash")
    return _old(
        image,
        model=stem_of(model),
        model_hash=digest if isinstance(digest, str) else "",
    )


def from_dream(text: str) -> PictureMetadata:
    """The settings in "Dream", a prompt in quotes and flags. Raises GessoError for anything else."""
    match = _DREAM.fullmatch(text.strip())
    if match is None:
        raise GessoError("the text 'Dream' is no prompt in quotes with flags", code="no_settings")
    image: dict[str, Any] = {"prompt": match["prompt"]}
    words = match["flags"].split()
    for at, word in enumerate(words):
        if not re.fullmatch(r"--?[A-Za-z]\S*", word):
            continue
        follows = words[at + 1] if at + 1 < len(words) and not re.match(r"-[A-Za-z-]", words[at + 1]) else ""
        for letters in sorted(_LETTERS, key=len, reverse=True):
            if (head := f"-{letters}") == word or (word.startswith(head) and _is_number_after(word, head)):
                image[_LETTERS[letters]] = word.removeprefix(head) or follows or "True"
                break
        else:
            image[word.lstrip("-").replace("-", "_")] = follows or "True"
    if "strength" in image:
        image["type"] = "img2img"
    return _old(image)


def _is_number_after(word: str, head: str) -> bool:
    """Whether the rest of a flag is its number: -s30."""
    return re.fullmatch(r"[-+.\d]+", word.removeprefix(head)) is not None


def _old(image: Mapping[str, Any], *, model: str = "", model_hash: str = "") -> PictureMetadata:
    draft = Draft(preset="gesso", syntax="compel", emphasis="compel", noise="nv")
    prompt = image.get("prompt")
    parts = prompt if isinstance(prompt, list) else [prompt]
    words = [part.get("prompt") if isinstance(part, dict) else part for part in parts]
    text = next((word for word in words if isinstance(word, str)), "")
    if len(words) > 1:
        draft.note(f"not supported, ignored: the other {len(words) - 1} prompts that were blended", field="prompt")
    draft.set("prompt", " ".join(_AVOIDED.sub(" ", text).split()), "prompt")
    draft.set("negative_prompt", " ".join(match.strip() for match in _AVOIDED.findall(text)), "prompt")
    for key, path in _OLD_NUMBERS.items():
        draft.number(path, image.get(key), key)
    _scheduler(draft, image.get("sampler", image.get("sampler_name")))
    if image.get("type") in ("img2img", "inpaint") or not says_nothing(image.get("init_image_path")):
        draft.number("source.strength", image.get("strength"), "strength")
    draft.set("tiling", None if says_nothing(image.get("seamless")) else "xy", "seamless")
    draft.ignored(image, (*_OLD_READ, *_OLD_PROVENANCE))
    return draft.build("InvokeAI", pairs=pairs_of(image), model=model, model_hash=model_hash)


def _scheduler(draft: Draft, name: Any) -> None:
    """A sampler by InvokeAI's name: dpmpp_2m_k is with the sigmas of Karras, k_euler_a a sampler of k-diffusion."""
    if isinstance(name, str):
        karras = name.endswith("_k")
        draft.sampler(name.removesuffix("_k"), "karras" if karras else None)
    else:
        draft.sampler(name, None)


def _name(model: Any) -> str:
    """The name of a model, which version 3 calls "model_name"."""
    if isinstance(model, dict):
        model = model.get("name", model.get("model_name"))
    return model if isinstance(model, str) else ""
