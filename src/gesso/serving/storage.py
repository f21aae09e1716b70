"""Where the bytes of pictures are kept: in files on this machine, or in object storage."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

from gesso.serving.blobs import BlobStore
from gesso.serving.objects import ObjectStore


class Blobs(Protocol):
    """Where blobs are kept.

    address  that `open_blobs` opens it by
    root     folder on this machine: of the blobs, or of copies of them
    """

    address: str
    root: Path

    def put(self, data: bytes) -> str: ...

    def read(self, digest: str) -> bytes: ...

    def path(self, digest: str) -> Path: ...

    def link(self, digest: str, seconds: float) -> str | None:
        """An address under which anybody can read a blob for so long; None where there is no such thing."""
        ...

    def sweep(self, referenced: Callable[[Iterable[str]], set[str]], *, grace_seconds: float = ...) -> int: ...

    def check(self) -> None:
        """Raises GessoError where it cannot be used now."""
        ...


def open_blobs(address: str, copies: Path) -> Blobs:
    """Blobs by their address: a folder, or an URL of object storage.

    copies  folder for copies on this machine, where the blobs themselves are elsewhere
    Raises GessoError.
    """
    if "://" not in address:
        return BlobStore(Path(address))
    return ObjectStore(address, copies)
