"""From a body to a job that can be accepted: everything is checked before the queue hears of it."""

import asyncio
import hashlib
import json
import logging
import math
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from threading import Lock
from typing import Any

from sqlalchemy import func, select
from starlette.requests import Request

from gesso.api.addresses import check_address
from gesso.api.checking import Checked
from gesso.api.context import MIN_FREE, Call, Context, is_id
from gesso.api.pictures import Digests
from gesso.api.problems import HttpError
from gesso.api.schemas import MAX_ROLES, FrontBody, JobBody, WebhookBody, seconds_of
from gesso.api.signing import signing_key
from gesso.errors import GessoError, short
from gesso.pictures.reading import FORMATS
from gesso.request.checks import as_json, nearest
from gesso.request.request import DRAWN_SEED_BITS
from gesso.serving.jobs import Job, JobStatus, NewJob, Work
from gesso.serving.tables import jobs
from gesso.serving.tracing import Span, trace_id

log = logging.getLogger(__name__)

FULL_SECONDS = 0.05  # for which a queue that was full is taken to be so
SUBMITTERS = 2  # threads that accept single jobs ...
MAX_TOGETHER = 32  # ... each so many at a time
FIRST_GUESS = 5.0  # seconds of a job, before any was drawn
MAX_METADATA = 16 * 1024  # bytes
MAX_NAME = 255
_ROLE = re.compile(r"image|mask|hint:(0|[1-9][0-9]?)")


def idempotency_key(request: Request) -> str | None:
    """The header Idempotency-Key. Raises HttpError."""
    given = request.headers.getlist("idempotency-key")
    if not given:
        return None
    key = given[0]
    if len(given) > 1 or not (1 <= len(key) <= 255 and key.isascii() and key.isprintable()):
        raise HttpError(
            400,
            "invalid_field",
            "Idempotency-Key: expected once, with 1 to 255 printable ASCII characters",
            field="Idempotency-Key",
        )
    return key


def new_job(call: Call, body: JobBody, *, key: str | None, batch: str | None = None, field: str = "") -> NewJob:
    """A job, checked whole. Raises HttpError.

    key    of the client, which makes a repeat the same job
    batch  in place of the body's
    field  what stands before the names of fields in errors: jobs[3].
    """
    try:
        return _new_job(call, body, key, batch)
    except HttpError as error:
        if field and error.field is not None:
            error.field = f"{field}{error.field}"
        raise


def _new_job(call: Call, body: JobBody, key: str | None, batch: str | None) -> NewJob:
    deadline = None if body.deadline is None else seconds_of(body.deadline, "deadline")
    batch = body.batch if batch is None else batch
    if batch is not None and not (1 <= len(batch) <= MAX_NAME and batch.isprintable()):
        raise HttpError(400, "invalid_field", f"batch: expected 1 to {MAX_NAME} printable characters", field="batch")
    if len(json.dumps(body.metadata).encode()) > MAX_METADATA:
        raise HttpError(400, "too_large", f"metadata has more than {MAX_METADATA} bytes as JSON", field="metadata")
    if body.output.format == "avif" and "AVIF" not in FORMATS:
        detail = "output.format is 'avif', which the Pillow of this server cannot write; take webp or png"
        raise HttpError(400, "unsupported", detail, field="output.format")
    webhook = None if body.webhook is None else _webhook(call, body.webhook)
    seed = open_seed(call.new_owner, key)
    checked, assets = check(call, body.model, body.request, body.assets, body.front, seed=seed)
    work = Work(
        model=checked.entry.name,
        request=checked.request.to_dict(),
        assets=assets,
        output=asdict(body.output),
        front={name: value for name, value in asdict(body.front).items() if value},
    )
    return NewJob(
        owner=call.new_owner,
        work=work,
        priority=body.priority,
        deadline=deadline,
        idempotency_key=key,
        batch=batch,
        webhook=webhook,
        metadata=body.metadata,
    )


