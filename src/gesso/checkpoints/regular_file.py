"""Opens files of strangers: regular files alone. Standard library only."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader, FileIO
from pathlib import Path
from typing import Any

from gesso.checkpoints.errors import ModelFileError


@contextmanager
def open_regular(path: Path) -> Iterator[tuple[BufferedReader, int]]:
    """A regular file and its size; never a pipe or a device that would block or never end. Raises ModelFileError."""
    try:
        # O_NONBLOCK: opening a named pipe returns at once, and the check below refuses it.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        raise ModelFileError("missing", path, "no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        what = getattr(error, "strerror", None) or type(error).__name__
        raise ModelFileError("unreadable", path, f"cannot be opened: {what}") from None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
        raise ModelFileError("unreadable", path, f"is {kind}, expected a file")
    handle: Any = BufferedReader(_Named(descriptor, path))
    with handle:
        yield handle, status.st_size


class _Named(FileIO):
    """A file whose read errors say which file it is: the operating system's name none."""

    def __init__(self, descriptor: int, path: Path) -> None:
        super().__init__(descriptor, "rb")
        self._path = path

    def readinto(self, buffer: Any, /) -> int:
        try:
            return super().readinto(buffer)
        except OSError as error:
            raise self._problem(error) from None

    def readall(self) -> bytes:
        try:
            return super().readall()
        except OSError as error:
            raise self._problem(error) from None

    def _problem(self, error: OSError) -> ModelFileError:
        return ModelFileError("unreadable", self._path, f"cannot be read: {error.strerror or error}")
