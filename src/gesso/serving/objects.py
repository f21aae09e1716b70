"""Bytes of pictures in object storage (S3, Google Cloud Storage, Azure), as `gesso.serving.blobs` has them in files.

    store = ObjectStore("s3://bucket/prefix", copies=Path("copies"))

ab/cd/abcd...   a blob: its name is the SHA-256 of its bytes, which every reading checks
swept/abcd...   a blob that a sweep took and nobody has asked for again; an hour later it goes for good

The order is that of files: bytes first, row second. Object storage has no renaming that is all or nothing, so a sweep
may delete what another process stores again at the same moment; therefore it keeps a copy for as long as it takes until
such a row is seen. Credentials come from where the tools of each vendor look for them, such as AWS_ACCESS_KEY_ID.
"""

import hashlib
import logging
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gesso.errors import GessoError
from gesso.extras import missing_extra
from gesso.serving.blobs import GRACE_SECONDS, BlobStore, damaged, is_digest, missing

if TYPE_CHECKING:
    from obstore.store import ObjectStore as Store

URL = re.compile(r"(s3|gs|az)://[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9._/-]*)?")
KEPT_SECONDS = 3600.0  # that a local copy stays which nobody has asked for
MARK = "gesso"  # name of an object that says whether there is anything to write to
ANSWER_SECONDS = 10.0
CONNECT_SECONDS = 3.0
PATIENCE = 5.0  # seconds in which something is tried again before it counts as unusable
_HELLO = b"gesso keeps pictures here\n"
_SWEPT = "swept"
_AT_ONCE = 500

# How files begin -> their media type, for clients that are sent to the storage.
_TYPES = ((b"\x89PNG", "image/png"), (b"\xff\xd8\xff", "image/jpeg"), (b"RIFF", "image/webp"))

log = logging.getLogger(__name__)


