"""The preprocessors that control units may name, and their sliders: a table, since the preprocessors need torch and the
server does without. Made by

    python -m gesso.api.preprocessors

and a test keeps it fresh.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("preprocessors.json")


@dataclass(frozen=True, kw_only=True)
class Slider:
    """A parameter of a preprocessor."""

    name: str
    help: str
    default: float
    low: float
    high: float
    whole: bool


@dataclass(frozen=True, kw_only=True)
class Module:
    """A preprocessor.

    sliders     its parameters; the first two are what units call threshold_a and threshold_b
    aliases     what the extension and other tools call it
    needs_mask  the control image is to be clear where something is missing
    """

    name: str
    help: str
    aliases: tuple[str, ...]
    needs_mask: bool
    sliders: tuple[Slider, ...]


@cache
def modules() -> Mapping[str, Module]:
    """Preprocessors by name."""
    found = json.loads(FILE.read_text(encoding="utf-8"))
    return {
        name: Module(
            name=name,
            help=row["help"],
            aliases=tuple(row["aliases"]),
            needs_mask=row["needs_mask"],
            sliders=tuple(Slider(**slider) for slider in row["sliders"]),
        )
        for name, row in found.items()
    }


def table() -> dict[str, Any]:
    """The rows, from the preprocessors themselves. Imports torch."""
    from gesso.hints.registry import PREPROCESSORS

    return {
        name: {
            "help": row.help,
            "aliases": list(row.aliases),
            "needs_mask": row.needs_mask,
            "sliders": [
                {
                    "name": key,
                    "help": one.help,
                    "default": one.default,
                    "low": one.low,
                    "high": one.high,
                    "whole": one.whole,
                }
                for key, one in row.parameters.items()
            ],
        }
        for name, row in PREPROCESSORS.items()
        if PREPROCESSORS.origin(name) is None
    }


def text() -> str:
    """The file."""
    return json.dumps(table(), indent=1) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
    print(FILE, file=sys.stderr)
