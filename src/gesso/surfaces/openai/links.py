"""Addresses of pictures that need no key: signed, and good for an hour, as OpenAI's are.

The secret of the signatures lies beside the server's other files, see `link_secret`.
"""

import hashlib
import hmac
import time
from pathlib import Path

from gesso.serving.secret_file import link_secret

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
    return hmac.new(link_secret(folder), f"{owner}\n{image}\n{until}".encode(), hashlib.sha256).hexdigest()
