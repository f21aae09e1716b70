"""The routes of the web UI's API and of its ControlNet extension.

A call that draws waits for its job, and ends it when the client leaves. Whoever asks sees and interrupts the work of
the same key alone.
"""

import asyncio
import base64
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import aclosing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fastapi import FastAPI
from PIL import Image
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from gesso.api.bodies import json_object
from gesso.api.cards import file_hash
from gesso.api.checking import facts_of
from gesso.api.context import Call, Calling
from gesso.api.problems import HttpError, JsonAnswer
from gesso.api.submitting import check_room
from gesso.errors import GessoError, short
from gesso.frontends.styles import Style, parse_styles
from gesso.library.entry import LibraryEntry
from gesso.metadata.carriers import read_texts
from gesso.pictures.infotext_reading import read_infotext
from gesso.request.hires import a1111_name
from gesso.serving.jobs import Job, JobStatus
from gesso.studio.home import styles_file
from gesso.surfaces.a1111 import listing
from gesso.surfaces.a1111.answers import images_response, one_progress, progress
from gesso.surfaces.a1111.controlnet import MODULES_AT, module_of, parameters_of
from gesso.surfaces.a1111.detecting import detect
from gesso.surfaces.a1111.enlarging import enlarged, read_extras
from gesso.surfaces.a1111.errors import A1111Route, refusal
from gesso.surfaces.a1111.options import (
    MODEL,
    OptionStore,
    Settings,
    check_options,
    settings_of,
    shown_options,
)
from gesso.surfaces.a1111.reading import NAMES, Asked, Known, read_body
from gesso.surfaces.surface import (
    ClientGoneError,
    SurfaceRoutes,
    Wish,
    accept,
    follow,
    from_base64,
    memory_of_machine,
    of_job,
    open_picture,
    png,
)

log = logging.getLogger(__name__)

SURFACE = "a1111"
DEFAULT_MODEL = "gesso-mini"
LIVE = (JobStatus.RUNNING, JobStatus.CANCELING, JobStatus.QUEUED)
MAX_BATCH = 64
CONTROLNET_VERSION = 3  # of the extension's API
MAX_DETECTED = 8
DETECT_SIDE = 512

routes = SurfaceRoutes(A1111Route)


def add_to(app: FastAPI) -> None:
    """Give an application this surface."""
    routes.add_to(app)
    app.state.a1111_options = OptionStore()
    app.state.a1111_detecting = asyncio.Semaphore(1)


# ---- drawing ---------------------------------------------------------------------------------------------------------


@routes.on("POST", "/sdapi/v1/txt2img", "draw")
async def txt2img(call: Calling, request: Request) -> Response:
    """Text to image, with hires fix and control networks."""
    return await _draw(call, await json_object(request), is_img2img=False)


@routes.on("POST", "/sdapi/v1/img2img", "draw")
async def img2img(call: Calling, request: Request) -> Response:
    """Image to image, and inpainting."""
    return await _draw(call, await json_object(request), is_img2img=True)


async def _draw(call: Call, given: dict[str, Any], *, is_img2img: bool) -> Response:
    begin = time.monotonic()
    check_room(call)
    async with call.context.decoding:
        asked = await run_in_threadpool(_read, call, given, is_img2img=is_img2img)
    job = await call.writing(_accept, call, asked)
    job = await _finished(call, job)
    answer = await run_in_threadpool(_answer, call, job, asked)
    return JsonAnswer(answer, headers={"X-Process-Time": f"{time.monotonic() - begin:.4f}"})


def _read(call: Call, given: dict[str, Any], *, is_img2img: bool) -> Asked:
    entries = list(call.context.checker.models())

    def options(overrides: Mapping[str, Any]) -> Settings:
        held = _options(call).of(call.new_owner)
        changed = check_options(overrides, _shown(call, held), "override_settings")
        if given.get("override_settings_restore_afterwards") is False:
            _options(call).put(call.new_owner, changed)
        return settings_of(held | changed)

    def is_edit(title: str | None) -> bool:
        entry = listing.find_model(title or DEFAULT_MODEL, entries)
        return facts_of(entry).kind in ("edit", "upscale")

    def size(title: str | None) -> int:
        return facts_of(listing.find_model(title or DEFAULT_MODEL, entries)).size

    known = Known(
        options=options,
        decode=decode,
        styles=known_styles(),
        controls=_control_kinds(call),
        is_edit=is_edit,
        size=size,
    )
    return read_body(given, known, is_img2img=is_img2img)