def check(
    call: Call,
    model: str,
    request: Mapping[str, Any],
    assets: Mapping[str, Any],
    front: FrontBody,
    *,
    seed: int | None = None,
    empty_prompt: bool = False,
) -> tuple[Checked, dict[str, str]]:
    """A request with the pictures that it draws from, and these by their roles. Raises HttpError.

    seed, empty_prompt  see `Checker.check`
    """
    named = _assets(assets)
    values = deepcopy(dict(request))
    digests = Digests(call.context.blobs)
    for role, id in named.items():
        try:
            upload = call.context.store.get_upload(id, call.new_owner)
        except GessoError:
            detail = f"assets: no uploaded picture {short(id)}; upload it first, then name its id"
            raise HttpError(400, "asset_missing", detail, field=f"assets.{role}", data={"value": id[:64]}) from None
        _fill_in(values, role, digests, upload.digest)
    try:
        checked = call.context.checker.check(model, values, front, seed=seed, empty_prompt=empty_prompt)
    except HttpError as error:
        if error.field not in (None, "model"):
            error.field = f"request.{error.field}"
        raise
    resolved = checked.resolved
    wanted = {"image": resolved.source.image, "mask": resolved.mask.image}
    wanted |= {f"hint:{number}": use.image for number, use in enumerate(resolved.controls)}
    for role, digest in wanted.items():
        if digest is not None and role not in named:
            path = {"image": "source.image", "mask": "mask.image"}.get(
                role, f"controls[{role.partition(':')[2]}].image"
            )
            detail = f"{path} names a picture that is not given: upload it, and name its id as assets[{role!r}]"
            raise HttpError(400, "asset_missing", detail, field=f"assets.{role}")
    return checked, named


def _assets(assets: Mapping[str, Any]) -> dict[str, str]:
    if len(assets) > MAX_ROLES:
        raise HttpError(400, "too_large", f"assets has more than {MAX_ROLES} entries", field="assets")
    for role, id in assets.items():
        if not _ROLE.fullmatch(role):
            known = ("image", "mask", "hint:0")
            detail = (
                f"assets: unknown role {short(role)}{nearest(role, known)}; expected image, mask, hint:0, hint:1, ..."
            )
            raise HttpError(400, "unknown_name", detail, field="assets", data={"value": as_json(role)})
        if not isinstance(id, str) or not is_id(id):
            detail = f"assets: {role} is {short(id)}, expected the id of an uploaded picture"
            raise HttpError(400, "invalid_field", detail, field=f"assets.{role}", data={"value": as_json(id)})
    return dict(assets)


def _fill_in(values: dict[str, Any], role: str, digests: Digests, blob: str) -> None:
    """Name a picture in the request by the hash of its pixels, as requests do. Raises HttpError where another is."""
    if role == "image":
        held, path, digest = values.setdefault("source", {}), "source.image", digests.image(blob)
    elif role == "mask":
        held, path, digest = values.setdefault("mask", {}), "mask.image", digests.mask(blob)
    else:
        number = int(role.partition(":")[2])
        controls = values.get("controls")
        path = f"controls[{number}].image"
        if not isinstance(controls, list) or number >= len(controls):
            detail = f"assets: {role} is for request.{path}, and the request has no such control"
            raise HttpError(400, "invalid_field", detail, field=f"assets.{role}")
        held, digest = controls[number], digests.hint(blob)
    if not isinstance(held, dict):
        return  # the request's own checks say what is wrong with it
    if held.get("image") not in (None, digest):
        detail = f"request.{path} names another picture than assets[{role!r}]; leave it out"
        raise HttpError(400, "mismatch", detail, field=f"request.{path}")
    held["image"] = digest


def _webhook(call: Call, body: WebhookBody) -> dict[str, str]:
    try:
        check_address(body.url, call.context.settings.webhooks)
        signing_key(body.secret)
    except GessoError as error:
        raise HttpError(400, error.code, error.one_line, field=f"webhook.{error.field}") from None
    return {"url": body.url, "secret": body.secret}


def open_seed(owner: str, key: str | None) -> int | None:
    """A seed that has to be drawn now; None: any. A repeat with the same key has to be the same request."""
    if key is None:
        return None
    return int.from_bytes(hashlib.sha256(f"{owner}\0{key}".encode()).digest()[:8], "big") >> (64 - DRAWN_SEED_BITS)


def submit(call: Call, new: list[NewJob]) -> list[tuple[Job, bool]]:
    """Accept jobs, all or none. Raises HttpError."""
    context, limit = call.context, call.identity.max_queue
    with context.submitting if limit is not None else nullcontext():
        more = _check_space(call, new)
        if more and limit is not None:
            queued = context.store.counts(call.identity.id).get(JobStatus.QUEUED, 0)
            if queued + more > limit:
                raise key_is_full(call, queued, more)
        (answer,) = _accepted([(call, new)])
    if isinstance(answer, Exception):
        raise answer
    return answer


def _check_space(call: Call, new: list[NewJob]) -> int:
    """How many of these were not accepted before: a repeat is answered, whatever is full by now. Raises HttpError."""
    if all(one.idempotency_key is None for one in new):
        check_full(call)
    more = len(new) - _num_known(call, new)
    if more and call.context.free_bytes() < MIN_FREE:
        raise HttpError(507, "disk_full", "the disk of the server is nearly full, so no job is accepted")
    return more