class ObjectStore:
    """Blobs under one address. Safe from several threads and processes, and from several machines.

    address  s3://bucket/prefix, gs://bucket/prefix or az://container/prefix
    root     folder on this machine, for copies of blobs that are read as files
    Opening writes a small object there. Raises GessoError: missing_extra, invalid_value; storage_unusable where the
    storage refuses. One that does not answer is only warned of: it may come back.
    """

    def __init__(self, address: str, copies: Path) -> None:
        self._store = _opened(address)
        self.address = address.rstrip("/")
        self._copies = BlobStore(copies)
        self.root = copies
        try:
            self._put(MARK, _HELLO)
        except GessoError as error:
            if not error.data["passing"]:
                raise
            log.warning("%s", error.one_line)

    def check(self) -> None:
        """Ask for a small object. Raises GessoError (code storage_unusable)."""
        if self._do(lambda api: api.head(self._store, MARK)) is None:
            self._put(MARK, _HELLO)

    def put(self, data: bytes) -> str:
        """Store bytes -> their SHA-256, in hexadecimal. The storage has them when this returns.

        Raises GessoError (code storage_unusable).
        """
        digest = hashlib.sha256(data).hexdigest()
        self._put(_name(digest), data)  # also where it is there already: that tells `sweep` that it is wanted
        return digest

    def _put(self, name: str, data: bytes) -> None:
        kind = next((kind for begin, kind in _TYPES if data.startswith(begin)), None)
        if kind is None and data[4:12] == b"ftypavif":
            kind = "image/avif"
        attributes: dict[str, str] = {"Content-Type": kind or "application/octet-stream"}
        done = self._do(lambda api: api.put(self._store, name, data, attributes=attributes, use_multipart=False))
        if done is None:  # of a bucket that is gone
            raise self._unusable("the bucket does not exist", passing=False)

    def read(self, digest: str) -> bytes:
        """The bytes of a blob. Raises GessoError: missing, storage_unusable; damaged where they are others."""
        if not is_digest(digest):
            raise missing(digest)
        data = self._get(_name(digest))
        if data is None:
            data = self._get(f"{_SWEPT}/{digest}")
        if data is None:
            raise missing(digest)
        if hashlib.sha256(data).hexdigest() != digest:
            raise damaged(digest, "in the object storage")
        return data

    def _get(self, name: str) -> bytes | None:
        found: bytes | None = self._do(lambda api: bytes(api.get(self._store, name).bytes()))
        return found

    def path(self, digest: str) -> Path:
        """A copy of a blob on this machine, checked, for reading it as a file. Raises GessoError, as `read`."""
        with suppress(GessoError):
            self._copies.read(digest)
            path = self._copies.path(digest)
            os.utime(path)
            return path
        self._copies.put(self.read(digest))
        return self._copies.path(digest)

    def link(self, digest: str, seconds: float) -> str:
        """An address under which anybody can read a blob, for so long. Asks nobody. Raises GessoError (missing)."""
        if not is_digest(digest):
            raise missing(digest)
        link: str = self._do(lambda api: api.sign(self._store, "GET", _name(digest), timedelta(seconds=seconds)))
        return link

    def sweep(
        self,
        referenced: Callable[[Iterable[str]], set[str]],
        *,
        grace_seconds: float = GRACE_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> int:
        """Delete the blobs that no row names. -> how many are gone for good

        referenced     those of these digests that a row names, such as `JobStore.referenced`
        grace_seconds  what is younger stays, as its row may come yet; what was swept can come back for as long
        Raises GessoError (code storage_unusable).
        """
        self._copies.sweep(lambda digests: set(), grace_seconds=KEPT_SECONDS)
        gone, oldest = 0, clock() - grace_seconds
        listed = self._listed()
        while part := list(islice(listed, _AT_ONCE)):
            wanted = referenced([digest for _, digest, _ in part])
            for name, digest, at in part:
                if name.startswith(f"{_SWEPT}/"):
                    if digest in wanted:  # stored again while it was swept
                        self._bring_back(digest)
                    elif at < oldest:
                        self._delete(name)
                        gone += 1
                elif digest not in wanted and at < oldest:
                    data = self._get(name)
                    if data is not None:
                        self._put(f"{_SWEPT}/{digest}", data)
                        self._delete(name)
        return gone

    def _bring_back(self, digest: str) -> None:
        if self._do(lambda api: api.head(self._store, _name(digest))) is None:
            data = self._get(f"{_SWEPT}/{digest}")
            if data is not None:
                self._put(_name(digest), data)
        self._delete(f"{_SWEPT}/{digest}")

    def _listed(self) -> Iterator[tuple[str, str, float]]:
        """Name, digest and time of each blob."""
        pages = self._do(lambda api: iter(api.list(self._store)))
        while (page := self._do(lambda api: next(pages, None))) is not None:
            for meta in page:
                digest = meta["path"].rpartition("/")[2]
                if is_digest(digest) and meta["path"] in (_name(digest), f"{_SWEPT}/{digest}"):
                    yield meta["path"], digest, meta["last_modified"].timestamp()

    def _delete(self, name: str) -> None:
        self._do(lambda api: api.delete(self._store, name))

    def _do(self, work: Callable[[Any], Any]) -> Any:
        """What a call of obstore gives; None for what is not there. Raises GessoError (code storage_unusable)."""
        import obstore
        from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

        try:
            return work(obstore)
        except FileNotFoundError:
            return None
        except (BaseError, OSError) as error:
            refused = isinstance(error, PermissionDeniedError | UnauthenticatedError)
            reason = "it refuses these credentials" if refused else _reason(error)
            raise self._unusable(reason, passing=not refused) from None

    def _unusable(self, reason: str, *, passing: bool) -> GessoError:
        return GessoError(
            f"{self.address}: the object storage cannot be used ({reason}). Check the address, the endpoint and the "
            "credentials in the environment, such as AWS_ENDPOINT_URL and AWS_ACCESS_KEY_ID",
            code="storage_unusable",
            data={"passing": passing},
        )


def _opened(address: str) -> "Store":
    if not URL.fullmatch(address):
        raise GessoError(
            f"`pictures` {address}: expected a folder, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX",
            code="invalid_value",
            field="pictures",
        )
    try:
        from obstore.exceptions import BaseError
        from obstore.store import from_url
    except ImportError as error:
        raise missing_extra("object storage", "obstore", "objects", error, field="pictures") from None
    # Without TLS only where an endpoint says so, on a network of one's own.
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    try:
        return from_url(
            address,
            client_options={
                "timeout": timedelta(seconds=ANSWER_SECONDS),
                "connect_timeout": timedelta(seconds=CONNECT_SECONDS),
                "allow_http": endpoint.startswith("http://"),
            },
            retry_config={"max_retries": 3, "retry_timeout": timedelta(seconds=PATIENCE)},
        )
    except (BaseError, ValueError) as error:
        raise GessoError(f"`pictures` {address}: {_reason(error)}", code="invalid_value", field="pictures") from None


def _name(digest: str) -> str:
    return f"{digest[:2]}/{digest[2:4]}/{digest}"


def _reason(error: Exception) -> str:
    """What went wrong, on one line: obstore adds its own state and the answer."""
    line = str(error).partition("\n")[0].partition(": <")[0].strip()
    return re.sub(r"^Generic \S+ error: ", "", line)[:300] or type(error).__name__
