"""The JSON of the API: what is sent, as dataclasses that bodies are checked against, and what comes back.

The schemas of openapi.json are made of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field as made
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from msgspec import Meta

from gesso.api.problems import HttpError
from gesso.serving.jobs import Job, JobStatus, Output, Upload

Format = Literal["png", "jpeg", "webp", "avif"]
Status = Literal["queued", "running", "canceling", "succeeded", "canceled", "failed", "expired"]
MAX_ROLES = 34
MAX_BATCH = 1000
MAX_AXES = 6


# ---- what is sent ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class OutputBody:
    """The file format of the pictures."""

    format: Annotated[Format, Meta(description="PNG keeps every bit of the pixels, the others do not.")] = "png"
    quality: Annotated[int, Meta(ge=1, le=100, description="Of all but PNG.")] = 90


@dataclass(frozen=True, kw_only=True)
class WebhookBody:
    """Who is told of a job's final state, by a signed POST (Standard Webhooks)."""

    url: Annotated[str, Meta(min_length=1, max_length=2048, description="https or http, at a public address.")]
    secret: Annotated[
        str, Meta(min_length=16, max_length=256, description="Key of the signature: text, or whsec_ and Base64.")
    ]


@dataclass(frozen=True, kw_only=True)
class FrontBody:
    """How the prompt is read, besides the syntax of the request."""

    flags: Annotated[bool, Meta(description="Read Midjourney's flags at its end, such as --ar 3:2.")] = False
    styles: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=255)], ...],
        Meta(max_length=16, description="Styles of the server's style file to apply."),
    ] = ()
    dynamic: Annotated[bool, Meta(description="Fill in {a|b} and __wildcards__.")] = False


@dataclass(frozen=True, kw_only=True)
class JobBody:
    """A job to be done."""

    request: Annotated[dict[str, Any], Meta(description="What to draw; see GET /v1/schema. Only `prompt` is required.")]
    model: Annotated[str, Meta(min_length=1, max_length=255, description="Name of a model; see GET /v1/models.")] = (
        "gesso-mini"
    )
    assets: Annotated[
        dict[str, Any],
        Meta(description='Role -> id of an uploaded picture: "image", "mask", "hint:0" for the first of controls.'),
    ] = made(default_factory=dict)
    output: OutputBody = OutputBody()
    front: FrontBody = FrontBody()
    priority: Annotated[int, Meta(ge=-10, le=10, description="Higher is sooner, among your own jobs.")] = 0
    deadline: Annotated[
        str | None, Meta(description="No picture is wanted after this time, RFC 3339: 2026-12-24T18:00:00Z.")
    ] = None
    batch: Annotated[str | None, Meta(description="Your name for a group of jobs.")] = None
    webhook: WebhookBody | None = None
    metadata: Annotated[dict[str, Any], Meta(description="Your own, given back as it is; up to 16 KiB.")] = made(
        default_factory=dict
    )


@dataclass(frozen=True, kw_only=True)
class BatchBody:
    """Several jobs, accepted all or none: a list of them, or one that is varied along axes, as in `gesso grid`."""

    jobs: Annotated[tuple[JobBody, ...], Meta(max_length=MAX_BATCH)] = ()
    job: JobBody | None = None
    axes: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=4096)], ...],
        Meta(
            max_length=MAX_AXES, description="NAME=VALUES: steps=4,8,20, guidance=2-8(+2), model=a,b, prompt=cat,dog."
        ),
    ] = ()
    batch: Annotated[str | None, Meta(description="Name of the batch; one is made where none is given.")] = None


@dataclass(frozen=True, kw_only=True)
class PlanBody:
    """A request to be estimated."""

    request: Annotated[dict[str, Any], Meta(description="As in a job.")]
    model: Annotated[str, Meta(min_length=1, max_length=255)] = "gesso-mini"
    assets: dict[str, Any] = made(default_factory=dict)
    front: FrontBody = FrontBody()


# ---- what comes back -------------------------------------------------------------------------------------------------

