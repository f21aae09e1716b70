"""Checks values from outside against their declared types with msgspec, and words the errors.

Types are the annotations of dataclasses, with bounds as `msgspec.Meta`, or as what makes one (`fields.Field`):

    notices: Annotated[tuple[str, ...], Meta(max_length=64)] = ()
    num_steps: Annotated[int | None, whole(1, 1000, label="Steps", help="Sampling steps.")] = None

`check` is the one door: JSON values and Python values go through it alike. It makes tuples of lists and parts of
objects, turns whole numbers into floats where a float is declared, and nothing else: no text becomes a number.
"""

import math
import re
from collections.abc import Iterator, KeysView, Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from inspect import get_annotations
from types import NoneType, UnionType
from typing import Annotated, Any, Protocol, TypedDict, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import inspect

from gesso.errors import short
from gesso.request.checks import RequestError, as_json, nearest, range_data, unknown, unknown_data

OR_RANDOM = "; leave it out for a random one"  # of a seed


class Declared(Protocol):
    """What stands in an annotation and knows the bounds: `Annotated[int | None, declared]`."""

    @property
    def meta(self) -> msgspec.Meta:
        """The bounds, for msgspec."""


@cache
def types_of(cls: type) -> Mapping[str, Any]:
    """The type of each field of a dataclass as msgspec wants it: bounds on what they bound, None beside it."""
    return {name: _bounded(hint) for name, hint in hints_of(cls).items()}


def hints_of(cls: type) -> dict[str, Any]:
    """The annotation of each field of a dataclass.

    Where a subclass only narrows the type of a field, what the class above says of it is kept.
    """
    hints: dict[str, Any] = {}
    for one in reversed(cls.__mro__):
        own = get_type_hints(one, include_extras=True) if is_dataclass(one) else {}
        for name in get_annotations(one) if own else ():
            hint, before = own[name], hints.get(name)
            if get_origin(hint) is not Annotated and get_origin(before) is Annotated:
                hint = Annotated[(hint, *get_args(before)[1:])]
            hints[name] = hint
    return {field.name: hints[field.name] for field in fields(cls)}


def _bounded(hint: Any) -> Any:
    if get_origin(hint) is not Annotated:
        return hint
    kind, *metadata = get_args(hint)
    metas = [one if isinstance(one, msgspec.Meta) else one.meta for one in metadata]
    optional = get_origin(kind) in (Union, UnionType)
    if optional:
        (kind,) = (one for one in get_args(kind) if one is not NoneType)
    for meta in metas:
        kind = Annotated[kind, meta]
    return kind | None if optional else kind


@cache
def _wire(cls: type) -> Any:
    """The fields of a dataclass as a dictionary type, so that all of them are checked in one call."""
    return TypedDict(cls.__name__, dict(types_of(cls)))  # type: ignore[operator]


def check(cls: type, values: Mapping[str, Any], *, prefix: str = "") -> dict[str, Any]:
    """A value for each field of a dataclass, as declared.

    values: one for each field, from JSON or from Python. prefix: what a message puts before a name: "hires." Raises
    RequestError, whose field is the path of the value that cannot be: "num_steps", "loras[0].weight".
    """
    for name, kind in _with_parts(cls):
        value = values[name]
        if isinstance(value, dict) or (value and isinstance(value, list | tuple)):
            _check_names(kind, value, f"{prefix}{name}")
    try:
        return dict(msgspec.convert(values, _wire(cls), strict=True))
    except msgspec.ValidationError as error:
        raise _in_our_words(error, _wire(cls), values, prefix) from error


def convert(cls: type, values: object, what: str, *, exact: bool = False) -> Any:
    """One value of a dataclass from a JSON object. Raises RequestError.

    what: how messages call it: "recipe". exact: every field must be there, also one that has a default.
    """
    if not isinstance(values, dict):
        raise RequestError(what, f"{what} is {short(values)}, expected an object", data={"value": as_json(values)})
    _check_names(cls, values, what, exact=exact)
    try:
        return msgspec.convert(values, cls, strict=True)
    except msgspec.ValidationError as error:
        raise _in_our_words(error, cls, values, f"{what}.") from error


