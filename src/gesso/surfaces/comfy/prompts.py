"""Prompts: a graph is submitted as one or several jobs, and told again from these.

The jobs are the only truth: what a prompt was stands in their metadata, so that a server that starts anew still has its
history.
"""

import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import msgspec

from gesso.api.context import Call, Context
from gesso.api.problems import HttpError, as_json
from gesso.api.schemas import FrontBody
from gesso.api.submitting import check, submit
from gesso.errors import GessoError, short
from gesso.request.checks import MAX_SIDE
from gesso.serving.jobs import Job, JobStatus, NewJob, Output, Upload, Work
from gesso.surfaces.comfy.evaluating import evaluate
from gesso.surfaces.comfy.files import (
    FileName,
    checked,
    find_picture,
    keep_named,
    opened,
    result_name,
    upload_names,
)
from gesso.surfaces.comfy.graph import (
    OF_EDITOR,
    Graph,
    NodeError,
    PromptRefusedError,
    is_of_editor,
    read_graph,
    refusal,
)
from gesso.surfaces.comfy.names import files_of, lists_of
from gesso.surfaces.comfy.pixels import mask_image, picture_image
from gesso.surfaces.comfy.translating import PICTURE_UPSCALERS, Files, Order, Planned, blamed, merged, translate
from gesso.surfaces.comfy.values import Loaded, Mask, Picture, Wanted, is_made
from gesso.surfaces.surface import KEEP_INPUT, keep

SURFACE = "comfyui"
MAX_JOBS = 16  # of one prompt, but for what each makes of several pictures
MAX_INDEX = 10_000
JUST_DONE = 20  # jobs among which are those that another follows on
MAX_PROMPTS = 200  # jobs that /history and /queue look at, the newest
MAX_GRAPH = 256 * 1024  # bytes of a graph, which stands in its job
MAX_EXTRA = 64 * 1024  # bytes of extra_data with what the page wants to find in files
FRONT = 5  # priority of a prompt that wants to be drawn before the others of its owner
_SECRETS = ("auth_token_comfy_org", "api_key_comfy_org")  # of a service elsewhere, which gesso never keeps
_UNFINISHED = (JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.CANCELING)


class _Save(TypedDict):
    prefix: str
    kind: Literal["output", "temp", "socket"]


class _Step(TypedDict):
    upscaler: str
    values: dict[str, Annotated[int, msgspec.Meta(ge=1, le=MAX_SIDE)]]
    samplers: list[str]
    saves: dict[str, _Save]
    index: Annotated[int, msgspec.Meta(ge=1, le=MAX_INDEX)]


class _About(TypedDict):
    """What a job tells of its prompt, in its metadata."""

    prompt_id: str
    number: float
    client_id: str | None
    extra_data: dict[str, Any]
    metadata: dict[str, Any]
    outputs: list[str]
    order: list[str]
    jobs: Annotated[int, msgspec.Meta(ge=1, le=MAX_INDEX)]
    index: Annotated[int, msgspec.Meta(ge=0, le=MAX_INDEX)]
    samplers: list[str]
    saves: dict[str, _Save]
    then: NotRequired[Annotated[list[_Step], msgspec.Meta(max_length=MAX_JOBS)]]
    prompt: NotRequired[dict[str, dict[str, Any]]]
    passed: NotRequired[dict[str, list[dict[str, str]]]]


@dataclass(frozen=True, kw_only=True)
class Submitted:
    """A prompt that was accepted."""

    id: str
    number: float
    jobs: tuple[Job, ...]

    @property
    def prompt(self) -> "Prompt":
        """As its jobs tell it."""
        return Prompt(id=self.id, about=self.jobs[0].metadata[SURFACE], jobs=self.jobs)


def choices_of(call: Call) -> dict[str, list[str]]:
    """The values of all lists that inputs choose from, as whoever asks sees them."""
    return lists_of(call.context.checker) | {"input": upload_names(call)}


# ---- submitting ------------------------------------------------------------------------------------------------------


def opens_pictures(body: Mapping[str, Any]) -> bool:
    """Whether a prompt may have pictures to decode."""
    graph = body.get("prompt")
    nodes = graph.values() if isinstance(graph, dict) else ()
    return any(isinstance(node, dict) and str(node.get("class_type")).startswith("LoadImage") for node in nodes)


