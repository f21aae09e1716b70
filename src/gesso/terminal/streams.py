"""Standard output and standard error of this process, whose errors are told by name, or not at all.

A full disk behind `gesso ... > file` is an OSError without a path, like one of any other file. Standard output of this
module names itself in it. What standard error cannot take is dropped: notes and progress that nobody can read are no
reason for a picture to fail, and the exit code says the rest.
"""

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
    for name, kind in {"stdout": _Named, "stderr": _Lossy}.items():
        stream = getattr(sys, name)
        if stream is getattr(sys, f"__{name}__") and os.name == "posix":
            stream = _rebuilt(stream, kind)
            setattr(sys, name, stream)
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


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
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