def _accepted(wishes: Sequence[tuple[Call, list[NewJob]]]) -> list[list[tuple[Job, bool]] | Exception]:
    """Accept the jobs of several requests in one transaction, those of each all or none."""
    context = wishes[0][0].context
    origins, spans = [call.origin for call, _ in wishes], list[Span]()
    for origin in origins:
        parent, request = origin.get("traceparent"), origin["request_id"]
        span = context.tracing.start("accept jobs", parent=parent, kind="producer", request_id=request)
        if span.traceparent is not None:
            origin["traceparent"] = span.traceparent
        spans.append(span)
    try:
        answers = context.store.submit_each(
            [[replace(one, origin=origin) for one in new] for (_, new), origin in zip(wishes, origins, strict=True)]
        )
    except Exception as error:  # of the database
        answers = [error] * len(wishes)
    told: list[list[tuple[Job, bool]] | Exception] = []
    for (call, _), origin, span, answer in zip(wishes, origins, spans, answers, strict=True):
        if isinstance(answer, Exception):
            span.end(getattr(answer, "code", type(answer).__name__))
            told.append(_refusal(call, answer))
            continue
        span.set(jobs=len(answer), job=answer[0][0].id if len(answer) == 1 else None)
        span.end()
        for job, is_new in answer:
            if is_new:
                context.metrics.accepted.labels(job.work.model).inc()
                words: dict[str, Any] = {"request_id": origin["request_id"], "job": job.id, "key": job.owner}
                words["trace"] = trace_id(origin.get("traceparent"))
                if context.settings.log_prompts:
                    words["prompt"] = job.work.request.get("prompt")
                log.info("job accepted", extra=words)
        told.append(answer)
    return told


def _refusal(call: Call, error: Exception) -> Exception:
    """What the client is told of an error of the queue. One that is full is remembered for a moment."""
    if not isinstance(error, GessoError):
        return error
    refusal = refused(error)
    if refusal.code == "queue_full":
        owner = call.new_owner if error.data.get("is_own") else None
        call.context.full[owner] = time.monotonic() + FULL_SECONDS, refusal
    return refusal


class Submitter:
    """Has single jobs of several requests checked by one thread and accepted in one transaction.

    While the disk keeps what one thread has accepted, another takes what has come meanwhile. A thread for each request
    would wait more for its turn than it works.
    """

    def __init__(self, context: Context) -> None:
        self.context = context
        self._lock, self._busy = Lock(), 0
        self._waiting: list[_Wish] = []

    async def submit(self, call: Call, body: JobBody) -> tuple[Job, bool]:
        """Check a job and accept it. -> the job, and whether it is new. Raises HttpError."""
        if body.assets or call.identity.max_queue is not None:  # pictures are decoded, or the key's jobs counted
            return await call.writing(_submitted, call, body)
        loop = asyncio.get_running_loop()
        wish = _Wish(call, body, loop.create_future())
        with self._lock:
            self._waiting.append(wish)
            starts = self._busy < SUBMITTERS
            self._busy += starts
        if starts:
            loop.run_in_executor(self.context.writers, self._work, loop)
        return await wish.answer

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        """Until nothing waits."""
        while True:
            with self._lock:
                now, self._waiting = self._waiting[:MAX_TOGETHER], self._waiting[MAX_TOGETHER:]
                if not now:
                    self._busy -= 1
                    return
            answers: Sequence[tuple[Job, bool] | Exception]
            try:
                answers = self._carry_out(now)
            except Exception as error:  # a bug: else nobody here were answered, and this thread's place never free
                answers = [error] * len(now)
            with suppress(RuntimeError):  # the server has ended
                loop.call_soon_threadsafe(_answer, now, answers)

    def _carry_out(self, wishes: "Sequence[_Wish]") -> list[tuple[Job, bool] | Exception]:
        answers: dict[int, tuple[Job, bool] | Exception] = {}
        good: list[tuple[int, Call, list[NewJob]]] = []
        for number, wish in enumerate(wishes):
            try:
                new = [new_job(wish.call, wish.body, key=idempotency_key(wish.call.request))]
                _check_space(wish.call, new)
                good.append((number, wish.call, new))
            except Exception as error:
                answers[number] = error
        if good:
            told = _accepted([(call, new) for _, call, new in good])
            for (number, _, _), answer in zip(good, told, strict=True):
                answers[number] = answer if isinstance(answer, Exception) else answer[0]
        return [answers[number] for number in range(len(wishes))]


