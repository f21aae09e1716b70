"""ComfyUI's routes, each also under /api.

A body may come without a JSON content type, as clients of ComfyUI send it. A page of another site cannot use that: the
guard refuses every request whose Origin or Sec-Fetch-Site says that one asks, which browsers send with every POST.
"""

import platform
import sys
import uuid
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any, TypeVar

from fastapi import FastAPI
from PIL import Image
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import Response

from gesso import __version__
from gesso.api.bodies import parse_object
from gesso.api.context import Call, Calling
from gesso.api.problems import HttpError, JsonAnswer
from gesso.errors import short
from gesso.serving.jobs import JobStatus
from gesso.serving.keys import Scope
from gesso.surfaces.comfy import api_v2, messages
from gesso.surfaces.comfy.files import checked, find_picture, keep_named, opened, parsed, view
from gesso.surfaces.comfy.graph import PromptRefusedError
from gesso.surfaces.comfy.names import FOLDERS, lists_of
from gesso.surfaces.comfy.node_types import NODE_TYPES
from gesso.surfaces.comfy.prompts import (
    Prompt,
    cancel,
    choices_of,
    find_prompt,
    forget,
    list_prompts,
    opens_pictures,
    submit_prompt,
)
from gesso.surfaces.comfy.sockets import CHANNEL, SocketAnswer
from gesso.surfaces.comfy.watching import Socket, watchers_of
from gesso.surfaces.surface import SurfaceRoute, SurfaceRoutes, memory_of_machine, open_picture

MAX_FIELDS = 8
MAX_FIELD = 4096  # bytes of a text of a form
MAX_HISTORY = 1000  # of `max_items`
COMFYUI_VERSION = "0.3.75"  # whose interface this is
_STATES = {
    JobStatus.QUEUED: "pending",
    JobStatus.RUNNING: "in_progress",
    JobStatus.CANCELING: "in_progress",
    JobStatus.SUCCEEDED: "completed",
}

F = TypeVar("F", bound=Callable[..., Any])


class ComfyRoute(SurfaceRoute):
    """A route of this surface."""

    @staticmethod
    def shape(error: HttpError) -> Response:
        """A refusal in ComfyUI's shape."""
        held = {"type": error.code, "message": error.detail, "details": error.field or "", "extra_info": error.data}
        return JsonAnswer({"error": held, "node_errors": {}}, error.status, headers=error.headers)


routes = SurfaceRoutes(ComfyRoute)


def add_to(app: FastAPI) -> None:
    """Give an application this surface."""
    routes.add_to(app)
    api_v2.add_to(app)


def _on(method: str, path: str, scope: Scope | None) -> Callable[[F], F]:
    """Declare a route, as it is and under /api."""

    def declare(function: F) -> F:
        routes.on(method, path, scope)(function)
        return routes.on(method, f"/api{path}", scope)(function)

    return declare


async def _body(request: Request) -> dict[str, Any]:
    """The JSON object of a body, of whatever type it says it is; nothing is an empty one. Raises HttpError."""
    data = await request.body()
    return parse_object(data) if data.strip() else {}


# ---- prompts ---------------------------------------------------------------------------------------------------------


@_on("POST", "/prompt", "draw")
async def post_prompt(call: Calling, request: Request) -> Response:
    """Queue a graph."""
    body = await _body(request)
    try:
        async with call.context.decoding if opens_pictures(body) else nullcontext():
            accepted = await call.writing(submit_prompt, call, body)
    except PromptRefusedError as error:
        call.context.metrics.refusals.labels("invalid_field").inc()
        return JsonAnswer({"error": error.error, "node_errors": error.node_errors}, 400)
    await watchers_of(request).submitted(call.new_owner, accepted.prompt)
    return JsonAnswer({"prompt_id": accepted.id, "number": accepted.number, "node_errors": {}})


@_on("GET", "/prompt", "read")
def get_prompt(call: Calling) -> Response:
    """How many prompts are not done."""
    return JsonAnswer({"exec_info": {"queue_remaining": len(list_prompts(call, unfinished=True))}})


@_on("GET", "/queue", "read")
def get_queue(call: Calling) -> Response:
    """What is drawn and what waits."""
    prompts = list_prompts(call, unfinished=True)[::-1]
    return JsonAnswer(
        {
            "queue_running": [prompt.item() for prompt in prompts if prompt.is_running],
            "queue_pending": [prompt.item() for prompt in prompts if not prompt.is_running],
        }
    )