def decode(text: Any, field: str) -> Image.Image:
    """A picture in Base64. Raises HttpError."""
    if not isinstance(text, str):
        raise refusal(f"{field} is {short(text)}, expected a picture in Base64", field, code="invalid_value")
    return open_picture(from_base64(text, field), field)


def _accept(call: Call, asked: Asked) -> Job:
    wanted = asked.settings.model or asked.model or DEFAULT_MODEL
    entry = listing.find_model(wanted, call.context.checker.models())
    wish = Wish(
        model=entry.name,
        request=asked.request,
        pictures=asked.pictures,
        output=asked.settings.output,
        metadata={"surface": SURFACE, "task": asked.task} if asked.task else {"surface": SURFACE},
    )
    try:
        return accept(call, wish)
    except HttpError as error:
        path = (error.field or "").removeprefix("request.")
        error.field = NAMES.get(path, path) or None
        raise


async def _finished(call: Call, job: Job) -> Job:
    """The job when it is final, whatever its end. Raises HttpError where it failed."""
    try:
        async with aclosing(follow(call, job.id)) as events:
            async for _ in events:
                pass
    except ClientGoneError:
        await call.writing(call.context.store.cancel, job.id)
        raise refusal("the client has hung up", status=408, code="timeout") from None
    job = await run_in_threadpool(call.context.store.get, job.id)
    if job.status == JobStatus.FAILED:
        raise of_job(job.error)
    return job


def _answer(call: Call, job: Job, asked: Asked) -> dict[str, Any]:
    data = {output.id: call.context.blobs.read(output.digest) for output in job.outputs} if asked.send_images else {}
    return images_response(job, asked, data)


# ---- while it draws --------------------------------------------------------------------------------------------------


@routes.on("GET", "/sdapi/v1/progress", "read")
def get_progress(call: Calling, request: Request) -> Response:
    """How far the work of this key is."""
    jobs = _live(call)
    wants_picture = request.query_params.get("skip_current_image", "false").lower() not in ("true", "1")
    preview = _preview(call, jobs[0]) if jobs and wants_picture else None
    return JsonAnswer(progress(jobs, time.time(), preview))


def _live(call: Call) -> list[Job]:
    """The jobs of this surface and key that are not final: what runs, then what waits, each the oldest first."""
    page = call.context.store.list_jobs(owner=call.new_owner, statuses=LIVE, limit=200)
    found = [job for job in reversed(page.jobs) if job.metadata.get("surface") == SURFACE]
    return sorted(found, key=lambda job: LIVE.index(job.status))


def _preview(call: Call, job: Job) -> str | None:
    events = call.context.store.events_after(job.id, owner=call.new_owner)
    return next((str(one.data["data_base64"]) for one in reversed(events) if one.type == "preview"), None)


@routes.on("POST", "/sdapi/v1/interrupt", "draw")
def interrupt(call: Calling) -> Response:
    """End what is being drawn; where nothing is, what waits the longest."""
    jobs = _live(call)
    for job in [job for job in jobs if job.status == JobStatus.RUNNING] or jobs[:1]:
        call.context.store.cancel(job.id, call.new_owner)
    return JsonAnswer({})


@routes.on("POST", "/sdapi/v1/skip", "draw")
def skip(call: Calling) -> Response:
    """End the picture that is being drawn, where it is the last of its call."""
    for job in _live(call):
        if job.status == JobStatus.RUNNING:
            if int(job.progress.get("pictures") or job.work.request.get("num_images") or 1) > 1:
                raise refusal("skip: one picture of several cannot be left out; interrupt ends all of them", status=501)
            call.context.store.cancel(job.id, call.new_owner)
    return JsonAnswer(None)


