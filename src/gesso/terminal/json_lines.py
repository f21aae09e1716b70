"""What --json prints: JSON documents, one a line, on stdout.

A command that makes one thing after the other prints a line for each as soon as it is there, every other command one
line. An error is the last line: {"error": {"code", "field", "message", "data"}}.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import typer

from gesso.errors import GessoError
from gesso.notices import Notice
from gesso.terminal.words import in_options

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON: one line per result.")]


def json_line(values: Any) -> str:
    """One document on one line."""
    return json.dumps(values, ensure_ascii=False)


def error_values(error: GessoError) -> dict[str, Any]:
    """An error for programs; docs/errors.md lists the codes."""
    return _values(error.code, error.field, error.one_line, error.data)


def notice_values(notices: Iterable[str]) -> dict[str, Any]:
    """Notices for programs: the texts, and the same with code, field and data."""
    texts = list(dict.fromkeys(notices))
    told = [
        _values(one.code, one.field, str(one), one.data) if isinstance(one, Notice) else _values("", None, one, {})
        for one in texts
    ]
    return {"notices": texts, "notice_details": told}


def _values(code: str, field: str | None, message: str, data: Mapping[str, Any]) -> dict[str, Any]:
    return {"code": code, "field": field, "message": in_options(message), "data": dict(data)}
