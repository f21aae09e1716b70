"""The axes of a grid (X/Y/Z plot): "steps=4,8,20" becomes one change to the request per value.

Values as in A1111's X/Y/Z plot: a list with commas (a value with a comma in quotes), and ranges of numbers: 1-5,
1-5 (+2), 10-4 (-3), 0-1 (+0.25), or 1-10 [5] for five values at equal distances.
"""

import csv
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from types import MappingProxyType
from typing import Any

from gesso.errors import short
from gesso.request.checks import RequestError, check_known
from gesso.request.fields import Row, rows
from gesso.request.parts import LoraUse
from gesso.request.request import NAMED, TextToImageRequest, with_values

MAX_VALUES = 256  # of one axis
MAX_CELLS = 10_000  # of a grid

_NUMBER = r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)"
_STEPPED = re.compile(rf"({_NUMBER})\s*-\s*({_NUMBER})(?:\s*\(\s*({_NUMBER})\s*\))?")
_COUNTED = re.compile(rf"({_NUMBER})\s*-\s*({_NUMBER})\s*\[\s*([0-9]{{1,4}})\s*\]")
_NOT_AN_AXIS = ("prompt", "source.image", "mask.image", "num_images")  # a prompt is searched and replaced
_AXES: Mapping[str, Row] = MappingProxyType(
    {name: row for name, row in NAMED.items() if row.is_single and row.path not in _NOT_AN_AXIS}
)

Change = Callable[[TextToImageRequest], TextToImageRequest]


@dataclass(frozen=True)
class Axis:
    """One axis.

    label    the setting that varies, as typed
    values   as typed, one per cell
    changes  the change that each value makes to a request; None if the value names another model
    sets     what the values replace: paths of fields, "model", or a LoRA; nothing for a prompt, which is searched
    """

    label: str
    values: tuple[str, ...]
    changes: tuple[Change | None, ...]
    sets: tuple[str, ...] = ()

    @property
    def is_model(self) -> bool:
        """Whether its values are models."""
        return None in self.changes


def parse_axis(text: str) -> Axis:
    """Parse NAME=VALUES. NAME is a field of the request, one of its other names, or:

    prompt      search and replace (prompt S/R): each value replaces the first value in both prompts
    lora:NAME   weights of a LoRA that is added
    size        512x768 or one number
    model       models by name or path
    Raises RequestError for unknown names and for values that a request cannot have.
    """
    name, sign, listed = text.partition("=")
    name = name.strip()
    if not sign or not name or not listed.strip():
        raise RequestError("axis", f"{short(text)}: expected NAME=VALUES, such as steps=4,8,20 or guidance=2-8(+2)")
    values = _split(listed)
    if name == "prompt":
        return Axis(name, tuple(values), tuple(_replacing(values[0], value) for value in values))
    if name == "model":
        return Axis(name, tuple(values), (None,) * len(values), ("model",))
    if name.startswith("lora:"):
        return _lora_axis(name, values)
    key = name.replace("-", "_")
    if key == "size":
        changes = tuple(_setting(_size(value)) for value in values)
        return Axis("size", tuple(values), changes, ("width", "height"))
    if key not in _AXES:
        check_known("axis", key, axis_names(), list(_AXES))
    row = _AXES[key]
    texts = [one for value in values for one in (_ranged(value, row.kind == "whole") if row.is_number else [value])]
    _check_count(texts)
    values_read = [row.read(one, name) for one in texts]
    try:
        changes = tuple(_changes(row, values_read))
    except RequestError as error:
        raise error.called({row.path: name}) from None
    return Axis(name, tuple(texts), changes, (row.path,))


def _changes(row: Row, values: Sequence[Any]) -> Iterator[Change]:
    if row.field.minus_one and -1 in values:
        return _open_seeds(row.path, values)
    return (_setting({row.path: value}) for value in values)


def axis_names() -> tuple[str, ...]:
    """One name of each axis, as `parse_axis` takes it, without those of LoRA."""
    rows = dict.fromkeys(_AXES.values())
    return ("prompt", "size", "model", *((*row.field.options, row.names[0])[0].replace("-", "_") for row in rows))


def check_apart(axes: Sequence[Axis]) -> None:
    """Raises RequestError where two axes set the same, so that the labels of one would not be true."""
    of: dict[str, Axis] = {}
    for axis in axes:
        for path in axis.sets:
            if path in of:
                names = f"{short(of[path].label)} and {short(axis.label)}" if of[path].label != axis.label else "both"
                raise RequestError("axis", f"two axes set {path} ({names}): give each axis a setting of its own")
            of[path] = axis


