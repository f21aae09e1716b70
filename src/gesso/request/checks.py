"""Checks of single values that come from outside, each an error that names the field. Imports no torch."""

import math
import unicodedata
from collections.abc import Collection, Mapping
from dataclasses import fields
from difflib import get_close_matches
from itertools import pairwise
from typing import Any

from gesso import strict_json
from gesso.errors import GessoError

MAX_PROMPT_CHARS = 32_000  # what the OpenAI surface accepts; tokenizers take milliseconds for it
MAX_SIDE = 4096
MAX_STEPS = 1000
MAX_GUIDANCE = 100.0
MAX_SIGMA = 1e6
MAX_NAME = 64  # characters of a sampler, a schedule, a setting
MAX_FILE_NAME = 255  # of a model, a LoRA
MAX_JSON_CHARS = 1_000_000


class RequestError(GessoError, ValueError):
    """A value of the request that cannot be; `field` names it. A GessoError to the user, a ValueError to code."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


def check_known(field: str, value: str, known: Collection[str]) -> None:
    """Raises RequestError, naming the nearest and all known, unless `value` is among `known`."""
    if value not in known:
        raise RequestError(
            field, f"unknown {field} {short(value)}{nearest(value, known)}. Known: {', '.join(sorted(known))}"
        )


def parse_json_object(text: str, what: str) -> dict[str, Any]:
    """A JSON object, read strictly: no key twice, no NaN or infinity, bounded size. Raises RequestError."""
    if len(text) > MAX_JSON_CHARS:
        raise RequestError(what, f"{what}: {len(text)} characters of JSON, at most {MAX_JSON_CHARS} are read")
    try:
        found = strict_json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RequestError(what, f"{what}: not valid JSON ({str(error)[:200] or 'nested too deeply'})") from error
    if not isinstance(found, dict):
        raise RequestError(what, f"{what}: a JSON {type(found).__name__}, expected an object")
    return found


def check_text(field: str, value: object) -> None:
    """Text of at most MAX_PROMPT_CHARS characters, without NUL and half characters. Raises RequestError."""
    if not isinstance(value, str):
        raise RequestError(field, f"{field} is a {type(value).__name__}, expected text")
    if len(value) > MAX_PROMPT_CHARS:
        raise RequestError(field, f"{field} has {len(value)} characters, at most {MAX_PROMPT_CHARS} are read")
    if "\0" in value:
        raise RequestError(field, f"{field} contains a NUL character; remove it")
    if any(unicodedata.category(char) == "Cs" for char in value):
        raise RequestError(field, f"{field} is not valid Unicode text (a broken UTF-8 byte or a lone surrogate)")


def check_int(field: str, value: object, low: int, high: int, *, optional: bool = True) -> None:
    """A whole number from low to high; None where that is allowed. Raises RequestError."""
    if value is None and optional:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise RequestError(field, f"{field} is {short(value)}, expected a whole number")
    if not low <= value <= high:
        raise RequestError(field, f"{field} is {short(value)}, expected {low} to {high}")


def check_float(field: str, value: object, low: float, high: float) -> None:
    """A finite number from low to high, or None. Raises RequestError."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise RequestError(field, f"{field} is {short(value)}, expected a number")
    if not low <= value <= high:
        raise RequestError(field, f"{field} is {short(value)}, expected {low:g} to {high:g}")


def check_bool(field: str, value: object) -> None:
    """True, False or None. Raises RequestError."""
    if value is not None and not isinstance(value, bool):
        raise RequestError(field, f"{field} is {short(value)}, expected true or false")


def check_digest(field: str, value: object) -> None:
    """The SHA-256 of a picture or a file, or None. Raises RequestError."""
    if value is None:
        return
    if not (isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")):
        raise RequestError(field, f"{field} is {short(value)}, expected the 64 digits of a SHA-256")


def check_sigmas(value: object) -> None:
    """Two or more finite numbers that fall and end at 0 or above."""
    if value is None:
        return
    if not isinstance(value, tuple) or not 2 <= len(value) <= MAX_STEPS + 1:
        raise RequestError("sigmas", f"sigmas are {short(value)}, expected a list of 2 to {MAX_STEPS + 1} numbers")
    for sigma in value:
        check_float("sigmas", sigma, 0.0, MAX_SIGMA)
        if sigma is None:
            raise RequestError("sigmas", "sigmas: a number is missing")
    if not all(a > b for a, b in pairwise(value)):
        raise RequestError("sigmas", "sigmas must fall from the noisiest to the last, which is usually 0")


def check_name(field: str, value: object) -> None:
    """A short name, or None. Raises RequestError."""
    if value is not None and not (isinstance(value, str) and 0 < len(value) <= MAX_NAME):
        raise RequestError(field, f"{field} is {short(value)}, expected a short name")


def check_multiple(side: str, value: int, multiple: int) -> None:
    """A side that the model can draw. Raises RequestError, which names the nearest two."""
    if value % multiple:
        below = value // multiple * multiple
        near = [size for size in (below, below + multiple) if multiple <= size <= MAX_SIDE]
        raise RequestError(
            side, f"{side} {value}: this model draws multiples of {multiple}. Try {' or '.join(map(str, near))}"
        )


def nearest(value: object, known: Collection[str]) -> str:
    """A question that names the closest of the known names; "" where none is close."""
    near = get_close_matches(str(value).lower()[:64], known, n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def brief(value: Any, hidden: Mapping[str, object] | None = None) -> str:
    """A dataclass as it is shown: its fields but those that have their default, or the value in `hidden`."""
    plain = hidden or {}
    own = {field.name: getattr(value, field.name) for field in fields(value)}
    shown = [
        f"{field.name}={short(own[field.name])}"
        for field in fields(value)
        if own[field.name] not in (field.default, plain.get(field.name, field.default))
    ]
    return f"{type(value).__name__}({', '.join(shown)})"


def short(value: object) -> str:
    """A value as a message repeats it."""
    text = repr(value)
    return text if len(text) <= 64 else f"{text[:60]}..."
