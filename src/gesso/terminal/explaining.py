"""Whatever goes wrong in a command, as one line, a code of `gesso.codes` and an exit code."""

import os
import sys
from collections.abc import Sequence
from contextlib import suppress

from gesso.errors import GessoError, message_line, one_line, short, shorten
from gesso.terminal.exit_codes import EXIT_FAILED, EXIT_WRONG_INPUT
from gesso.terminal.missing_files import with_near_file
from gesso.terminal.streams import STDOUT
from gesso.terminal.words import line_of


def explain(error: Exception) -> int:
    """One line on stderr for what went wrong, and the exit code."""
    known, code = as_known(error)
    with suppress(OSError):  # nobody reads it: the exit code says it all the same
        print(f"error: {line_of(known)}", file=sys.stderr)
    return code


def as_known(error: Exception) -> tuple[GessoError, int]:
    """Any error as one of gesso's, and the exit code."""
    if isinstance(error, GessoError):
        return with_near_file(error), EXIT_WRONG_INPUT
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):  # typer's error for a wrong option
        name = getattr(error, "option_name", None) or getattr(getattr(error, "param", None), "name", None)
        field = None if name is None else str(name).lstrip("-")
        return GessoError(message_line(error.format_message()), code="usage", field=field), EXIT_WRONG_INPUT
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        advice = "out of memory. Try --memory auto, --dtype bfloat16, or a smaller --size or --batch"
        return GessoError(advice, code="out_of_memory"), EXIT_FAILED
    if isinstance(error, OSError) and error.errno is not None:  # a disk, a permission, a name that is too long
        path = f"{shorten(_decoded(error.filename))}: " if error.filename else ""
        code = EXIT_FAILED if error.filename == STDOUT else EXIT_WRONG_INPUT
        return GessoError(f"{path}{error.strerror}", code="system"), code
    if isinstance(error, UnicodeEncodeError) and error.encoding not in ("utf-8", "utf-16", "utf-32"):
        message = f"{short(str(error.object))}: this locale has no such characters ({error.encoding}). {_UTF_8}"
        return GessoError(message, code="usage"), EXIT_WRONG_INPUT
    if isinstance(error, UnicodeEncodeError):  # half of a surrogate pair, as Python reads bytes that are no UTF-8
        message = f"{short(str(error.object))}: is not UTF-8 text. Type it again"
        return GessoError(message, code="usage"), EXIT_WRONG_INPUT
    text = one_line(f"{type(error).__name__}: {error}")[:500]
    return GessoError(f"{text} (a bug in gesso; add --debug for the traceback)", code="internal"), EXIT_FAILED


_UTF_8 = "Set LC_ALL=C.UTF-8, and leave out PYTHONUTF8=0"


def check_locale(words: Sequence[str]) -> None:
    """Raises GessoError for words with characters that the locale of the terminal lacks, before anything misreads them.

    Such a locale is rare: for C and POSIX, Python itself takes UTF-8 unless it is told not to.
    """
    odd = next((word for word in words if any("\udc80" <= char <= "\udcff" for char in word)), None)
    if odd is not None:
        meant = os.fsencode(odd).decode("utf-8", "backslashreplace")
        message = f"{short(meant)}: this locale has no such characters ({sys.getfilesystemencoding()}). {_UTF_8}"
        raise GessoError(message, code="usage")


def _decoded(path: object) -> str:
    return os.fsdecode(path) if isinstance(path, bytes | str | os.PathLike) else str(path)
