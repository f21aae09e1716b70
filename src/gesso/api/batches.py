"""Batches: several jobs at once, as a list or along axes as in `gesso grid`."""

import hashlib
import itertools
import secrets
from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import Depends, Query, Response

from gesso.api.bodies import json_body
from gesso.api.context import Call, Calling
from gesso.api.cursors import opened, sealed
from gesso.api.operations import Routes, operation
from gesso.api.problems import HttpError, JsonAnswer, not_found
from gesso.api.schemas import MAX_BATCH, BatchBody, BatchList, BatchResource, JobBody, at
from gesso.api.submitting import idempotency_key, new_job, open_seed, refused, submit
from gesso.errors import GessoError
from gesso.request.axes import Axis, cells, parse_axis
from gesso.request.checks import RequestError
from gesso.request.request import DRAWN_SEED_BITS, TextToImageRequest
from gesso.serving.jobs import Batch, JobStatus
from gesso.serving.rows import Ids

router = Routes()
TAG = "Batches"
MAX_SHOWN = 1000
EXAMPLE = {
    "job": {"request": {"prompt": "a red car", "seed": 7}},
    "axes": ["steps=4,8", "guidance=2-6(+2)"],
}
_ids = Ids()


@operation(
    router,
    "POST",
    "/v1/batches",
    id="createBatch",
    rule="draw",
    tag=TAG,
    summary="Submit several jobs",
    status=202,
    answer=BatchResource,
    body=BatchBody,
    body_example=EXAMPLE,
    errors=(422, 507),
    extra={
        "parameters": [
            {
                "name": "Idempotency-Key",
                "in": "header",
                "required": False,
                "schema": {"type": "string", "minLength": 1, "maxLength": 240, "pattern": "^[ -~]+$"},
            }
        ]
    },
)
def create_batch(call: Calling, body: Annotated[BatchBody, Depends(json_body(BatchBody))]) -> Response:
    """A list of jobs, or one job that is varied along axes: all are accepted, or none.

    A seed that is left open is one for all, so that only what is varied differs.
    """
    key = idempotency_key(call.request)
    if key is not None and len(key) > 240:
        raise HttpError(400, "invalid_field", "Idempotency-Key: expected up to 240 characters", field="Idempotency-Key")
    if (body.job is None) == (not body.jobs):
        raise HttpError(400, "invalid_field", "give either jobs, a list, or job, which axes may vary", field="jobs")
    if body.axes and body.job is None:
        raise HttpError(400, "invalid_field", "axes vary the one in job; a list of jobs takes none", field="axes")
    ident = body.batch or (f"batch-{_named(key)}" if key is not None else f"batch-{_ids.new()}")
    jobs = list(_varied(call, body.job, body.axes, key)) if body.job is not None else list(body.jobs)
    new = []
    for number, one in enumerate(jobs):
        own = None if key is None else f"{key}#{number}"
        field = f"jobs[{number}]." if body.job is None else "job."
        new.append(new_job(call, one, key=own, batch=ident, field=field))
    answers = submit(call, new)
    counts: dict[str, int] = {}
    for job, _ in answers:
        counts[str(job.status)] = counts.get(str(job.status), 0) + 1
    made = _resource(ident, counts, [job.id for job, _ in answers])
    return JsonAnswer(made, 202, headers={"Location": made["urls"]["self"]})


@operation(
    router,
    "GET",
    "/v1/batches",
    id="listBatches",
    rule="read",
    tag=TAG,
    summary="Batches, newest first",
    answer=BatchList,
)
def list_batches(
    call: Calling,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[str | None, Query(max_length=255, description="next_cursor of the page before.")] = None,
) -> Response:
    """Your batches, page by page, each with what its first job asks for; with the scope admin, everybody's."""
    folder = call.context.settings.folder
    try:
        store, before = call.context.store, opened(folder, cursor)
        found, following = store.list_batches(owner=call.owner, limit=limit, cursor=before)
    except GessoError as error:
        raise refused(error) from None
    return JsonAnswer({"batches": [_summary(batch) for batch in found], "next_cursor": sealed(folder, following)})


@operation(
    router,
    "GET",
    "/v1/batches/{id}",
    id="getBatch",
    rule="read",
    tag=TAG,
    summary="Where the jobs of a batch stand",
    answer=BatchResource,
)
def get_batch(call: Calling, id: str) -> Response:
    """How many jobs of a batch stand where, and the ids of up to 1000."""
    return JsonAnswer(_found(call, id))


