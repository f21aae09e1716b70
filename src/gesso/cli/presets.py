"""`gesso presets`: what each preset sets, the conventions in which tools differ."""

from typing import Annotated, Any

import typer

from gesso.errors import GessoError
from gesso.request.fields import PRESET_NAMES, Row
from gesso.request.request import PRESET_ROWS
from gesso.terminal.json_lines import json_line
from gesso.terminal.tables import columns, matches


def command(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="WORD", help="Show only settings that have all these words.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List what each preset sets: the conventions in which gesso, A1111 and diffusers differ.

    --preset takes one of them; --set overrides a single setting. docs/presets.md says what each value means.

    Examples:
        gesso presets
        gesso presets noise
        gesso generate "a red car" --preset a1111 --seed 7
        gesso generate "a red car" --preset diffusers --set levels=truncate
    """
    rows = [row for _, row in PRESET_ROWS if matches(words or (), *row.names, row.field.label, row.field.help)]
    if as_json:
        print(json_line([_values(row) for row in rows]))
        return
    if not rows:
        raise GessoError(
            f"no setting of a preset has {' '.join(words or ())[:60]!r}. All: gesso presets", code="unknown_name"
        )
    head = ("SETTING", *(name.upper() for name in PRESET_NAMES), "MEANING")
    table = [(row.names[0], *(_word(row.field.presets[name]) for name in PRESET_NAMES), row.field.help) for row in rows]
    print("\n".join(columns([head, *table])))


def _word(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _values(row: Row) -> dict[str, Any]:
    return {
        "name": row.names[0],
        "field": row.path,
        "presets": dict(row.field.presets),
        "help": row.field.help,
        "means": dict(row.field.means),
    }
