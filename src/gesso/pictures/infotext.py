"""Writes the infotext (generation parameters) of AUTOMATIC1111's web UI, which most other tools read.

Grammar: prompt lines, then optionally lines from "Negative prompt: " on, then one last line of "key: value" pairs. A
value with a comma, a colon or a line break is a JSON string. Prompts have no quoting there: one that this form cannot
carry (a line that passes for the negative prompt, blanks at an end) is made harmless for other tools, and stands whole
among the pairs, so that `read_infotext` gives back what was written.
"""

import json
import re

from gesso.pictures.infotext_reading import EXACT_NEGATIVE, EXACT_PROMPT, NEGATIVE, read_infotext
from gesso.request.hires import a1111_name
from gesso.request.parts import ControlUse
from gesso.request.recipe import Recipe
from gesso.request.request import ResolvedRequest

# What stands under a mask at the start -> the web UI's words.
MASKED_CONTENT = {"fill": "fill", "original": "original", "noise": "latent noise", "nothing": "latent nothing"}


def infotext(recipe: Recipe, *, sampler_label: str, schedule_label: str) -> str:
    """What other tools show and take over for this picture. Labels are A1111's names."""
    request = recipe.request
    pairs: list[tuple[str, str]] = [
        ("Steps", str(request.num_steps)),
        ("Sampler", sampler_label),
        ("Schedule type", schedule_label),
        ("CFG scale", f"{request.guidance_scale:g}"),
        ("Seed", str(_seed(recipe))),
        ("Size", f"{request.width}x{request.height}"),
    ]
    if request.image_guidance_scale is not None:
        pairs.insert(4, ("Image CFG scale", f"{request.image_guidance_scale:g}"))
    if recipe.model_hash:
        pairs.append(("Model hash", recipe.model_hash))
    pairs.append(("Model", _stem(recipe.model)))
    pairs += _variation(request)
    strength = request.strength
    if strength is None and request.hires is not None:
        strength = request.hires.strength
    if strength is not None:
        pairs.append(("Denoising strength", f"{strength:g}"))
    if request.clip_skip > 1:
        pairs.append(("Clip skip", str(request.clip_skip)))
    if request.ensd:
        pairs.append(("ENSD", str(request.ensd)))
    if request.image is not None:
        pairs.append(("Init image hash", request.image[:10]))
    if request.noise in ("cpu", "nv"):
        pairs.append(("RNG", request.noise.upper()))
    else:  # our own numbers: a tool that does not know them must not take another source for them
        pairs.append(("Noise", request.noise))
        pairs.append(("Picture index", str(request.first_index)))
    if request.eta:
        pairs.append(("Eta", f"{request.eta:g}"))
    if request.guidance_rescale:
        pairs.append(("CFG rescale", f"{request.guidance_rescale:g}"))
    if request.tiling is not None:
        pairs.append(("Tiling", "True" if request.tiling == "xy" else request.tiling))
    pairs += _conventions(recipe)
    pairs += _second_pass(request)
    pairs += _adapters(recipe)
    pairs += _controls(request)
    pairs.append(("Version", f"gesso {recipe.environment.gesso}"))
    return write_infotext(request.prompt + _tags(recipe), request.negative_prompt, pairs)


def _variation(request: ResolvedRequest) -> list[tuple[str, str]]:
    pairs = []
    if request.variation_strength is not None:
        pairs.append(("Variation seed", str(request.variation_seed)))
        pairs.append(("Variation seed strength", f"{request.variation_strength:g}"))
    if request.seed_width is not None:
        pairs.append(("Seed resize from", f"{request.seed_width}x{request.seed_height}"))
    return pairs


def _second_pass(request: ResolvedRequest) -> list[tuple[str, str]]:
    """What is not as in the first pass."""
    hires = request.hires
    if hires is None:
        return []
    resized = f"{hires.width}x{hires.height}" if hires.width is not None and hires.height is not None else None
    found = (
        ("Hires resize", resized),
        ("Hires upscale", None if resized or hires.scale is None else f"{hires.scale:g}"),
        ("Hires steps", _other(hires.num_steps, request.num_steps)),
        ("Hires upscaler", None if hires.upscaler is None else a1111_name(hires.upscaler)),
        ("Hires sampler", _other(hires.sampler, request.sampler)),
        ("Hires schedule type", _other(hires.schedule, request.schedule)),
        ("Hires CFG Scale", _other(hires.guidance_scale, request.guidance_scale)),
        ("Hires prompt", _other(hires.prompt, request.prompt)),
        ("Hires negative prompt", _other(hires.negative_prompt, request.negative_prompt)),
    )
    return [(key, value) for key, value in found if value is not None]


def _other(value: object, before: object) -> str | None:
    """The value as text, where there is one and it is not what stood before."""
    if value is None or value == before:
        return None
    return f"{value:g}" if isinstance(value, float) else str(value)


_CONTROL_MODES = {
    "balanced": "Balanced",
    "prompt": "My prompt is more important",
    "control": "ControlNet is more important",
}


