"""Comfy's API v2 under /api/v2: the same prompts as resources, for the official SDKs.

A job of it is a prompt; its states are those of gesso's jobs, whose names come from there.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, nullcontext
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from gesso.api.bodies import json_object
from gesso.api.context import Call, Calling, is_id
from gesso.api.files import picture_response
from gesso.api.problems import HttpError, JsonAnswer, as_json
from gesso.api.schemas import at
from gesso.api.submitting import check_room, idempotency_key, refused
from gesso.errors import GessoError, short
from gesso.serving.jobs import Job, JobEvent, JobStatus, Output, Upload
from gesso.surfaces.comfy.files import ASSET, checked, keep_named, result_name
from gesso.surfaces.comfy.graph import OF_EDITOR, PromptRefusedError, is_of_editor
from gesso.surfaces.comfy.prompts import (
    SURFACE,
    Prompt,
    cancel,
    find_prompt,
    list_prompts,
    opens_pictures,
    submit_prompt,
)
from gesso.surfaces.comfy.watching import watchers_of
from gesso.surfaces.surface import ClientGoneError, SurfaceRoute, SurfaceRoutes, follow, open_picture

MAX_FIELD = 4096
MAX_FIELDS = 40
MAX_METADATA = 16 * 1024
MAX_LISTED = 200
LONG = 3650 * 86_400.0  # seconds
_KEYS = uuid.UUID("6f2b1d34-6b46-4b52-9d0a-0b8b2f3c9a57")  # space of the ids that idempotency keys give
_CODES = {"asset_missing": "missing_asset", "invalid_field": "invalid_request"}  # gesso's -> that of v2


class V2Error(HttpError):
    """A refusal with a code of v2's own."""

    def __init__(self, status: int, name: str, detail: str, *, field: str | None = None, **data: Any) -> None:
        super().__init__(status, "invalid_request", detail, field=field, data=data)
        self.name = name


class V2Route(SurfaceRoute):
    """A route of v2."""

    @staticmethod
    def shape(error: HttpError) -> Response:
        """A refusal in the shape of v2."""
        details = error.data | ({"field": error.field} if error.field else {})
        code = error.name if isinstance(error, V2Error) else _CODES.get(error.code, error.code)
        held = {"code": code, "message": error.detail, "details": details}
        return JsonAnswer({"error": held}, error.status, headers=error.headers)


routes = SurfaceRoutes(V2Route)
_BASE = "/api/v2"


def add_to(app: FastAPI) -> None:
    """Give an application these routes."""
    routes.add_to(app)


@routes.on("GET", f"{_BASE}/health", None)
def get_health(call: Calling) -> Response:
    """The server is there."""
    return JsonAnswer({"status": "ok"})


# ---- jobs ------------------------------------------------------------------------------------------------------------


@routes.on("POST", f"{_BASE}/jobs", "draw")
async def create_job(call: Calling, request: Request) -> Response:
    """Queue a graph. The same Idempotency-Key with the same graph is the same job."""
    body = await json_object(request)
    workflow, extra, metadata = body.get("workflow"), body.get("extra_data"), body.get("metadata") or {}
    if is_of_editor(workflow if isinstance(workflow, dict) else body):
        raise V2Error(422, "workflow_format_ui", OF_EDITOR, field="workflow")
    if not isinstance(workflow, dict):
        detail = 'expected {"workflow": ...} with the graph that ComfyUI writes by Export (API)'
        raise V2Error(422, "invalid_workflow", detail, field="workflow")
    if not isinstance(metadata, dict) or len(as_json(metadata)) > MAX_METADATA:
        detail = f"metadata has to be an object of up to {MAX_METADATA} bytes"
        raise HttpError(400, "invalid_request", detail, field="metadata")
    key = idempotency_key(request)
    # Inputs that are assets become names that LoadImage finds.
    prompt = {id: _with_assets(node) for id, node in workflow.items()}
    sent = {"prompt": prompt, "extra_data": extra, "metadata": metadata}
    if key is not None:
        sent["prompt_id"] = str(uuid.uuid5(_KEYS, f"{call.new_owner}\0{key}"))
    try:
        async with call.context.decoding if opens_pictures(sent) else nullcontext():
            accepted = await call.writing(submit_prompt, call, sent)
    except PromptRefusedError as error:
        details: dict[str, Any] = {"node_errors": error.node_errors, "type": error.error["type"]}
        listed = error.error["type"] == "prompt_outputs_failed_validation"
        why = error.error["details" if listed else "message"]
        raise V2Error(422, "invalid_workflow", str(why), **details) from None
    await watchers_of(request).submitted(call.new_owner, accepted.prompt)
    return JsonAnswer(job_json(call, accepted.prompt), 201, headers={"Location": f"{_BASE}/jobs/{accepted.id}"})


