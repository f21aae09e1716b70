"""Settings from the text of AUTOMATIC1111's web UI, its relatives, and gesso, which writes the same."""

import math
import re
from collections.abc import Mapping

from gesso.errors import short
from gesso.metadata.picture_metadata import COMFYUI, Draft, PictureMetadata, real, says_nothing, whole
from gesso.pictures.infotext_reading import Infotext
from gesso.request.hires import upscaler_name
from gesso.request.parts import HiresPass
from gesso.request.request import ROWS

_SIZE = re.compile(r"(\d{1,6})\s*x\s*(\d{1,6})")
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
    *("source.noise_level", "refiner_switch_at", "guidance_until", "deep_cache"),
)
_SAME = ("Use same sampler", "Use same scheduler", "Use same checkpoint", "Same as primary", "Default", "")
# Keys that are read, besides those of _NUMBERS.
_READ = (
    *("Sampler", "Schedule type", "Scheduler", "Sampler sigma", "Size", "Seed resize from", "First pass size", "Seed"),
    *("Variation seed", "Variation seed strength", "Variation strength", "RNG", "Noise", "Picture index", "Preset"),
    *("Denoising strength", "Hires upscale", "Hires scale", "Hires resize", "Hires size", "Hires fixed"),
    *("Hires upscaler", "Hires sampler", "Hires schedule type", "Hires steps", "Hires CFG Scale", "Hires prompt"),
    *("Hires negative prompt", "Hires strength", "Hires force", "Second pass", "Mask blur", "Masked content"),
    *("Inpaint area", "Masked area padding", "Emphasis", "Tiling", "Discard penultimate sigma", "Sigmas", "Refiner"),
    *("SGM noise multiplier", "Model", "Model hash", "Version", "App"),
)
# Keys that tell where the picture comes from, and change nothing in it.
_PROVENANCE = (
    *("VAE hash", "Lora hashes", "TI hashes", "Hashes", "User", "Civitai resources", "Civitai metadata", "Resources"),
    *("Created Date", "Hashed prompt", "Batch size", "Batch pos", "Batch count", "Template", "Negative Template"),
    *("Operations", "Backend", "Pipeline", "Styles", "Comment", "Time", "Index", "Width", "Height"),
)
# Values that other tools write and that switch nothing on.
_OFF = {
    "FP8 weight": ("Disable",),
    "Mask mode": ("Inpaint masked",),
    "VAE": ("Automatic",),
    "Parser": ("native", "Full parser", "a1111", "A1111 parser"),
    "VAE Encoder": ("Full",),
    "VAE Decoder": ("Full",),
    "Conditional mask weight": ("1", "1.0"),
    "Hires checkpoint": _SAME,
}
# Plug-ins that shorten their names in keys.
_PLUG_INS = {"RP": "Regional Prompter", "Soft": "Soft inpainting"}
_FIRST_WORD = re.compile(r"(\S+) +(\D.*)")
# stable-diffusion.cpp's words for what others call so.
_CPP_SCHEDULES = {"discrete": "normal", "ays": "align_your_steps"}
_FIRST_PASS_PIXELS = 512 * 512  # of a first pass whose size the web UI chose itself, before December 2022


def from_infotext(text: Infotext) -> PictureMetadata:
    """The settings that a text tells, by the rules of the tool that its "Version" names."""
    pairs = _spelled(text.pairs)
    tool = _tool(pairs)
    ours = tool == "gesso"
    conventions = COMFYUI if tool in ("ComfyUI", "Fooocus") else {}
    draft = Draft(prompt=text.prompt, negative_prompt=text.negative_prompt, **conventions)
    if not conventions:
        draft.set("preset", pairs.get("Preset", "gesso") if ours else "a1111", "Preset")
    _numbers(draft, pairs)
    draft.sampler(*_sampler(pairs, tool))
    _sizes(draft, pairs)
    _noise(draft, pairs, ours=ours)
    _passes(draft, pairs, tool)
    _masks(draft, pairs)
    draft.set(
        "conventions.emphasis",
        _word(pairs, "conventions.emphasis") or _EMPHASIS.get(pairs.get("Emphasis", "").lower()),
        "Emphasis",
    )
    if pairs.get("Tiling", "") not in ("", "False"):
        draft.set("tiling", {"True": "xy"}.get(pairs["Tiling"], pairs["Tiling"].lower()), "Tiling")
    if not says_nothing(pairs.get("Refiner")):
        text_of = (
            f"drawn with the refiner {pairs['Refiner'][:80]}, which gesso does not look for; give it with `refiner`"
        )
        draft.note(text_of, field="refiner")
    _ignored(draft, pairs)
    return draft.build(tool, pairs=text.pairs, model=pairs.get("Model", ""), model_hash=pairs.get("Model hash", ""))


