"""What there is, in the web UI's words: models, samplers, schedules, upscalers, LoRA, scripts. Pure translators.

Names of files go out, and never where they lie.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gesso.api.cards import file_hash
from gesso.api.preprocessors import Slider, modules
from gesso.diffusion.sampler_table import SAMPLERS
from gesso.diffusion.schedule_table import SCHEDULES
from gesso.errors import one_line, short
from gesso.frontends.styles import Style
from gesso.library.entry import LibraryEntry
from gesso.request.checks import nearest
from gesso.request.hires import A1111_NAMES, LATENT_UPSCALERS, a1111_name
from gesso.surfaces.a1111.controlnet import CONTROL_TYPES, MAX_UNITS
from gesso.surfaces.a1111.errors import refusal

MAX_TEXT = 500
# Ours that the web UI calls otherwise inside of requests.
_SCHEDULE_NAMES = {"ddim_uniform": "ddim"}
_EXTENSION = re.compile(r"\.(safetensors|sft|ckpt|pt|pth|bin)$")
_TITLE_HASH = re.compile(r"\s*\[[0-9a-fA-F]+\]\s*$")


def title(entry: LibraryEntry) -> str:
    """How the web UI calls a model: its file, and ten digits of its hash where that is known."""
    digest = file_hash(entry)
    return f"{file_name(entry)} [{digest[:10]}]" if digest else file_name(entry)


def file_name(entry: LibraryEntry) -> str:
    """The name of the file, without its folder."""
    return entry.path.name or entry.name


def find_model(text: str, entries: Iterable[LibraryEntry]) -> LibraryEntry:
    """A model by its title, name, file or hash, as the web UI finds one. Raises HttpError."""
    found = list(entries)
    wanted = text.strip()
    plain = _TITLE_HASH.sub("", wanted).rpartition("/")[2].lower()
    for entry in found:
        digest = file_hash(entry) or ""
        names = {entry.name.lower(), file_name(entry).lower(), _EXTENSION.sub("", file_name(entry).lower())}
        is_hash = len(wanted) >= 8 and digest.startswith(wanted.lower())
        if wanted == title(entry) or plain in names or is_hash:
            return entry
    known = [entry.name for entry in found]
    detail = f"no model is called {short(wanted)}{nearest(plain, known)}; GET /sdapi/v1/sd-models lists them"
    raise refusal(detail, "sd_model_checkpoint", code="unknown_name")


def models(entries: Iterable[LibraryEntry]) -> list[dict[str, Any]]:
    """GET sd-models."""
    listed = []
    for entry in entries:
        digest = file_hash(entry)
        listed.append(
            {
                "title": title(entry),
                "model_name": entry.name,
                "hash": digest[:10] if digest else None,
                "sha256": digest,
                "filename": file_name(entry),
                "config": None,
            }
        )
    return listed


def samplers() -> list[dict[str, Any]]:
    """GET samplers. `scheduler` is what Automatic means."""
    return [
        {"name": row.label, "aliases": [name, *row.aliases], "options": {"scheduler": row.schedule}}
        for name, row in SAMPLERS.items()
    ]


def schedulers() -> list[dict[str, Any]]:
    """GET schedulers."""
    rows = [("automatic", "Automatic", ())] + [
        (_SCHEDULE_NAMES.get(name, name), row.label, row.aliases) for name, row in SCHEDULES.items()
    ]
    return [
        {"name": name, "label": label, "aliases": list(aliases), "default_rho": -1.0, "need_inner_model": False}
        for name, label, aliases in rows
    ]


def upscalers(names: Iterable[str]) -> list[dict[str, Any]]:
    """GET upscalers.  names: of those in the library"""
    plain = [(name, None, 4) for name in ("None", "Lanczos", "Nearest")]
    own = [(a1111_name(name), name, 4) for name in names]
    return [
        {"name": name, "model_name": model, "model_path": None, "model_url": None, "scale": scale}
        for name, model, scale in [*plain, *own]
    ]


def latent_modes() -> list[dict[str, str]]:
    """GET latent-upscale-modes."""
    return [{"name": name} for name, ours in A1111_NAMES.items() if ours in LATENT_UPSCALERS]


def loras(entries: Iterable[LibraryEntry]) -> list[dict[str, Any]]:
    """GET loras."""
    return [
        {
            "name": entry.name,
            "alias": entry.metadata.get("ss_output_name") or entry.name,
            "path": file_name(entry),
            "metadata": {_text(key): _text(value) for key, value in entry.metadata.items()},
        }
        for entry in entries
    ]


def _text(value: object) -> str:
    """What a model's author wrote, as one line."""
    return one_line(str(value))[:MAX_TEXT]