def _with_assets(node: Any) -> Any:
    if not isinstance(node, dict) or not isinstance(node.get("inputs"), dict):
        return node
    inputs = {}
    for name, value in node["inputs"].items():
        if isinstance(value, dict) and value.get("__type") == "core/ASSET":
            info = value.get("info")
            id = info.get("id") if isinstance(info, dict) else None
            if not isinstance(id, str) or not is_id(id):
                detail = f"input {short(name)}: a core/ASSET needs info.id, the id of an uploaded asset"
                raise V2Error(422, "missing_asset", detail, field="workflow")
            value = f"{ASSET}{id}"
        inputs[name] = value
    return {**node, "inputs": inputs}


@routes.on("GET", f"{_BASE}/jobs", "read")
def list_jobs(call: Calling, request: Request) -> Response:
    """Jobs, newest first."""
    query = request.query_params
    asked = {part.strip() for part in query.get("status", "").split(",") if part.strip()}
    known = {str(status) for status in JobStatus}
    if asked - known:
        detail = f"status is {short(sorted(asked - known)[0])}, expected {', '.join(sorted(known))}"
        raise HttpError(400, "invalid_request", detail, field="status")
    text = query.get("limit", "20")
    if not (text.isdecimal() and len(text) < 5 and 1 <= int(text) <= MAX_LISTED):
        raise HttpError(400, "invalid_request", f"limit: expected 1 to {MAX_LISTED}", field="limit")
    prompts = [one for one in list_prompts(call) if not asked or status_of(one) in asked]
    listed = [job_json(call, one) for one in prompts[: int(text)]]
    return JsonAnswer({"jobs": listed, "truncated": len(prompts) > len(listed)})


@routes.on("GET", f"{_BASE}/jobs/{{id}}", "read")
def get_job(call: Calling, id: str) -> Response:
    """A job as it is now."""
    return JsonAnswer(job_json(call, _prompt(call, id)))


@routes.on("GET", f"{_BASE}/jobs/{{id}}/workflow", "read")
def get_workflow(call: Calling, id: str) -> Response:
    """The graph of a job."""
    return JsonAnswer({"workflow": _prompt(call, id).nodes, "format": "api"})


@routes.on("POST", f"{_BASE}/jobs/{{id}}/cancel", "draw")
async def cancel_job(call: Calling, request: Request, id: str) -> Response:
    """Cancel a job; one that is final stays as it is."""

    def work() -> dict[str, Any]:
        cancel(call, _prompt(call, id))
        return job_json(call, _prompt(call, id))

    answer = await run_in_threadpool(work)
    await watchers_of(request).submitted(call.new_owner)
    return JsonAnswer(answer)


@routes.on("GET", f"{_BASE}/jobs/{{id}}/events", "read")
async def job_events(call: Calling, id: str) -> Response:
    """What happens to a job, as it does: status, progress, preview, output. The job itself is always the truth."""
    prompt = await run_in_threadpool(_prompt, call, id)
    check_room(call)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(_events(call, prompt), media_type="text/event-stream", headers=headers)


async def _events(call: Call, prompt: Prompt) -> AsyncIterator[str]:
    queue: asyncio.Queue[tuple[Job, JobEvent | None] | None] = asyncio.Queue(64)

    async def watch(job: Job) -> None:
        try:
            async with aclosing(follow(call, job.id)) as events:
                async for event in events:
                    await queue.put((job, event))
        except (ClientGoneError, HttpError, GessoError):
            pass
        await queue.put(None)

    known = {job.id for job in prompt.jobs}
    tasks = [asyncio.ensure_future(watch(job)) for job in prompt.jobs]
    left, said = len(tasks), ""
    try:
        while left:
            item = await queue.get()
            if item is None:
                left -= 1
                prompt = await run_in_threadpool(_prompt, call, prompt.id)
                new = [job for job in prompt.jobs if job.id not in known]  # that follow on those that are done
                known |= {job.id for job in new}
                tasks += [asyncio.ensure_future(watch(job)) for job in new]
                left += len(new)
                continue
            job, event = item
            if event is None:
                yield ": still here\n\n"
                continue
            if event.type == "status":
                now = await run_in_threadpool(_prompt, call, prompt.id)
                if (status := status_of(now)) != said:
                    said = status
                    yield _event("status", {"status": status, "queue_position": _position(now)})
            elif event.type == "progress":
                drawn = replace(job, status=JobStatus.RUNNING, progress=event.data)
                yield _event("progress", progress_json(_with_job(prompt, drawn)))
            elif event.type == "preview":
                yield _event("preview", {"node_id": _sampler(job), **event.data})
            elif event.type == "output":
                try:
                    output = await run_in_threadpool(call.context.store.output, str(event.data["id"]), call.owner)
                except GessoError:
                    continue
                for held in outputs_json(call, prompt, replace(job, outputs=(output,))):
                    yield _event("output", held)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _event(name: str, data: Mapping[str, Any]) -> str:
    return f"event: {name}\ndata: {as_json(data).decode()}\n\n"


