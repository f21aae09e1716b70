"""Checks of single values from outside, with errors that name the field. Imports no torch."""

import math
import re
import unicodedata
from collections.abc import Collection, Mapping
from dataclasses import fields
from difflib import get_close_matches
from typing import Any

from gesso import strict_json
from gesso.errors import GessoError, short

MAX_PROMPT_CHARS = 32_000  # what the OpenAI surface accepts; tokenizers take milliseconds for it
MAX_SIDE = 4096
MAX_STEPS = 1000
MAX_GUIDANCE = 100.0
MAX_SEED = 2**64 - 1  # the key of the noise has 64 bits
MAX_NOISE_LEVEL = 999
MAX_SIGMA = 1e6
MAX_NAME = 64  # characters of a sampler, a schedule, a setting
MAX_FILE_NAME = 255  # of a model, a LoRA
MAX_JSON_CHARS = 1_000_000
HEX_64 = "[0-9a-f]{64}"  # a pattern for the digits of a SHA-256; no other pattern is used


class RequestError(GessoError, ValueError):
    """An invalid value in a request. A GessoError to the user, a ValueError to code.

    field  its path: num_steps, source.strength, loras[0].weight
    data   value, and what is known of the values that can be: low, high; or known, a list, and nearest, one of it or
           null; or multiple; in place of the value of a text or a list that is too long, its length
    """

    field: str
    default_code = "invalid_field"

    def __init__(self, field: str, message: str, *, data: Mapping[str, Any] | None = None) -> None:
        super().__init__(message, field=field, data=data)
        self.field = field

    def called(self, names: Mapping[str, str]) -> "RequestError":
        """The same error, whose message calls fields as the user did.

        names  path of a field -> what was typed: num_steps -> --steps
        """
        for path, name in names.items():
            self.message = name.join(re.split(rf"(?<![\w.]){re.escape(path)}(?![\w.])", self.message))
        return self


def check_known(field: str, value: str, known: Collection[str], also: Collection[str] = ()) -> None:
    """Raises RequestError, naming the nearest and all known, unless `value` is among `known`.

    also  names that are taken too, and may be the nearest, but are too many to list
    """
    if value not in known:
        raise RequestError(field, unknown(field, value, known, also), data=unknown_data(value, known))


def unknown(field: str, value: str, known: Collection[str], also: Collection[str] = ()) -> str:
    """The message for an unknown name."""
    near = nearest(value, [*known, *also])
    return f"unknown {field} {short(value)}{near}. Known: {', '.join(sorted(known))}"


def unknown_data(value: object, known: Collection[str]) -> dict[str, Any]:
    """The data of an error about an unknown name."""
    return {"value": as_json(value), "known": sorted(known), "nearest": nearest_name(value, known)}


def range_data(value: object, low: float | None = None, high: float | None = None) -> dict[str, Any]:
    """The data of an error about a value that is out of range; an end that is None is left out."""
    ends = {"low": low, "high": high}
    return {"value": as_json(value), **{key: end for key, end in ends.items() if end is not None}}


def as_json(value: object) -> Any:
    """A value as JSON can hold it; long or of another kind, shortened, as text."""
    if value is None or isinstance(value, bool) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, int) and abs(value) <= MAX_SEED + 1:
        return value
    if isinstance(value, str):
        text = value.encode("utf-8", "replace").decode()
        return text if len(text) <= MAX_FILE_NAME else f"{text[:60]}..."
    return short(value).encode("utf-8", "replace").decode()


def parse_json_object(text: str, what: str) -> dict[str, Any]:
    """A JSON object, read strictly: no key twice, no NaN or infinity, bounded size. Raises RequestError."""
    if not isinstance(text, str):
        raise RequestError(what, f"{what}: {short(text)} is not JSON, expected a text")
    if len(text) > MAX_JSON_CHARS:
        raise RequestError(what, f"{what}: {len(text)} characters of JSON, expected at most {MAX_JSON_CHARS}")
    try:
        values = strict_json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RequestError(what, f"{what}: not valid JSON ({str(error)[:200] or 'nested too deeply'})") from error
    if not isinstance(values, dict):
        raise RequestError(what, f"{what}: a JSON {type(values).__name__}, expected an object")
    return values


def check_text(field: str, value: str) -> None:
    """Text without NUL and half characters. Raises RequestError."""
    if "\0" in value:
        raise RequestError(field, f"{field} contains a NUL character; remove it")
    if not value.isascii() and any(unicodedata.category(char) == "Cs" for char in value):
        raise RequestError(field, f"{field} is not valid Unicode text (a broken UTF-8 byte or a lone surrogate)")


def check_file_name(field: str, value: str) -> None:
    """The name of a file that a `Finder` looks up. Raises RequestError."""
    if not value.strip() or not value.isprintable():
        raise RequestError(field, f"{field} is {short(value)}, expected a file name", data={"value": as_json(value)})


def check_multiple(side: str, value: int, multiple: int) -> None:
    """A side that the model can draw. Raises RequestError, which names the nearest two."""
    if value % multiple:
        below = value // multiple * multiple
        near = [size for size in (below, below + multiple) if multiple <= size <= MAX_SIDE]
        raise RequestError(
            side,
            f"{side} {value}: expected a multiple of {multiple} for this model. Try {' or '.join(map(str, near))}",
            data={"value": value, "multiple": multiple, "nearest": min(near, key=lambda size: abs(size - value))},
        )


def nearest(value: object, known: Collection[str]) -> str:
    """ " (did you mean 'x'?)" with the closest known name; "" if none is close."""
    near = nearest_name(value, known)
    return f" (did you mean {near!r}?)" if near is not None else ""


def nearest_name(value: object, known: Collection[str]) -> str | None:
    """The closest known name; None if none is close."""
    plain: dict[str, str] = {}
    for name in known:
        plain.setdefault(name.lower(), name)
    return next((plain[name] for name in get_close_matches(str(value).lower()[:64], plain, n=1)), None)


def brief(value: Any, hidden: Mapping[str, object] | None = None) -> str:
    """The repr of a dataclass, without fields that have their default value or the value in `hidden`."""
    plain = hidden or {}
    own = {field.name: getattr(value, field.name) for field in fields(value)}
    shown = [
        f"{field.name}={short(own[field.name])}"
        for field in fields(value)
        if own[field.name] not in (field.default, plain.get(field.name, field.default))
    ]
    return f"{type(value).__name__}({', '.join(shown)})"