def submit_prompt(call: Call, body: Mapping[str, Any]) -> Submitted:
    """Check a graph whole and queue it. Raises PromptRefusedError and HttpError."""
    prompt_id, client, extra, only = _envelope(body)
    prompt = body.get("prompt")
    choices = lists_of(call.context.checker)
    graph = read_graph(prompt, choices, only=only)
    assert isinstance(prompt, dict)
    wanted = evaluate(graph, prompt, choices, lambda name: find_picture(call, name))
    plans, shown = _plans(graph, prompt, wanted, files_of(call.context.checker))
    number = _number(body)
    total = sum(1 + plan.order.num_images * len(plan.then) for plan in plans)
    about = {
        "prompt_id": prompt_id,
        "number": number,
        "client_id": client,
        "extra_data": extra,
        "metadata": body.get("metadata") or {},
        "outputs": list(graph.outputs),
        "order": _order_of_nodes(graph),
        "jobs": total,
    }
    passed = {one.node: [_shown(call, one, prompt_id).to_json()] for one in shown}
    new = []
    later = len(plans)  # indices of jobs behind those that are queued now
    for index, plan in enumerate(plans):
        own: dict[str, Any] = about | {"index": index, "samplers": list(plan.order.samplers)}
        own["saves"] = _saves(wanted, plan.nodes)
        if not index:
            own |= {"prompt": prompt, "passed": passed}
        steps = []
        for then, nodes in plan.then:
            work = {"upscaler": then.upscaler, "values": then.values, "samplers": [then.node]}
            steps.append(work | {"saves": _saves(wanted, nodes), "index": later})
            later += plan.order.num_images
        if steps:
            own["then"] = steps
        new.append(_new_job(call, graph, prompt, plan.order, own, front=number < 0))
    accepted = submit(call, new)
    return Submitted(id=prompt_id, number=number, jobs=tuple(job for job, _ in accepted))


def _envelope(body: Mapping[str, Any]) -> tuple[str, str | None, dict[str, Any], list[str] | None]:
    """Id, client, extra data and the outputs that are wanted. Raises PromptRefusedError."""
    if "prompt" not in body:
        if is_of_editor(body):
            raise PromptRefusedError("invalid_prompt", "Invalid prompt", OF_EDITOR)
        detail = 'expected {"prompt": ...} with the graph that ComfyUI writes by Export (API)'
        raise PromptRefusedError("no_prompt", "No prompt provided", detail)
    given = body.get("prompt_id")
    try:
        prompt_id = str(uuid.uuid4()) if given is None else str(uuid.UUID(given))
    except (ValueError, AttributeError, TypeError):
        raise PromptRefusedError("invalid_prompt_id", "prompt_id has to be a UUID", short(given)) from None
    extra = body.get("extra_data") or {}
    if not isinstance(extra, dict):
        raise PromptRefusedError("invalid_prompt", "extra_data has to be an object")
    if len(as_json(body["prompt"])) > MAX_GRAPH:
        raise PromptRefusedError("invalid_prompt", "Invalid prompt", f"a graph of more than {MAX_GRAPH} bytes")
    kept = {key: value for key, value in extra.items() if key not in _SECRETS}
    if len(as_json(kept)) > MAX_EXTRA:
        kept.pop("extra_pnginfo", None)  # it is for files, which have gesso's own metadata
    if len(as_json(kept)) > MAX_EXTRA:
        raise PromptRefusedError("invalid_prompt", "Invalid prompt", f"extra_data of more than {MAX_EXTRA} bytes")
    client = body.get("client_id", extra.get("client_id"))
    if client is not None and not (isinstance(client, str) and 1 <= len(client) <= 200 and client.isprintable()):
        raise PromptRefusedError("invalid_prompt", "client_id has to be a text of up to 200 characters")
    only = body.get("partial_execution_targets")
    if only is not None and not (isinstance(only, list) and all(isinstance(one, str) for one in only)):
        raise PromptRefusedError("invalid_prompt", "partial_execution_targets has to be a list of node ids")
    return prompt_id, client, kept, only


def _number(body: Mapping[str, Any]) -> float:
    """The place in the queue that ComfyUI counts; here milliseconds, so that it rises also over restarts."""
    given = body.get("number")
    if isinstance(given, int | float) and not isinstance(given, bool):
        return float(given)
    now = int(time.time() * 1000)
    return float(-now if body.get("front") is True else now)


def _saves(wanted: Sequence[Wanted], nodes: Sequence[str]) -> dict[str, dict[str, str]]:
    return {one.node: _save(one) for one in wanted if one.node in nodes}