def _check_names(kind: Any, value: object, path: str, *, exact: bool = False) -> None:
    """No field of an object, or of objects in a list, is unknown or missing. Raises RequestError."""
    for part, many in _parts(kind):
        held = value if many else [value]
        for number, one in enumerate(held if isinstance(held, list | tuple) else []):
            if not isinstance(one, dict):
                continue
            where = f"{path}[{number}]" if many else path
            known, required = _names(part)
            if one.keys() <= known and (one.keys() >= (known if exact else required)):
                pass
            elif unknown := sorted(map(str, one.keys() - known)):
                raise RequestError(
                    f"{where}.{unknown[0][:64]}",
                    f"{where}: unknown field {short(unknown[0])}{nearest(unknown[0], known)}",
                    data=unknown_data(unknown[0], known),
                )
            else:
                name = next(name for name in (known if exact else required) if name not in one)
                raise RequestError(f"{where}.{name}", f"{where}: field {name!r} is missing")
            for name, inner in _with_parts(part):
                _check_names(inner, one.get(name), f"{where}.{name}", exact=exact)


@cache
def _names(part: type) -> tuple[KeysView[str], KeysView[str]]:
    """The fields of a dataclass in their order, and those of them that have no default."""
    known = {field.name: field for field in fields(part)}
    required = {
        name: field for name, field in known.items() if field.default is MISSING and field.default_factory is MISSING
    }
    return known.keys(), required.keys()


@cache
def _with_parts(cls: type) -> tuple[tuple[str, Any], ...]:
    """The fields of a dataclass that hold dataclasses, with their types: to hash a type costs more than to check it."""
    return tuple((name, kind) for name, kind in types_of(cls).items() if _parts(kind))


@cache
def _parts(kind: Any) -> tuple[tuple[type, bool], ...]:
    """The dataclasses that a type holds, and whether in a tuple."""

    def walk(kind: Any, many: bool) -> Iterator[tuple[type, bool]]:
        if is_dataclass(kind) and isinstance(kind, type):
            yield kind, many
        elif get_origin(kind) is Annotated:
            yield from walk(get_args(kind)[0], many)
        elif get_origin(kind) in (Union, UnionType):
            for arg in get_args(kind):
                yield from walk(arg, many)
        elif get_origin(kind) is tuple:
            yield from walk(get_args(kind)[0], True)

    return tuple(walk(kind, False))


# "Expected `int`, got `str` - at `$.loras[0].weight`"
_MESSAGE = re.compile(r"(.*?)(?: - at `\$(.*)`)?", re.DOTALL)
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]")


def _in_our_words(error: msgspec.ValidationError, kind: Any, values: object, prefix: str) -> RequestError:
    """The error for a value that msgspec refused: its path, the value, and what was expected."""
    match = _MESSAGE.fullmatch(str(error))
    assert match is not None
    place = match[2] or ""
    if isinstance(
        error.__cause__, RequestError
    ):  # a part refused its own fields; of several it does not know which it is
        return _renamed(error.__cause__, prefix + place.removeprefix("."))
    type_, field, value = _walk(kind, values, place)
    path = prefix + place.removeprefix(".") if place else prefix.removesuffix(".")
    if expected := getattr(field, "expected", ""):
        message, data = f"{path} is {short(value)}, expected {expected}", {"value": as_json(value)}
    else:
        message, data = _words(path, type_, value, getattr(field, "high", None))
    return RequestError(path, message + (OR_RANDOM if getattr(field, "minus_one", False) else ""), data=data)


def _renamed(error: RequestError, path: str) -> RequestError:
    """The error of a part that calls itself "loras", with its place in the list: "loras[0]"."""
    name = error.field.partition(".")[0]
    if not path.startswith(f"{name}["):
        return error
    field = path + error.field.removeprefix(name)
    message = (
        field + error.message.removeprefix(error.field) if error.message.startswith(error.field) else error.message
    )
    return RequestError(field, message, data=error.data)


