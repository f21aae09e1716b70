"""Prompts from a file, one picture per line: `read_prompts`.

    a red car                                   a prompt
    --prompt "a red car" --steps 20 --seed 5    flags: A1111's, or any name of a field
    {"prompt": "a red car", "num_steps": 20}    fields of the request
Empty lines and those that begin with # are left out.
"""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from gesso.errors import GessoError
from gesso.request.checks import RequestError, nearest, parse_json_object, short
from gesso.request.fields import Row
from gesso.request.migrations import SCHEMA, VERSION
from gesso.request.request import GROUPS, NAMED, TextToImageRequest, with_values

MAX_LINES = 10_000
MAX_BYTES = 64 * 2**20

# Flags that a line may have: whatever a field is called, as far as one word is its value.
FLAGS: Mapping[str, Row] = MappingProxyType(
    {name: row for name, row in NAMED.items() if row.is_single and row.path not in ("source.image", "mask.image")}
)


@dataclass(frozen=True)
class PromptLine:
    """One line.  number: its place in the file, from 1; values: what it sets, by paths, as JSON has it"""

    number: int
    values: dict[str, Any]

    def request(self, base: TextToImageRequest) -> TextToImageRequest:
        """The base with the values of the line. Raises RequestError."""
        return with_values(base, self.values)


def read_prompts(path: Path) -> list[PromptLine]:
    """The lines of a file. Raises GessoError, which names the line, for one that cannot be read."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise GessoError(
                f"{path}: {path.stat().st_size} bytes, expected at most {MAX_BYTES}",
                code="too_large",
                data={"path": str(path)},
            )
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise GessoError(
            f"{path}: byte {error.start} is not UTF-8 text; save the file as UTF-8",
            code="unreadable",
            data={"path": str(path)},
        ) from error
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
        reason = getattr(error, "strerror", None) or error
        raise GessoError(f"{path}: cannot be read ({reason})", code="unreadable", data={"path": str(path)}) from error
    prompts = []
    for number, line in enumerate(text.split("\n"), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        try:
            prompts.append(PromptLine(number, _values(line)))
        except RequestError as error:
            raise GessoError(
                f"{path}, line {number}: {error.message}", code=error.code, field=error.field, data=error.data
            ) from error
    if not prompts:
        raise GessoError(f"{path}: has no prompts; write one per line", code="prompt_missing", data={"path": str(path)})
    if len(prompts) > MAX_LINES:
        raise GessoError(
            f"{path}: {len(prompts)} prompts, expected at most {MAX_LINES}", code="too_large", data={"path": str(path)}
        )
    return prompts


def _values(line: str) -> dict[str, Any]:
    if line.startswith("{"):
        values = _from_json(line)
    else:
        values = _from_flags(line) if line.startswith("--") else {"prompt": line}
    request = with_values(TextToImageRequest(prompt=""), values)
    if not request.prompt.strip():
        raise RequestError("prompt", "the line has no prompt")
    return values


def _from_json(line: str) -> dict[str, Any]:
    """What an object sets; of a group only the fields that it names."""
    stored = parse_json_object(line, "line")
    TextToImageRequest.from_dict({"schema": SCHEMA, "version": VERSION, "prompt": ""} | stored)
    values: dict[str, Any] = {}
    for key, value in stored.items():
        values |= {f"{key}.{inner}": one for inner, one in value.items()} if key in GROUPS else {key: value}
    return values


def _from_flags(line: str) -> dict[str, Any]:
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise RequestError("line", f"the flags cannot be parsed ({error})") from error
    values: dict[str, Any] = {}
    for at in range(0, len(words), 2):
        name = words[at].removeprefix("--").replace("-", "_")
        if not words[at].startswith("--") or name not in FLAGS:
            raise RequestError(
                "line", f"{short(words[at])}: unknown flag{nearest(name, FLAGS)}. Known: {', '.join(sorted(FLAGS))}"
            )
        if at + 1 == len(words):
            raise RequestError("line", f"--{name} needs a value")
        row = FLAGS[name]
        value = row.read(words[at + 1], words[at])
        if row.path == "num_images":
            value *= values.get(row.path, 1)
        if not (row.field.minus_one and value == -1):
            values[row.path] = value
    return values
