"""The JSON Schema of a request, generated from the table of fields: for forms, HTTP and other programs."""

from collections.abc import Iterator
from dataclasses import MISSING
from typing import Any

import msgspec

from gesso.request.fields import Row, rows
from gesso.request.migrations import SCHEMA, VERSION
from gesso.request.request import TextToImageRequest
from gesso.request.typed import types_of

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def request_schema() -> dict[str, Any]:
    """The schema of `TextToImageRequest.to_dict`, in draft 2020-12.

    What depends on more than one field (sigmas that fall, an end before its start) is beyond a schema, and is checked
    when a request is made of it. Under "x-gesso" a field has the jobs that it is for, its unit, what its choices
    mean, the values of the presets, and its names in other tools.
    """
    whole = _object(TextToImageRequest)
    head = {"schema": {"const": SCHEMA}, "version": {"const": VERSION}}
    whole["properties"] = head | whole["properties"]
    whole["required"] = [*head, *whole["required"]]
    parts = {part.__name__: _object(part) for part in _parts(TextToImageRequest)}
    return {"$schema": DIALECT, "title": "A request for pictures"} | whole | {"$defs": parts}


def _parts(cls: type) -> Iterator[type]:
    for row in rows(cls).values():
        if row.part is not None:
            yield row.part
            yield from _parts(row.part)


def _object(cls: type) -> dict[str, Any]:
    """The schema of one class; its parts are referred to."""
    kinds = types_of(cls)
    schemas, _ = msgspec.json.schema_components(kinds.values(), ref_template="#/$defs/{name}")
    table = rows(cls)
    return {
        "type": "object",
        "properties": {key: _property(table[key], kind) for key, kind in zip(kinds, schemas, strict=True)},
        "required": [key for key, row in table.items() if row.default is MISSING],
        "additionalProperties": False,
    }


def _property(row: Row, kind: dict[str, Any]) -> dict[str, Any]:
    """The type and bounds that msgspec writes, with the words of the table."""
    about = row.field
    for one in kind.get("anyOf", [kind]):
        if one.get("type") == "integer":
            one["maximum"] = about.high  # msgspec knows no bound above 64 bits with a sign
    more = {
        "jobs": list(about.jobs),
        "unit": about.unit,
        "means": dict(about.means),
        "presets": dict(about.presets),
        "open": about.open,
        "tools": {tool: list(names) for tool, names in about.tools.items()},
    }
    words: dict[str, Any] = {"title": about.label, "description": about.help}
    if row.default is not MISSING:
        words["default"] = msgspec.to_builtins(row.default)
    if about.registry:
        words["examples"] = list(row.values)
    return words | kind | {"x-gesso": {key: value for key, value in more.items() if value}}
