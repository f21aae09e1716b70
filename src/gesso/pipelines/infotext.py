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
    if recipe.model_hash:
        pairs.append(("Model hash", recipe.model_hash))
    pairs.append(("Model", _stem(recipe.model)))
    if request.clip_skip > 1:
        pairs.append(("Clip skip", str(request.clip_skip)))
    if request.noise in ("cpu", "nv"):
        pairs.append(("RNG", request.noise.upper()))
    else:  # our own numbers: a tool that does not know them must not take another source for them
        pairs.append(("Noise", request.noise))
        pairs.append(("Picture index", str(request.first_index)))
    if request.eta:
        pairs.append(("Eta", f"{request.eta:g}"))
    if request.guidance_rescale:
        pairs.append(("CFG rescale", f"{request.guidance_rescale:g}"))
    pairs.append(("Version", f"gesso {recipe.environment.gesso}"))
    lines = [_prompt(request.prompt)]
    if request.negative_prompt:
        lines.append(f"{_NEGATIVE} {_prompt(request.negative_prompt)}")
    lines.append(", ".join(f"{key}: {_quote(value)}" for key, value in pairs))
    return "\n".join(lines)


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
