"""docs/glossary.md names options, commands, fields and pages that exist."""

import re
from pathlib import Path

import pytest

from gesso.cli.reference import render
from gesso.request.request import ROWS

DOCS = Path(__file__).parents[2] / "docs"
TERMS = [
    [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
    for line in (DOCS / "glossary.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("| ") and not line.startswith(("| term", "| ---"))
]


@pytest.fixture(scope="module")
def reference() -> str:
    """The page of all commands and options."""
    return render()


@pytest.mark.parametrize("row", TERMS, ids=lambda row: row[0])
def test_what_a_term_points_to_exists(row: list[str], reference: str) -> None:
    term, meaning, *_, ours = row
    assert len(row) == 6 and term and meaning, row
    for option in re.findall(r"`(--[a-z0-9-]+)`", ours):
        assert f"`{option}`" in reference, option
    for command in re.findall(r"`gesso ([a-z -]+)`", ours):
        assert f"## `gesso {command}" in reference, command
    for name in re.findall(r"field `([\w.]+)`", ours):
        assert name in ROWS, name