def _with_job(prompt: Prompt, job: Job) -> Prompt:
    """A prompt in which one job stands elsewhere."""
    return replace(prompt, jobs=tuple(job if one.id == job.id else one for one in prompt.jobs))


def _prompt(call: Call, id: str) -> Prompt:
    prompt = find_prompt(call, id)
    if prompt is None:
        raise HttpError(404, "not_found", "no job of this id is here")
    return prompt


def status_of(prompt: Prompt) -> str:
    """Where a prompt stands: where its only job does, or what its jobs come to together."""
    states = [job.status for job in prompt.jobs]
    if not prompt.is_final:
        if JobStatus.CANCELING in states:
            return str(JobStatus.CANCELING)
        return str(JobStatus.RUNNING if prompt.is_running else JobStatus.QUEUED)
    failed = prompt.failed()
    return str(JobStatus.SUCCEEDED if failed is None else failed.status)


def _position(prompt: Prompt) -> int | None:
    places = [job.position for job in prompt.jobs if job.position is not None]
    return min(places) if places and not prompt.is_running else None


def _sampler(job: Job) -> str:
    return str((job.metadata[SURFACE].get("samplers") or ["0"])[0])


def progress_json(prompt: Prompt) -> dict[str, Any]:
    """How far a prompt is."""
    total = len(prompt.about.get("order") or ())
    done = sum(1.0 if job.status == JobStatus.SUCCEEDED else float(job.progress.get("value", 0)) for job in prompt.jobs)
    value = min(max(done / max(prompt.about["jobs"], 1), 0.0), 1.0)
    now = next((job for job in prompt.jobs if job.status in (JobStatus.RUNNING, JobStatus.CANCELING)), None)
    node = None if now is None else _sampler(now)
    state = {} if now is None else now.progress
    return {
        "value": value,
        "nodes_done": int(value * total),
        "nodes_total": total,
        "current_node": node,
        "current_node_class": prompt.nodes.get(node, {}).get("class_type") if node is not None else None,
        "step": state.get("step"),
        "steps": state.get("steps"),
        "message": state.get("message"),
    }


def _origin(call: Call) -> str:
    request = call.request
    return f"{request.url.scheme}://{request.headers['host']}"


def outputs_json(call: Call, prompt: Prompt, job: Job) -> list[dict[str, Any]]:
    """The pictures of one job, at each output node that it serves."""
    return [
        {
            "node_id": node,
            "name": result_name(save["prefix"], save["kind"], output).name,
            "type": "image",
            "content_type": output.content_type,
            "size_bytes": output.nbytes,
            "id": output.id,
            "hash": None,  # BLAKE3 is meant, and there is SHA-256
            "url": f"{_origin(call)}{_BASE}/assets/{output.id}/content",
            "url_expires_at": at(job.expires_at) or _later(),
            "job_id": prompt.id,
        }
        for node, save in (job.metadata[SURFACE].get("saves") or {}).items()
        for output in job.outputs
    ]


def _later() -> str:
    """When an address may no longer hold that is good as long as its picture is kept."""
    return str(at((datetime.now(UTC) + timedelta(days=1)).timestamp()))


def job_json(call: Call, prompt: Prompt) -> dict[str, Any]:
    """A prompt as a job of v2."""
    jobs, own = prompt.jobs, f"{_origin(call)}{_BASE}/jobs/{prompt.id}"
    started = [job.started_at for job in jobs if job.started_at is not None]
    ended = [job.completed_at for job in jobs if job.completed_at is not None]
    keep = call.context.settings.keep_seconds or LONG  # a job of v2 always has an end
    expires = min(job.expires_at or job.created_at + keep for job in jobs)
    kind, data = prompt.ending() if prompt.is_final else ("", {})
    error = None
    if kind == "execution_error":
        code = str(data["exception_type"]).removeprefix("gesso.")
        error = {"code": code, "message": data["exception_message"], "node_id": data["node_id"]}
        error |= {"class_type": data["node_type"], "traceback": None}
    return {
        "id": prompt.id,
        "status": status_of(prompt),
        "created_at": at(jobs[0].created_at),
        "started_at": at(min(started)) if started else None,
        "completed_at": at(max(ended)) if prompt.is_final and ended else None,
        "expires_at": at(expires),
        "queue_position": _position(prompt),
        "progress": progress_json(prompt),
        "outputs": [held for job in jobs for held in outputs_json(call, prompt, job)],
        "error": error,
        "metrics": {
            "queue_ms": jobs[0].metrics.get("queue_ms"),
            "execution_ms": sum(int(job.metrics.get("execution_ms") or 0) for job in jobs) if prompt.is_final else None,
        },
        "metadata": prompt.about.get("metadata") or {},
        "urls": {"self": own, "events": f"{own}/events", "cancel": f"{own}/cancel"},
    }


