"""API keys: who may ask a server for what, and how much of it.

A key is gesso_<id>_<secret>: the id finds its row, the secret is 256 random bits. Of the key itself the database holds
an HMAC under a secret of the server, which lies beside the database in a file that its owner alone may read; whoever
copies the database has no key, and cannot make one. Guessing 256 bits needs no slow hash to be hopeless.
"""

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from sqlalchemy import Row, insert, select, update

from gesso.errors import GessoError, short
from gesso.request.checks import check_known
from gesso.serving.database import Database
from gesso.serving.secret_file import server_secret
from gesso.serving.tables import api_keys

Scope = Literal["read", "draw", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
DEFAULT_SCOPES: tuple[Scope, ...] = ("read", "draw")
# What each allows besides itself. Reading and drawing is of the key's own jobs and pictures; admin is of all.
IMPLIED: dict[Scope, tuple[Scope, ...]] = {"read": (), "draw": ("read",), "admin": ("read", "draw")}
LOCAL = "local"  # owner of what is asked for where no keys are used
SECRET_FILE = "secret"
MAX_NAME = 100
_KEY = re.compile(r"gesso_([0-9a-z]{10})_([A-Za-z0-9_-]{43})")
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


@dataclass(frozen=True, kw_only=True)
class ApiKey:
    """A key without its secret. Times are seconds since the epoch.

    id         by which its jobs are its own; stands in the key
    scopes     read, draw, admin
    max_queue  unfinished jobs; None: as the server has it for all
    rate       requests a minute; None: as the server has it
    """

    id: str
    name: str
    scopes: tuple[Scope, ...]
    max_queue: int | None = None
    rate: int | None = None
    created_at: float
    expires_at: float | None = None
    revoked_at: float | None = None

    @property
    def prefix(self) -> str:
        """What is shown of a key."""
        return f"gesso_{self.id}_..."

    def is_valid(self, now: float) -> bool:
        """Whether it is neither revoked nor expired."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)

    def may(self, scope: Scope) -> bool:
        """Whether it has a scope, or one that includes it."""
        return any(scope == own or scope in IMPLIED[own] for own in self.scopes)


EVERYTHING = ApiKey(id=LOCAL, name=LOCAL, scopes=("admin",), created_at=0.0)  # where no keys are used


class KeyStore:
    """The keys of a server.  folder: where the secret lies; it is made when the first key is"""

    def __init__(self, database: Database, folder: Path) -> None:
        self.database, self.folder = database, folder
        self._secret: bytes | None = None

    def add(
        self,
        name: str,
        scopes: Collection[str] = DEFAULT_SCOPES,
        *,
        max_queue: int | None = None,
        rate: int | None = None,
        expires_at: float | None = None,
    ) -> tuple[ApiKey, str]:
        """A new key, and its text, which is told now and never again. Raises GessoError."""
        if not name.strip() or len(name) > MAX_NAME or not name.isprintable():
            raise GessoError(
                f"`name` is {short(name)}, expected up to {MAX_NAME} characters", code="invalid_name", field="name"
            )
        for scope in scopes:
            check_known("scope", scope, SCOPES)
        chosen = tuple(scope for scope in SCOPES if scope in scopes)
        if not chosen:
            raise GessoError(
                f"`scopes` is empty, expected some of {', '.join(SCOPES)}", code="invalid_value", field="scopes"
            )
        for field, value in (("max_queue", max_queue), ("rate", rate)):
            if value is not None and not 1 <= value <= 10**6:
                raise GessoError(f"`{field}` is {value}, expected 1 to 1000000", code="invalid_value", field=field)
        ident = "".join(secrets.choice(_ALPHABET) for _ in range(10))
        text = f"gesso_{ident}_{secrets.token_urlsafe(32)}"
        key = ApiKey(
            id=ident,
            name=name,
            scopes=chosen,
            max_queue=max_queue,
            rate=rate,
            created_at=time.time(),
            expires_at=expires_at,
        )
        values: dict[str, Any] = {
            "id": ident,
            "name": name,
            "digest": self._digest(text),
            "scopes": list(chosen),
            "max_queue": max_queue,
            "rate": rate,
            "created_at": key.created_at,
            "expires_at": expires_at,
        }

        def write() -> None:
            with self.database.writing() as connection:
                connection.execute(insert(api_keys).values(values))

        self.database.again(write)
        return key, text

    def list(self) -> tuple[ApiKey, ...]:
        """All keys, the oldest first, revoked ones too."""
        with self.database.reading() as connection:
            rows = connection.execute(select(api_keys).order_by(api_keys.c.created_at, api_keys.c.id)).all()
        return tuple(map(_key, rows))

    def revoke(self, name: str) -> ApiKey:
        """Revoke a key by its id, the beginning that is shown, or its name; it is refused from the next request on.

        Raises GessoError where there is none, and where several have the name.
        """
        ident = match[1] if (match := re.match(r"gesso_([0-9a-z]{10})(?:_|$)", name)) else name
        keys = [key for key in self.list() if key.revoked_at is None]
        found = [key for key in keys if key.id == ident] or [key for key in keys if key.name == name]
        if not found:
            raise GessoError(
                f"no key in use is called {short(name)}. `gesso keys list` shows them",
                code="unknown_name",
                field="name",
            )
        if len(found) > 1:
            prefixes = ", ".join(key.prefix for key in found)
            raise GessoError(
                f"{len(found)} keys are called {short(name)}: {prefixes}. Revoke one by its beginning",
                code="ambiguous_name",
                field="name",
            )
        (key,) = found

        def write() -> None:
            with self.database.writing() as connection:
                connection.execute(update(api_keys).where(api_keys.c.id == key.id).values(revoked_at=time.time()))

        self.database.again(write)
        return key

    def are_used(self) -> bool:
        """Whether requests need a key: from the first key on, also when all are revoked."""
        return bool(self.database.glance("SELECT EXISTS (SELECT 1 FROM api_keys)"))

    def find(self, text: str) -> ApiKey | None:
        """The key with this text, if it may be used. Takes the same time for a wrong secret as for no such key."""
        match = _KEY.fullmatch(text)
        ident = match[1] if match else ""
        with self.database.reading() as connection:
            row = connection.execute(select(api_keys).where(api_keys.c.id == ident)).first()
        held = row.digest if row is not None else _NO_DIGEST
        same = hmac.compare_digest(self._digest(text), held)
        if row is None or not same:
            return None
        key = _key(row)
        return key if key.is_valid(time.time()) else None

    def _digest(self, text: str) -> str:
        if self._secret is None:
            self._secret = server_secret(self.folder / SECRET_FILE, "Without it no key works")
        return hmac.new(self._secret, text.encode("utf-8", "replace"), hashlib.sha256).hexdigest()


_NO_DIGEST = "0" * 64


def _key(row: Row[Any]) -> ApiKey:
    return ApiKey(
        id=row.id,
        name=row.name,
        scopes=tuple(row.scopes),
        max_queue=row.max_queue,
        rate=row.rate,
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
    )
