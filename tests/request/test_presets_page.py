"""docs/presets.md has every convention with the values of the presets."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from gesso.request.presets import PRESET_DEFAULTS, PRESETS

PAGE = (Path(__file__).parents[2] / "docs" / "presets.md").read_text(encoding="utf-8")


def shown(value: bool | float | str) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"`{value}`" if isinstance(value, str) else f"{value:g}"


@pytest.mark.parametrize("table", [PRESETS, PRESET_DEFAULTS], ids=["conventions", "defaults"])
def test_the_page_has_the_row(table: Mapping[str, Mapping[str, Any]]) -> None:
    for name in table["gesso"]:
        row = " | ".join([f"| `{name}`", *(shown(preset[name]) for preset in table.values()), ""])
        assert row in PAGE, row


def test_the_page_has_no_other_row() -> None:
    names = [line.split("`")[1] for line in PAGE.splitlines() if line.startswith("| `")]
    assert names == [name for table in (PRESETS, PRESET_DEFAULTS) for name in table["gesso"]]