@dataclass(frozen=True)
class _Wish:
    """A request for a job that waits for its turn."""

    call: Call
    body: JobBody
    answer: "asyncio.Future[tuple[Job, bool]]"


def _answer(wishes: Sequence[_Wish], answers: Sequence[tuple[Job, bool] | Exception]) -> None:
    for wish, answer in zip(wishes, answers, strict=True):
        if wish.answer.done():  # nobody waits any more
            continue
        if isinstance(answer, Exception):
            wish.answer.set_exception(answer)
        else:
            wish.answer.set_result(answer)


def _submitted(call: Call, body: JobBody) -> tuple[Job, bool]:
    return submit(call, [new_job(call, body, key=idempotency_key(call.request))])[0]


def check_full(call: Call) -> None:
    """Refuse at once where the queue was full a moment ago: to find that out anew for each would fill the server.

    Not for a job with an idempotency key, which may have been accepted before. Raises HttpError.
    """
    for owner in (None, call.new_owner):
        until, refusal = call.context.full.get(owner, (0.0, None))
        if refusal is not None and time.monotonic() < until:
            raise HttpError(
                refusal.status, refusal.code, refusal.detail, data=refusal.data, headers=dict(refusal.headers)
            )


def _num_known(call: Call, new: list[NewJob]) -> int:
    """How many of these were accepted before, by their idempotency keys."""
    keys = [one.idempotency_key for one in new if one.idempotency_key is not None]
    if not keys:
        return 0
    count = 0
    with call.context.store.database.reading() as connection:
        for start in range(0, len(keys), 500):
            same = jobs.c.idempotency_key.in_(keys[start : start + 500])
            statement = select(func.count()).select_from(jobs).where(jobs.c.owner == call.new_owner, same)
            count += int(connection.execute(statement).scalar_one())
    return count


def key_is_full(call: Call, queued: int, more: int = 1) -> HttpError:
    """The refusal where a key has as many jobs waiting as it may, with the time until some of them are drawn."""
    done = call.context.store.list_jobs(statuses=[JobStatus.SUCCEEDED], limit=20).jobs
    spent = [job.metrics["execution_ms"] / 1000 for job in done if "execution_ms" in job.metrics]
    each = sum(spent) / len(spent) if spent else FIRST_GUESS
    limit = call.identity.max_queue or 0
    after = math.ceil(each * max(queued + more - limit, 1) / max(call.context.settings.workers, 1))
    return queue_full(f"{queued} of {limit} jobs of this key are waiting", max(after, 1))


def queue_full(why: str, after: int) -> HttpError:
    """The refusal where too many jobs wait."""
    detail = f"the queue is full: {why}. Try again in {after} s"
    return HttpError(429, "queue_full", detail, data={"retry_after": after}, headers={"Retry-After": str(after)})


def refused(error: GessoError) -> HttpError:
    """The answer for an error of the queue."""
    if error.code == "queue_full":
        limit, after = error.data.get("limit"), int(error.data.get("retry_after", 5))
        whose = " of this key" if error.data.get("is_own") else ""
        return queue_full(f"{error.data.get('queued')} of {limit} jobs{whose} are waiting", after)
    if error.code == "idempotency_key_reuse":
        detail = "this Idempotency-Key came before with other work; use a new key for new work"
        return HttpError(422, error.code, detail, field="Idempotency-Key", data=error.data)
    if error.code in ("job_missing", "output_missing"):
        return HttpError(
            404, "not_found", f"no {'job' if error.code == 'job_missing' else 'picture'} of this id is here"
        )
    if error.code == "asset_missing":
        return HttpError(404, "not_found", "no uploaded picture of this id is here")
    if error.code == "board_missing":
        return HttpError(404, "not_found", "no board of this id is here")
    if error.code == "job_not_queued":
        return HttpError(409, error.code, "the job does not wait in the queue any more")
    if error.code == "job_not_final":
        return HttpError(409, error.code, "the job has not come to its end; cancel it, or wait")
    if error.code == "asset_in_use":
        return HttpError(409, error.code, "a job draws from this picture; delete the job first", data=error.data)
    if error.code == "invalid_value":
        return HttpError(400, error.code, error.one_line.replace("`", ""), field=error.field)
    return HttpError.of(error)


def check_room(call: Call) -> None:
    """Refuse to have more clients wait at once than the server lets. Raises HttpError (503)."""
    streams = call.request.app.state.hub.streams
    if streams >= call.context.settings.max_streams:
        detail = f"{streams} clients wait for their pictures; try again later"
        raise HttpError(503, "overloaded", detail, headers={"Retry-After": "10"})
