"""A secret of the server in a file that only its user can read."""

import os
import secrets
from pathlib import Path

from gesso.errors import GessoError
from gesso.files import atomic_file

LINK_FILE = "link-secret"  # of addresses that need no key, and of cursors
SIZE = 32  # bytes


def server_secret(path: Path, without_it: str) -> bytes:
    """The 32 bytes of a file; new ones, made once by whichever process comes first, where there is none yet.

    without_it  what it means that they are lost, or what to do about it: the end of an error message
    Raises GessoError for a file that cannot be used and for one of another size.
    """
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with atomic_file(path, overwrite=False) as handle:
                    if hasattr(os, "fchmod"):  # on Windows the folder of the user is the user's alone
                        os.fchmod(handle.fileno(), 0o600)
                    handle.write(secrets.token_bytes(SIZE))
            except FileExistsError:
                pass  # another process was faster
        found = path.read_bytes()
    except OSError as error:
        raise GessoError(f"{path}: cannot be used ({error.strerror})", code="unreadable") from error
    if len(found) != SIZE:
        raise GessoError(f"{path}: {len(found)} bytes, expected {SIZE}. {without_it}", code="damaged")
    return found


def link_secret(folder: Path) -> bytes:
    """The secret under which a server gives out addresses and cursors.  folder: of the server. Raises as above."""
    return server_secret(folder / LINK_FILE, "Delete it, and a new one is made")
