"""The text that AUTOMATIC1111's web UI writes into a picture, which most other tools read.

Grammar: prompt lines, then optionally lines from "Negative prompt: " on, then one last line of "key: value" pairs. A
value with a comma, a colon or a line break is a JSON string. Prompts have no quoting there, so this text is for other
tools and for people; the exact request stands in our own recipe.
"""

import json
import re

from gesso.pipelines.recipe import Recipe

_NEGATIVE = "Negative prompt:"


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
    if request.strength is not None:
        pairs.append(("Denoising strength", f"{request.strength:g}"))
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
    pairs += _conventions(recipe)
    pairs.append(("Version", f"gesso {recipe.environment.gesso}"))
    lines = [_prompt(request.prompt)]
    if request.negative_prompt:
        lines.append(f"{_NEGATIVE} {_prompt(request.negative_prompt)}")
    lines.append(", ".join(f"{key}: {_quote(value)}" for key, value in pairs))
    return "\n".join(lines)


def _conventions(recipe: Recipe) -> list[tuple[str, str]]:
    """What A1111 calls options; its own names where it has them, and only where they are not as it leaves them."""
    request = recipe.request
    pairs = []
    if request.mask is not None and request.mask_blur:
        pairs.append(("Mask blur", f"{request.mask_blur:g}"))
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
    return json.dumps(value, ensure_ascii=False) if re.search(r"[,:\n]", value) else value


def _stem(name: str) -> str:
    return name.removesuffix(".safetensors")
