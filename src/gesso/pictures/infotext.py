"""Writes the infotext (generation parameters) of AUTOMATIC1111's web UI, which most other tools read.

Grammar: prompt lines, then optionally lines from "Negative prompt: " on, then one last line of "key: value" pairs. A
value with a comma, a colon or a line break is a JSON string. Prompts have no quoting there: one that this form cannot
carry (a line that passes for the negative prompt, blanks at an end) is made harmless for other tools, and stands whole
among the pairs, so that `read_infotext` gives back what was written.
"""

import json
import re
from collections.abc import Callable
from typing import Any

from gesso.pictures.infotext_reading import EXACT_NEGATIVE, EXACT_PROMPT, NEGATIVE, read_infotext
from gesso.request.fields import rows
from gesso.request.hires import a1111_name
from gesso.request.names import sampler_label, schedule_label
from gesso.request.parts import ControlUse
from gesso.request.recipe import Recipe
from gesso.request.request import ROWS, ResolvedRequest

Pair = tuple[str, str]


def infotext(recipe: Recipe) -> str:
    """The infotext of a picture, which other tools show and import, in A1111's names."""
    request = recipe.request
    pairs: list[Pair] = [
        _pair("num_steps", request.num_steps),
        _pair("sampler", sampler_label(request.sampler)),
        _pair("schedule", schedule_label(request.schedule)),
        _pair("guidance_scale", request.guidance_scale),
        *_if(request.source.guidance_scale is not None, "source.guidance_scale", request.source.guidance_scale),
        _pair("seed", _seed(recipe)),
        _pair("width", f"{request.width}x{request.height}"),
    ]
    if recipe.model_hash:
        pairs.append(("Model hash", recipe.model_hash))
    pairs.append(("Model", _stem(recipe.model)))
    pairs += _variation(recipe)
    strength = request.source.strength
    if strength is None and request.hires is not None:
        strength = request.hires.strength
    pairs += _if(strength is not None, "source.strength", strength)
    pairs += _if(request.clip_skip > 1, "clip_skip", request.clip_skip)
    pairs += _if(request.conventions.ensd != 0, "conventions.ensd", request.conventions.ensd)
    pairs += _if(request.source.image is not None, "source.image", (request.source.image or "")[:10])
    if request.noise in ("cpu", "nv"):
        pairs.append(_pair("noise", request.noise.upper()))
    else:  # our own numbers: a tool that does not know them must not take another source for them
        pairs.append(("Noise", request.noise))
        pairs.append(_pair("first_index", request.first_index))
    pairs += _if(request.eta != 0, "eta", request.eta)
    pairs += _if(request.guidance_rescale != 0, "guidance_rescale", request.guidance_rescale)
    pairs += _if(request.guidance_until is not None, "guidance_until", request.guidance_until)
    pairs += _if(request.deep_cache is not None, "deep_cache", request.deep_cache)
    pairs += _if(request.tiling is not None, "tiling", request.tiling)
    pairs += _conventions(recipe)
    pairs += _second_pass(request)
    pairs += _adapters(recipe)
    pairs += _controls(request)
    pairs.append(("Version", f"gesso {recipe.environment.gesso}"))
    return write_infotext(request.prompt + _tags(recipe), request.negative_prompt, pairs)


def _pair(path: str, value: Any) -> Pair:
    """A field of the request by its key, its value as that tool writes it."""
    row = ROWS[path]
    return row.field.infotext, value if isinstance(value, str) and not row.field.words else row.write(value)


def _if(present: bool, path: str, value: Any) -> list[Pair]:
    """The same if `present`, else nothing."""
    return [_pair(path, value)] if present else []


def _variation(recipe: Recipe) -> list[Pair]:
    request, pairs = recipe.request, []
    if request.variation.strength is not None:
        seed = request.variation.seed
        if request.variation.strength and seed is not None and request.noise in ("cpu", "nv"):
            seed += request.first_index
        pairs.append(_pair("variation.seed", seed))
        pairs.append(_pair("variation.strength", request.variation.strength))
    if request.variation.width is not None:
        pairs.append(_pair("variation.width", f"{request.variation.width}x{request.variation.height}"))
    return pairs


# What the second pass may have of its own, with A1111's names for it.
_HIRES_LABELS: dict[str, Callable[[Any], Any]] = {
    "sampler": sampler_label,
    "schedule": schedule_label,
    **dict.fromkeys(("guidance_scale", "prompt", "negative_prompt"), lambda value: value),
}


