"""Atomic files: written whole or not at all, whatever stops the program.

The bytes go to a hidden file beside the place, reach the disk, and only then get the name; then the folder, which holds
the name, reaches the disk too. An error leaves nothing behind. A process that is killed may leave the hidden file,
".NAME.<digits>.part", which nothing reads.
"""

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedWriter
from pathlib import Path

_MAX_STEM_BYTES = 200  # of the name that the hidden file repeats; file systems allow 255


@contextmanager
def atomic_file(path: Path, *, overwrite: bool = True) -> Iterator[BufferedWriter]:
    """A new file for the block to write, which appears under its name when the block has ended well.

    overwrite  a file of that name is replaced; else it stays, and the error is FileExistsError
    The folder must be there. Raises OSError where the operating system refuses; what the block raises passes through.
    """
    if not path.name:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    hidden = hidden_name(path)
    try:
        with open(hidden, "xb") as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        if overwrite:
            os.replace(hidden, path)
        else:
            give_name(hidden, path)
        sync_folder(path.parent)
    finally:
        with suppress(OSError):  # a folder that vanished, a disk that went read-only: the first error counts
            hidden.unlink(missing_ok=True)


def hidden_name(path: Path) -> Path:
    """A name beside the path that nothing else has and that listings leave out."""
    stem = path.name.encode(errors="surrogateescape")[:_MAX_STEM_BYTES].decode(errors="ignore")
    return path.with_name(f".{stem}.{secrets.token_hex(8)}.part")


def give_name(finished: Path, path: Path) -> None:
    """Give a finished file its name, unless another file has it. The file may keep its old name besides.

    Both names must be on one file system. Raises FileExistsError, OSError.
    """
    try:
        os.link(finished, path)  # fails where the name is taken, in one step
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links: reserve the name, then take it
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        try:
            os.replace(finished, path)
        except BaseException:
            path.unlink(missing_ok=True)
            raise


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable, where the system lets a folder be synchronised."""
    if os.name != "posix":
        return
    with suppress(OSError):  # network file systems refuse; the file has its name all the same
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
