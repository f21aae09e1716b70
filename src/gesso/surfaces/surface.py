"""What the surfaces in the words of other tools share: who asks, pictures that come in, a job and its end.

A surface translates: from its tool's words to one request, from a job back to them. Everything else is that of gesso's
own API: the same keys and limits, the same checks before a job is accepted, the same queue.
"""

import asyncio
import base64
import binascii
import io
import logging
import os
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from fastapi import Depends, FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from PIL import Image
from sqlalchemy.exc import DBAPIError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from gesso.api.context import Call, Rule
from gesso.api.operations import Routes
from gesso.api.pictures import normalised
from gesso.api.problems import HttpError, JsonAnswer
from gesso.api.schemas import FrontBody
from gesso.api.submitting import check, open_seed, submit
from gesso.api.uploads import keep_bytes
from gesso.errors import GessoError
from gesso.serving.jobs import Job, JobEvent, JobStatus, NewJob, Upload, Work
from gesso.serving.keys import Scope

KEEP_INPUT = 3600.0  # seconds that a picture is kept which came with a request, unless a job draws from it
HEARTBEAT = 15.0  # seconds
LOOK = 0.25  # seconds between two looks whether the client is still there

log = logging.getLogger(__name__)

F = TypeVar("F", bound=Callable[..., Any])


class SurfaceRule(Rule):
    """`Rule` for the clients of other tools: the key may be the password of HTTP Basic, whatever the user's name is,
    and what stands in the query is read by the route, which leaves alone what it does not know.
    """

    async def __call__(self, request: Request) -> None:
        scope = dict(request.scope)
        scope["query_string"] = b""
        scope["headers"] = [_bearer(name, value) for name, value in scope["headers"]]
        asked = Request(scope, request.receive)
        await super().__call__(asked)
        request.state.call = replace(asked.state.call, request=request)


def _bearer(name: bytes, value: bytes) -> tuple[bytes, bytes]:
    """HTTP Basic as the key that its password is."""
    if name != b"authorization" or value[:6].lower() != b"basic ":
        return name, value
    try:
        password = base64.b64decode(value[6:].strip(), validate=True).partition(b":")[2]
    except binascii.Error:
        password = b""
    return name, b"Bearer " + password


class SurfaceRoute(APIRoute):
    """A route whose errors have the shape of another tool."""

    @staticmethod
    def shape(error: HttpError) -> Response:
        """The answer for a refusal."""
        return error.response()

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handled(request: Request) -> Response:
            try:
                return await handle(request)
            except Exception as error:
                refused = as_refusal(error)
                request.app.state.context.metrics.refusals.labels(refused.code).inc()
                if refused.status >= 500:
                    extra = {"request_id": request.state.request_id}
                    log.error("%s", refused.code, exc_info=error, extra=extra)
                return type(self).shape(refused)

        return handled


class SurfaceRoutes(Routes):
    """The routes of one surface. They have no place in openapi.json, which describes gesso's own.

    kind  of route, which knows the shape of errors
    """

    def __init__(self, kind: type[SurfaceRoute]) -> None:
        super().__init__()
        self.kind = kind

    def on(self, method: str, path: str, scope: Scope | None, rule: type[Rule] = SurfaceRule) -> Callable[[F], F]:
        """Declare a route, with the scope that it needs."""

        def declare(function: F) -> F:
            self.declared.append(
                {
                    "path": path,
                    "endpoint": function,
                    "methods": [method],
                    "dependencies": [Depends(rule(scope))],
                    "response_model": None,
                    "response_class": JsonAnswer,
                    "include_in_schema": False,
                }
            )
            return function

        return declare

    def add_to(self, app: FastAPI) -> None:
        for one in self.declared:
            app.router.add_api_route(**one, route_class_override=self.kind)


