"""Styles from A1111's styles.csv: named texts that are added to prompts.

The prompt replaces {prompt} in the text of a style; without {prompt}, the text is appended to the prompt.
"""

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gesso.errors import short
from gesso.text.prompt import PromptError, check_prompt

PLACE = "{prompt}"
MAX_FILE_CHARS = 8 * 2**20
MAX_STYLES = 10_000


@dataclass(frozen=True)
class Style:
    """What one style adds to the prompt and to the negative prompt."""

    name: str
    prompt: str = ""
    negative_prompt: str = ""


def parse_styles(text: str, where: str = "styles.csv") -> dict[str, Style]:
    """The styles of a file by name, in its order; of a name that comes twice the last holds, as in A1111.

    text: a CSV with a header of name, prompt (or text, in old files) and negative_prompt; further columns and rows
    without a name are left out. Raises PromptError, which names the line.
    """
    if len(text) > MAX_FILE_CHARS:
        raise PromptError("styles", f"{where}: {len(text)} characters, expected at most {MAX_FILE_CHARS}")
    reader = csv.reader(io.StringIO(text.removeprefix("\ufeff"), newline=""), strict=True)
    styles: dict[str, Style] = {}
    try:
        header = next(reader, [])
        columns = _columns(header, where)
        for row in reader:
            values = {key: row[index] for key, index in columns.items() if index < len(row)}
            name = values.pop("name", "").strip()
            if not name:
                continue
            for value in (name, *values.values()):
                check_prompt(value, f"{where}, line {reader.line_num}, style {short(name)}")
            styles[name] = Style(name, **values)
            if len(styles) > MAX_STYLES:
                raise PromptError("styles", f"{where}: more than {MAX_STYLES} styles. Split the file")
    except csv.Error as error:
        raise PromptError(
            "styles",
            f"{where}: line {reader.line_num} is not valid CSV ({error}); expected name,prompt,negative_prompt",
        ) from None
    return styles


def apply_styles(prompt: str, negative_prompt: str, styles: Iterable[Style]) -> tuple[str, str]:
    """Prompt and negative prompt with the styles, one after the other. Raises PromptError where one gets too long."""
    for style in styles:
        prompt = merge(prompt, style.prompt)
        negative_prompt = merge(negative_prompt, style.negative_prompt)
        check_prompt(prompt, "prompt with its styles")
        check_prompt(negative_prompt, "negative prompt with its styles")
    return prompt, negative_prompt


def merge(prompt: str, style: str) -> str:
    """A prompt in a style's text."""
    if PLACE in style:
        places = style.count(PLACE)
        check_prompt(" " * min(places * len(prompt), 10**6), "prompt with its styles")
        return style.replace(PLACE, prompt)
    return ", ".join(part for part in (prompt.strip(), style.strip()) if part)


def find_styles(names: Iterable[str], styles: Mapping[str, Style]) -> tuple[Style, ...]:
    """The styles of these names. Raises PromptError for one that is not there."""
    chosen = []
    for name in names:
        if name not in styles:
            known = ", ".join(short(known)[1:-1] for known in list(styles)[:8]) or "none"
            raise PromptError("styles", f"unknown style {short(name)}. Known: {known}{', ...' * (len(styles) > 8)}")
        chosen.append(styles[name])
    return tuple(chosen)


def _columns(header: list[str], where: str) -> dict[str, int]:
    """Field of a style -> its column."""
    names = [name.strip().lower() for name in header]
    columns: dict[str, int] = {
        name: names.index(name) for name in ("name", "prompt", "negative_prompt") if name in names
    }
    if "prompt" not in columns and "text" in names:
        columns["prompt"] = names.index("text")
    if not {"name", "prompt"} <= columns.keys():
        raise PromptError("styles", f"{where}: header {short(','.join(header))}, expected name,prompt,negative_prompt")
    return columns
