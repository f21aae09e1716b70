"""The page docs/request.md, made of the table of fields: `python -m gesso.request.reference > docs/request.md`."""

import sys
from collections.abc import Iterable, Iterator
from dataclasses import MISSING

from gesso.request.conventions import PRESET_NAMES, Conventions
from gesso.request.fields import JOBS, TOOLS, Row, rows
from gesso.request.parts import ControlUse, HiresPass, LoraUse
from gesso.request.request import TextToImageRequest

HEAD = """\
# The fields of a request

<!-- Made by `python -m gesso.request.reference > docs/request.md`; a test keeps it fresh. -->

Everything that decides a picture besides the model is a field of one request: in Python (`TextToImageRequest`), in
batch files, and in the recipe that a picture carries. This page lists them all, with the names that other tools have
for them. The checks, the JSON Schema (`gesso.request.json_schema.request_schema`), the axes of `gesso grid` and the
flags of `gesso batch` are made of the same table; in grids and batch files a field may also be called as the column
"typed as" has it, or as A1111 does.

Where a field is left out, what stands under "default" takes its place; several values there are those of the presets
gesso, a1111 and diffusers.
"""
GROUPS = {
    "": "Prompt, size and sampling",
    "source": "The picture to start from (image to image, outpainting, editing, enlarging)",
    "mask": "The mask (inpainting)",
    "variation": "Variations of the noise",
    "tiles": "Tiles",
}
CONVENTIONS = """\
## Conventions

Tools differ in how they turn the same settings into a picture. Each difference is a field; the preset decides those
that are left open (`--preset` on the command line, `--set NAME=VALUE` for one of them).
"""


def render() -> str:
    """The whole page, in Markdown."""
    fields = [row for key, row in rows(TextToImageRequest).items() if key not in rows(Conventions)]
    parts = [HEAD]
    for group, title in GROUPS.items():
        parts.append(_section(title, [row for row in fields if row.field.group == group]))
    parts.append(_section("Second pass: `hires`", rows(HiresPass).values()))
    parts.append(_section("LoRA: each of `loras`", rows(LoraUse).values()))
    parts.append(_section("ControlNet and its kin: each of `controls`", rows(ControlUse).values()))
    parts.append(CONVENTIONS)
    parts.append("\n".join(_conventions()))
    return "\n".join(parts) + "\n"


def _section(title: str, table: Iterable[Row]) -> str:
    lines = [
        f"## {title}",
        "",
        "| field | what it is | values | default | typed as | in other tools | infotext |",
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
        sort = "whole, " if row.kind == "whole" else ""
        low, high = (f"{one:g}" if row.kind == "real" else str(one) for one in (about.low, about.high))
        return f"{sort}{low} to {high}" + (f" {about.unit}" if about.unit == "pixels" else "")
    if about.registry:
        means = "; ".join(f"`{one}`: {words}" for one, words in about.means.items())
        return f"{means}; or that of a plug-in" if means else f"a name of the {about.registry}"
    if row.kind == "text" and about.pattern:
        return "SHA-256"
    words = {"flag": "true, false", "text": "text", "list": "list", "part": "object", "parts": "list of objects"}
    return words[row.kind]


def default(row: Row) -> str:
    """What an open field becomes."""
    about = row.field
    if row.default is MISSING:
        return "must be given"
    if row.default is not None and row.default != () and row.default != "":
        return f"`{row.default}`"
    if about.presets:
        found = [about.presets[preset] for preset in PRESET_NAMES]
        return f"`{found[0]}`" if len(set(found)) == 1 else ", ".join(f"`{one}`" for one in dict.fromkeys(found))
    return about.open or "none"


def _conventions() -> Iterator[str]:
    yield "| convention | what it is | values | " + " | ".join(f"`{preset}`" for preset in PRESET_NAMES) + " |"
    yield "| --- | --- | --- |" + " --- |" * len(PRESET_NAMES)
    for row in rows(Conventions).values():
        presets = " | ".join(f"`{_shown(row.field.presets[preset])}`" for preset in PRESET_NAMES)
        yield f"| `{row.name}` | {_help(row)} | {values(row)} | {presets} |"


def _shown(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


if __name__ == "__main__":
    sys.stdout.write(render())