def _second_pass(request: ResolvedRequest) -> list[Pair]:
    """The settings of hires fix that differ from the first pass."""
    hires = request.hires
    if hires is None:
        return []
    resized = hires.width is not None and hires.height is not None
    pairs = _if(resized, "hires.width", f"{hires.width}x{hires.height}")
    pairs += _if(not resized and hires.scale is not None, "hires.scale", hires.scale)
    pairs += _if(hires.num_steps not in (None, request.num_steps), "hires.num_steps", hires.num_steps)
    pairs += _if(hires.upscaler is not None, "hires.upscaler", a1111_name(hires.upscaler or ""))
    for name, label in _HIRES_LABELS.items():
        value = getattr(hires, name)
        if value is not None and value != getattr(request, name):
            pairs.append(_pair(f"hires.{name}", label(value)))
    return pairs


def _controls(request: ResolvedRequest) -> list[tuple[str, str]]:
    """ControlNet units as the web UI's extension writes them, without the control images."""
    return [
        (
            f"ControlNet {number}",
            f"Module: {use.preprocessor or 'none'}, Model: {_stem(use.model)}, Weight: {use.weight:g}, "
            f"{_thresholds(use)}"
            f"Guidance Start: {use.start:g}, Guidance End: {use.end:g}, "
            f"Control Mode: {rows(ControlUse)['mode'].write(use.mode)}",
        )
        for number, use in enumerate(request.controls)
    ]


# The parameters of preprocessors that the web UI has two places for, in its order.
_THRESHOLDS = {"canny": ("low", "high"), "scribble": ("threshold",), "tile": ("factor",)}


def _thresholds(use: ControlUse) -> str:
    """The thresholds that are set, each followed by a comma."""
    names = _THRESHOLDS.get(use.preprocessor or "", ())
    values = dict(use.parameters)
    return "".join(
        f"Threshold {place}: {values[name]:g}, " for place, name in zip("AB", names, strict=False) if name in values
    )


def _adapters(recipe: Recipe) -> list[tuple[str, str]]:
    """LoRA by the hash of their data, embeddings by that of their file, twelve digits each."""
    loras = [f"{file.name}: {file.autov3 or file.sha256[:12]}" for file in recipe.extras if file.kind == "lora"]
    words = [f"{file.name}: {file.sha256[:12]}" for file in recipe.extras if file.kind == "embedding"]
    hashes = (("Lora hashes", loras), ("TI hashes", words))
    return [(key, ", ".join(values)) for key, values in hashes if values]


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
    reread = read_infotext(text)
    exact = [(EXACT_PROMPT, prompt)] if reread.prompt != prompt else []
    if reread.negative_prompt != negative_prompt:
        exact.append((EXACT_NEGATIVE, negative_prompt))
    return _joined(prompt, negative_prompt, [*pairs, *exact]) if exact else text


def _joined(prompt: str, negative_prompt: str, pairs: list[tuple[str, str]]) -> str:
    lines = [_prompt(prompt)]
    if negative_prompt:
        lines.append(f"{NEGATIVE} {_prompt(negative_prompt)}")
    lines.append(", ".join(f"{key}: {_quote(value)}" for key, value in pairs))
    return "\n".join(lines)


def _conventions(recipe: Recipe) -> list[tuple[str, str]]:
    """Options, by A1111's names where it has them, and only if they differ from its defaults."""
    request = recipe.request
    masked = request.mask.image is not None
    pairs = _if(masked and request.mask.blur != 0, "mask.blur", request.mask.blur)
    pairs += _if(masked and request.mask.content not in (None, "original"), "mask.content", request.mask.content)
    if request.mask.area == "masked":
        pairs.append(_pair("mask.area", request.mask.area))
        pairs.append(_pair("mask.padding", request.mask.padding))
    if request.refiner_switch_at is not None:
        pairs.append(("Refiner", f"{_stem(recipe.refiner)} [{recipe.refiner_hash}]"))
        pairs.append(_pair("refiner_switch_at", request.refiner_switch_at))
    pairs += _if(request.source.noise_level is not None, "source.noise_level", request.source.noise_level)
    pairs += _if(request.conventions.discard_penultimate_sigma, "conventions.discard_penultimate_sigma", True)
    unlike_a1111 = request.conventions.initial_noise == "variance" and request.conventions.timestep_spacing != "a1111"
    pairs += _if(unlike_a1111, "conventions.initial_noise", request.conventions.initial_noise)
    if request.sigmas is not None:
        pairs.append(_pair("sigmas", " ".join(f"{sigma:g}" for sigma in request.sigmas)))
    pairs += _if(request.preset != "gesso", "preset", request.preset)
    return pairs


def _seed(recipe: Recipe) -> int:
    """The seed that gives this picture alone in other tools: theirs grows by one a picture, ours has an index.

    With a variation all pictures share the noise of the first, and the seed that grows is that of the variation.
    """
    request = recipe.request
    grows = request.noise in ("cpu", "nv") and not request.variation.strength
    return request.seed + request.first_index if grows else request.seed


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