def embeddings(entries: Iterable[LibraryEntry]) -> dict[str, Any]:
    """GET embeddings. Shapes are not looked at before one is used."""
    row = {"step": None, "sd_checkpoint": None, "sd_checkpoint_name": None, "shape": None, "vectors": None}
    return {"loaded": {entry.name: dict(row) for entry in entries}, "skipped": {}}


def styles(known: Mapping[str, Style]) -> list[dict[str, str]]:
    """GET prompt-styles."""
    return [
        {"name": style.name, "prompt": style.prompt, "negative_prompt": style.negative_prompt}
        for style in known.values()
    ]


def scripts() -> dict[str, list[str]]:
    """GET scripts: the one that is here."""
    return {"txt2img": ["controlnet"], "img2img": ["controlnet"]}


def script_info() -> list[dict[str, Any]]:
    """GET script-info."""
    arg = {"label": "ControlNet unit", "value": None, "minimum": None, "maximum": None, "step": None, "choices": None}
    return [
        {"name": "controlnet", "is_alwayson": True, "is_img2img": is_img2img, "args": [dict(arg) for _ in range(3)]}
        for is_img2img in (False, True)
    ]


# ---- ControlNet ------------------------------------------------------------------------------------------------------


def control_models(entries: Iterable[LibraryEntry]) -> list[str]:
    """GET /controlnet/model_list: names, with eight digits of their hash where that is known."""
    return [f"{entry.name} [{digest[:8]}]" if (digest := file_hash(entry)) else entry.name for entry in entries]


def module_list(*, aliases: bool) -> list[str]:
    """The names of preprocessors.  aliases: those of other tools too"""
    names = ["none"]
    for name, module in modules().items():
        names += [name, *(module.aliases if aliases else ())]
    return names


def module_detail() -> dict[str, Any]:
    """What sliders a preprocessor has: the first two are threshold_a and threshold_b of a unit."""
    return {"none": {"model_free": False, "sliders": []}} | {
        name: {"model_free": False, "sliders": [_slider(one) for one in module.sliders[:2]]}
        for name, module in modules().items()
    }


def _slider(slider: Slider) -> dict[str, Any]:
    step = 1 if slider.whole or slider.high - slider.low > 16 else 0.01
    return {"name": slider.help, "value": slider.default, "min": slider.low, "max": slider.high, "step": step}


def control_types(models: Sequence[str]) -> dict[str, Any]:
    """GET /controlnet/control_types."""
    everything = {"module_list": module_list(aliases=False), "model_list": ["None", *models]}
    made = {"All": everything | {"default_option": "none", "default_model": "None"}}
    for kind, names in CONTROL_TYPES.items():
        word = re.sub(r"[^a-z0-9]", "", kind.lower())
        fitting = [name for name in models if word in re.sub(r"[^a-z0-9]", "", name.lower())]
        made[kind] = {
            "module_list": ["none", *names],
            "model_list": ["None", *(fitting or models)],
            "default_option": names[0] if names else "none",
            "default_model": fitting[0] if fitting else "None",
        }
    return made


def control_settings() -> dict[str, int]:
    """GET /controlnet/settings."""
    return {"control_net_unit_count": MAX_UNITS}
