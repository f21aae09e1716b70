"""The routes of OpenAI's Images API, with the two cheap neighbours that its clients ask for: models and moderations.

`GET /v1/models` is gesso's own address too: its answer has the keys of both.
"""

import asyncio
import hashlib
import json
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing, suppress
from typing import Any

from fastapi import FastAPI
from PIL import Image
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from gesso.api import models as own_models
from gesso.api.bodies import json_object
from gesso.api.checking import facts_of
from gesso.api.context import Call, Calling, Rule, is_id
from gesso.api.files import picture_response
from gesso.api.problems import HttpError, JsonAnswer, as_json, not_found
from gesso.api.submitting import check_room, idempotency_key
from gesso.errors import GessoError
from gesso.serving.jobs import Job, JobStatus
from gesso.surfaces.openai.answers import (
    completed,
    event,
    images_response,
    model_object,
    moderation,
    output_format,
    partial_image,
)
from gesso.surfaces.openai.errors import OpenAIRoute, both_response, error_object, renamed
from gesso.surfaces.openai.links import is_signed, signed_path
from gesso.surfaces.openai.reading import (
    PICTURES,
    Asked,
    Inputs,
    Route,
    model_of,
    read_form,
    read_parameters,
    to_request,
)
from gesso.surfaces.surface import (
    ClientGoneError,
    SurfaceRoute,
    SurfaceRoutes,
    Wish,
    accept,
    follow,
    from_base64,
    of_job,
    open_picture,
)

SURFACE = "openai"
MAX_FILES = 18
MAX_FIELDS = 100
MAX_TEXT = 256 * 1024  # bytes of a text part
REMEMBERED = 900.0  # seconds in which a repeat is known as one
REMEMBERED_JOBS = 200  # of the newest of a key, among which a repeat is looked for
LINGER = 30.0  # seconds that a job waits for its client to ask again, which does so within 8
MAX_INPUTS = 32

routes = SurfaceRoutes(OpenAIRoute)


class _Both(SurfaceRoute):
    """A route that is gesso's own too: its errors have both shapes."""

    shape = staticmethod(both_response)


shared = SurfaceRoutes(_Both)


def add_to(app: FastAPI) -> None:
    """Give an application this surface. Before gesso's own routes, since GET /v1/models is here what it is there and
    more.
    """
    shared.add_to(app)
    routes.add_to(app)
    app.state.openai_waiting = Waiting()


# ---- pictures --------------------------------------------------------------------------------------------------------


@routes.on("OPTIONS", "/v1/images/generations", None)
async def ping(call: Calling) -> Response:
    """The server is there."""
    return Response(status_code=204, headers={"Allow": "POST, OPTIONS"})


@routes.on("POST", "/v1/images/generations", "draw")
async def generations(call: Calling, request: Request) -> Response:
    """Draw from a prompt."""
    return await _draw(call, "generations", await json_object(request), {})


@routes.on("POST", "/v1/images/edits", "draw")
async def edits(call: Calling, request: Request) -> Response:
    """Draw from a picture and a prompt."""
    return await _draw(call, "edits", *await _body(request))


@routes.on("POST", "/v1/images/variations", "draw")
async def variations(call: Calling, request: Request) -> Response:
    """Draw a picture again, somewhat differently."""
    return await _draw(call, "variations", *await _body(request))


Files = Mapping[str, Sequence[bytes]]