Time = Annotated[str, Meta(description="RFC 3339, UTC.", extra_json_schema={"format": "date-time"})]
Address = Annotated[str, Meta(description="Path on this server.")]


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Why a request is refused (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    code: Annotated[str, Meta(description="One of docs/errors.md.")]
    field: Annotated[str | None, Meta(description="The field, parameter or header that it is about.")]
    data: Annotated[dict[str, Any], Meta(description="Details: value, low, high, known, nearest, ...")]


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a job is."""

    value: Annotated[float, Meta(ge=0, le=1)]
    step: int | None = None
    steps: int | None = None
    picture: int | None = None
    pictures: int | None = None
    message: str | None = None


@dataclass(frozen=True, kw_only=True)
class NoticeJson:
    """What the user should know about a result."""

    code: str
    message: str
    field: str | None = None
    data: dict[str, Any] = made(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A finished picture."""

    id: str
    index: int
    type: Literal["image"]
    content_type: str
    size_bytes: int
    width: int
    height: int
    hash: Annotated[str, Meta(description="sha256: and the digits, of the file.")]
    seed: Annotated[int, Meta(description="With the index it decides the noise. Up to 2^64 - 1.")]
    notices: tuple[NoticeJson, ...]
    url: Address
    metadata_url: Address


@dataclass(frozen=True, kw_only=True)
class JobError:
    """Why a job failed."""

    code: Annotated[str, Meta(description="One of docs/errors.md.")]
    message: str
    field: str | None = None
    data: dict[str, Any] = made(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """How long it took, in milliseconds."""

    queue_ms: int | None
    execution_ms: int | None


@dataclass(frozen=True, kw_only=True)
class JobAddresses:
    """Where to go from here."""

    self: Address
    events: Address
    cancel: Address
    retry: Address


@dataclass(frozen=True, kw_only=True)
class JobResource:
    """A job."""

    id: str
    status: Status
    model: str
    request: Annotated[
        dict[str, Any], Meta(description="As it was accepted; a seed that is null is drawn from the id.")
    ]
    assets: dict[str, str]
    output: dict[str, Any]
    front: dict[str, Any]
    priority: int
    batch: str | None
    metadata: dict[str, Any]
    created_at: Time
    started_at: Time | None
    completed_at: Time | None
    expires_at: Annotated[Time | None, Meta(description="When the job and its pictures are forgotten.")]
    deadline: Time | None
    queue_position: Annotated[int | None, Meta(description="Jobs that are likely drawn before; null unless queued.")]
    progress: Progress
    attempts: int
    outputs: tuple[Picture, ...]
    error: JobError | None
    metrics: Metrics
    urls: JobAddresses


@dataclass(frozen=True, kw_only=True)
class JobList:
    """Some jobs, newest first."""

    jobs: tuple[JobResource, ...]
    next_cursor: Annotated[str | None, Meta(description="For the next page; null on the last.")]


@dataclass(frozen=True, kw_only=True)
class BatchAddresses:
    """Where to go from here."""

    self: Address
    jobs: Address
    cancel: Address


@dataclass(frozen=True, kw_only=True)
class BatchResource:
    """A group of jobs."""

    id: str
    counts: Annotated[dict[str, int], Meta(description="Jobs by their status.")]
    total: int
    is_final: bool
    jobs: Annotated[tuple[str, ...], Meta(description="Ids; of a batch just accepted in its order, else newest first.")]
    urls: BatchAddresses


@dataclass(frozen=True, kw_only=True)
class BatchSummary:
    """A group of jobs, as a list shows it."""

    id: str
    counts: Annotated[dict[str, int], Meta(description="Jobs by their status.")]
    total: int
    is_final: bool
    created_at: Time
    model: Annotated[str, Meta(description="Of the first job, as the prompt and the axes.")]
    prompt: str
    axes: Annotated[tuple[str, ...], Meta(description="Settings that are varied, by their names.")]
    urls: BatchAddresses


@dataclass(frozen=True, kw_only=True)
class BatchList:
    """Some batches, that of the newest job first."""

    batches: tuple[BatchSummary, ...]
    next_cursor: Annotated[str | None, Meta(description="For the next page; null on the last.")]


@dataclass(frozen=True, kw_only=True)
class AssetResource:
    """An uploaded picture, as it was encoded anew."""

    id: str
    name: str
    content_type: str
    size_bytes: int
    width: int
    height: int
    hash: str
    created_at: Time
    expires_at: Time | None
    url: Address
    content_url: Address


@dataclass(frozen=True, kw_only=True)
class ModelDefaults:
    """What a request gets that leaves it open, and what sizes the model draws."""

    width: int
    height: int
    num_steps: int
    guidance_scale: float
    sampler: str
    schedule: str
    size_multiple: int
    max_clip_skip: int


@dataclass(frozen=True, kw_only=True)
class ModelResource:
    """A model that can be drawn with."""

    name: str
    family: str
    description: str
    builtin: bool
    loaded: Annotated[bool, Meta(description="Whether a worker holds it in memory now.")]
    parameters: int
    size_bytes: int
    dtypes: tuple[str, ...]
    sha256: str | None
    needs: Annotated[tuple[Literal["image", "mask"], ...], Meta(description="Pictures without which it draws nothing.")]
    takes: tuple[Literal["image", "mask", "hint"], ...]
    defaults: ModelDefaults
    title: str | None
    author: str | None
    license: str | None
    trigger_words: Annotated[tuple[str, ...], Meta(description="Words that call what it has learned.")]
    added_at: str | None
    metadata: Annotated[dict[str, str], Meta(description="Written by the author: text, not to be trusted.")]
    thumbnail_url: Address | None
    url: Address


@dataclass(frozen=True, kw_only=True)
class ModelList:
    """All models."""

    models: tuple[ModelResource, ...]


@dataclass(frozen=True, kw_only=True)
class AdapterResource:
    """A file that a request may name besides the model."""

    name: str
    kind: Literal["lora", "embedding", "control", "upscaler", "image_encoder"]
    family: str | None
    description: str
    size_bytes: int
    builtin: bool
    sha256: str | None
    title: str | None
    author: str | None
    license: str | None
    trigger_words: Annotated[tuple[str, ...], Meta(description="Words that call what it has learned.")]
    added_at: str | None
    metadata: Annotated[dict[str, str], Meta(description="Written by the author: text, not to be trusted.")]
    thumbnail_url: Address | None


@dataclass(frozen=True, kw_only=True)
class AdapterList:
    """All adapters."""

    adapters: tuple[AdapterResource, ...]


@dataclass(frozen=True, kw_only=True)
class SamplerResource:
    """A sampler."""

    name: str
    label: str
    aliases: tuple[str, ...]
    order: int
    stochastic: bool
    calls_per_step: int
    schedule: Annotated[str, Meta(description="The schedule that A1111 takes with it.")]


@dataclass(frozen=True, kw_only=True)
class SamplerList:
    """All samplers."""

    samplers: tuple[SamplerResource, ...]


@dataclass(frozen=True, kw_only=True)
class ScheduleResource:
    """A schedule."""

    name: str
    label: str
    aliases: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ScheduleList:
    """All schedules."""

    schedules: tuple[ScheduleResource, ...]


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """Bytes. Counted from the headers of files and the sizes of the family, in float32, with nothing offloaded."""

    weights_bytes: int
    activations_bytes: int
    peak_bytes: int
    basis: Literal["headers"]


@dataclass(frozen=True, kw_only=True)
class TimeEstimate:
    """Seconds, from the last jobs of the same model on this server; null where there are none."""

    seconds: float | None
    samples: int
    basis: Literal["history", "none"]


@dataclass(frozen=True, kw_only=True)
class QueueEstimate:
    """What waits now."""

    jobs: int
    seconds: float | None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a request is going to be, and what it is going to cost. Nothing is accepted or drawn."""

    model: str
    family: str
    request: Annotated[dict[str, Any], Meta(description="With every field set.")]
    work: Annotated[float, Meta(description="Megapixels times steps times pictures.")]
    max_work: float
    memory: MemoryEstimate
    time: TimeEstimate
    queue: QueueEstimate
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Health:
    """The server lives."""

    status: Literal["ok"]


@dataclass(frozen=True, kw_only=True)
class Readiness:
    """What the server needs, and whether it is there."""

    status: Literal["ready", "not_ready"]
    checks: dict[str, bool]


# ---- values as JSON --------------------------------------------------------------------------------------------------


def at(seconds: float | None) -> str | None:
    """A time as RFC 3339, in UTC, to the millisecond."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def seconds_of(text: str, field: str) -> float:
    """Seconds since the epoch of an RFC 3339 time. Raises HttpError."""
    try:
        read = datetime.fromisoformat(text) if len(text) <= 40 else None
    except ValueError:
        read = None
    if read is None or read.tzinfo is None or not 1971 <= read.year <= 9000:
        detail = f"{field} is no time, expected RFC 3339 with a zone, such as 2026-12-24T18:00:00Z"
        raise HttpError(400, "invalid_field", detail, field=field)
    return read.timestamp()


def job_json(job: Job) -> dict[str, Any]:
    """A job as the API shows it."""
    own = f"/v1/jobs/{job.id}"
    progress = {name: job.progress.get(name) for name in ("step", "steps", "picture", "pictures", "message")}
    value = 1.0 if job.status == JobStatus.SUCCEEDED else float(job.progress.get("value", 0.0))
    return {
        "id": job.id,
        "status": str(job.status),
        "model": job.work.model,
        "request": dict(job.work.request),
        "assets": dict(job.work.assets),
        "output": dict(job.work.output),
        "front": dict(job.work.front),
        "priority": job.priority,
        "batch": job.batch,
        "metadata": dict(job.metadata),
        "created_at": at(job.created_at),
        "started_at": at(job.started_at),
        "completed_at": at(job.completed_at),
        "expires_at": at(job.expires_at),
        "deadline": at(job.deadline),
        "queue_position": job.position,
        "progress": {"value": min(max(value, 0.0), 1.0), **progress},
        "attempts": job.attempts,
        "outputs": [picture_json(output) for output in job.outputs],
        "error": None if job.error is None else _error(job.error),
        "metrics": {"queue_ms": job.metrics.get("queue_ms"), "execution_ms": job.metrics.get("execution_ms")},
        "urls": {"self": own, "events": f"{own}/events", "cancel": f"{own}/cancel", "retry": f"{own}/retry"},
    }


def _error(error: Mapping[str, Any]) -> dict[str, Any]:
    data = {key: value for key, value in dict(error.get("data") or {}).items() if key not in ("path", "other")}
    return {
        "code": str(error.get("code", "error")),
        "message": str(error.get("message", "")),
        "field": error.get("field"),
        "data": data,
    }


def picture_json(output: Output) -> dict[str, Any]:
    """A finished picture as the API shows it, without its recipe."""
    told = {name: getattr(output, name) for name in _TOLD}
    return picture_told(told) | {"notices": [_notice(one) for one in output.notices]}


def picture_told(picture: Mapping[str, Any]) -> dict[str, Any]:
    """The same without its notices, as an event tells it.  picture: what the queue keeps of it"""
    own = f"/v1/images/{picture['id']}"
    return {
        **{("size_bytes" if name == "nbytes" else name): picture[name] for name in _TOLD if name != "digest"},
        "type": "image",
        "hash": f"sha256:{picture['digest']}",
        "url": own,
        "metadata_url": f"{own}/metadata",
    }


_TOLD = ("id", "index", "content_type", "nbytes", "width", "height", "digest", "seed")


def _notice(notice: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "code": str(notice.get("code", "")),
        "message": str(notice.get("message", "")),
        "field": notice.get("field"),
        "data": {key: value for key, value in dict(notice.get("data") or {}).items() if key != "path"},
    }


def asset_json(upload: Upload) -> dict[str, Any]:
    """An uploaded picture as the API shows it."""
    own = f"/v1/assets/{upload.id}"
    return {
        "id": upload.id,
        "name": upload.name,
        "content_type": upload.content_type,
        "size_bytes": upload.nbytes,
        "width": upload.width,
        "height": upload.height,
        "hash": f"sha256:{upload.digest}",
        "created_at": at(upload.created_at),
        "expires_at": at(upload.expires_at),
        "url": own,
        "content_url": f"{own}/content",
    }
