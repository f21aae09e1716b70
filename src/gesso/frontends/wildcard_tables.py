"""Lists of wildcards in YAML and JSON, as Dynamic Prompts reads them: a table of lists, or a single list.

    animals:             the list __animals/wild__ has the lines
      wild: [lion, 2::tiger, {text: bear, weight: 0.5}]
    greeting: hello      a list of one line

Names are made of the keys; that of a single list is the file's. Other values, such as numbers, are not read.
"""

import re
from collections.abc import Iterator
from typing import Any

from gesso import strict_json, strict_yaml
from gesso.text.prompt import number_text

MAX_DEPTH = 32
MAX_VALUES = 500_000
_WEIGHT = re.compile(r"\d{1,9}(?:\.\d{0,9})?|\.\d{1,9}")


def parse_table(text: str, name: str) -> tuple[dict[str, tuple[str, ...]], tuple[str, ...]]:
    """The lists of a file by their names, and the places of the values that are no text.

    name: of the file, with its ending, which says what it is. Raises ValueError for a text that is neither YAML nor
    JSON, and ImportError where YAML is not installed.
    """
    stem, _, ending = name.rpartition(".")
    if ending.lower() == "json":
        try:
            value = strict_json.loads(text)
        except RecursionError:
            raise ValueError("is too deep") from None
        except ValueError as error:
            raise ValueError(f"is not valid JSON ({error})") from None
    else:
        value = strict_yaml.loads(text, max_depth=MAX_DEPTH, max_values=MAX_VALUES)
    lists: dict[str, tuple[str, ...]] = {}
    ignored: list[str] = []
    if isinstance(value, list):
        lists[stem] = tuple(_lines(value, stem, ignored))
    elif isinstance(value, dict):
        for key, found in _tables(value, ignored):
            lists[key] = tuple(_lines(found, key, ignored))
    elif value is not None:
        raise ValueError(f"is {type(value).__name__}, expected a table of lists, or a list")
    return {key: lines for key, lines in lists.items() if lines}, tuple(ignored)


def _tables(table: dict[Any, Any], ignored: list[str]) -> Iterator[tuple[str, list[Any]]]:
    """The lists of a table and of those in it, by their keys with slashes between."""
    waiting: list[tuple[tuple[str, ...], Any]] = [((), table)]
    while waiting:
        keys, value = waiting.pop()
        place = "/".join(keys)
        if isinstance(value, dict):
            for key, inner in reversed(value.items()):
                if isinstance(key, str):
                    waiting.append(((*keys, key), inner))
                else:
                    ignored.append(f"{place}/{key}".strip("/"))
        elif isinstance(value, list):
            yield place, value
        elif isinstance(value, str) and value:
            yield place, [value]
        elif value:
            ignored.append(place)


def _lines(values: list[Any], place: str, ignored: list[str]) -> Iterator[str]:
    """Lines with their weights before them, as in a file of text."""
    for index, value in enumerate(values):
        if isinstance(value, str) and value:
            yield value
        elif isinstance(value, dict) and (text := value.get("text") or value.get("content")) and isinstance(text, str):
            weight = value.get("weight", 1)
            weight = number_text(weight) if _is_number(weight) else str(weight)
            if _WEIGHT.fullmatch(weight) is None:
                ignored.append(f"{place}[{index}]")
                continue
            yield f"{weight}::{text}" if "weight" in value else text
        elif value:
            ignored.append(f"{place}[{index}]")


def _is_number(value: object) -> bool:
    return isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool))