def _plans(
    graph: Graph, prompt: Mapping[str, Any], wanted: Sequence[Wanted], files: Files
) -> tuple[list[Planned], list[Wanted]]:
    """The jobs of a graph, and what is shown of pictures that are there already. Raises PromptRefusedError."""
    orders: list[tuple[str, Order]] = []
    shown: list[Wanted] = []
    errors: dict[str, list[dict[str, Any]]] = {}
    for one in wanted:
        try:
            _save(one)
            if one.kind != "socket" and is_made(one.picture):
                shown.append(one)
            else:
                orders.append((one.node, translate(one, files)))
        except NodeError as error:
            errors[error.node] = [error.value]
    if not orders and not errors:
        errors[wanted[0].node] = [NodeError(wanted[0].node, "nothing is drawn for this output", input="images").value]
    plans = merged(orders)
    if (many := len(plans) + sum(len(plan.then) for plan in plans)) > MAX_JOBS:
        details = f"{many} different pictures in one graph, expected at most {MAX_JOBS}"
        errors[orders[-1][0]] = [NodeError(orders[-1][0], details).value]
    if errors:
        raise refusal(graph, errors, prompt)
    return plans, shown


def _order_of_nodes(graph: Graph) -> list[str]:
    found: dict[str, None] = {}
    for output in graph.outputs:
        found |= dict.fromkeys(graph.before(output))
    return list(found)


def _save(wanted: Wanted) -> dict[str, str]:
    """How an output is named. Raises NodeError for a prefix that leads elsewhere."""
    width, height = wanted.picture.size
    now = time.localtime()
    prefix = wanted.prefix.replace("%width%", str(width)).replace("%height%", str(height))
    for mark, value in zip(("year", "month", "day", "hour", "minute", "second"), now[:6], strict=True):
        prefix = prefix.replace(f"%{mark}%", f"{value:02}")
    if wanted.kind == "temp":
        prefix = f"{prefix}_temp"
    folder, _, stem = prefix.replace("\\", "/").rpartition("/")
    try:
        checked(stem or "x", folder, "output")
    except HttpError as error:
        raise NodeError(wanted.node, error.detail, input="filename_prefix") from None
    return {"prefix": prefix, "kind": wanted.kind}


def _shown(call: Call, wanted: Wanted, prompt_id: str) -> FileName:
    """A picture that needs no drawing, kept under a name."""
    save = _save(wanted)
    folder, _, stem = save["prefix"].replace("\\", "/").rpartition("/")
    name = FileName(f"{stem}_{prompt_id[:8]}_{wanted.node[:20]}_.png", folder.strip("/"), save["kind"])
    image = picture_image(wanted.picture, lambda upload: opened(call, upload))
    return keep_named(call, image, name, overwrite=False)[1]


def _new_job(
    call: Call, graph: Graph, prompt: Mapping[str, Any], order: Order, about: Mapping[str, Any], *, front: bool
) -> NewJob:
    assets = {role: _asset(call, role, picture).id for role, picture in order.pictures.items()}
    if order.kind == "upscale":
        work = Work(kind="upscale", model=order.model, request=dict(order.values), assets=assets)
        return _job_of(call.new_owner, work, about, front=front)
    try:
        fine, named = check(call, order.model, order.values, assets, FrontBody(), empty_prompt=True)
    except HttpError as error:
        if error.status != 400:
            raise
        node, input = blamed(order, (error.field or "").removeprefix("request."))
        wrong = NodeError(node, error.detail, input=input, code=error.code, field=error.field)
        raise refusal(graph, {node: [wrong.value]}, prompt) from None
    work = Work(model=fine.entry.name, request=fine.request.to_dict(), assets=named, output={"format": "png"})
    return _job_of(call.new_owner, work, about, front=front)


def _job_of(owner: str, work: Work, about: Mapping[str, Any], *, front: bool) -> NewJob:
    return NewJob(
        owner=owner,
        work=work,
        priority=FRONT if front else 0,
        idempotency_key=f"comfyui {about['prompt_id']} {about['index']}",
        batch=about["prompt_id"],
        metadata={SURFACE: dict(about)},
    )


def _asset(call: Call, role: str, picture: Picture | Mask) -> Upload:
    """A picture that a job draws from, made if it is not an upload as it is."""
    if role == "mask":
        return keep(call, mask_image(picture, lambda upload: opened(call, upload)), "")  # type: ignore[arg-type]
    if isinstance(picture, Loaded) and picture.upload.id and opened(call, picture.upload).mode == "RGB":
        return picture.upload
    return keep(call, picture_image(picture, lambda upload: opened(call, upload)), "")  # type: ignore[arg-type]