@_on("POST", "/queue", "draw")
async def post_queue(call: Calling, request: Request) -> Response:
    """Cancel what waits: all of it, or some."""
    body = await _body(request)
    ids = _ids(body, "delete")

    def work() -> None:
        for prompt in list_prompts(call, unfinished=True):
            if not prompt.is_running and (body.get("clear") is True or prompt.id in ids):
                cancel(call, prompt)

    await run_in_threadpool(work)
    await watchers_of(request).submitted(call.new_owner)
    return Response()


def _ids(body: Mapping[str, Any], name: str) -> list[str]:
    ids = body.get(name) or []
    if not isinstance(ids, list) or not all(isinstance(one, str) for one in ids):
        raise HttpError(400, "invalid_field", f"{name} is {short(ids)}, expected a list of ids", field=name)
    return ids


@_on("POST", "/interrupt", "draw")
async def interrupt(call: Calling, request: Request) -> Response:
    """Stop what is drawn now, or one prompt of it, within a step."""
    wanted = (await _body(request)).get("prompt_id")

    def work() -> None:
        for prompt in list_prompts(call, unfinished=True):
            if prompt.is_running and wanted in (None, prompt.id):
                cancel(call, prompt)

    await run_in_threadpool(work)
    return Response()


@_on("POST", "/free", "draw")
async def free(call: Calling, request: Request) -> Response:
    """Nothing: the worker gives memory back by itself, after the setting keep_alive."""
    await _body(request)
    return Response()


@_on("GET", "/history", "read")
def get_history(call: Calling, request: Request) -> Response:
    """The prompts that are done, oldest first."""
    most = _number(request, "max_items", MAX_HISTORY, -1)
    offset = _number(request, "offset", -1, -1)
    prompts = [prompt for prompt in list_prompts(call) if prompt.is_final][::-1]
    most = MAX_HISTORY if most < 0 else most
    prompts = prompts[offset : offset + most] if offset >= 0 else prompts[max(len(prompts) - most, 0) :]
    return JsonAnswer({prompt.id: prompt.history() for prompt in prompts})


@_on("GET", "/history/{prompt_id}", "read")
def get_one_history(call: Calling, prompt_id: str) -> Response:
    """One prompt that is done; an empty object as long as it is not, or where there is none."""
    prompt = find_prompt(call, prompt_id)
    return JsonAnswer({prompt.id: prompt.history()} if prompt is not None and prompt.is_final else {})


@_on("POST", "/history", "draw")
async def post_history(call: Calling, request: Request) -> Response:
    """Forget prompts that are done, with their pictures: all of them, or some."""
    body = await _body(request)
    ids = _ids(body, "delete")

    def work() -> None:
        for prompt in list_prompts(call):
            if prompt.is_final and (body.get("clear") is True or prompt.id in ids):
                forget(call, prompt)

    await run_in_threadpool(work)
    return Response()


# ---- jobs: the newer list of prompts ---------------------------------------------------------------------------------


@routes.on("GET", "/api/jobs", "read")
def get_jobs(call: Calling, request: Request) -> Response:
    """Prompts, newest first, page by page."""
    query = request.query_params
    asked = {part for part in query.get("status", "").split(",") if part}
    limit, offset = _number(request, "limit", 100, 1), _number(request, "offset", 0, 0)
    prompts = [prompt for prompt in list_prompts(call) if not asked or _state(prompt) in asked]
    if query.get("sort_order", "desc") == "asc":
        prompts.reverse()
    page = prompts[offset : offset + min(limit, MAX_HISTORY)]
    more = offset + len(page) < len(prompts)
    about = {"offset": offset, "limit": limit, "total": len(prompts), "has_more": more}
    return JsonAnswer({"jobs": [_job(prompt) for prompt in page], "pagination": about})


@routes.on("GET", "/api/jobs/{job_id}", "read")
def get_job(call: Calling, job_id: str) -> Response:
    """One prompt."""
    prompt = _prompt(call, job_id)
    extra = {"outputs": prompt.outputs(), "workflow": {"prompt": prompt.nodes, "extra_data": prompt.item()[3]}}
    return JsonAnswer(_job(prompt) | extra)


@routes.on("POST", "/api/jobs/{job_id}/cancel", "draw")
async def cancel_job(call: Calling, request: Request, job_id: str) -> Response:
    """Cancel a prompt; one that is done stays as it is."""
    prompt = await run_in_threadpool(_prompt, call, job_id)
    done = await run_in_threadpool(cancel, call, prompt)
    await watchers_of(request).submitted(call.new_owner)
    return JsonAnswer({"cancelled": done})