# ---- assets ----------------------------------------------------------------------------------------------------------


@routes.on("POST", f"{_BASE}/assets", "draw")
async def create_asset(call: Calling, request: Request) -> Response:
    """Upload a picture. It is decoded and encoded anew, so that what is kept has another hash than what was sent."""
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise HttpError(415, "unsupported_media_type", "the body must be multipart/form-data with a part named file")
    try:
        async with request.form(max_files=1, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD) as form:
            file = form.get("file")
            if not isinstance(file, UploadFile):
                raise HttpError(400, "invalid_request", "the form needs a part named file", field="file")
            path = form.get("file_path")
            name = path if isinstance(path, str) and path else file.filename or "picture.png"
            data = await file.read()
    except HttpError:
        raise
    except Exception as error:  # the parser raises errors of several kinds for forms that are none
        if type(error).__name__ in ("HTTPException", "MultiPartException", "MultipartParseError"):
            raise HttpError(400, "invalid_request", "the body is not a valid form") from None
        raise
    limit = call.context.settings.max_upload
    if len(data) > limit:
        raise HttpError(413, "too_large", f"file: more than {limit} bytes", field="file", data={"high": limit})
    wanted = checked(name.replace("\\", "/").rpartition("/")[2], "", "input")

    def work() -> Upload:
        return keep_named(call, open_picture(data, "file"), wanted, overwrite=False)[0]

    async with call.context.decoding:
        upload = await run_in_threadpool(work)
    return JsonAnswer(asset_json(call, upload), 201)


@routes.on("GET", f"{_BASE}/assets/by-hash/{{hash}}", "read")
def find_asset(call: Calling, hash: str) -> Response:
    """Nothing: what is kept was encoded anew and has another hash. Clients then upload."""
    raise V2Error(404, "blob_not_found", "pictures are not kept as they are sent, so none is found by its hash")


@routes.on("POST", f"{_BASE}/assets/from-hash", "draw")
def asset_from_hash(call: Calling) -> Response:
    """Nothing, as above."""
    raise V2Error(404, "blob_not_found", "pictures are not kept as they are sent; upload it")


@routes.on("GET", f"{_BASE}/assets/{{id}}", "read")
def get_asset(call: Calling, id: str) -> Response:
    """An uploaded or a finished picture."""
    found = _asset(call, id)
    return JsonAnswer(asset_json(call, found))


@routes.on("GET", f"{_BASE}/assets/{{id}}/content", "read")
def get_asset_content(call: Calling, id: str) -> Response:
    """Its bytes."""
    found = _asset(call, id)
    return picture_response(call, found.digest, found.content_type, found.id)


@routes.on("DELETE", f"{_BASE}/assets/{{id}}", "draw")
def delete_asset(call: Calling, id: str) -> Response:
    """Forget an uploaded picture."""
    if isinstance(_asset(call, id), Output):
        raise HttpError(409, "asset_in_use", "a finished picture goes with its job")
    try:
        call.context.store.delete_upload(id, call.owner)
    except GessoError as error:
        raise refused(error) from None
    return Response(status_code=204)


def _asset(call: Call, id: str) -> Upload | Output:
    if is_id(id):
        for find in (call.context.store.get_upload, call.context.store.output):
            try:
                found: Upload | Output = find(id, call.owner)
                return found
            except GessoError:
                continue
    raise HttpError(404, "not_found", "no asset of this id is here")


def asset_json(call: Call, found: Upload | Output) -> dict[str, Any]:
    """A picture as an asset of v2."""
    upload = found if isinstance(found, Upload) else None
    expires = at(upload.expires_at) if upload is not None else None
    return {
        "id": found.id,
        "hash": None,
        "size_bytes": found.nbytes,
        "content_type": found.content_type,
        "file_path": upload.name if upload is not None else f"{found.id}.png",
        "created_new": True,
        "created_at": at(upload.created_at) if upload is not None else _later(),
        "url": f"{_origin(call)}{_BASE}/assets/{found.id}/content",
        "url_expires_at": expires or _later(),
        "expires_at": expires,
        "job_id": None,
    }
