"""Arguments of public functions: checks that tell a wrong type where it was passed, and not far inside.

Each check raises ArgumentError on one line: the argument, what it is, what was expected. Numbers of numpy count as
numbers, True and False do not.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import fields
from difflib import get_close_matches
from functools import wraps
from numbers import Integral, Real
from typing import Any, TypeVar

from gesso.errors import GessoError, short

T = TypeVar("T")


class ArgumentError(GessoError, ValueError):
    """A wrong argument. A GessoError to the user, a ValueError to code."""

    default_code = "invalid_value"


def refused(name: str, value: object, expected: str) -> ArgumentError:
    """The error about an argument."""
    return ArgumentError(f"`{name}` is {short(value)}, expected {expected}", field=name)


def check_type(name: str, value: object, kinds: type | tuple[type, ...], expected: str) -> None:
    """Raises ArgumentError for a value of none of the types."""
    if not isinstance(value, kinds):
        raise refused(name, value, expected)


def check_text(name: str, value: object, expected: str = "a text", *, optional: bool = False) -> None:
    """Raises ArgumentError for anything but a string; optional: or None."""
    if not (isinstance(value, str) or (optional and value is None)):
        raise refused(name, value, expected)


def check_path(name: str, value: object, expected: str = "a path", *, optional: bool = False) -> None:
    """Raises ArgumentError for anything but a string or what stands for a path; optional: or None."""
    is_path = isinstance(value, str | os.PathLike) and isinstance(os.fspath(value), str)
    if not (is_path or (optional and value is None)):
        raise refused(name, value, expected)


def check_flag(name: str, value: object) -> None:
    """Raises ArgumentError for anything but True and False: the text "no" would be taken for True."""
    if value is not True and value is not False:
        raise refused(name, value, "True or False")


def check_whole(name: str, value: object, least: int = 1, *, optional: bool = False, also: str = "") -> None:
    """Raises ArgumentError for anything but a whole number of at least `least`; also: other words for what may be."""
    if optional and value is None:
        return
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise refused(name, value, f"a whole number of at least {least}{also}")


def check_number(name: str, value: object, expected: str = "a number") -> None:
    """Raises ArgumentError for anything but a real number, which may be infinite or NaN."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise refused(name, value, expected)


def check_size(name: str, value: Any, *, optional: bool = False) -> None:
    """Raises ArgumentError for anything but two whole numbers."""
    if optional and value is None:
        return
    sides = value if isinstance(value, tuple | list) else ()
    if len(sides) != 2 or not all(isinstance(side, Integral) and not isinstance(side, bool) for side in sides):
        raise refused(name, value, "width and height in pixels, such as (512, 768)")


def check_callable(name: str, value: object, expected: str, *, optional: bool = False) -> None:
    """Raises ArgumentError for anything that cannot be called."""
    if not (callable(value) or (optional and value is None)):
        raise refused(name, value, expected)


def check_mapping(name: str, value: object, expected: str, *, optional: bool = False) -> None:
    """Raises ArgumentError for anything but a dict or what has its methods."""
    if not (isinstance(value, Mapping) or (optional and value is None)):
        raise refused(name, value, expected)


def known_fields(
    error: Callable[[str, str], GessoError] = lambda field, message: ArgumentError(message, field=field),
    elsewhere: Callable[[str], str | None] = lambda name: None,
) -> Callable[[type[T]], type[T]]:
    """Decorates a dataclass of keywords, so that a field that it does not have is told with the one that may be meant.

    error      makes the error from a field and a message
    elsewhere  the name in other tools -> the field, None for none
    """

    def decorate(cls: type[T]) -> type[T]:
        init = cls.__init__
        named: dict[type, list[str]] = {}

        @wraps(init)
        def checked(self: T, *args: Any, **values: Any) -> None:
            kind = type(self)
            if (known := named.get(kind)) is None:
                known = named[kind] = [field.name for field in fields(kind) if field.init]  # type: ignore[arg-type]
            if args and type(self) is cls and fields(self)[0].kw_only:  # type: ignore[arg-type]
                name = known[0]
                raise error(name, f"{cls.__name__}({short(args[0])}): give fields by their names, such as {name}=...")
            for name in values.keys() - known:
                meant = elsewhere(name)
                close = get_close_matches(name.lower()[:64], known, n=1)
                hint = f" (did you mean {meant or close[0]!r}?)" if meant or close else ""
                raise error(name[:64], f"{cls.__name__} has no field {short(name)}{hint}. Fields: {', '.join(known)}")
            init(self, *args, **values)

        cls.__init__ = checked  # type: ignore[method-assign,assignment]
        return cls

    return decorate
