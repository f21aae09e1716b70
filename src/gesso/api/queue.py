"""The queue as its user sees it: how it stands, pausing and resuming, the order of jobs."""

from typing import Annotated, Any

from fastapi import Depends, Response

from gesso.api.bodies import json_body
from gesso.api.context import Call, Calling
from gesso.api.gallery_schemas import PriorityBody, QueueResource
from gesso.api.jobs import job_of
from gesso.api.operations import Routes, operation
from gesso.api.problems import JsonAnswer
from gesso.api.schemas import JobResource, at, job_json
from gesso.api.submitting import refused
from gesso.errors import GessoError

router = Routes()
TAG = "Jobs"


@operation(
    router,
    "GET",
    "/v1/queue",
    id="getQueue",
    rule="read",
    tag=TAG,
    summary="How the queue stands",
    answer=QueueResource,
)
def get_queue(call: Calling) -> Response:
    """Whether your jobs are paused, how many there are, and who draws."""
    return JsonAnswer(queue_json(call))


@operation(
    router,
    "POST",
    "/v1/queue/pause",
    id="pauseQueue",
    rule="draw",
    tag=TAG,
    summary="Let your jobs wait",
    answer=QueueResource,
)
def pause_queue(call: Calling) -> Response:
    """None of your jobs is begun until you resume; what runs is finished. Others' jobs go on."""
    call.context.store.set_paused(call.new_owner, True)
    return JsonAnswer(queue_json(call))


@operation(
    router,
    "POST",
    "/v1/queue/resume",
    id="resumeQueue",
    rule="draw",
    tag=TAG,
    summary="Let your jobs go on",
    answer=QueueResource,
)
def resume_queue(call: Calling) -> Response:
    """The end of a pause."""
    call.context.store.set_paused(call.new_owner, False)
    return JsonAnswer(queue_json(call))


@operation(
    router,
    "POST",
    "/v1/jobs/{id}/priority",
    id="setJobPriority",
    rule="draw",
    tag=TAG,
    summary="Let a job come sooner or later",
    answer=JobResource,
    body=PriorityBody,
    body_example={"priority": 5},
    errors=(409,),
)
def set_priority(call: Calling, id: str, body: Annotated[PriorityBody, Depends(json_body(PriorityBody))]) -> Response:
    """Only of a job that waits, and only among those of its owner."""
    job_of(call, id)
    try:
        return JsonAnswer(job_json(call.context.store.set_priority(id, body.priority, call.owner)))
    except GessoError as error:
        raise refused(error) from None


def queue_json(call: Call) -> dict[str, Any]:
    """How the queue stands for whoever asks."""
    store = call.context.store
    counts = store.counts(call.owner)
    return {
        "paused": store.is_paused(call.new_owner),
        "counts": {str(status): number for status, number in counts.items() if not status.is_final},
        "workers": [
            {"device": worker.device, "models": list(worker.models), "seen_at": at(worker.seen_at)}
            for worker in store.workers()
        ],
    }