@routes.on("POST", "/api/jobs/cancel", "draw")
async def cancel_jobs(call: Calling, request: Request) -> Response:
    """Cancel several prompts."""
    ids = _ids(await _body(request), "job_ids")

    def work() -> list[str]:
        found = [prompt for prompt in (find_prompt(call, id) for id in ids[:MAX_HISTORY]) if prompt is not None]
        return [prompt.id for prompt in found if cancel(call, prompt)]

    cancelled = await run_in_threadpool(work)
    await watchers_of(request).submitted(call.new_owner)
    return JsonAnswer({"cancelled": bool(cancelled), "job_ids": cancelled})


def _prompt(call: Call, id: str) -> Prompt:
    prompt = find_prompt(call, id)
    if prompt is None:
        raise HttpError(404, "not_found", "no job of this id is here")
    return prompt


def _state(prompt: Prompt) -> str:
    if not prompt.is_final:
        return "in_progress" if prompt.is_running else "pending"
    failed = prompt.failed()
    if failed is None:
        return "completed"
    return "cancelled" if failed.status == JobStatus.CANCELED else "failed"


def _job(prompt: Prompt) -> dict[str, Any]:
    files = [file for output in prompt.outputs().values() for file in output["images"]]
    kind, data = prompt.ending() if prompt.is_final else ("", {})
    started, ended = prompt.jobs[0].started_at, max((job.completed_at or 0.0 for job in prompt.jobs), default=0.0)
    return {
        "id": prompt.id,
        "status": _state(prompt),
        "priority": prompt.about.get("number", 0),
        "create_time": int(prompt.jobs[0].created_at * 1000),
        "execution_start_time": None if started is None else int(started * 1000),
        "execution_end_time": int(ended * 1000) if prompt.is_final else None,
        "execution_error": data if kind == "execution_error" else None,
        "outputs_count": len(files),
        "preview_output": files[0] | {"mediaType": "images"} if files else None,
        "workflow_id": None,
    }


# ---- pictures --------------------------------------------------------------------------------------------------------


@_on("GET", "/view", "read")
def get_view(call: Calling, request: Request) -> Response:
    """The bytes of a picture."""
    return view(call, request.query_params)


@_on("POST", "/upload/image", "draw")
async def upload_image(call: Calling, request: Request) -> Response:
    """Upload a picture to draw from. It is decoded and encoded anew."""
    data, fields = await _form(request)
    name = checked(fields["filename"], fields.get("subfolder", ""), fields.get("type") or "input")
    overwrite = fields.get("overwrite", "").lower() in ("true", "1")

    def work() -> dict[str, str]:
        _, kept = keep_named(call, open_picture(data, "image"), name, overwrite=overwrite)
        return {"name": kept.name, "subfolder": kept.subfolder, "type": kept.kind}

    async with call.context.decoding:
        return JsonAnswer(await run_in_threadpool(work))


@_on("POST", "/upload/mask", "draw")
async def upload_mask(call: Calling, request: Request) -> Response:
    """Give an uploaded picture the transparency of another, which is its mask."""
    data, fields = await _form(request)
    name = checked(fields["filename"], fields.get("subfolder", ""), fields.get("type") or "input")
    reference = parse_object(fields.get("original_ref", "{}").encode())
    texts = {key: value for key, value in reference.items() if isinstance(value, str)}

    def work() -> dict[str, str]:
        mask = open_picture(data, "image")
        image = mask
        if texts.get("filename"):
            folder = f"{texts['subfolder']}/" if texts.get("subfolder") else ""
            original = find_picture(call, str(parsed(f"{folder}{texts['filename']}", texts.get("type", "output"))))
            if original is None:
                raise HttpError(
                    400, "asset_missing", "original_ref names no picture that is here", field="original_ref"
                )
            image = opened(call, original).convert("RGBA")
            image.putalpha(mask.convert("RGBA").getchannel("A").resize(image.size, Image.Resampling.BICUBIC))
        _, kept = keep_named(call, image, name, overwrite=True)
        return {"name": kept.name, "subfolder": kept.subfolder, "type": kept.kind}

    async with call.context.decoding:
        return JsonAnswer(await run_in_threadpool(work))


