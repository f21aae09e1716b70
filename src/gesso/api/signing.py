"""Signatures of webhooks, as Standard Webhooks has them: HMAC-SHA256 over id, time and body."""

import base64
import binascii
import hashlib
import hmac

from gesso.errors import GessoError

PREFIX = "whsec_"


def signing_key(secret: str) -> bytes:
    """The key behind a secret: Base64 after whsec_, or the text itself. Raises GessoError where it is too short."""
    if not secret.startswith(PREFIX):
        key = secret.encode()
    else:
        try:
            key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
        except (binascii.Error, ValueError):
            raise GessoError("secret: what follows whsec_ is no Base64", code="invalid_field", field="secret") from None
    if len(key) < 16:
        raise GessoError(f"secret: {len(key)} bytes, expected 16 or more", code="invalid_field", field="secret")
    return key


def signature(secret: str, ident: str, timestamp: int, body: bytes) -> str:
    """The header webhook-signature."""
    content = f"{ident}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(signing_key(secret), content, hashlib.sha256).digest()).decode()
