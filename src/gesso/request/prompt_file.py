"""Prompts from a file, one picture per line: `read_prompts`.

    a red car                                   a prompt
    --prompt "a red car" --steps 20 --seed 5    flags: A1111's, or any name of a field
    {"prompt": "a red car", "num_steps": 20}    fields of the request
Empty lines and those that begin with # are left out. A prompt behind a flag goes on to the next flag, with quotes or
without, as in A1111.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from gesso.errors import GessoError, short
from gesso.notices import Notice
from gesso.request.checks import RequestError, nearest, parse_json_object, unknown_data
from gesso.request.fields import Row
from gesso.request.migrations import SCHEMA, VERSION
from gesso.request.request import GROUPS, NAMED, ROWS, TextToImageRequest, with_values

MAX_LINES = 10_000
MAX_BYTES = 64 * 2**20

# Flags that a line may have: whatever a field is called, as far as one word is its value.
FLAGS: Mapping[str, Row] = MappingProxyType(
    {name: row for name, row in NAMED.items() if row.is_single and row.path not in ("source.image", "mask.image")}
)
# Flags of A1111 that gesso has nothing for, and values of theirs that switch nothing on.
_ELSEWHERE = (
    *("outpath_samples", "outpath_grids", "prompt_for_display", "styles", "sampler_index", "restore_faces"),
    *("do_not_save_samples", "do_not_save_grid"),
)
_NOTHING = ("", "false", "0", "none", "[]", "no", "off")
_TILING = {"true": "xy", "false": None}
_SEED_RESIZE = ("variation.width", "variation.height")  # unset below 1
_PROMPTS = ("prompt", "negative_prompt")
# A word of a line of flags: quotes open only where a word or the value behind "=" begins, so that "a dog's" is a word.
_WORD = re.compile(
    r"""\s*(?:(--[\w.-]+)=)?(?:"((?:[^"\\]|\\.)*)"(?=\s|$)|'((?:[^'\\]|\\.)*)'(?=\s|$)|(\S+))""", re.DOTALL
)
_OTHER_FORMS: Mapping[str, str] = MappingProxyType(
    {".csv": "a CSV table", ".tsv": "a table", ".yaml": "YAML", ".yml": "YAML", ".toml": "TOML"}
)
_HASH = re.compile(r" \[[0-9a-f]{6,64}\]$")  # behind the name of a model


@dataclass(frozen=True)
class PromptLine:
    """One line.

    number   its place in the file, from 1
    values   what it sets, by paths, as JSON has it
    model    the model that it asks for (A1111: --sd_model), if any
    notices  what it says and gesso does not do
    """

    number: int
    values: dict[str, Any]
    model: str | None = None
    notices: tuple[Notice, ...] = ()

    def request(self, base: TextToImageRequest) -> TextToImageRequest:
        """The base with the values of the line. Raises RequestError."""
        return with_values(base, self.values)