async def _form(request: Request) -> tuple[bytes, dict[str, str]]:
    """The picture of a form and its texts, among them the picture's filename. Raises HttpError."""
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise HttpError(415, "unsupported_media_type", "the body must be multipart/form-data with a part named image")
    try:
        async with request.form(max_files=1, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD) as form:
            file = form.get("image")
            if not isinstance(file, UploadFile) or not file.filename:
                raise HttpError(
                    400, "invalid_field", "the form needs a part named image, with a file name", field="image"
                )
            fields = {name: value for name, value in form.multi_items() if isinstance(value, str)}
            data = await file.read()
            # Clients also send paths; a name is what stands behind the last slash.
            fields["filename"] = file.filename.replace("\\", "/").rpartition("/")[2]
    except HttpError:
        raise
    except Exception as error:  # the parser raises errors of several kinds for forms that are none
        if type(error).__name__ in ("HTTPException", "MultiPartException", "MultipartParseError"):
            raise HttpError(400, "invalid_request", "the body is not a valid form") from None
        raise
    limit = request.app.state.context.settings.max_upload
    if len(data) > limit:
        raise HttpError(413, "too_large", f"image: more than {limit} bytes", field="image", data={"high": limit})
    return data, fields


# ---- what there is ---------------------------------------------------------------------------------------------------


@_on("GET", "/object_info", "read")
def get_object_info(call: Calling) -> Response:
    """All nodes."""
    known = choices_of(call)
    return JsonAnswer({name: kind.described(known) for name, kind in NODE_TYPES.items()})


@_on("GET", "/object_info/{node_class}", "read")
def get_one_object_info(call: Calling, node_class: str) -> Response:
    """One node; an empty object where it is none of ours."""
    kind = NODE_TYPES.get(node_class)
    return JsonAnswer({} if kind is None else {node_class: kind.described(choices_of(call))})


@_on("GET", "/models", "read")
def get_models(call: Calling) -> Response:
    """The folders of models."""
    return JsonAnswer(list(FOLDERS))


@_on("GET", "/models/{folder}", "read")
def get_model_folder(call: Calling, folder: str) -> Response:
    """The files of a folder."""
    if folder not in FOLDERS:
        raise HttpError(404, "not_found", f"no folder {short(folder)}; GET /models lists them")
    return JsonAnswer(lists_of(call.context.checker)[FOLDERS[folder]])


@_on("GET", "/embeddings", "read")
def get_embeddings(call: Calling) -> Response:
    """Embeddings that a prompt may name."""
    return JsonAnswer(lists_of(call.context.checker)["embeddings"])


@_on("GET", "/extensions", "read")
def get_extensions(call: Calling) -> Response:
    """Scripts of the page, of which there are none."""
    return JsonAnswer([])


@_on("GET", "/features", "read")
def get_features(call: Calling) -> Response:
    """What the server can."""
    return JsonAnswer(messages.features(call.context.settings.max_upload))


@_on("GET", "/system_stats", "read")
def get_system_stats(call: Calling) -> Response:
    """The machine, as far as clients ask for it. The devices are those of the workers."""
    total, left = memory_of_machine()
    names = [worker.device for worker in call.context.store.workers()] or [call.context.settings.device]
    devices = [
        {
            "name": name,
            "type": name.partition(":")[0],
            "index": index,
            "vram_total": total,
            "vram_free": left,
            "torch_vram_total": total,
            "torch_vram_free": left,
        }
        for index, name in enumerate(names)
    ]
    system = {
        "os": sys.platform,
        "ram_total": total,
        "ram_free": left,
        "comfyui_version": COMFYUI_VERSION,
        "required_frontend_version": "",
        "python_version": platform.python_version(),
        "pytorch_version": "",
        "embedded_python": False,
        "argv": ["gesso", "serve", __version__],
    }
    return JsonAnswer({"system": system, "devices": devices})


def _number(request: Request, name: str, default: int, low: int) -> int:
    text = request.query_params.get(name)
    if text is None or text == "":
        return default
    try:
        number = int(text) if len(text) < 10 else None
    except ValueError:
        number = None
    if number is None or number < low:
        raise HttpError(400, "invalid_field", f"{name} is {short(text)}, expected a number from {low}", field=name)
    return number


# ---- the socket ------------------------------------------------------------------------------------------------------


@_on("GET", "/ws", "read")
async def get_socket(call: Calling, request: Request) -> Response:
    """A WebSocket that tells a client of its prompts."""
    if CHANNEL not in request.scope:
        raise HttpError(426, "invalid_request", "connect with a WebSocket", headers={"Upgrade": "websocket"})
    client = request.query_params.get("clientId") or uuid.uuid4().hex
    if len(client) > 200 or not client.isprintable():
        raise HttpError(400, "invalid_field", "clientId: expected up to 200 printable characters", field="clientId")
    watchers, limit = watchers_of(request), call.context.settings.max_streams
    if len(watchers.sockets) >= limit:
        detail = f"{limit} sockets are open; ask for /history, or try again later"
        raise HttpError(503, "overloaded", detail, headers={"Retry-After": "10"})
    return SocketAnswer(watchers, Socket(call.new_owner, client))
