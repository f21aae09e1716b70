"""Bytes of pictures, named by their SHA-256: in files, or in object storage (`gesso.serving.objects`).

Bytes first, row second: a row of the queue names only what is on the disk already. Rows are deleted first, bytes later:
whatever stops the process, nothing worse is left than a file that no row names, and `sweep` finds those.
"""

import errno
import hashlib
import logging
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

from gesso.errors import GessoError
from gesso.files import hidden_name, sync_folder

GRACE_SECONDS = 3600.0  # for the row of a blob to be written
_SWEEP_SECONDS = 60.0  # more than a blob is ever moved aside
_DIGEST = re.compile(r"[0-9a-f]{64}")
_FULL = (errno.ENOSPC, errno.EDQUOT)
_ASIDE = ".swept.part"
_REMEMBERED = 1024  # files
_AT_ONCE = 500  # digests that `sweep` asks about together

log = logging.getLogger(__name__)


class BlobStore:
    """Blobs below one folder, which is made where it is missing. Safe from several threads and processes.

    ab/abcd...   a blob: its name is the SHA-256 of its bytes, so that the same bytes are stored once
    Raises GessoError (code unwritable) for a folder that cannot be made.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.address = root, str(root)
        self._kept: dict[str, tuple[int, int]] = {}  # names of files that are on the disk for sure -> their marks
        try:
            self._make(root)
        except OSError as error:
            raise _unwritable(root, error) from None

    def put(self, data: bytes) -> str:
        """Store bytes -> their SHA-256, in hexadecimal. They are on the disk when this returns.

        Raises GessoError: disk_full, unwritable. Nothing is left of what could not be written.
        """
        digest = hashlib.sha256(data).hexdigest()
        path = self._place(digest)
        try:
            if self._is_there(path, data):
                return digest
            self._make(path.parent)  # one of 256, so that it is nearly always there: a new folder waits for the disk
            if not self._write(path, data) and not self._is_there(path, data):
                self._write(path, data, over=True)  # a broken disk has made something else of it
        except OSError as error:
            if error.errno in _FULL:
                raise GessoError(
                    f"the disk of {self.root} is full: {len(data)} bytes do not fit. Make room, then try again",
                    code="disk_full",
                ) from None
            raise _unwritable(self.root, error) from None
        return digest

    def _is_there(self, path: Path, data: bytes) -> bool:
        """Whether a blob is on the disk already, and not what a broken disk has made of it."""
        try:
            with open(path, "rb") as handle:
                before = _mark(handle.fileno())
                os.utime(path)  # tells `sweep` that it is wanted once more
                if handle.read() != data:
                    return False
                if self._kept.get(path.name) != before:  # perhaps somebody else has just begun to write it
                    os.fsync(handle.fileno())
                    sync_folder(path.parent)
                self._remember(path.name, _mark(handle.fileno()))
        except FileNotFoundError:
            return False
        return True

    def _write(self, path: Path, data: bytes, *, over: bool = False) -> bool:
        """A new blob. Both are on the disk when this returns: its bytes, and its name.

        over  it takes the place of what has the name already; else that stays, since somebody may rely on it, and this
              returns False

        Unlike other files it has its name before its bytes are kept, so that one wait serves both. What a power failure
        leaves then, a name without all of its bytes, is named by no row, and is written again by whoever has the bytes.
        """
        hidden = hidden_name(path)
        try:
            with open(hidden, "xb", buffering=0) as handle:
                left = memoryview(data)
                while left:
                    left = left[handle.write(left) :]
                if not _name(hidden, path, over):
                    return False
                mark = _mark(handle.fileno())
                try:
                    os.fsync(handle.fileno())
                except OSError:
                    self._withdraw(path, mark)
                    raise
            sync_folder(path.parent)
        finally:
            with suppress(OSError):
                hidden.unlink(missing_ok=True)
        self._remember(path.name, mark)
        return True

    def _withdraw(self, path: Path, mark: tuple[int, int]) -> None:
        """Delete a blob that the disk did not take, unless somebody else has written or wanted it meanwhile.

        It is moved aside first, as by a sweep, so that what is looked at is what is deleted.
        """
        aside = _aside(path)
        with suppress(OSError):
            os.rename(path, aside)
            found = aside.stat()
            if (found.st_ino, found.st_mtime_ns) == mark:
                aside.unlink()
            else:
                os.rename(aside, path)

    def _remember(self, name: str, mark: tuple[int, int]) -> None:
        """That this file is on the disk."""
        self._kept[name] = mark
        if len(self._kept) > _REMEMBERED:
            with suppress(KeyError, StopIteration, RuntimeError):  # another thread was faster
                del self._kept[next(iter(self._kept))]

    def path(self, digest: str) -> Path:
        """The file of a blob, for reading it in parts. Raises GessoError (code missing) where it is not there."""
        path = self._place(digest)
        if not path.is_file() and not self._moved_up(path):
            raise missing(digest)
        return path

    def read(self, digest: str) -> bytes:
        """The bytes of a blob. Raises GessoError: missing; damaged where the disk gives others than were stored."""
        path = self.path(digest)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise missing(digest) from None
        except OSError as error:
            raise GessoError(
                f"the stored bytes {digest[:12]}... cannot be read ({error.strerror})", code="unreadable"
            ) from None
        if hashlib.sha256(data).hexdigest() != digest:
            raise damaged(digest, "on the disk")
        return data

    def link(self, digest: str, seconds: float) -> None:
        """None: files have no address."""

    def check(self) -> None:
        """Raises GessoError (code unwritable) where the folder is gone or cannot be written."""
        if not os.access(self.root, os.W_OK | os.X_OK):
            raise GessoError(f"{self.root}: cannot be written", code="unwritable", data={"path": str(self.root)})

    def sweep(
        self,
        referenced: Callable[[Iterable[str]], set[str]],
        *,
        grace_seconds: float = GRACE_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> int:
        """Delete the blobs that no row names, and what killed processes left half-written. -> how many files

        referenced     those of these digests that a row names, such as `JobStore.referenced`
        grace_seconds  files that are younger stay, as their rows may come yet
        """
        gone = 0
        files = iter(self._files())
        while part := list(islice(files, _AT_ONCE)):
            oldest = clock() - grace_seconds
            candidates = [path for path in part if _modified(path) < oldest]
            blobs = [path for path in candidates if _DIGEST.fullmatch(path.name)]
            wanted = referenced([path.name for path in blobs]) if blobs else set()
            for path in part:
                if path.name.endswith(_ASIDE):
                    self._bring_back(path)
            for path in candidates:
                if path.name.endswith(".part"):
                    with suppress(OSError):
                        path.unlink()
                        gone += 1
                elif _DIGEST.fullmatch(path.name) and path.name not in wanted:
                    gone += self._discard(path, referenced, oldest)
        return gone

    def _discard(self, path: Path, referenced: Callable[[Iterable[str]], set[str]], oldest: float) -> bool:
        """Delete a blob, unless somebody stores the same bytes just now.

        It is moved aside first: whoever stores them later finds nothing there, and writes them; whoever did before has
        touched the file, which then goes back.
        """
        aside = _aside(path)
        try:
            os.rename(path, aside)
            if _modified(aside) >= oldest or referenced([path.name]):
                os.rename(aside, path)
                return False
            aside.unlink()
        except OSError as error:
            log.warning("a blob that no row names cannot be deleted: %s", error)
            return False
        return True

    @staticmethod
    def _bring_back(aside: Path) -> None:
        """Give a blob its name back that a sweep moved aside and, killed, left there. The next one looks anew."""
        with suppress(OSError):
            path = aside.with_name(aside.name[1:].removesuffix(_ASIDE))
            if aside.stat().st_ctime < time.time() - _SWEEP_SECONDS and not path.exists():
                os.rename(aside, path)

    def _files(self) -> Iterator[Path]:
        for folder in sorted(self.root.glob("[0-9a-f][0-9a-f]")):
            with suppress(OSError):
                yield from sorted(Path(entry.path) for entry in os.scandir(folder) if entry.is_file())

    def _place(self, digest: str) -> Path:
        """Where a blob lies. Ids come from outside: what is no SHA-256 never becomes a path."""
        if not _DIGEST.fullmatch(digest):
            raise missing(digest)
        return self.root / digest[:2] / digest

    @staticmethod
    def _moved_up(path: Path) -> bool:
        """Whether a blob lay one folder deeper, where earlier versions put it; it lies here now."""
        try:
            os.replace(path.parent / path.name[2:4] / path.name, path)
        except OSError:
            return False
        return True

    @staticmethod
    def _make(folder: Path) -> None:
        """A folder, and its name on the disk."""
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            sync_folder(folder.parent)


def _name(hidden: Path, path: Path, over: bool) -> bool:
    """Give a file its name. -> False where another has it, and is not to be written over"""
    if not over:
        try:
            os.link(hidden, path)
            return True
        except FileExistsError:
            return False
        except OSError:  # there are no links on this disk
            if path.exists():
                return False
    os.replace(hidden, path)
    return True


def _aside(path: Path) -> Path:
    """Where a blob is moved before it is deleted."""
    return path.with_name(f".{path.name}{_ASIDE}")


def _mark(descriptor: int) -> tuple[int, int]:
    """What a file is known by until somebody else writes or wants it."""
    found = os.fstat(descriptor)
    return found.st_ino, found.st_mtime_ns


def _modified(path: Path) -> float:
    """When a file was written, or wanted; of one that is gone: never before anything."""
    try:
        return path.stat().st_mtime
    except OSError:
        return float("inf")


def is_digest(text: str) -> bool:
    """Whether a text is a SHA-256 in hexadecimal, and so a name of a blob."""
    return _DIGEST.fullmatch(text) is not None


def missing(digest: str) -> GessoError:
    """The error for a blob that is not there."""
    return GessoError(f"no stored bytes {digest[:12]!r}...; they were deleted, or never stored", code="missing")


def damaged(digest: str, where: str) -> GessoError:
    """The error for a blob whose bytes are not those of its name any more."""
    return GessoError(
        f"the stored bytes {digest[:12]}... have changed {where}. Restore them from a copy, or delete them",
        code="damaged",
        data={"sha256": digest},
    )


def _unwritable(root: Path, error: OSError) -> GessoError:
    return GessoError(f"{root}: cannot be written ({error.strerror})", code="unwritable", data={"path": str(root)})