async def _body(request: Request) -> tuple[dict[str, Any], Files]:
    """Parameters and pictures of a form, or of JSON with the pictures in Base64. Raises HttpError."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/x-www-form-urlencoded":  # so clients send a form without a file
        raise HttpError(400, "invalid_field", "image is missing: send it as a file of a multipart form", field="image")
    if kind != "multipart/form-data":
        return _json_pictures(await json_object(request))
    fields: list[tuple[str, str]] = []
    files: dict[str, list[bytes]] = {}
    try:
        async with request.form(max_files=MAX_FILES, max_fields=MAX_FIELDS, max_part_size=MAX_TEXT) as form:
            for name, value in form.multi_items():
                if not isinstance(value, UploadFile):
                    fields.append((name, value))
                elif name in PICTURES:
                    files.setdefault(name.removesuffix("[]"), []).append(await value.read())
                else:
                    raise HttpError(400, "unknown_name", f"Unknown parameter: {name[:64]!r}", field=name[:64])
    except Exception as error:  # the parser raises errors of several kinds for forms that are none
        if type(error).__name__ in ("HTTPException", "MultiPartException", "MultipartParseError"):
            raise HttpError(400, "invalid_request", "the body is not a valid form") from None
        raise
    return read_form(fields), files


def _json_pictures(given: dict[str, Any]) -> tuple[dict[str, Any], Files]:
    """Pictures in a JSON body: `image` or `images` and `mask`, as text or as {"image_url": text}. Raises HttpError."""
    files: dict[str, list[bytes]] = {}
    for name in ("image", "images", "mask", "markup"):
        value = given.pop(name, None)
        for one in value if isinstance(value, list) else [] if value is None else [value]:
            text = one.get("image_url") if isinstance(one, dict) else one
            if not isinstance(text, str):
                detail = f"{name}: expected a picture as data:image/png;base64,... ; uploaded files are not kept here"
                raise HttpError(400, "invalid_value", detail, field=name)
            files.setdefault(name.removesuffix("s") if name == "images" else name, []).append(from_base64(text, name))
    return given, files


async def _draw(call: Call, route: Route, given: Mapping[str, Any], files: Files) -> Response:
    begin = time.monotonic()
    asked = read_parameters(route, given)
    for name in ("mask", "markup"):
        if len(files.get(name, ())) > 1:
            raise HttpError(400, "invalid_value", f"{name} is given twice", field=name)
    check_room(call)
    inputs = Inputs()
    if files:
        async with call.context.decoding:
            inputs = await run_in_threadpool(_decoded, files)
    mark = fingerprint(route, given, files)
    job, size, notes = await call.writing(_accept, call, route, asked, inputs, mark)
    if asked.stream:
        kind = "image_edit" if route == "edits" else "image_generation"
        events = _stream(call, job, asked, size, notes, kind)
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(events, media_type="text/event-stream", headers=headers)
    job = await _finished(call, job)
    answer = await run_in_threadpool(_answer, call, job, asked, notes)
    return JsonAnswer(answer, headers={"openai-processing-ms": str(int(1000 * (time.monotonic() - begin)))})


def _decoded(files: Files) -> Inputs:
    def one(name: str) -> Image.Image | None:
        return open_picture(files[name][0], name) if files.get(name) else None

    images = tuple(open_picture(data, "image") for data in files.get("image", ()))
    return Inputs(images=images, mask=one("mask"), markup=one("markup"))


def fingerprint(route: Route, given: Mapping[str, Any], files: Files) -> str:
    """What a call asks for, as a hash: the same for a repeat, whose form may have other boundaries."""
    digests = {name: [hashlib.sha256(data).hexdigest() for data in parts] for name, parts in files.items()}
    whole = json.dumps([route, given, digests], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(whole.encode("utf-8", "surrogatepass")).hexdigest()


def _accept(
    call: Call, route: Route, asked: Asked, inputs: Inputs, mark: str
) -> tuple[Job, tuple[int, int], tuple[str, ...]]:
    """The job of a call: a new one, or that of the call which this one repeats. Blocks. Raises HttpError."""
    checker = call.context.checker
    model, notes = model_of(asked.model, {entry.name for entry in checker.models()})
    drawn = to_request(route, asked, facts_of(checker.model(model)), inputs)
    notes = (*notes, *asked.notes)
    key = idempotency_key(call.request)
    if key is None and is_repeat(call.request) and (earlier := _earlier(call, mark)) is not None:
        return earlier, drawn.size, notes
    wish = Wish(
        model=model,
        request=drawn.request,
        pictures=drawn.pictures,
        output=output_format(asked),
        metadata={"surface": SURFACE, "fingerprint": mark},
        key=key,
    )
    try:
        return accept(call, wish), drawn.size, notes
    except HttpError as error:
        raise renamed(error, asked.names) from None


def is_repeat(request: Request) -> bool:
    """Whether the client says that it asks again because no answer came. It sends no key by which one would know."""
    count = request.headers.get("x-stainless-retry-count", "")
    return count.isascii() and count.isdecimal() and int(count[:9]) > 0


def _earlier(call: Call, mark: str) -> Job | None:
    """The newest job of the same key that was asked for in the same words a short while ago."""
    live = (JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.SUCCEEDED)
    page = call.context.store.list_jobs(owner=call.new_owner, statuses=live, limit=REMEMBERED_JOBS)
    for job in page.jobs:
        if job.created_at < time.time() - REMEMBERED:
            break
        if job.metadata.get("surface") == SURFACE and job.metadata.get("fingerprint") == mark:
            return job
    return None


# ---- waiting ---------------------------------------------------------------------------------------------------------


class Waiting:
    """Who waits for which job. One that nobody waits for any more is canceled, after a while in which its client may
    ask again.
    """

    def __init__(self) -> None:
        self._jobs: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()

    def enter(self, job: str) -> None:
        """Somebody waits."""
        self._jobs[job] += 1

    def leave(self, call: Call, job: str, *, after: float | None) -> None:
        """Somebody does not wait any more.  after: seconds until the job is canceled; None: it is not"""
        self._jobs[job] -= 1
        if self._jobs[job] <= 0:
            del self._jobs[job]
        if after is not None:
            task = asyncio.get_running_loop().create_task(self._cancel(call, job, after))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _cancel(self, call: Call, job: str, after: float) -> None:
        await asyncio.sleep(after)
        if job not in self._jobs:
            with suppress(GessoError):  # it was forgotten
                await call.writing(call.context.store.cancel, job)


async def _finished(call: Call, job: Job) -> Job:
    """The job when it has succeeded. Raises HttpError for any other end."""
    waiting: Waiting = call.request.app.state.openai_waiting
    waiting.enter(job.id)
    after: float | None = None
    try:
        async with aclosing(follow(call, job.id)) as events:
            async for _ in events:
                pass
    except ClientGoneError:
        after = LINGER
        raise HttpError(408, "timeout", "the client has hung up") from None
    finally:
        waiting.leave(call, job.id, after=after)
    return succeeded(await run_in_threadpool(call.context.store.get, job.id))


def succeeded(job: Job) -> Job:
    """The job. Raises HttpError where it did not succeed."""
    if job.status == JobStatus.FAILED:
        raise of_job(job.error)
    if job.status != JobStatus.SUCCEEDED:
        raise HttpError(409, "cancelled", f"the job {job.id} was {job.status}")
    return job


def _answer(call: Call, job: Job, asked: Asked, notes: Sequence[str]) -> dict[str, Any]:
    data = {} if asked.as_url else {output.id: call.context.blobs.read(output.digest) for output in job.outputs}
    base = f"{call.request.url.scheme}://{call.request.headers.get('host', '')}"

    def address(ident: str) -> str:
        return base + signed_path(call.context.settings.folder, job.owner, ident)

    return images_response(job, asked, notes, data, lambda output: address(output.id))


async def _stream(
    call: Call, job: Job, asked: Asked, size: tuple[int, int], notes: Sequence[str], kind: str
) -> AsyncIterator[bytes]:
    """Previews as there are any, and each picture when it is done. A client that leaves ends the job."""
    waiting: Waiting = call.request.app.state.openai_waiting
    store, blobs = call.context.store, call.context.blobs
    waiting.enter(job.id)
    after: float | None = 0.0
    sent = 0
    try:
        async with aclosing(follow(call, job.id, watch_client=False)) as events:
            async for one in events:
                if one is None:
                    yield b": still here\n\n"
                elif one.type == "preview" and sent < asked.partial:
                    preview = from_base64(one.data["data_base64"], "preview")
                    yield event(f"{kind}.partial_image", partial_image(job, asked, size, sent, preview))
                    sent += 1
                elif one.type == "output":
                    output = await run_in_threadpool(store.output, one.data["id"])
                    data = await run_in_threadpool(blobs.read, output.digest)
                    yield event(f"{kind}.completed", completed(job, asked, notes, output, data))
                    sent = 0
        after = None
        succeeded(await run_in_threadpool(store.get, job.id))
    except HttpError as error:
        after = None  # it is final, or the server stops and the job stays
        yield b"data: " + as_json({"error": error_object(error)}) + b"\n\n"
    finally:
        waiting.leave(call, job.id, after=after)


@routes.on("GET", "/v1/images/{id}/file", None)
def file(call: Calling, request: Request, id: str) -> Response:
    """A picture at an address that was signed, without a key."""
    query = {name: request.query_params.get(name, "") for name in ("owner", "until", "signature")}
    if not is_id(id) or not is_id(query["owner"]) or not is_signed(call.context.settings.folder, image=id, **query):
        raise HttpError(403, "forbidden", "this address is not signed, or was good for an hour that has passed")
    try:
        output = call.context.store.output(id, query["owner"])
    except GessoError:
        raise not_found("picture") from None
    return picture_response(call, output.digest, output.content_type, output.id)


# ---- models and moderations ------------------------------------------------------------------------------------------


@shared.on("GET", "/v1/models", "read", Rule)
def list_models(call: Calling) -> Response:
    """All models, in OpenAI's words and in gesso's."""
    own = json.loads(bytes(own_models.list_models(call).body))
    data = [model_object(entry) for entry in call.context.checker.models()]
    return JsonAnswer({**own, "object": "list", "data": data})


@shared.on("GET", "/v1/models/{name}", "read", Rule)
def get_model(call: Calling, name: str) -> Response:
    """One model, in OpenAI's words and in gesso's."""
    own = json.loads(bytes(own_models.get_model(call, name).body))
    entry = next(entry for entry in call.context.checker.models() if entry.name == own["name"])
    return JsonAnswer({**own, **model_object(entry)})


@routes.on("POST", "/v1/moderations", "read")
async def moderations(call: Calling, request: Request) -> Response:
    """Whether texts and pictures are harmful, which nobody here can say, and the answer says so."""
    given = await json_object(request)
    inputs = moderated(given.get("input"))
    return JsonAnswer(moderation(f"modr-{secrets.token_hex(12)}", inputs))


def moderated(value: Any) -> list[list[str]]:
    """The types of the parts of each input. Raises HttpError."""
    if isinstance(value, str):
        return [["text"]]
    if isinstance(value, list) and 1 <= len(value) <= MAX_INPUTS:
        if all(isinstance(one, str) for one in value):
            return [["text"] for _ in value]
        kinds = [one.get("type") if isinstance(one, dict) else None for one in value]
        if all(kind in ("text", "image_url") for kind in kinds):
            return [["image" if kind == "image_url" else "text" for kind in kinds]]
    detail = f"input: expected text, up to {MAX_INPUTS} texts, or parts of the types text and image_url"
    raise HttpError(400, "invalid_value", detail, field="input")