@routes.on("GET", "/internal/pending-tasks", "read")
def pending_tasks(call: Calling) -> Response:
    """The names of calls that wait, by force_task_id."""
    tasks = [str(job.metadata.get("task") or job.id) for job in _live(call) if job.status == JobStatus.QUEUED]
    return JsonAnswer({"size": len(tasks), "tasks": tasks})


@routes.on("POST", "/internal/progress", "read")
async def task_progress(call: Calling, request: Request) -> Response:
    """How far one call is, by its force_task_id."""
    given = await json_object(request)
    wants_picture = given.get("live_preview") is not False
    return JsonAnswer(await run_in_threadpool(_task_progress, call, str(given.get("id_task")), wants_picture))


def _task_progress(call: Call, task: str, wants_picture: bool) -> dict[str, Any]:
    found = [job for job in _live(call) if task in (job.metadata.get("task"), job.id)]
    preview = _preview(call, found[0]) if found and wants_picture else None
    return one_progress(found[0] if found else None, time.time(), preview)


for _name in ("unload", "reload"):

    @routes.on("POST", f"/sdapi/v1/{_name}-checkpoint", "draw")
    def load(call: Calling) -> Response:
        """Models come and go by themselves."""
        raise refusal("models are loaded when they are needed, and dropped after --keep-alive seconds", status=501)


# ---- options ---------------------------------------------------------------------------------------------------------


@routes.on("GET", "/sdapi/v1/options", "read")
def get_options(call: Calling) -> Response:
    """All options with their values."""
    return JsonAnswer(_shown(call, _options(call).of(call.new_owner)))


@routes.on("POST", "/sdapi/v1/options", "draw")
async def set_options(call: Calling, request: Request) -> Response:
    """Set some options for this key, as long as the server runs."""
    given = await json_object(request)
    return await run_in_threadpool(_set_options, call, given)


def _set_options(call: Call, given: dict[str, Any]) -> Response:
    held = _options(call).of(call.new_owner)
    shown = _shown(call, held)
    given.pop("sd_checkpoint_hash", None)  # it goes with the model
    changed = check_options(given, shown)
    changed = {name: value for name, value in changed.items() if name in held or shown[name] != value}
    if MODEL in changed:
        changed[MODEL] = listing.find_model(changed[MODEL], call.context.checker.models()).name
    _options(call).put(call.new_owner, changed)
    return JsonAnswer(None)


def _options(call: Call) -> OptionStore:
    store: OptionStore = call.request.app.state.a1111_options
    return store


def _shown(call: Call, held: Mapping[str, Any]) -> dict[str, Any]:
    entry = listing.find_model(held.get(MODEL, DEFAULT_MODEL), call.context.checker.models())
    return shown_options(held, listing.title(entry), file_hash(entry))


# ---- what there is ---------------------------------------------------------------------------------------------------


def _of_kind(call: Call, kind: str) -> list[LibraryEntry]:
    return [entry for own, entry in call.context.checker.adapters() if own == kind]


def _control_kinds(call: Call) -> dict[str, str]:
    return {entry.name: entry.kind for entry in _of_kind(call, "control")}


def known_styles() -> dict[str, Style]:
    """The user's styles, next to the library."""
    path = styles_file()
    try:
        return parse_styles(path.read_text(encoding="utf-8-sig"), path.name) if path.is_file() else {}
    except (OSError, GessoError, ValueError) as error:
        log.warning("no styles: %s", error)
        return {}


