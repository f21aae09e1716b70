"""Standard output and standard error of this process, whose errors are told by name, or not at all.

A full disk behind `gesso ... > file` is an OSError without a path, like one of any other file. Standard output of this
module names itself in it. A stream that was closed before the program began (`>&-`) is opened on nothing: otherwise the
next file that is written would get its number, and with it whatever a library prints. What standard error cannot take
is dropped: notes and progress that nobody can read are no reason for a picture to fail; the exit code says the rest.
"""

import errno
import os
import sys
from contextlib import suppress
from io import BufferedWriter, FileIO, TextIOWrapper
from typing import Any, TextIO

STDOUT = "standard output"  # the `filename` of its errors


class _Named(FileIO):
    def write(self, data: Any, /) -> int:
        try:
            return super().write(data) or 0
        except OSError as error:
            error.filename = STDOUT
            if error.errno == errno.EBADF:
                error.strerror = "closed, so nothing could be printed"
            raise


class _Lossy(FileIO):
    def write(self, data: Any, /) -> int:
        with suppress(OSError):
            return super().write(data) or 0
        return memoryview(data).nbytes


def take_over() -> None:
    """Replace Python's own streams, which a test or an application may have replaced before: those stay.

    A name that the terminal cannot show is written with escapes in either case.
    """
    if os.name == "posix":
        _open_closed()
    for name, kind in {"stdout": _Named, "stderr": _Lossy}.items():
        stream = getattr(sys, name)
        if stream is getattr(sys, f"__{name}__") and os.name == "posix":
            stream = _rebuilt(stream, kind)
            setattr(sys, name, stream)
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _open_closed() -> None:
    """Nothing can be read from a closed standard input, and what goes to a closed standard error is lost.

    Results are asked for, though: what is written to a closed standard output fails, as on a full disk.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is not None or getattr(sys, f"__{name}__") is not None:
            continue
        try:
            os.fstat(number)
        except OSError:  # closed indeed
            opened = os.open(os.devnull, os.O_WRONLY if name == "stderr" else os.O_RDONLY)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)
            stream = open(number, "r" if name == "stdin" else "w", encoding="utf-8", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)


def _rebuilt(stream: TextIO | None, kind: type[FileIO]) -> TextIO | None:
    """The same stream over a file of another kind; the stream itself where it has no file."""
    if not isinstance(stream, TextIOWrapper):
        return stream
    try:
        stream.flush()
        raw = kind(stream.fileno(), "w", closefd=False)
    except (OSError, ValueError):  # closed before the program began
        return stream
    return TextIOWrapper(
        BufferedWriter(raw),
        encoding=stream.encoding,
        # With PYTHONUNBUFFERED, as in containers, Python's own have no buffer below them that could hold a line back.
        line_buffering=stream.line_buffering or stream.write_through,
        write_through=stream.write_through,
    )
