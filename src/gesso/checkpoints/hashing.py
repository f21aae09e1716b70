"""Model hashes: AutoV1, AutoV2, AutoV3 and SHA-256, as A1111 and model sites use them. Standard library only.

AutoV1  first 8 digits of the SHA-256 of 64 KiB from offset 1 MiB on: short files can share it, or have that of nothing
AutoV2  first 10 digits of the SHA-256 of the whole file
AutoV3  first 12 digits of the SHA-256 of a safetensors file's data, without its header
"""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from gesso.checkpoints.errors import ModelFileError
from gesso.checkpoints.regular_file import open_regular

OnBytes = Callable[[int], object]  # called with the number of bytes done since the last call
BLOCK = 2**22
_V1_START, _V1_LENGTH = 0x100000, 0x10000


@dataclass(frozen=True, kw_only=True)
class Hashes:
    """sha256 has 64 digits, autov1 8, autov3 12; autov3 is None for a file that is not safetensors."""

    nbytes: int
    mtime_ns: int
    sha256: str
    autov1: str
    autov3: str | None


def hash_file(path: Path, on_bytes: OnBytes = lambda count: None) -> Hashes:
    """Reads the file once. Raises ModelFileError where it cannot be read, or changes meanwhile."""
    try:
        with open_regular(path) as (handle, nbytes):
            before = os.fstat(handle.fileno())
            whole, data = hashlib.sha256(), hashlib.sha256()
            start = handle.read(8)
            skip = 8 + int.from_bytes(start, "little") if len(start) == 8 else 0
            has_data = 8 < skip <= nbytes and handle.read(1) == b"{"
            handle.seek(_V1_START)
            autov1 = hashlib.sha256(handle.read(_V1_LENGTH)).hexdigest()[:8]
            handle.seek(0)
            done = 0
            while block := handle.read(BLOCK):
                whole.update(block)
                if has_data and done + len(block) > skip:
                    data.update(memoryview(block)[max(0, skip - done) :])
                done += len(block)
                on_bytes(len(block))
            after = os.fstat(handle.fileno())
    except OSError as error:
        raise ModelFileError("unreadable", path, f"cannot be read: {error.strerror or error}") from None
    if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns) or done != nbytes:
        raise ModelFileError("unreadable", path, "the file changed while it was read; try again")
    return Hashes(
        nbytes=nbytes,
        mtime_ns=before.st_mtime_ns,
        sha256=whole.hexdigest(),
        autov1=autov1,
        autov3=data.hexdigest()[:12] if has_data else None,
    )


# ---- hashes that this process has computed -------------------------------------------------------------------------
# A library keeps them in its database as well; these spare a second reading of a file that is in no library.


def hashes_of(path: str | Path) -> Hashes:
    """As `hash_file`, remembered as long as path, size and time of change stay."""
    return _hashes(*_identity(path))


def sha256_of(path: str | Path) -> str:
    """SHA-256 of a whole file, 64 hexadecimal digits, remembered likewise; half the time of `hashes_of`."""
    return _sha256(*_identity(path))


def _identity(path: str | Path) -> tuple[Path, int, int, int]:
    path = Path(path)
    with open_regular(path) as (handle, nbytes):
        status = os.fstat(handle.fileno())
        return path.absolute(), nbytes, status.st_mtime_ns, status.st_ino


@lru_cache(maxsize=4096)
def _hashes(path: Path, nbytes: int, mtime_ns: int, inode: int) -> Hashes:
    return hash_file(path)


@lru_cache(maxsize=4096)
def _sha256(path: Path, nbytes: int, mtime_ns: int, inode: int) -> str:
    with open_regular(path) as (handle, _):
        return hashlib.file_digest(handle, "sha256").hexdigest()
