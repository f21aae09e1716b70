"""Addresses of pictures that need no key: signed, and good for an hour, as OpenAI's are.

The secret of the signatures lies beside the server's other files and is made when the first address is.
"""

import hashlib
import hmac
import os
import secrets
import time
from pathlib import Path

from gesso.errors import GessoError
from gesso.files import atomic_file

FILE = "link-secret"
GOOD_FOR = 3600  # seconds


def signed_path(folder: Path, owner: str, image: str) -> str:
    """The path and query of a picture of an owner."""
    until = int(time.time()) + GOOD_FOR
    return f"/v1/images/{image}/file?owner={owner}&until={until}&signature={_signature(folder, owner, image, until)}"


def is_signed(folder: Path, owner: str, image: str, until: str, signature: str) -> bool:
    """Whether the address is one of ours, and still good."""
    if not (until.isascii() and until.isdecimal() and len(until) <= 12):
        return False
    known = _signature(folder, owner, image, int(until))
    return hmac.compare_digest(known.encode(), signature.encode("utf-8", "replace")) and int(until) > time.time()


def _signature(folder: Path, owner: str, image: str, until: int) -> str:
    return hmac.new(_secret(folder), f"{owner}\n{image}\n{until}".encode(), hashlib.sha256).hexdigest()


def _secret(folder: Path) -> bytes:
    path = folder / FILE
    try:
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            try:
                with atomic_file(path, overwrite=False) as handle:
                    os.fchmod(handle.fileno(), 0o600)
                    handle.write(secrets.token_bytes(32))
            except FileExistsError:
                pass  # another process was faster
        found = path.read_bytes()
    except OSError as error:
        raise GessoError(f"{path}: cannot be used ({error.strerror})", code="unreadable") from error
    if len(found) != 32:
        raise GessoError(f"{path}: {len(found)} bytes, expected 32. Delete it, and a new one is made", code="damaged")
    return found