_LISTS: Mapping[str, Callable[[Call], Any]] = {
    "samplers": lambda call: listing.samplers(),
    "schedulers": lambda call: listing.schedulers(),
    "upscalers": lambda call: listing.upscalers(entry.name for entry in _of_kind(call, "upscaler")),
    "latent-upscale-modes": lambda call: listing.latent_modes(),
    "sd-models": lambda call: listing.models(call.context.checker.models()),
    "sd-vae": lambda call: [],
    "sd-modules": lambda call: [],
    "hypernetworks": lambda call: [],
    "face-restorers": lambda call: [],
    "realesrgan-models": lambda call: [],
    "prompt-styles": lambda call: listing.styles(known_styles()),
    "loras": lambda call: listing.loras(_of_kind(call, "lora")),
    "embeddings": lambda call: listing.embeddings(_of_kind(call, "embedding")),
    "scripts": lambda call: listing.scripts(),
    "script-info": lambda call: listing.script_info(),
    "extensions": lambda call: [],
    "cmd-flags": lambda call: {"api": True, "lowvram": False, "medvram": False, "ckpt": None},
    "memory": lambda call: memory(),
}
_REFRESHED = ("checkpoints", "vae", "loras", "embeddings")


def _declare(name: str, listed: Callable[[Call], Any]) -> None:
    @routes.on("GET", f"/sdapi/v1/{name}", "read")
    def get(call: Calling) -> Response:
        return JsonAnswer(listed(call))


for _name, _listed in _LISTS.items():
    _declare(_name, _listed)


def _declare_refresh(name: str) -> None:
    @routes.on("POST", f"/sdapi/v1/refresh-{name}", "read")
    def refresh(call: Calling) -> Response:
        """The library is looked at every few seconds anyway."""
        return JsonAnswer(None)


for _name in _REFRESHED:
    _declare_refresh(_name)


def memory() -> dict[str, Any]:
    """Memory of the machine. What a worker's device has, the server does not ask."""
    total, free = memory_of_machine()
    return {
        "ram": {"free": free, "used": total - free, "total": total},
        "cuda": {"error": "the server does not look at the devices of its workers"},
    }


# ---- pictures that are there -----------------------------------------------------------------------------------------


@routes.on("POST", "/sdapi/v1/png-info", "read")
async def png_info(call: Calling, request: Request) -> Response:
    """The infotext of a picture, whoever wrote it."""
    given = await json_object(request)
    text = given.get("image")
    if not isinstance(text, str) or not text.strip():
        return JsonAnswer({"info": "", "items": {}, "parameters": {}})
    data = from_base64(text, "image")
    return JsonAnswer(await run_in_threadpool(_png_info, data))


def _png_info(data: bytes) -> dict[str, Any]:
    with TemporaryDirectory(prefix="gesso-info-") as folder:
        path = Path(folder, "picture")
        path.write_bytes(data)
        try:
            texts = dict(read_texts(path).texts)
        except GessoError:
            raise refusal("image: Invalid encoded image", "image", code="damaged") from None
    info = texts.get("parameters", "")
    read = read_infotext(info) if info else None
    pairs = {} if read is None else {"Prompt": read.prompt, "Negative prompt": read.negative_prompt, **read.pairs}
    return {"info": info, "items": texts, "parameters": pairs}


@routes.on("POST", "/sdapi/v1/extra-single-image", "draw")
async def extra_single_image(call: Calling, request: Request) -> Response:
    """Enlarge a picture."""
    given = await json_object(request)
    images = await _enlarge(call, given, [given.get("image")])
    return JsonAnswer({"image": images[0], "html_info": ""})


@routes.on("POST", "/sdapi/v1/extra-batch-images", "draw")
async def extra_batch_images(call: Calling, request: Request) -> Response:
    """Enlarge several pictures."""
    given = await json_object(request)
    listed = given.get("imageList")
    if not isinstance(listed, list) or not 1 <= len(listed) <= MAX_BATCH:
        raise refusal(f"imageList: expected 1 to {MAX_BATCH} pictures", "imageList", code="invalid_value")
    texts = [one.get("data") if isinstance(one, dict) else one for one in listed]
    return JsonAnswer({"images": await _enlarge(call, given, texts), "html_info": ""})