def _spelled(pairs: Mapping[str, str]) -> dict[str, str]:
    """The pairs, with A1111's spelling of keys that others write "CFG Scale" or "cfg_scale"."""
    known = {
        key.lower(): key for key in (*_READ, *_PROVENANCE, *_OFF, *(ROWS[name].field.infotext for name in _NUMBERS))
    }
    spelled: dict[str, str] = {}
    for key, value in pairs.items():
        name = known.get(key.lower().replace("_", " "), key)
        if name == key or name not in pairs:
            spelled[name] = value
    return spelled


def _tool(pairs: Mapping[str, str]) -> str:
    version, app = pairs.get("Version", ""), pairs.get("App", "")
    if version.startswith("gesso"):
        return "gesso"
    for name in ("ComfyUI", "stable-diffusion.cpp", "Fooocus", "SD.Next"):
        if name in (app, version) or version.startswith((f"{name} ", f"{name}-")):
            return name
    return "A1111"


def _sampler(pairs: Mapping[str, str], tool: str) -> tuple[str | None, str | None]:
    sampler = pairs.get("Sampler")
    schedule = next((pairs[key] for key in ("Schedule type", "Scheduler", "Sampler sigma") if key in pairs), None)
    if tool == "stable-diffusion.cpp" and sampler is not None:
        name, _, last = sampler.partition(" ")
        sampler, schedule = name, schedule or last or None
        schedule = _CPP_SCHEDULES.get(schedule, schedule) if schedule is not None else None
    elif sampler is not None and sampler.endswith(" discrete"):  # the same words by way of other tools
        sampler, schedule = sampler.removesuffix(" discrete"), schedule or "normal"
    if tool == "SD.Next":
        sampler, schedule = (None if name in ("Default", "default") else name for name in (sampler, schedule))
    return sampler, schedule


def _ignored(draft: Draft, pairs: Mapping[str, str]) -> None:
    """A notice for each key that was not read; those of one plug-in share one."""
    used = {*_READ, *_PROVENANCE, *(ROWS[name].field.infotext for name in _NUMBERS)}
    left = {key: value for key, value in pairs.items() if key not in used and value not in _OFF.get(key, ())}
    groups: dict[str, dict[str, str]] = {}
    for key, value in left.items():
        match = _FIRST_WORD.fullmatch(key)
        groups.setdefault(match[1] if match else key, {})[match[2] if match else ""] = value
    shown: dict[str, str] = {}
    for word, settings in groups.items():
        name = _PLUG_INS.get(word, word)
        off = any(key.lower() in ("active", "enabled") and says_nothing(value) for key, value in settings.items())
        if off:
            continue
        if len(settings) > 1:
            shown[name] = ", ".join(f"{key}: {value}" if key else value for key, value in settings.items())
        else:
            ((key, value),) = settings.items()
            shown[f"{word} {key}".strip() if name == word else f"{name} {key.removeprefix('inpainting ')}"] = value
    draft.ignored(shown, ())


def _numbers(draft: Draft, pairs: Mapping[str, str]) -> None:
    for name in _NUMBERS:
        row = ROWS[name]
        if (key := row.field.infotext) in pairs:
            draft.number(name, pairs[key], key)
    if pairs.get("Discard penultimate sigma") == "True":
        draft.set("conventions.discard_penultimate_sigma", True, "Discard penultimate sigma")
    if pairs.get("SGM noise multiplier") == "True":
        draft.set("conventions.initial_noise", "variance", "SGM noise multiplier")
    if "Sigmas" in pairs:
        levels = [real(part) for part in pairs["Sigmas"].split()]
        draft.set("sigmas", tuple(levels), "Sigmas")


def _sizes(draft: Draft, pairs: Mapping[str, str]) -> None:
    for key, names in (("Size", ("width", "height")), ("Seed resize from", ("variation.width", "variation.height"))):
        if (size := _size(pairs, key)) is not None:
            for name, side in zip(names, size, strict=True):
                draft.set(name, side, key)
        elif key in pairs and _SIZE.fullmatch(pairs[key]) is None:
            draft.note(f"ignored: {key}: {short(pairs[key])}, expected WIDTHxHEIGHT")


