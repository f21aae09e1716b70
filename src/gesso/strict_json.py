"""Strict JSON (RFC 8259) for untrusted input: no duplicate keys, no NaN, no infinity."""

import json
from collections.abc import Callable
from typing import Any, NoReturn


class RepeatedKeyError(ValueError):
    """A key that comes twice in one object."""

    def __init__(self, key: str) -> None:
        super().__init__("duplicate key in an object")
        self.key = key


def loads(text: str, *, parse_int: Callable[[str], int] | None = None, infinite: bool = False) -> Any:
    """The value of a JSON text. Raises ValueError, and RepeatedKeyError, which is one; RecursionError where it is deep.

    parse_int  reads whole numbers in place of `int`
    infinite   Infinity and -Infinity are numbers, as Python writes them
    """
    constant = _infinity if infinite else _refuse
    return json.loads(text, object_pairs_hook=_object, parse_constant=constant, parse_int=parse_int)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        keys = set[str]()
        for key, _ in pairs:
            if key in keys:
                raise RepeatedKeyError(key)
            keys.add(key)
    return values


def _infinity(text: str) -> float:
    return float(text) if text.endswith("Infinity") else _refuse(text)


def _refuse(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a valid JSON number")