def memory_of_machine() -> tuple[int, int]:
    """Bytes of memory in all and free; 0 where the system does not say, as Windows and macOS."""
    try:
        page = os.sysconf("SC_PAGE_SIZE")
        return page * os.sysconf("SC_PHYS_PAGES"), page * os.sysconf("SC_AVPHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0, 0


def as_refusal(error: Exception) -> HttpError:
    """Any error that a request may meet as a refusal."""
    match error:
        case HttpError():
            return error
        case GessoError():
            return HttpError.of(error)
        case HTTPException():
            return HttpError(error.status_code, "invalid_request", str(error.detail))
        case RequestValidationError():
            first = error.errors()[0]
            return HttpError(400, "invalid_field", str(first.get("msg", "not valid")), field=str(first["loc"][-1]))
        case DBAPIError():
            detail = "the queue cannot be read or written now; try again later"
            return HttpError(503, "database_unusable", detail, headers={"Retry-After": "5"})
        case _:
            return HttpError(500, "internal", "a bug in gesso; the log has it under the request's id")


# ---- pictures --------------------------------------------------------------------------------------------------------


def from_base64(text: str, field: str) -> bytes:
    """The bytes of a picture in Base64, or in a data: address. None is fetched from elsewhere. Raises HttpError."""
    if text.startswith(("http://", "https://")):
        detail = f"{field}: pictures are not fetched from addresses; send the picture itself, in Base64"
        raise HttpError(400, "url_not_allowed", detail, field=field)
    if text.startswith("data:"):
        head, comma, text = text.partition(",")
        if not comma or not head.endswith(";base64"):
            raise HttpError(400, "invalid_field", f"{field}: expected data:image/png;base64,...", field=field)
    try:
        data = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise HttpError(400, "damaged", f"{field}: not valid Base64", field=field) from None
    if not data:
        raise HttpError(400, "damaged", f"{field}: an empty picture", field=field)
    return data


def open_picture(data: bytes, field: str) -> Image.Image:
    """A strange picture, decoded within bounds and turned upright: RGB, RGBA or grey levels. Raises HttpError."""
    try:
        encoded, _, _ = normalised(data)
    except HttpError as error:
        error.field, error.detail = field, error.detail.replace("file:", f"{field}:", 1)
        raise
    image = Image.open(io.BytesIO(encoded), formats=("PNG",))
    image.load()
    return image


def png(image: Image.Image) -> bytes:
    """A picture as PNG, without anything else."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=4)
    return buffer.getvalue()


def keep(call: Call, image: Image.Image, name: str) -> Upload:
    """Keep a decoded picture as the caller's, for a job to draw from. Raises HttpError (413) where there is no room."""
    return keep_bytes(call, png(image), image.size, name, seconds=KEEP_INPUT)[0]


# ---- jobs ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What a surface asks for, in gesso's words.

    model    name of a model
    request  JSON of a request; pictures are named by `pictures` alone
    pictures role -> picture: "image", "mask", "hint:0", ...
    output   format of the files
    metadata of the job: which surface it came by, and what that wants to know again
    key      makes a repeat the same job
    """

    model: str
    request: Mapping[str, Any]
    pictures: Mapping[str, Image.Image] = field(default_factory=dict)
    output: Mapping[str, Any] = field(default_factory=lambda: {"format": "png"})
    metadata: Mapping[str, Any] = field(default_factory=dict)
    key: str | None = None


def accept(call: Call, wish: Wish) -> Job:
    """Check a wish whole and queue it as a job. Blocks. Raises HttpError, whose field is of the request."""
    assets = {role: keep(call, image, role).id for role, image in wish.pictures.items()}
    seed = open_seed(call.new_owner, wish.key)
    checked, named = check(call, wish.model, wish.request, assets, FrontBody(), seed=seed, empty_prompt=True)
    work = Work(model=checked.entry.name, request=checked.request.to_dict(), assets=named, output=dict(wish.output))
    new = NewJob(owner=call.new_owner, work=work, idempotency_key=wish.key, metadata=dict(wish.metadata))
    ((job, _),) = submit(call, [new])
    return job


class ClientGoneError(Exception):
    """The client has hung up."""


async def follow(call: Call, job: str, *, watch_client: bool = True) -> AsyncGenerator[JobEvent | None]:
    """The events of a job as they happen, until it is final; None after `HEARTBEAT` seconds without one.

    watch_client  look whether the client is still there; needs the body to be read
    Raises ClientGoneError, and HttpError (503) where the server stops.
    """
    hub, loop = call.request.app.state.hub, asyncio.get_running_loop()
    changed, spoken = hub.watch(job), loop.time()
    last = 0
    try:
        while True:
            changed.clear()
            for event in await run_in_threadpool(call.context.store.events_after, job, last):
                last, spoken = event.number, loop.time()
                yield event
                if event.type == "status" and JobStatus(event.data["status"]).is_final:
                    return
            while not changed.is_set():
                if call.context.is_stopping:
                    detail = "the server stops; the job stays in the queue"
                    raise HttpError(503, "overloaded", detail, headers={"Retry-After": "5"})
                if watch_client and await call.request.is_disconnected():
                    raise ClientGoneError
                try:
                    await asyncio.wait_for(changed.wait(), LOOK)
                except TimeoutError:
                    if loop.time() - spoken >= HEARTBEAT:
                        spoken = loop.time()
                        yield None
    finally:
        hub.leave(job, changed)


def of_job(error: Mapping[str, Any] | None) -> HttpError:
    """The refusal for a job that failed: 400 for what another request would mend, 500 for what it would not."""
    error = error or {}
    code = str(error.get("code", "error"))
    status = 500 if code in ("internal", "worker_crashed", "missing", "disk_full", "unreadable", "unwritable") else 400
    return HttpError(
        status, code, str(error.get("message", "the picture could not be drawn")), field=error.get("field")
    )
