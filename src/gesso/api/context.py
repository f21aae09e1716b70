"""What the routes of one server share, and who asks."""

import asyncio
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from threading import Lock
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request
from starlette.concurrency import run_in_threadpool

from gesso.api.checking import Checker
from gesso.api.helper import Helper
from gesso.api.limits import FAILURES, Buckets, too_often
from gesso.api.metrics import Metrics
from gesso.api.problems import HttpError, not_found
from gesso.errors import GessoError, short
from gesso.request.checks import nearest, unknown_data
from gesso.serving.gallery import Gallery
from gesso.serving.keys import EVERYTHING, LOCAL, ApiKey, KeyStore, Scope
from gesso.serving.settings import ServeSettings
from gesso.serving.storage import Blobs
from gesso.serving.store import JobStore
from gesso.serving.supervisor import Supervisor
from gesso.serving.thumbnails import Thumbnails
from gesso.serving.tracing import Tracing

T = TypeVar("T")
MIN_FREE = 256 * 2**20  # bytes on the disk of the pictures, below which no job is accepted
MAX_WRITERS = 64  # threads that wait for the queue to take something
CHALLENGE = {"WWW-Authenticate": 'Bearer realm="gesso"'}


@dataclass
class Context:
    """One server.

    is_stopping  streams end, and nothing new is begun
    full         whose queue was full, None: that of all -> until when it is taken to be so, and the refusal
    """

    settings: ServeSettings
    store: JobStore
    blobs: Blobs
    keys: KeyStore
    checker: Checker
    metrics: Metrics
    gallery: Gallery
    thumbnails: Thumbnails
    helper: Helper
    buckets: Buckets = field(default_factory=Buckets)
    decoding: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(2))
    taking_in: asyncio.Lock = field(default_factory=asyncio.Lock)
    submitting: Lock = field(default_factory=Lock)
    full: dict[str | None, tuple[float, HttpError]] = field(default_factory=dict)
    writers: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(MAX_WRITERS, "writer"))
    supervisor: Supervisor | None = None
    tracing: Tracing = field(default_factory=Tracing)
    is_stopping: bool = False
    _keys_are_used: bool = False

    def __post_init__(self) -> None:
        self._keys_are_used = not self.settings.is_loopback

    def free_bytes(self) -> int:
        """Room on the disk of the pictures."""
        return shutil.disk_usage(self.blobs.root).free

    def keys_are_used(self) -> bool:
        """Whether requests need a key: once there is one, for good."""
        if not self._keys_are_used:
            self._keys_are_used = self.keys.are_used()
        return self._keys_are_used

    def identify(self, text: str | None, client: str) -> ApiKey:
        """The key behind a text. Raises HttpError, the same for one that is wrong as for none."""
        if not self.keys_are_used():
            return EVERYTHING
        key = self.keys.find(text) if text is not None else None
        if key is not None:
            return key
        if text is not None and (seconds := self.buckets.wait(f"failures {client}", FAILURES, FAILURES)):
            raise too_often(seconds, "too many keys that are none")
        detail = "a valid API key is needed: send it as Authorization: Bearer gesso_..."
        raise HttpError(401, "unauthorized", detail, headers=CHALLENGE)


@dataclass(frozen=True)
class Call:
    """One request, and who makes it."""

    context: Context
    identity: ApiKey
    request: Request

    async def writing(self, work: Callable[..., T], *words: Any, **named: Any) -> T:
        """What `work` returns, which changes something in the queue.

        Such work has threads of its own: while the database is locked, those who read do not wait behind it.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.context.writers, partial(work, *words, **named))

    @property
    def owner(self) -> str | None:
        """Whose jobs and pictures are seen; None: everybody's."""
        return None if self.identity.may("admin") else self.identity.id

    @property
    def new_owner(self) -> str:
        """Whose the jobs and uploads are that this request makes."""
        return self.identity.id

    @property
    def origin(self) -> dict[str, str]:
        """This request, as its jobs name it."""
        state = self.request.state
        parent: str | None = getattr(state, "traceparent", None)
        return {"request_id": state.request_id} | ({"traceparent": parent} if parent is not None else {})


class Rule:
    """Who may use a route. Every route has exactly one, before anything else of the request is read.

    scope  that the key needs; None: anybody
    cost   what a request counts for against the rate; a page full of small pictures is asked for at once
    """

    def __init__(self, scope: Scope | None, cost: float = 1.0) -> None:
        self.scope, self.cost = scope, cost

    async def __call__(self, request: Request) -> None:
        context: Context = request.app.state.context
        state = request.state
        if self.scope is None:
            context.buckets.take(f"open {state.client}", context.settings.rate, self.cost)
            identity = ApiKey(id=LOCAL, name="", scopes=(), created_at=0.0)
        else:
            # Where no keys are used that is a glance at the database, which takes less than to ask another thread.
            is_quick = context.store.database.is_sqlite and not context.keys_are_used()
            identify = EVERYTHING if is_quick else run_in_threadpool(context.identify, _key_of(request), state.client)
            identity = identify if isinstance(identify, ApiKey) else await identify
            state.identity = identity
            name = f"{identity.id} {state.client}" if identity.id == LOCAL else identity.id
            context.buckets.take(name, identity.rate or context.settings.rate, self.cost)
            if not identity.may(self.scope):
                detail = f"this key does not have the scope {self.scope}"
                raise HttpError(403, "forbidden", detail, data={"scope": self.scope})
        _check_query(request)
        state.call = Call(context, identity, request)


def _key_of(request: Request) -> str | None:
    """The text of the key in the headers; never in the address, which logs and histories keep."""
    given = request.headers.getlist("authorization")
    if len(given) == 1:
        scheme, _, text = given[0].partition(" ")
        return text.strip() if scheme.lower() == "bearer" else ""
    own = request.headers.getlist("x-api-key")
    if given or len(own) > 1:
        return ""
    return own[0].strip() if own else None


def _check_query(request: Request) -> None:
    """No parameter is unknown or given twice. Raises HttpError."""
    known = {param.alias for param in request.scope["route"].dependant.query_params}
    given = [name for name, _ in request.query_params.multi_items()]
    for name in given:
        if name not in known:
            detail = f"unknown parameter {short(name)}{nearest(name, known)}"
            raise HttpError(400, "unknown_name", detail, field=name[:64], data=unknown_data(name, known))
        if given.count(name) > 1 and name not in REPEATABLE:
            raise HttpError(400, "invalid_field", f"the parameter {name} is given twice", field=name)


REPEATABLE = ("status",)


def _call(request: Request) -> Call:
    call: Call = request.state.call
    return call


Calling = Annotated[Call, Depends(_call)]


def is_id(text: str) -> bool:
    """Whether a text may be the id of anything: letters, digits and dashes."""
    return 1 <= len(text) <= 48 and text.isascii() and text.replace("-", "").replace("_", "").isalnum()


def found(call: Call, id: str, what: str, read: Callable[[str, str | None], T]) -> T:
    """Something of whoever asks, by its id. Raises HttpError, the same for what is another's as for what is not there.

    what  as in "no job of this id is here"
    read  of the store: takes an id and an owner; its GessoError says that there is none
    """
    if not is_id(id):
        raise not_found(what)
    try:
        return read(id, call.owner)
    except GessoError:
        raise not_found(what) from None