# ---- told again ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A prompt as its jobs tell it.

    about  what was said of it when it was submitted
    jobs   in their order
    """

    id: str
    about: Mapping[str, Any]
    jobs: tuple[Job, ...]

    @property
    def client(self) -> str | None:
        """The client that asked."""
        return self.about.get("client_id")

    @property
    def is_final(self) -> bool:
        """Whether all of it is done, or cannot be any more."""
        is_over = all(job.status.is_final for job in self.jobs)
        return is_over and (len(self.jobs) >= self.about["jobs"] or not self.is_success)

    @property
    def is_running(self) -> bool:
        """Whether any of it was begun."""
        return any(job.status not in (JobStatus.QUEUED,) for job in self.jobs)

    @property
    def is_success(self) -> bool:
        """Whether all pictures came out."""
        return all(job.status == JobStatus.SUCCEEDED for job in self.jobs)

    @property
    def nodes(self) -> Mapping[str, Any]:
        """The graph."""
        prompt: Mapping[str, Any] = self.about.get("prompt") or {}
        return prompt

    def item(self) -> list[Any]:
        """As /queue and /history show it."""
        extra = dict(self.about.get("extra_data") or {})
        if self.client is not None:
            extra["client_id"] = self.client
        extra["create_time"] = int(self.jobs[0].created_at * 1000)
        return [self.about.get("number", 0), self.id, self.nodes, extra, self.about.get("outputs", [])]

    def outputs(self) -> dict[str, dict[str, Any]]:
        """What each output node gave so far."""
        found: dict[str, dict[str, Any]] = {
            node: {"images": files} for node, files in (self.about.get("passed") or {}).items()
        }
        for job in self.jobs:
            for node, output in outputs_of(job).items():
                found.setdefault(node, {"images": []})["images"].extend(output["images"])
        return found

    def failed(self) -> Job | None:
        """The first job that came to no picture."""
        return next((job for job in self.jobs if job.status.is_final and job.status != JobStatus.SUCCEEDED), None)

    def ending(self) -> tuple[str, dict[str, Any]]:
        """The last message of a final prompt: its type and its data."""
        data: dict[str, Any] = {"prompt_id": self.id}
        job = self.failed()
        if job is None:
            return "execution_success", data
        samplers = job.metadata[SURFACE].get("samplers") or [""]
        node = str(samplers[0])
        kind = self.nodes.get(node, {}).get("class_type", "KSampler")
        data |= {"node_id": node, "node_type": kind, "executed": []}
        if job.status == JobStatus.CANCELED:
            return "execution_interrupted", data
        error = job.error or {"code": str(job.status), "message": "its deadline passed before it was drawn"}
        return "execution_error", data | {
            "exception_type": f"gesso.{error.get('code', 'error')}",
            "exception_message": str(error.get("message", "")),
            "traceback": [],
            "current_inputs": {},
            "current_outputs": [],
        }

    def history(self) -> dict[str, Any]:
        """As /history shows a final prompt."""
        kind, data = self.ending()
        start = self.jobs[0].started_at or self.jobs[0].created_at
        end = max((job.completed_at or start) for job in self.jobs)
        outputs = self.outputs()
        began = {"prompt_id": self.id, "timestamp": int(start * 1000)}
        return {
            "prompt": self.item(),
            "outputs": outputs,
            "status": {
                "status_str": "success" if self.is_success else "error",
                "completed": self.is_success,
                "messages": [
                    ["execution_start", began],
                    ["execution_cached", {"nodes": [], **began}],
                    [kind, data | {"timestamp": int(end * 1000)}],
                ],
            },
            "meta": {
                node: {"node_id": node, "display_node": node, "parent_node": None, "real_node_id": node}
                for node in outputs
            },
        }


def outputs_of(job: Job) -> dict[str, dict[str, Any]]:
    """What each output node that a job serves gave so far, without pictures that are only sent."""
    found = {}
    for node, save in (job.metadata[SURFACE].get("saves") or {}).items():
        if save["kind"] != "socket" and job.outputs:
            names = [result_name(save["prefix"], save["kind"], output) for output in job.outputs]
            found[node] = {"images": [name.to_json() for name in names]}
    return found


def find_prompt(call: Call, id: str) -> Prompt | None:
    """A prompt of whoever asks."""
    return prompt_of(call.context, id, call.new_owner)


def prompt_of(context: Context, id: str, owner: str) -> Prompt | None:
    """A prompt of an owner."""
    try:
        plain = str(uuid.UUID(id))
    except ValueError:
        return None
    return next(iter(_prompts(context, _jobs(context, owner, batch=plain))), None)


def list_prompts(call: Call, *, unfinished: bool = False) -> list[Prompt]:
    """The prompts of whoever asks, newest first; with the scope admin too, as clients interrupt what they see."""
    return prompts_of(call.context, call.new_owner, unfinished=unfinished)


def prompts_of(context: Context, owner: str, *, unfinished: bool = False, newest: int = MAX_PROMPTS) -> list[Prompt]:
    """The prompts of an owner, newest first.  unfinished: only those; newest: of so many jobs"""
    if not unfinished:
        return _prompts(context, _jobs(context, owner, limit=newest))
    jobs = _jobs(context, owner, statuses=_UNFINISHED)
    # And those whose next job is to be queued now.
    done = _jobs(context, owner, statuses=(JobStatus.SUCCEEDED,), limit=JUST_DONE)
    jobs += [job for job in done if "then" in job.metadata[SURFACE]]
    return [prompt for prompt in _prompts(context, jobs) if not prompt.is_final]


def _jobs(context: Context, owner: str, *, limit: int = MAX_PROMPTS, **more: Any) -> list[Job]:
    page = context.store.list_jobs(owner=owner, limit=limit, **more)
    return [job for job in page.jobs if SURFACE in job.metadata and _is_ours(job)]


def _is_ours(job: Job) -> bool:
    """Whether a job tells of a prompt as this surface does. Clients of the other ones write what they like there."""
    try:
        about = msgspec.convert(job.metadata[SURFACE], _About, strict=True)
    except (msgspec.ValidationError, RecursionError):
        return False
    return about["prompt_id"] == job.batch


def _prompts(context: Context, jobs: Sequence[Job]) -> list[Prompt]:
    """Jobs by their prompts, with the other jobs of a prompt that is here in part."""
    found: dict[tuple[str, str], list[Job]] = {}
    for job in jobs:
        found.setdefault((job.owner, str(job.batch)), []).append(job)
    prompts = []
    for (owner, id), held in found.items():
        if len(held) < held[0].metadata[SURFACE]["jobs"]:
            held = _jobs(context, owner, batch=id)
        ordered = sorted([*held, *_next_jobs(context, held)], key=lambda job: job.metadata[SURFACE]["index"])
        prompts.append(Prompt(id=id, about=ordered[0].metadata[SURFACE], jobs=tuple(ordered)))
    return prompts


def _next_jobs(context: Context, held: Sequence[Job]) -> list[Job]:
    """The jobs that follow on those that are done, queued when they are missed: whoever looks first does so.

    One of a queue that is full waits for the next look.
    """
    known = {job.metadata[SURFACE]["index"] for job in held}
    made = []
    for job in held:
        about = job.metadata[SURFACE]
        for step in about.get("then", ()) if job.status == JobStatus.SUCCEEDED else ():
            for number, output in enumerate(job.outputs):
                index = step["index"] + number
                if index in known:
                    continue
                own = {key: value for key, value in about.items() if key not in ("then", "prompt", "passed")}
                own |= {"index": index, "saves": step["saves"], "samplers": step["samplers"]}
                try:
                    if (one := _enlarged(context, job, output, step, own)) is not None:
                        made.append(one)
                except GessoError as error:
                    if error.code == "idempotency_key_reuse":  # another looked at the same time
                        made.append(context.store.get(error.data["job"]))
                    elif error.code != "queue_full":
                        raise
    return made


def _enlarged(
    context: Context, job: Job, output: Output, step: Mapping[str, Any], about: Mapping[str, Any]
) -> Job | None:
    """The job that follows; None where no such upscaler is there any more."""
    if step["upscaler"] not in (*PICTURE_UPSCALERS.values(), *files_of(context.checker).upscalers.values()):
        return None
    known = context.store.keep_upload(job.owner, output.digest, KEEP_INPUT)
    if known is None:
        known = context.store.add_upload(
            job.owner,
            output.digest,
            nbytes=output.nbytes,
            width=output.width,
            height=output.height,
            content_type=output.content_type,
            keep_seconds=KEEP_INPUT,
        )
    work = Work(kind="upscale", model=step["upscaler"], request=step["values"], assets={"image": known.id})
    return context.store.submit(_job_of(job.owner, work, about, front=job.priority > 0))[0]


def cancel(call: Call, prompt: Prompt) -> bool:
    """Cancel what is left of a prompt. -> whether anything was"""
    open_jobs = [job for job in prompt.jobs if not job.status.is_final]
    for job in open_jobs:
        call.context.store.cancel(job.id, call.new_owner)
    return bool(open_jobs)


def forget(call: Call, prompt: Prompt) -> None:
    """Delete a final prompt with its pictures, as they are deleted with their jobs."""
    for job in prompt.jobs:
        try:
            call.context.store.delete(job.id, call.new_owner)
        except GessoError:
            continue
