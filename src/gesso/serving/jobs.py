"""Jobs: what is asked for, where it stands and what came out, as the queue, the workers and the APIs share it.

A job is accepted when its row is committed, worked under a lease with a fencing token, and finished by one conditional
update; a job that runs again gives the same picture, so work that is done at least once has its result exactly once.
States, error codes and embedded URLs follow the job resource of Comfy's API v2. Times are seconds since the epoch, UTC.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from gesso.errors import GessoError


class JobStatus(StrEnum):
    """Where a job stands. The last four are final, and a final job never changes."""

    QUEUED = "queued"
    RUNNING = "running"
    CANCELING = "canceling"  # a worker holds it and will stop within a step
    SUCCEEDED = "succeeded"
    CANCELED = "canceled"
    FAILED = "failed"
    EXPIRED = "expired"  # its deadline passed before it was done

    @property
    def is_final(self) -> bool:
        return self in (JobStatus.SUCCEEDED, JobStatus.CANCELED, JobStatus.FAILED, JobStatus.EXPIRED)


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a job does: JSON that a worker needs, and nothing else; checked before it is accepted.

    kind     "generate", or "upscale" of the uploaded picture `assets["image"]`
    model    as `gesso.studio` finds it: a name of the library. To upscale: the upscaler, such as lanczos
    request  the JSON of a `TextToImageRequest` (request.to_json()), as written: prompts with flags, wildcards, ...
             To upscale: {"scale": 2.0}, or {"width": ..., "height": ...}, or {} for the upscaler's own scale
    assets   role -> id of an uploaded picture: "image", "mask", "hint:0", "prompt:0", ...
    output   {"format": "png" | "jpeg" | "webp" | "avif", "quality": 1 to 100}
    front    how the prompt is read: {"flags": true} for Midjourney's flags, {"styles": [names]}, {"dynamic": true} for
             {a|b} and, where the worker has a folder of them, __wildcards__; {} for none of these
    An open seed is drawn from the job's id: whoever draws the job again draws the same.
    """

    kind: str = "generate"
    model: str = "gesso-mini"
    request: Mapping[str, Any] = field(default_factory=dict)
    assets: Mapping[str, str] = field(default_factory=dict)
    output: Mapping[str, Any] = field(default_factory=lambda: {"format": "png"})
    front: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class NewJob:
    """A job to be accepted.

    owner            id of the API key that asks, "local" where no keys are used
    priority         higher is sooner, within one owner; -10 to 10
    deadline         no picture is wanted after this time
    idempotency_key  of the owner; the same key with the same work is the same job, with other work it is refused
    batch            id that groups jobs
    webhook          {"url": ..., "secret": ...} that is told of the final state
    metadata         the client's own, given back as it is
    origin           {"request_id", "traceparent"} of the request that brought it, for logs and traces; None: unknown
    """

    owner: str
    work: Work
    priority: int = 0
    deadline: float | None = None
    idempotency_key: str | None = None
    batch: str | None = None
    webhook: Mapping[str, Any] | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    origin: Mapping[str, str] | None = None


@dataclass(frozen=True, kw_only=True)
class Output:
    """One finished picture. Its bytes lie in the blob store under `digest`."""

    id: str
    index: int
    content_type: str
    nbytes: int
    width: int
    height: int
    digest: str  # SHA-256 of the bytes, in hexadecimal
    seed: int
    recipe: Mapping[str, Any]
    notices: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job as the queue knows it.

    attempts   times that a worker took it; `crashes`: times that its worker died with it (two set it aside as failed)
    fence      number of the lease that it was last worked under
    position   jobs that are likely drawn before it; 0 is the next; None unless it is queued
    progress   {"value": 0 to 1, "step", "steps", "picture", "pictures", "message"}
    error      {"code", "message", "field", "data"} of a failed job
    """

    id: str
    owner: str
    work: Work
    status: JobStatus
    priority: int
    created_at: float
    started_at: float | None = None
    completed_at: float | None = None
    expires_at: float | None = None  # when a final job and its pictures are forgotten
    deadline: float | None = None
    attempts: int = 0
    crashes: int = 0
    fence: int = 0
    position: int | None = None
    progress: Mapping[str, Any] = field(default_factory=dict)
    outputs: tuple[Output, ...] = ()
    error: Mapping[str, Any] | None = None
    idempotency_key: str | None = None
    batch: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)  # queue_ms, execution_ms
    origin: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class JobPage:
    """Some jobs of a list, newest first.  cursor: for the next page; None on the last"""

    jobs: tuple[Job, ...]
    cursor: str | None = None


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A group of jobs.  first: the job of it that was accepted first; counts: how many of its jobs stand where"""

    name: str
    first: Job
    counts: Mapping[JobStatus, int]


@dataclass(frozen=True, kw_only=True)
class Upload:
    """A picture that was uploaded. Its bytes, encoded anew by gesso, lie in the blob store under `digest`.

    name        what its owner calls it, for showing alone
    expires_at  when it is forgotten, unless a job still draws from it; None: never
    """

    id: str
    owner: str
    name: str
    content_type: str
    nbytes: int
    width: int
    height: int
    digest: str
    created_at: float
    expires_at: float | None = None


@dataclass(frozen=True, kw_only=True)
class Worker:
    """A worker process.

    models   that are loaded now
    numbers  what it has counted since it started, see `numbers.Numbers`
    seen_at  when it last said that it lives
    """

    id: str
    device: str
    pid: int
    started_at: float
    seen_at: float
    models: tuple[str, ...] = ()
    numbers: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Webhook:
    """Someone to tell of a job's final state.  tries: how often that failed"""

    job: str
    target: Mapping[str, Any]
    tries: int


@dataclass(frozen=True, kw_only=True)
class JobEvent:
    """Something that happened to a job; numbered from 1 within it, so that a watcher can go on after the last it saw.

    type  "status" {"status", "queue_position"}, "output" {the picture's id, ...}, "notice", "log": kept, none is lost;
          "progress" and "preview" {"content_type", "data_base64"}: only the newest is kept
    """

    job: str
    number: int
    type: str
    at: float
    data: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Lease:
    """A worker's right to a job until `until`, unless it is renewed. What it writes counts only under this fence."""

    job: Job
    worker: str
    fence: int
    until: float


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """What a worker has to say of a job at once.

    outputs   finished pictures, whose bytes are in the blob store already
    notices   for the client, such as a setting that was ignored
    is_done   the job has succeeded, with this last progress; None: with what was reported before
    """

    lease: Lease
    outputs: tuple[Output, ...] = ()
    notices: tuple[Mapping[str, Any], ...] = ()
    is_done: bool = False
    progress: Mapping[str, Any] | None = None


def error_value(error: GessoError) -> dict[str, Any]:
    """An error as `Job.error` has it."""
    return {"code": error.code, "message": error.one_line, "field": error.field, "data": dict(error.data)}
