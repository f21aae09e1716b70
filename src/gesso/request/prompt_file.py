"""Prompts from a file, one picture a line: `read_prompts`.

    a red car                                   a prompt
    --prompt "a red car" --steps 20 --seed 5    flags as A1111's script of that name reads them
    {"prompt": "a red car", "num_steps": 20}    fields of the request
Empty lines and those that begin with # are left out.
"""

import shlex
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any

from gesso.errors import GessoError
from gesso.request.checks import RequestError, parse_json_object, short
from gesso.request.request import SCHEMA, VERSION, TextToImageRequest

MAX_LINES = 10_000
MAX_BYTES = 64 * 2**20

# A1111's flags -> fields of the request, and what reads them. Those of its own folders and styles are refused by name.
_FLAGS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "prompt": ("prompt", str),
    "negative_prompt": ("negative_prompt", str),
    "seed": ("seed", int),
    "subseed": ("variation_seed", int),
    "subseed_strength": ("variation_strength", float),
    "seed_resize_from_h": ("seed_height", int),
    "seed_resize_from_w": ("seed_width", int),
    "sampler_name": ("sampler", str),
    "scheduler": ("schedule", str),
    "steps": ("num_steps", int),
    "cfg_scale": ("guidance_scale", float),
    "width": ("width", int),
    "height": ("height", int),
    "denoising_strength": ("strength", float),
    "batch_size": ("num_images", int),
    "n_iter": ("num_images", int),
}


@dataclass(frozen=True)
class PromptLine:
    """One line.  number: its place in the file, from 1; values: the fields of the request that it sets"""

    number: int
    values: dict[str, Any]

    def request(self, base: TextToImageRequest) -> TextToImageRequest:
        """The base with what the line says. Raises RequestError."""
        return replace(base, **self.values)


def read_prompts(path: Path) -> list[PromptLine]:
    """The lines of a file. Raises GessoError, which names the line, for one that cannot be read."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise GessoError(f"{path}: {path.stat().st_size} bytes, at most {MAX_BYTES} are read")
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise GessoError(f"{path}: cannot be read as UTF-8 text ({error})") from error
    found = []
    for number, line in enumerate(text.split("\n"), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        try:
            found.append(PromptLine(number, _values(line)))
        except RequestError as error:
            raise GessoError(f"{path}, line {number}: {error.message}") from error
    if not found:
        raise GessoError(f"{path}: no prompt in it; write one a line")
    if len(found) > MAX_LINES:
        raise GessoError(f"{path}: {len(found)} prompts, at most {MAX_LINES}")
    return found


def _values(line: str) -> dict[str, Any]:
    if line.startswith("{"):
        values = _from_json(line)
    else:
        values = _from_flags(line) if line.startswith("--") else {"prompt": line}
    request = TextToImageRequest(**({"prompt": ""} | values))
    if not request.prompt.strip():
        raise RequestError("prompt", "a line without a prompt")
    return values


def _from_json(line: str) -> dict[str, Any]:
    values = parse_json_object(line, "line")
    request = TextToImageRequest.from_dict({"schema": SCHEMA, "version": VERSION, "prompt": ""} | values)
    defaults = {field.name: field.default for field in fields(TextToImageRequest)}
    return {name: getattr(request, name) for name in values if defaults[name] is not MISSING or name == "prompt"}


def _from_flags(line: str) -> dict[str, Any]:
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise RequestError("line", f"flags that do not end ({error})") from error
    values: dict[str, Any] = {}
    for at in range(0, len(words), 2):
        name = words[at].removeprefix("--").replace("-", "_")
        if not words[at].startswith("--") or name not in _FLAGS:
            raise RequestError("line", f"{short(words[at])}: unknown flag. Known: {', '.join(sorted(_FLAGS))}")
        if at + 1 == len(words):
            raise RequestError("line", f"--{name}: its value is missing")
        field, read = _FLAGS[name]
        try:
            value = read(words[at + 1])
        except ValueError:
            raise RequestError("line", f"--{name}: {short(words[at + 1])} is not a number") from None
        if field == "num_images":
            value *= values.get(field, 1)
        if not (field in ("seed", "variation_seed") and value == -1):  # A1111's way to ask for a random one
            values[field] = value
    return values
