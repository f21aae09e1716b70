"""Documentation generated from the table of fields: docs/request.md, and the tables in docs/presets.md.

`python -m gesso.request.reference docs` writes both.
"""

import sys
from collections.abc import Iterable, Iterator
from dataclasses import MISSING
from pathlib import Path

from gesso.request.conventions import Conventions
from gesso.request.fields import JOBS, PRESET_NAMES, TOOLS, Row, rows
from gesso.request.groups import Mask, Source, Tiles, Variation
from gesso.request.parts import ControlUse, HiresPass, LoraUse
from gesso.request.request import PRESET_ROWS, TextToImageRequest

HEAD = """\
# The fields of a request

<!-- Made by `python -m gesso.request.reference docs`; a test keeps it fresh. -->

Apart from the model, everything that decides a picture is a field of one request: in Python (`TextToImageRequest`), in
batch files, and in the recipe stored in a picture. This page lists all fields with their names in other tools. The
checks, the JSON Schema (`gesso.request.json_schema.request_schema`), the axes of `gesso grid` and the flags of
`gesso batch` are generated from the same table. Grids and batch files also accept the names in the column "options" and
A1111's names.

The column "default" shows what is used if a field is not set; several values are those of the presets gesso, a1111 and
diffusers.
"""
TAIL = """\
## Conventions: `conventions`

[presets.md](presets.md) lists the fields of this group, in which tools differ, and the values of each preset.
"""
_OF_REGISTRY = {"samplers": "a sampler", "schedules": "a schedule", "noises": "a noise source"}
BEGIN, END = "<!-- Made by `python -m gesso.request.reference docs`; a test keeps it fresh. -->", "<!-- Until here. -->"


def render() -> str:
    """The whole page, in Markdown."""
    parts = [HEAD, _section("Prompt, size and sampling", rows(TextToImageRequest).values())]
    for title, cls in (
        ("The picture to start from: `source`", Source),
        ("The mask: `mask`", Mask),
        ("Variations of the noise: `variation`", Variation),
        ("Hires fix, the second pass: `hires`", HiresPass),
        ("Tiled diffusion: `tiles`", Tiles),
    ):
        parts.append(_section(title, rows(cls).values()))
    parts.append(_section("LoRA: each of `loras`", rows(LoraUse).values()))
    parts.append(_section("ControlNet, T2I-Adapter and IP-Adapter: each of `controls`", rows(ControlUse).values()))
    parts.append(TAIL)
    return "\n".join(parts)


def with_tables(page: str) -> str:
    """docs/presets.md with its tables made anew, each between two comments."""
    tables = iter((_presets(rows(Conventions).values()), _presets(row for _, row in PRESET_ROWS if not _own(row))))
    before, *marked = page.split(BEGIN)
    for part in marked:
        before += "\n".join([BEGIN, "", *next(tables), "", END]) + part.partition(END)[2]
    return before


def _section(title: str, table: Iterable[Row]) -> str:
    lines = [
        f"## {title}",
        "",
        "| field | description | values | default | options | in other tools | infotext |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *map(_line, table),
        "",
    ]
    return "\n".join(lines)


def _line(row: Row) -> str:
    about = row.field
    typed = ", ".join(f"`{one}`" for one in (*about.options, *about.also))
    tools = "; ".join(f"{TOOLS[tool]}: {', '.join(f'`{one}`' for one in names)}" for tool, names in about.tools.items())
    cells = (f"`{row.name}`", _help(row), values(row), default(row), typed, tools, about.infotext)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _help(row: Row) -> str:
    only = "" if row.field.jobs == JOBS else f" For: {', '.join(row.field.jobs)}."
    return row.field.help + only


def values(row: Row) -> str:
    """What a field may have, in a few words."""
    about = row.field
    if row.choices:
        return "; ".join(f"`{one}`" + (f": {about.means[one]}" if one in about.means else "") for one in row.choices)
    if row.is_number:
        sort = "integer, " if row.kind == "whole" else ""
        low, high = (f"{one:g}" if row.kind == "real" else str(one) for one in (about.low, about.high))
        return f"{sort}{low} to {high}" + (f" {about.unit}" if about.unit == "pixels" else "")
    if about.registry:
        means = "; ".join(f"`{one}`: {words}" for one, words in about.means.items())
        return f"{means}; or one from a plug-in" if means else _OF_REGISTRY[about.registry]
    if row.kind == "text" and about.pattern:
        return "SHA-256"
    words = {"flag": "true, false", "text": "text", "list": "list", "part": "object", "parts": "list of objects"}
    return words[row.kind]


def default(row: Row) -> str:
    """What an open field becomes."""
    about = row.field
    if row.default is MISSING:
        return "required"
    if row.default is not None and row.default != () and row.default != "":
        return f"`{row.default}`"
    if about.presets:
        presets = [about.presets[preset] for preset in PRESET_NAMES]
        return f"`{presets[0]}`" if len(set(presets)) == 1 else ", ".join(f"`{one}`" for one in dict.fromkeys(presets))
    return about.open or "none"


def _own(row: Row) -> bool:
    return row.path.startswith("conventions.")


def _presets(table: Iterable[Row]) -> Iterator[str]:
    """What each preset has for a field."""
    yield "| field | " + " | ".join(f"`{preset}`" for preset in PRESET_NAMES) + " | description |"
    yield "| --- |" + " --- |" * (len(PRESET_NAMES) + 1)
    for row in table:
        presets = " | ".join(_shown(row.field.presets[preset]) for preset in PRESET_NAMES)
        means = "".join(f" `{one}`: {words}." for one, words in row.field.means.items())
        yield f"| `{row.names[0]}` | {presets} | {_help(row)}{means} |"


def _shown(value: bool | float | str) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"`{value}`" if isinstance(value, str) else f"{value:g}"


if __name__ == "__main__":
    docs = Path(sys.argv[1])
    (docs / "request.md").write_text(render(), encoding="utf-8")
    (docs / "presets.md").write_text(with_tables((docs / "presets.md").read_text(encoding="utf-8")), encoding="utf-8")
