"""Jobs: submitted, looked at, cancelled, done again, forgotten."""

import re
from typing import Annotated

from fastapi import Depends, Query, Response
from starlette.requests import Request

from gesso.api.bodies import json_body
from gesso.api.context import Call, Calling, found
from gesso.api.cursors import opened, sealed
from gesso.api.operations import Routes, operation
from gesso.api.problems import JsonAnswer
from gesso.api.schemas import JobBody, JobList, JobResource, Status, job_json
from gesso.api.submitting import check_full, check_room, key_is_full, refused
from gesso.errors import GessoError
from gesso.serving.jobs import Job, JobStatus

router = Routes()
TAG = "Jobs"
KEY_HEADER = {
    "parameters": [
        {
            "name": "Idempotency-Key",
            "in": "header",
            "required": False,
            "description": "Your name for this submission: the same key with the same work is the same job.",
            "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[ -~]+$"},
        },
        {
            "name": "Prefer",
            "in": "header",
            "required": False,
            "description": "`wait=60`: answer when the job is final, or after so many seconds (RFC 7240).",
            "schema": {"type": "string"},
        },
    ]
}
MAX_WAIT = 600
_WAIT = re.compile(r"(?:^|[,;])\s*wait\s*=\s*\"?([0-9]{1,9})\"?\s*(?=$|[,;])", re.IGNORECASE)
EXAMPLE = {
    "model": "gesso-mini",
    "request": {"prompt": "a red car", "seed": 7, "num_steps": 8},
    "output": {"format": "png"},
}
JobBodyOf = Annotated[JobBody, Depends(json_body(JobBody))]


@operation(
    router,
    "POST",
    "/v1/jobs",
    id="createJob",
    rule="draw",
    tag=TAG,
    summary="Submit a job",
    status=202,
    answer=JobResource,
    body=JobBody,
    body_example=EXAMPLE,
    also={200: "The job that this Idempotency-Key gave before, as it is now; or a new one that is final already."},
    errors=(422, 507),
    extra=KEY_HEADER,
)
async def create_job(call: Calling, body: JobBodyOf) -> Response:
    """Check a request whole and queue it. It is on the disk when the answer comes.

    A request without a seed gets one, which the answer names. With `Prefer: wait=60` the answer comes when the job is
    final, or after so many seconds; who hangs up before loses nothing, the job goes on.
    """
    seconds = _wait_of(call.request)
    if seconds:
        check_room(call)
    if "idempotency-key" not in call.request.headers:
        check_full(call)
    job, is_new = await call.request.app.state.submitter.submit(call, body)
    headers = {"Location": f"/v1/jobs/{job.id}"}
    if not is_new:
        headers["Idempotent-Replayed"] = "true"
    if seconds:
        headers["Preference-Applied"] = f"wait={seconds}"
        if not job.status.is_final:
            job = await call.request.app.state.hub.end_of(job.id, seconds) or job
    return JsonAnswer(job_json(job), 200 if job.status.is_final or not is_new else 202, headers=headers)


def _wait_of(request: Request) -> int:
    """The seconds of `Prefer: wait`, at most `MAX_WAIT`; other preferences are ignored, as they may be."""
    found = _WAIT.search(",".join(request.headers.getlist("prefer")))
    return min(int(found[1]), MAX_WAIT) if found else 0


@operation(router, "GET", "/v1/jobs", id="listJobs", rule="read", tag=TAG, summary="Jobs, newest first", answer=JobList)
def list_jobs(
    call: Calling,
    status: Annotated[list[Status] | None, Query(description="Only with one of these.")] = None,
    batch: Annotated[str | None, Query(max_length=255, description="Only of this batch.")] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[str | None, Query(max_length=255, description="next_cursor of the page before.")] = None,
) -> Response:
    """Your jobs, page by page; with the scope admin, everybody's."""
    try:
        page = call.context.store.list_jobs(
            owner=call.owner,
            statuses=[JobStatus(one) for one in status or ()],
            batch=batch,
            limit=limit,
            cursor=opened(call.context.settings.folder, cursor),
        )
    except GessoError as error:
        raise refused(error) from None
    following = sealed(call.context.settings.folder, page.cursor)
    return JsonAnswer({"jobs": [job_json(job) for job in page.jobs], "next_cursor": following})


@operation(router, "GET", "/v1/jobs/{id}", id="getJob", rule="read", tag=TAG, summary="One job", answer=JobResource)
def get_job(call: Calling, id: str) -> Response:
    """A job as it is now."""
    return JsonAnswer(job_json(job_of(call, id)))


@operation(
    router,
    "POST",
    "/v1/jobs/{id}/cancel",
    id="cancelJob",
    rule="draw",
    tag=TAG,
    summary="Cancel a job",
    answer=JobResource,
)
def cancel_job(call: Calling, id: str) -> Response:
    """A job that waits is cancelled at once, one that runs within a step; one that is final stays as it is."""
    job_of(call, id)
    try:
        return JsonAnswer(job_json(call.context.store.cancel(id, call.owner)))
    except GessoError as error:
        raise refused(error) from None


@operation(
    router,
    "POST",
    "/v1/jobs/{id}/retry",
    id="retryJob",
    rule="draw",
    tag=TAG,
    summary="Do a job again",
    status=202,
    answer=JobResource,
    errors=(409, 507),
)
def retry_job(call: Calling, id: str) -> Response:
    """A new job of the same work, with the same seed. The old one has to be final, and stays."""
    job_of(call, id)
    limit, store = call.identity.max_queue, call.context.store
    queued = 0 if limit is None else store.counts(call.identity.id).get(JobStatus.QUEUED, 0)
    if limit is not None and queued >= limit:
        raise key_is_full(call, queued)
    try:
        job = store.retry(id, call.owner, origin=call.origin)
    except GessoError as error:
        raise refused(error) from None
    call.context.metrics.accepted.labels(job.work.model).inc()
    return JsonAnswer(job_json(job), 202, headers={"Location": f"/v1/jobs/{job.id}"})


@operation(
    router,
    "DELETE",
    "/v1/jobs/{id}",
    id="deleteJob",
    rule="draw",
    tag=TAG,
    summary="Forget a job and its pictures",
    status=204,
    errors=(409,),
)
def delete_job(call: Calling, id: str) -> Response:
    """A final job and its pictures are gone when the answer comes; their bytes leave the disk within hours."""
    job_of(call, id)
    try:
        call.context.store.delete(id, call.owner)
    except GessoError as error:
        raise refused(error) from None
    return Response(status_code=204)


def job_of(call: Call, id: str) -> Job:
    """A job of whoever asks. Raises HttpError, the same for one that is another's as for none."""
    return found(call, id, "job", call.context.store.get)