def _walk(declared: Any, value: Any, place: str) -> tuple[inspect.Type, object, Any]:
    """The declared type at a place such as ".loras[0].weight", what was declared there, and the value."""
    kind, field = _plain(inspect.type_info(declared))
    for key, index in _STEP.findall(place):
        if key:
            if isinstance(kind, inspect.DataclassType):  # its bounds are in what `_wire` makes of it
                kind, _ = _plain(inspect.type_info(_wire(kind.cls)))
            assert isinstance(kind, inspect.TypedDictType)
            kind, field = _plain(next(one.type for one in kind.fields if one.name == key))
            value = value[key] if isinstance(value, Mapping) else getattr(value, key)
        else:
            assert isinstance(kind, inspect.TupleType | inspect.VarTupleType)
            kind, field = _plain(kind.item_types[int(index)] if isinstance(kind, inspect.TupleType) else kind.item_type)
            value = value[int(index)]
    return kind, field, value


def _plain(kind: inspect.Type) -> tuple[inspect.Type, object]:
    """The type without None beside it and without what is field about it, and the field that was declared there."""
    field = None
    while isinstance(kind, inspect.Metadata | inspect.UnionType):
        if isinstance(kind, inspect.UnionType):
            kind = next(one for one in kind.types if not isinstance(one, inspect.NoneType))
        else:
            field = (kind.extra or {}).get("field")
            kind = kind.type
    return kind, field


def _words(path: str, kind: inspect.Type, value: Any, highest: Any) -> tuple[str, dict[str, Any]]:
    """Message and data for a value that is not of a type, or outside of its bounds.

    highest: a bound that is beyond those of msgspec
    """
    data = {"value": as_json(value)}
    match kind:
        case inspect.IntType() if type(value) is int:
            high = kind.le if kind.le is not None else highest
            expected, data = f"{kind.ge} to {high}", range_data(value, kind.ge, high)
        case inspect.IntType():
            expected = "a whole number"
        case inspect.FloatType() if isinstance(value, int | float) and type(value) is not bool and math.isfinite(value):
            expected, data = f"{kind.ge:g} to {kind.le:g}", range_data(value, kind.ge, kind.le)
        case inspect.FloatType():
            expected = "a number"
        case inspect.BoolType():
            expected = "true or false"
        case inspect.LiteralType() if isinstance(value, str):
            known = [str(one) for one in kind.values]
            return unknown(path, value, known), unknown_data(value, known)
        case inspect.LiteralType():
            expected = f"one of {', '.join(map(str, kind.values))}"
            data = unknown_data(value, [str(one) for one in kind.values])
        case inspect.StrType() if kind.pattern is not None:
            expected = "the 64 digits of a SHA-256"
        case inspect.StrType() if isinstance(value, str) and value:
            bounds = f"at most {kind.max_length}" if not kind.min_length else f"{kind.min_length} to {kind.max_length}"
            data = {"length": len(value), "low": kind.min_length or 0, "high": kind.max_length}
            return f"{path} has {len(value)} characters, expected {bounds}", data
        case inspect.StrType():
            expected = "text"
        case inspect.TupleType():
            expected = "a pair" if len(kind.item_types) == 2 else f"{len(kind.item_types)} values"
        case inspect.VarTupleType() if isinstance(value, list | tuple):
            least = "" if kind.min_length is None else f"at least {kind.min_length} and "
            data = {"length": len(value), "low": kind.min_length or 0, "high": kind.max_length}
            return f"{path} has {len(value)} values, expected {least}at most {kind.max_length}", data
        case inspect.VarTupleType():
            expected = "a list"
        case inspect.DataclassType():
            expected = f"{kind.cls.__name__}(...), or an object in JSON"
        case _:
            expected = "an object"
    return f"{path} is {short(value)}, expected {expected}", data