def read_prompts(path: Path) -> list[PromptLine]:
    """The lines of a file. Raises GessoError, which names the line, for one that cannot be read."""
    try:
        with path.open("rb") as file:  # a pipe and a device have no size and may never end
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise GessoError(
                f"{path}: more than {MAX_BYTES} bytes, expected at most that",
                code="too_large",
                data={"path": str(path)},
            )
        text = content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise GessoError(
            f"{path}: byte {error.start} is not UTF-8 text; save the file as UTF-8",
            code="unreadable",
            data={"path": str(path)},
        ) from error
    except (FileNotFoundError, IsADirectoryError) as error:
        is_folder = isinstance(error, IsADirectoryError)
        raise GessoError(
            f"{path}: {'a folder' if is_folder else 'no such file'}, expected a text file with one prompt per line",
            code="wrong_kind" if is_folder else "missing",
            data={"path": str(path)},
        ) from error
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
        reason = getattr(error, "strerror", None) or error
        raise GessoError(f"{path}: cannot be read ({reason})", code="unreadable", data={"path": str(path)}) from error
    if (form := _other_form(path, text)) is not None:
        raise GessoError(
            f"{path}: is {form}, expected a prompt, flags or a JSON object on each line",
            code="wrong_kind",
            data={"path": str(path)},
        )
    prompts = []
    for number, line in enumerate(text.split("\n"), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        try:
            prompts.append(_parsed(number, line))
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


def _other_form(path: Path, text: str) -> str | None:
    """The form of a file whose lines are no prompts, though each could be drawn as one; None where they may be."""
    if (name := _OTHER_FORMS.get(path.suffix.lower())) is not None:
        return name
    start = text.lstrip()
    if start.startswith("["):
        try:
            value = json.loads(start)
        except (ValueError, RecursionError):  # a prompt may begin with "[a:b:0.5]"
            return None
        if any(isinstance(item, dict) for item in value):
            return "a JSON array"
    return None


def notices_of(lines: Sequence[PromptLine]) -> list[Notice]:
    """The notices of lines, each once, with the lines that it is about."""
    places: dict[Notice, list[int]] = {}
    for line in lines:
        for notice in line.notices:
            places.setdefault(notice, []).append(line.number)
    return [
        notice.reworded(f"line {at[0]}{f' and {len(at) - 1} more' if len(at) > 1 else ''}: {notice}")
        for notice, at in places.items()
    ]


def _parsed(number: int, line: str) -> PromptLine:
    model, notices, flags = None, list[Notice](), dict[str, str]()
    if line.startswith("{"):
        values = _from_json(line)
    elif line.startswith("--"):
        values, model, flags = _from_flags(line, notices)
    else:
        values = {"prompt": line}
        flag = next((word for word in re.findall(r"(?<=\s)--(\w+)", line) if word in FLAGS), None)
        if flag is not None:
            text = f"--{flag} is read as words of the prompt; begin the line with --prompt to set it"
            notices.append(Notice(text, code="setting_ignored", field=FLAGS[flag].path))
    try:
        request = with_values(TextToImageRequest(prompt=""), values)
    except RequestError as error:
        raise error.called(flags) from None
    if not request.prompt.strip():
        raise RequestError("prompt", "the line has no prompt")
    return PromptLine(number, values, model, tuple(notices))


def _from_json(line: str) -> dict[str, Any]:
    """What an object sets; of a group only the fields that it names."""
    stored = parse_json_object(line, "line")
    stored = {key: _without_minus_one(key, value) for key, value in stored.items()}
    TextToImageRequest.from_dict({"schema": SCHEMA, "version": VERSION, "prompt": ""} | stored)
    values: dict[str, Any] = {}
    for key, value in stored.items():
        values |= {f"{key}.{inner}": one for inner, one in value.items()} if key in GROUPS else {key: value}
    return values


def _without_minus_one(path: str, value: Any) -> Any:
    """A value of a field, None for a -1 that asks for a random one."""
    if isinstance(value, dict):
        return {key: _without_minus_one(f"{path}.{key}", one) for key, one in value.items()}
    open_ = path in ROWS and ROWS[path].field.minus_one and value == -1
    return None if open_ else value


def _words(line: str) -> list[tuple[str, bool]]:
    """The words of a line of flags, and whether each is a flag; quotes are taken off."""
    words: list[tuple[str, bool]] = []
    for match in _WORD.finditer(line):
        flag, double, single, plain = match.groups()
        if flag is not None:
            words.append((flag, True))
        if plain is not None:
            if plain.startswith('"'):
                raise RequestError("line", f"the flags cannot be parsed (no closing quotation: {short(plain)})")
            is_flag = flag is None and re.match(r"--\w", plain) is not None
            words.append((re.sub(r"\\([\"'])", r"\1", plain), is_flag))
        else:
            words.append((re.sub(r"\\([\"'\\])", r"\1", double if double is not None else single), False))
    return words


def _from_flags(line: str, notices: list[Notice]) -> tuple[dict[str, Any], str | None, dict[str, str]]:
    """Values and model, and the flag that set each value."""
    words = _words(line)
    values: dict[str, Any] = {}
    flags: dict[str, str] = {}
    model: str | None = None
    at = 0
    while at < len(words):
        flag, is_flag = words[at]
        name = flag.removeprefix("--").replace("-", "_")
        end = next((end for end in range(at + 1, len(words)) if words[end][1]), len(words))
        given = [word for word, _ in words[at + 1 : end]]
        at = end
        if name in _ELSEWHERE:
            value = " ".join(given)
            if value.lower() not in _NOTHING:
                notices.append(Notice(f"not supported, ignored: --{name} {value}"[:200], code="setting_ignored"))
            continue
        if name == "sd_model" and given:
            model = _HASH.sub("", " ".join(given))
            continue
        if not is_flag or name not in FLAGS:
            known = sorted({(row.field.options or (row.name,))[0] for row in FLAGS.values()})  # one name of each
            raise RequestError(
                "line",
                f"{short(flag)}: unknown flag{nearest(name, FLAGS)}. Known: {', '.join(known)}",
                data=unknown_data(name, known),
            )
        row = FLAGS[name]
        if not given and row.kind == "flag":
            given = ["true"]
        if not given:
            raise RequestError("line", f"--{name} needs a value")
        if row.path not in _PROMPTS and len(given) > 1:
            raise RequestError("line", f"--{name} has {len(given)} values, {short(' '.join(given))}; put it in quotes")
        _set(values, row, " ".join(given), flag)
        flags[row.path] = flag
    return values, model, flags


def _set(values: dict[str, Any], row: Row, words: str, flag: str) -> None:
    """Set a field from what follows its flag."""
    if row.path == "tiling" and words.lower() in _TILING:
        if (axes := _TILING[words.lower()]) is not None:
            values["tiling"] = axes
        return
    value = row.read(words, flag)
    if (row.field.minus_one and value == -1) or (row.path in _SEED_RESIZE and value in (-1, 0)):
        return
    values[row.path] = value * values.get(row.path, 1) if row.path == "num_images" else value