def _noise(draft: Draft, pairs: Mapping[str, str], *, ours: bool) -> None:
    draft.number("seed", pairs.get("Seed"), "Seed")
    draft.number(
        "variation.strength",
        pairs.get("Variation seed strength", pairs.get("Variation strength")),  # the second is SD.Next's
        "Variation seed strength",
    )
    if "variation.strength" in draft.values:
        draft.number("variation.seed", pairs.get("Variation seed"), "Variation seed")
    source = {"cuda": "nv", "gpu": "nv"}.get(word := pairs.get("RNG", "").lower(), word)
    if ours and "Noise" in pairs:
        draft.set("noise", pairs["Noise"], "Noise")
        draft.set("first_index", whole(pairs.get("Picture index")), "Picture index")
    elif source in ("cpu", "nv"):
        draft.set("noise", source, "RNG")
    elif source:
        draft.note(f"ignored: RNG: {short(pairs['RNG'])} is not a noise source of gesso", field="noise")
    elif not ours and "noise" not in draft.values:
        draft.set("noise", "nv", "RNG")  # their GPU source, to the last bit or two


def _passes(draft: Draft, pairs: Mapping[str, str], tool: str) -> None:
    """A second pass, or else the strength of an image to image run."""
    strength = pairs.get("Hires strength", pairs.get("Denoising strength"))
    if "First pass size" in pairs:
        return _old_passes(draft, pairs)
    scale = pairs.get("Hires upscale", pairs.get("Hires scale"))
    sizes = (_size(pairs, key) for key in ("Hires resize", "Hires size", "Hires fixed"))
    size = next((one for one in sizes if one is not None), None)
    resized = _SIZE.fullmatch(pairs.get("Hires resize", ""))
    if scale is None and "Hires upscaler" not in pairs and not size and not (resized and int(resized[1])):
        draft.number("source.strength", strength, "Denoising strength")
        return None
    upscaler = pairs.get("Hires upscaler", "")
    if tool == "SD.Next" and pairs.get("Hires force") == "False" and not upscaler.startswith("Latent"):
        text = (
            f"SD.Next only enlarged the picture ({upscaler or 'no upscaler'}), without a second pass; use gesso upscale"
        )
        draft.note(text, field="hires")
        return None
    sampler = Draft()
    names = [pairs.get(key, "") for key in ("Hires sampler", "Hires schedule type")]
    sampler.sampler(*(None if name in _SAME else name for name in names))
    draft.note_all(sampler.notices)
    draft.values["hires"] = draft.part(
        HiresPass,
        "Hires",
        scale=None if size else real(scale),
        width=size[0] if size else None,
        height=size[1] if size else None,
        upscaler=upscaler_name(upscaler) if upscaler else None,
        strength=real(strength),
        num_steps=whole(pairs.get("Hires steps")) or None,
        guidance_scale=real(pairs.get("Hires CFG Scale")),
        prompt=pairs.get("Hires prompt"),
        negative_prompt=pairs.get("Hires negative prompt"),
        **sampler.values,
    )
    return None


def _old_passes(draft: Draft, pairs: Mapping[str, str]) -> None:
    """Hires fix before December 2022: "Size" is that of the second pass, "First pass size" 0x0 one that it chose."""
    final = _size(pairs, "Size")
    if final is None:
        return
    first = _size(pairs, "First pass size")
    if first is None:
        share = math.sqrt(_FIRST_PASS_PIXELS / (final[0] * final[1]))
        first = (math.ceil(share * final[0] / 64) * 64, math.ceil(share * final[1] / 64) * 64)
    draft.set("width", first[0], "First pass size")
    draft.set("height", first[1], "First pass size")
    draft.values["hires"] = draft.part(
        HiresPass,
        "First pass size",
        width=final[0],
        height=final[1],
        upscaler="latent_bilinear",
        strength=real(pairs.get("Denoising strength")),
    )


def _size(pairs: Mapping[str, str], key: str) -> tuple[int, int] | None:
    """Width and height, if both are there and neither is 0."""
    match = _SIZE.fullmatch(pairs.get(key, ""))
    return (int(match[1]), int(match[2])) if match and int(match[1]) and int(match[2]) else None


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
