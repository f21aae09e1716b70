"""The page on preprocessors knows all of them, and what they really take."""

import ast
import inspect
from pathlib import Path

import pytest

from gesso.hints.registry import PREPROCESSORS, Preprocessor

PAGE = (Path(__file__).parents[2] / "docs" / "preprocessors.md").read_text(encoding="utf-8")


def needs_opencv(row: Preprocessor) -> bool:
    """Whether the function calls `opencv`."""
    tree = ast.parse(inspect.getsource(row.make))
    return any(isinstance(node, ast.Name) and node.id == "opencv" for node in ast.walk(tree))


@pytest.mark.parametrize("name", PREPROCESSORS)
def test_the_table_has_the_row(name: str):
    row = PREPROCESSORS[name]
    also = ", ".join(f"`{alias}`" for alias in row.aliases)
    values = "; ".join(
        f"`{key}` {value.default:g}, {value.low:g} to {value.high:.10g}" for key, value in row.parameters.items()
    )
    star = " *" if needs_opencv(row) else ""
    line = f"| `{name}`{star} | {also} | {row.help} | {values + ' ' if values else ''}|"
    assert line in PAGE, line


def test_the_table_has_no_other_row():
    assert sum(line.startswith("| `") for line in PAGE.splitlines()) == len(PREPROCESSORS)
