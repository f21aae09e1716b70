"""Cursors of lists as clients get them: they say where a page ended, and nothing else.

What the queue counts is of everybody's jobs and pictures, so a cursor as the store has it would tell each key how many
others make. It goes out enciphered and signed, under the secret of links: an HMAC of its text is the nonce of a key
stream and the proof that the text is ours. The same place in a list always has the same cursor.
"""

import base64
import binascii
import hashlib
import hmac
from pathlib import Path

from gesso.errors import GessoError, short
from gesso.serving.secret_file import link_secret

SIZE = 32  # bytes of a text, filled up, so that its length tells nothing; longer than any cursor of the store
_NONCE = 12


def sealed(folder: Path, cursor: str | None) -> str | None:
    """A cursor of the store, for a client.  folder: of the server, where the secret is"""
    if cursor is None:
        return None
    secret, text = link_secret(folder), cursor.encode().ljust(SIZE)
    nonce = _hmac(secret, b"cursor nonce", text)[:_NONCE]
    return base64.urlsafe_b64encode(nonce + _mixed(secret, nonce, text)).decode("ascii").rstrip("=")


def opened(folder: Path, cursor: str | None) -> str | None:
    """What `sealed` was given. Raises GessoError (code invalid_value) for what never came from there."""
    if cursor is None:
        return None
    try:
        data = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
    except (binascii.Error, ValueError):
        data = b""
    if len(data) == _NONCE + SIZE:
        secret, nonce = link_secret(folder), data[:_NONCE]
        text = _mixed(secret, nonce, data[_NONCE:])
        if hmac.compare_digest(nonce, _hmac(secret, b"cursor nonce", text)[:_NONCE]):
            return text.decode().rstrip()
    detail = f"`cursor` {short(cursor)}: expected that of the page before"
    raise GessoError(detail, code="invalid_value", field="cursor")


def _hmac(secret: bytes, purpose: bytes, text: bytes) -> bytes:
    return hmac.digest(secret, purpose + b"\0" + text, hashlib.sha256)


def _mixed(secret: bytes, nonce: bytes, text: bytes) -> bytes:
    """The text and a key stream, whose 32 bytes are as many as a text has."""
    stream = _hmac(secret, b"cursor stream", nonce)
    return bytes(one ^ other for one, other in zip(text, stream, strict=True))