def _controls(request: ResolvedRequest) -> list[tuple[str, str]]:
    """In the form of the web UI's extension; the pictures themselves stay where they are."""
    return [
        (
            f"ControlNet {number}",
            f"Module: {use.preprocessor or 'none'}, Model: {_stem(use.model)}, Weight: {use.weight:g}, "
            f"{_thresholds(use)}"
            f"Guidance Start: {use.start:g}, Guidance End: {use.end:g}, Control Mode: {_CONTROL_MODES[use.mode]}",
        )
        for number, use in enumerate(request.controls)
    ]


# The parameters of preprocessors that the web UI has two places for, in its order.
_THRESHOLDS = {"canny": ("low", "high"), "scribble": ("threshold",), "tile": ("factor",)}


def _thresholds(use: ControlUse) -> str:
    """Those that were set, with a comma behind each."""
    names = _THRESHOLDS.get(use.preprocessor or "", ())
    given = dict(use.parameters)
    return "".join(
        f"Threshold {place}: {given[name]:g}, " for place, name in zip("AB", names, strict=False) if name in given
    )


def _adapters(recipe: Recipe) -> list[tuple[str, str]]:
    """LoRA by the hash of their data, learned words by that of their file, twelve digits each."""
    loras = [f"{file.name}: {file.autov3 or file.sha256[:12]}" for file in recipe.extras if file.kind == "lora"]
    words = [f"{file.name}: {file.sha256[:12]}" for file in recipe.extras if file.kind == "embedding"]
    found = (("Lora hashes", loras), ("TI hashes", words))
    return [(key, ", ".join(values)) for key, values in found if values]


def _tags(recipe: Recipe) -> str:
    """The LoRA of the request, as other tools want them in the prompt; one whose strength changes by its first."""
    tags = []
    for use in recipe.request.loras:
        weight = use.weight * (use.points[0][1] if use.points else 1.0)
        text = use.weight if use.text_weight is None else use.text_weight
        tags.append(f" <lora:{use.name}:{text:g}>" if text == weight else f" <lora:{use.name}:{text:g}:{weight:g}>")
    return "".join(tags)


def write_infotext(prompt: str, negative_prompt: str, pairs: list[tuple[str, str]]) -> str:
    """The text of prompts and pairs, of which there are at least three; `read_infotext` gives them back."""
    text = _joined(prompt, negative_prompt, pairs)
    found = read_infotext(text)
    exact = [(EXACT_PROMPT, prompt)] if found.prompt != prompt else []
    if found.negative_prompt != negative_prompt:
        exact.append((EXACT_NEGATIVE, negative_prompt))
    return _joined(prompt, negative_prompt, [*pairs, *exact]) if exact else text


def _joined(prompt: str, negative_prompt: str, pairs: list[tuple[str, str]]) -> str:
    lines = [_prompt(prompt)]
    if negative_prompt:
        lines.append(f"{NEGATIVE} {_prompt(negative_prompt)}")
    lines.append(", ".join(f"{key}: {_quote(value)}" for key, value in pairs))
    return "\n".join(lines)


def _conventions(recipe: Recipe) -> list[tuple[str, str]]:
    """What A1111 calls options; its own names where it has them, and only where they are not as it leaves them."""
    request = recipe.request
    pairs = []
    if request.mask is not None and request.mask_blur:
        pairs.append(("Mask blur", f"{request.mask_blur:g}"))
    if request.mask is not None and request.mask_content not in (None, "original"):
        pairs.append(("Masked content", MASKED_CONTENT[request.mask_content]))
    if request.mask_area == "masked":
        pairs.append(("Inpaint area", "Only masked"))
        pairs.append(("Masked area padding", str(request.mask_padding)))
    if request.refiner_switch_at is not None:
        pairs.append(("Refiner", f"{_stem(recipe.refiner)} [{recipe.refiner_hash}]"))
        pairs.append(("Refiner switch at", f"{request.refiner_switch_at:g}"))
    if request.noise_level is not None:
        pairs.append(("Noise level", str(request.noise_level)))
    if request.discard_penultimate_sigma:
        pairs.append(("Discard penultimate sigma", "True"))
    if request.initial_noise == "variance" and request.timestep_spacing != "a1111":
        pairs.append(("SGM noise multiplier", "True"))
    if request.sigmas is not None:
        pairs.append(("Sigmas", " ".join(f"{sigma:g}" for sigma in request.sigmas)))
    if request.preset != "gesso":
        pairs.append(("Preset", request.preset))
    return pairs


def _seed(recipe: Recipe) -> int:
    """The seed that gives this picture alone in other tools: theirs grows by one a picture, ours has an index."""
    request = recipe.request
    return request.seed + request.first_index if request.noise in ("cpu", "nv") else request.seed


def _prompt(text: str) -> str:
    """A prompt whose lines cannot pass for the negative prompt or for the line of pairs.

    The last line is always ours, so only lines that start with "Negative prompt:" can do harm.
    """
    return re.sub(r"(?m)^(\s*Negative prompt)(?=:)", r"\1 ", text.replace("\r\n", "\n").replace("\r", "\n"))


def _quote(value: str) -> str:
    """As that tool does; also what begins like JSON, has blanks at its ends, or nothing in it."""
    plain = value == value.strip() and value and not value.startswith(('"', "{", "["))
    return value if plain and not re.search(r"[,:\n\r]", value) else json.dumps(value, ensure_ascii=False)


def _stem(name: str) -> str:
    return name.removesuffix(".safetensors")