@operation(
    router,
    "POST",
    "/v1/batches/{id}/cancel",
    id="cancelBatch",
    rule="draw",
    tag=TAG,
    summary="Cancel the jobs of a batch",
    answer=BatchResource,
)
def cancel_batch(call: Calling, id: str) -> Response:
    """Cancel all of its jobs that are not final."""
    _found(call, id)
    call.context.store.cancel_all(owner=call.owner, batch=id)
    return JsonAnswer(_found(call, id))


def _varied(call: Call, job: JobBody, axes: tuple[str, ...], key: str | None) -> Iterator[JobBody]:
    """The job at every point of the grid. Raises HttpError."""
    try:
        parsed = [parse_axis(text) for text in axes]
        if cells(parsed) > MAX_BATCH:
            raise RequestError("axes", f"a grid of {cells(parsed)} jobs, expected at most {MAX_BATCH}")
    except RequestError as error:
        raise HttpError(400, error.code, error.one_line, field="axes", data=error.data) from None
    seed = open_seed(call.new_owner, key)
    first = new_job(call, job, key=key, field="job.")
    base = TextToImageRequest.from_dict(first.work.request)
    if base.seed is None:
        base = replace(base, seed=secrets.randbits(DRAWN_SEED_BITS) if seed is None else seed)
    if len({axis.label for axis in parsed}) < len(parsed):
        raise HttpError(400, "invalid_field", "axes: two of them vary the same setting", field="axes")
    for point in itertools.product(*(range(len(axis.values)) for axis in parsed)):
        yield _at(job, base, parsed, point)


def _at(job: JobBody, base: TextToImageRequest, axes: list[Axis], point: tuple[int, ...]) -> JobBody:
    request, model, names = base, job.model, dict[str, str]()
    for axis, place in zip(axes, point, strict=True):
        change = axis.changes[place]
        names[axis.label] = axis.values[place]
        try:
            request, model = (request, axis.values[place]) if change is None else (change(request), model)
        except RequestError as error:
            raise HttpError(400, error.code, error.one_line, field="axes", data=error.data) from None
    metadata = job.metadata | ({"axes": names} if names else {})
    return replace(job, request=request.to_dict(), model=model, metadata=metadata)


def _named(key: str) -> str:
    """The name of a batch that a repeat finds again."""
    return hashlib.sha256(key.encode()).hexdigest()[:26]


def _found(call: Call, id: str) -> dict[str, Any]:
    """A batch of whoever asks. Raises HttpError."""
    if not (1 <= len(id) <= 255 and id.isprintable()):
        raise not_found("batch")
    counts: dict[str, int] = {}
    ids: list[str] = []
    cursor: str | None = None
    try:
        while True:
            page = call.context.store.list_jobs(owner=call.owner, batch=id, limit=1000, cursor=cursor)
            for job in page.jobs:
                counts[str(job.status)] = counts.get(str(job.status), 0) + 1
                ids.append(job.id)
            cursor = page.cursor
            if cursor is None or len(ids) >= 10 * MAX_SHOWN:
                break
    except GessoError:
        raise not_found("batch") from None
    if not ids:
        raise not_found("batch")
    return _resource(id, counts, ids[:MAX_SHOWN])


def _summary(batch: Batch) -> dict[str, Any]:
    counts = {str(status): count for status, count in batch.counts.items()}
    made, first = _resource(batch.name, counts, []), batch.first
    axes = first.metadata.get("axes")
    del made["jobs"]
    return made | {
        "created_at": at(first.created_at),
        "model": first.work.model,
        "prompt": str(first.work.request.get("prompt", "")),
        "axes": sorted(str(label) for label in axes) if isinstance(axes, dict) else [],
    }


def _resource(ident: str, counts: dict[str, int], ids: list[str]) -> dict[str, Any]:
    own = f"/v1/batches/{quote(ident, safe='')}"
    return {
        "id": ident,
        "counts": counts,
        "total": sum(counts.values()),
        "is_final": all(JobStatus(status).is_final for status in counts),
        "jobs": ids,
        "urls": {"self": own, "jobs": f"/v1/jobs?batch={quote(ident, safe='')}", "cancel": f"{own}/cancel"},
    }
