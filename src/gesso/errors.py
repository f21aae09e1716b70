"""Errors: `GessoError` for what a user can fix.

The command line prints a `GessoError` on one line, without a traceback, and ends with exit code 2. A wrong argument
from code is a `ValueError`, and what cannot happen is an `assert`; neither belongs here.
"""

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

# How a message names a field of a request or an argument: `model`, or with a value that helps, `family=sd21`.
_FIELD = re.compile(r"`([a-z][a-z0-9_]*)(?:=([^`\s]+))?`")


class GessoError(Exception):
    """An error that the user can fix.

    The message says where, what was found, what was expected and what to do next. Fields and arguments stand in
    backticks, so that a front end can put its own words in their place (`in_words`):

        v2-1.safetensors: attn2.to_k.weight is [320, 1024], family 'sd15' expects [320, 768]. Try `family=sd21`

    code   stable, for programs and translations: one of `gesso.codes`, see docs/errors.md
    field  the field of the request or the argument that the error is about, or None
    data   details of the message, as JSON values
    """

    default_code: ClassVar[str] = "error"  # of a kind of error whose `code` is not passed

    def __init__(
        self, message: str, *, code: str | None = None, field: str | None = None, data: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code if code is not None else self.default_code
        self.field = field
        self.data: Mapping[str, Any] = dict(data or {})

    def __reduce__(self) -> tuple[Any, ...]:  # what pickle and copy make it from; kinds of errors differ in arguments
        return _rebuilt, (type(self), self.args), self.__dict__

    @property
    def one_line(self) -> str:
        """The message on a single line, as `one_line` gives it; where it repeats a very long text, that is cut."""
        return message_line(self.message)


def _rebuilt(kind: type[GessoError], args: tuple[Any, ...]) -> GessoError:
    """An error without attributes, which pickle and copy set afterwards."""
    return kind.__new__(kind, *args)


MAX_SHOWN = 100  # characters of a text from outside that a message repeats; longer than any name of a tensor
MAX_WORD = 600
MAX_LINE = 3000  # of a message on one line: room for lists of names


def shorten(text: str) -> str:
    """A text from outside as a message repeats it: on one line, no control characters, and of a long one both ends.

    Names of a megabyte are possible, and so are prompts in place of names.
    """
    cut = len(text) > MAX_SHOWN
    return f"{one_line(text[: MAX_SHOWN - 23])}...{one_line(text[-20:])}" if cut else one_line(text)


def short(value: object) -> str:
    """Any value as a message repeats it: a text in quotes, shortened."""
    if isinstance(value, str) and len(value) > MAX_SHOWN:
        return repr(f"{value[: MAX_SHOWN - 23]}...{value[-20:]}")
    try:
        text = repr(value)
    except ValueError:  # Python writes no number of more digits
        return "a number of thousands of digits"
    except RecursionError:
        return f"a {type(value).__name__} that is nested too deeply"
    return text if isinstance(value, str) else shorten(text)


def as_path(value: object, field: str) -> Path:
    """A path as callers have it: text, or what stands for a path. Raises GessoError, naming `field`, for all else."""
    if isinstance(value, str | os.PathLike) and isinstance(os.fspath(value), str):
        return Path(value)
    raise GessoError(f"`{field}` is {short(value)}, expected a path", code="invalid_value", field=field)


def one_line(text: str) -> str:
    """A text on a single line, control characters made visible.

    File names and tensor names come from outside: they may neither break the line nor reach the terminal as escape
    sequences.
    """
    line = " ".join(text.split())
    if line.isprintable():
        return line
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in line)


def message_line(text: str) -> str:
    """A message on a single line, at most MAX_LINE characters of it, without words that are longer than any path.

    What a message repeats is shortened where it is written; this is for what comes from elsewhere.
    """
    words = (word if len(word) <= MAX_WORD else f"{word[:100]}...{word[-100:]}" for word in text.split())
    line = one_line(" ".join(words))
    return line if len(line) <= MAX_LINE else f"{line[: MAX_LINE - 203]}...{line[-200:]}"


def in_words(text: str, word: Callable[[str, str | None], str | None]) -> str:
    """A message with a front end's own words for the fields that it names in backticks.

    word  field and value, if any -> what to show in their place; None leaves it as it stands
    """

    def replaced(match: re.Match[str]) -> str:
        own = word(match[1], match[2])
        return match[0] if own is None else own

    return _FIELD.sub(replaced, text)