async def _enlarge(call: Call, given: Mapping[str, Any], texts: list[Any]) -> list[str]:
    names = {a1111_name(entry.name): entry.name for entry in _of_kind(call, "upscaler")}
    asked = read_extras(given, names)

    def one(text: Any) -> str:
        image = enlarged(decode(text, "image"), asked)
        return base64.b64encode(png(image)).decode("ascii")

    async with call.context.decoding:
        return [await run_in_threadpool(one, text) for text in texts]


# ---- the ControlNet extension ----------------------------------------------------------------------------------------


@routes.on("GET", "/controlnet/version", "read")
def control_version(call: Calling) -> Response:
    """The version of the extension's API."""
    return JsonAnswer({"version": CONTROLNET_VERSION})


@routes.on("GET", "/controlnet/model_list", "read")
def control_models(call: Calling) -> Response:
    """The networks."""
    return JsonAnswer({"model_list": listing.control_models(_of_kind(call, "control"))})


@routes.on("GET", "/controlnet/module_list", "read")
def control_modules(call: Calling, request: Request) -> Response:
    """The preprocessors."""
    aliases = request.query_params.get("alias_names", "false").lower() == "true"
    return JsonAnswer({"module_list": listing.module_list(aliases=aliases), "module_detail": listing.module_detail()})


@routes.on("GET", "/controlnet/control_types", "read")
def control_types(call: Calling) -> Response:
    """Which preprocessors and networks go together."""
    return JsonAnswer({"control_types": listing.control_types(listing.control_models(_of_kind(call, "control")))})


@routes.on("GET", "/controlnet/settings", "read")
def control_settings(call: Calling) -> Response:
    """How many units there may be."""
    return JsonAnswer(listing.control_settings())


@routes.on("POST", "/controlnet/detect", "draw")
async def control_detect(call: Calling, request: Request) -> Response:
    """Run a preprocessor alone."""
    given = await json_object(request)
    texts = given.get("controlnet_input_images") or given.get("controlnet_images")  # as older clients call them
    if not isinstance(texts, list) or not 1 <= len(texts) <= MAX_DETECTED:
        detail = f"controlnet_input_images: expected 1 to {MAX_DETECTED} pictures"
        raise refusal(detail, "controlnet_input_images", code="invalid_value")
    name = str(given.get("controlnet_module") or "none")
    module = module_of(name.strip().lower())
    if module is None and name.lower() != "none":
        detail = f"no preprocessor is called {short(name)}; {MODULES_AT}"
        raise refusal(detail, "controlnet_module", code="unknown_name")
    masks = given.get("controlnet_masks") or []
    made = []
    async with call.request.app.state.a1111_detecting:
        for number, text in enumerate(texts):
            image = await run_in_threadpool(decode, text, "controlnet_input_images")
            if module is None:
                made.append(png(image))
                continue
            mask = None
            if module.needs_mask:
                if number >= len(masks):
                    raise refusal(
                        "controlnet_masks: this preprocessor wants a mask for each picture", "controlnet_masks"
                    )
                mask = await run_in_threadpool(decode, masks[number], "controlnet_masks")
                mask = mask.convert("L").resize(image.size)
            side = _number(given, "controlnet_processor_res")
            size = detected_size(image.size, int(side) if side > 0 else DETECT_SIDE)
            values = (_number(given, f"controlnet_threshold_{which}") for which in "ab")
            made.append(await detect(module.name, image, mask, size, dict(parameters_of(module, *values))))
    images = [base64.b64encode(data).decode("ascii") for data in made]
    return JsonAnswer({"info": "Success", "images": images, "poses": []})


def _number(given: Mapping[str, Any], name: str) -> float:
    value = given.get(name, -1)
    if value is None or isinstance(value, bool) or not isinstance(value, int | float):
        raise refusal(f"{name} is {short(value)}, expected a number", name, code="invalid_value")
    return float(value)


def detected_size(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Width and height of a hint whose shorter side is about so long, both multiples of 64, as the extension has it."""
    scale = min(max(side, 64), 2048) / min(size)
    width, height = (min(max(round(one * scale / 64), 1) * 64, 4096) for one in size)
    return width, height
