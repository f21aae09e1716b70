"""docs/presets.md has the tables that are made of the table of fields."""

from pathlib import Path

from gesso.request.presets import PRESETS
from gesso.request.reference import BEGIN, END, with_tables
from gesso.request.request import ROWS

PAGE = (Path(__file__).parents[2] / "docs" / "presets.md").read_text(encoding="utf-8")


def test_its_tables_are_fresh():
    assert PAGE.count(BEGIN) == PAGE.count(END) == 2
    assert with_tables(PAGE) == PAGE, "make them again: python -m gesso.request.reference docs"


def test_every_field_that_a_preset_decides_has_a_row():
    names = [line.split("`")[1] for line in PAGE.splitlines() if line.startswith("| `")]
    assert sorted(names) == sorted(ROWS[path].names[0] for path in PRESETS["gesso"])
    row = "| `levels` | `round` | `truncate` | `round` |"
    assert row in PAGE
    assert "| `mask.blur` | 0 | 4 | 0 |" in PAGE