def cells(axes: Sequence[Axis]) -> int:
    """How many pictures a grid has. Raises RequestError above MAX_CELLS."""
    count = 1
    for axis in axes:
        count *= len(axis.values)
    if count > MAX_CELLS:
        raise RequestError("axis", f"a grid of {count} pictures, expected at most {MAX_CELLS}")
    return count


def _split(listed: str) -> list[str]:
    """Values separated by commas; a value in quotes may contain commas."""
    try:
        (row,) = csv.reader([listed], skipinitialspace=True, strict=True)
    except (csv.Error, ValueError) as error:
        raise RequestError("axis", f"{short(listed)}: a quote in the list of values is not closed") from error
    values = [value.strip() for value in row]
    if any(not value for value in values):
        raise RequestError("axis", f"{short(listed)}: a value between two commas is missing")
    _check_count(values)
    return values


def _check_count(values: Sequence[str]) -> None:
    if len(values) > MAX_VALUES:
        raise RequestError("axis", f"{len(values)} values on one axis, expected at most {MAX_VALUES}")


def _ranged(text: str, whole: bool) -> list[str]:
    """The numbers of a range; a number alone stays one."""
    if match := _COUNTED.fullmatch(text):
        first, last, count = _number(match[1], whole), _number(match[2], whole), int(match[3])
        if not 1 <= count <= MAX_VALUES:
            raise RequestError("axis", f"{short(text)}: {count} values, expected 1 to {MAX_VALUES}")
        steps = [first + (last - first) * k / max(count - 1, 1) for k in range(count)]
        return [str(round(value)) if whole else f"{float(value):.6g}" for value in steps]
    match = _STEPPED.fullmatch(text)
    if match is None:
        return [text]
    first, last = _number(match[1], whole), _number(match[2], whole)
    step_text = match[3] if match[3] is not None else "1" if last >= first else "-1"
    step = _number(step_text, whole)
    if step == 0 or (last - first) / step < 0 or (last - first) / step > MAX_VALUES:
        raise RequestError(
            "axis", f"{short(text)}: expected a range of at most {MAX_VALUES} values in steps of {step_text[:20]}"
        )
    values = [first + k * step for k in range(int((last - first) / step + 1e-9) + 1)]
    if whole and any(value != int(value) for value in values):
        raise RequestError("axis", f"{short(text)}: expected a range of whole numbers")
    return [str(int(value)) if whole else f"{float(value):.6g}" for value in values]


def _number(text: str, whole: bool) -> float | Fraction:
    """An end of a range; of whole numbers exactly, since a seed may have 20 digits."""
    return Fraction(text) if whole else float(text)


def _setting(values: Mapping[str, Any]) -> Change:
    with_values(TextToImageRequest(prompt=""), values)  # a value that cannot be is refused before anything is drawn
    more = {"sigmas": None} if {"num_steps", "schedule"} & values.keys() else {}
    return lambda request: with_values(request, more | dict(values))


def _open_seeds(path: str, values: Sequence[int]) -> Iterator[Change]:
    """Seeds, of which each -1 is a random one of its own: that of the run, at the next index."""
    count = 0
    for value in values:
        if value != -1:
            yield _setting({path: value})
            continue
        yield _opened(path, count)
        count += 1


def _opened(path: str, index: int) -> Change:
    return lambda request: with_values(request, {path: None, "first_index": request.first_index + index})


def _size(text: str) -> dict[str, int]:
    match = re.fullmatch(r"(\d{1,6})(?:x(\d{1,6}))?", text.lower())
    if not match:
        raise RequestError("axis", f"size: {short(text)}, expected WIDTHxHEIGHT or one number")
    return {"width": int(match[1]), "height": int(match[2] or match[1])}


def _replacing(search: str, value: str) -> Change:
    def change(request: TextToImageRequest) -> TextToImageRequest:
        if search not in request.prompt and search not in request.negative_prompt:
            raise RequestError("axis", f"prompt: {short(search)} is in neither prompt, so there is nothing to replace")
        return replace(
            request,
            prompt=request.prompt.replace(search, value),
            negative_prompt=request.negative_prompt.replace(search, value),
        )

    return change


def _lora_axis(name: str, values: list[str]) -> Axis:
    texts = [one for value in values for one in _ranged(value, False)]
    _check_count(texts)
    file = name.partition(":")[2].strip()
    uses = [LoraUse(name=file, weight=rows(LoraUse)["weight"].read(text, name)) for text in texts]

    def adding(use: LoraUse) -> Change:
        return lambda request: replace(
            request, loras=(*(other for other in request.loras if other.name != use.name), use)
        )

    return Axis(name, tuple(texts), tuple(adding(use) for use in uses), (name,))
