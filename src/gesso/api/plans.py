"""Plans: what a request is going to be and to cost, before it is submitted."""

import math
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import Depends, Response

from gesso.api.bodies import json_body
from gesso.api.checking import Checked
from gesso.api.context import Calling
from gesso.api.operations import Routes, operation
from gesso.api.problems import JsonAnswer
from gesso.api.schemas import Plan, PlanBody
from gesso.api.submitting import check
from gesso.serving.jobs import Job, JobStatus

router = Routes()
SAMPLE = 50  # finished jobs that are looked at
# As `gesso.runtime.plan`: memory that activations really need for each byte that is counted, and what is always there.
OVERHEAD, SLACK, BASE = 1.4, 128 * 2**20, 300 * 2**20
_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4}


@operation(
    router,
    "POST",
    "/v1/plans",
    id="createPlan",
    rule="read",
    tag="Jobs",
    summary="Estimate a request",
    answer=Plan,
    body=PlanBody,
    body_example={"model": "gesso-mini", "request": {"prompt": "a red car", "width": 256, "height": 256}},
)
def create_plan(call: Calling, body: Annotated[PlanBody, Depends(json_body(PlanBody))]) -> Response:
    """The request with every field set, and estimates of memory and time. Nothing is accepted, loaded or drawn.

    Memory is counted from the headers of the model's files and the sizes of its family, in float32 and with nothing
    offloaded: what a worker needs with its defaults on a CPU, and an upper bound elsewhere. Time is that of the last
    jobs of the same model here, by megapixels and steps.
    """
    checked, _ = check(call, body.model, body.request, body.assets, body.front)
    jobs = call.context.store.list_jobs(owner=None, statuses=[JobStatus.SUCCEEDED], limit=SAMPLE).jobs
    counts = call.context.store.counts()
    waiting = counts.get(JobStatus.QUEUED, 0) + counts.get(JobStatus.RUNNING, 0)
    seconds, samples = _time(checked, jobs)
    each = [job.metrics["execution_ms"] / 1000 for job in jobs if job.metrics.get("execution_ms")]
    ahead = 0.0 if not waiting else waiting * sum(each) / len(each) if each else None
    notes = []
    if checked.resolved.controls or checked.resolved.loras:
        notes.append("The memory of LoRA and control networks is not counted.")
    if checked.resolved.hires is not None:
        notes.append("The memory of an upscaler network between the passes is not counted.")
    if seconds is None:
        notes.append("No job of this model has finished here yet, so there is no estimate of time.")
    return JsonAnswer(
        {
            "model": checked.entry.name,
            "family": checked.entry.family,
            "request": checked.resolved.to_dict(),
            "work": checked.work,
            "max_work": call.context.settings.max_work,
            "memory": _memory(checked),
            "time": {"seconds": seconds, "samples": samples, "basis": "history" if samples else "none"},
            "queue": {"jobs": waiting, "seconds": ahead},
            "notes": notes,
        }
    )


def _memory(checked: Checked) -> dict[str, Any]:
    entry, facts, request = checked.entry, checked.facts, checked.resolved
    stored = [_BYTES.get(dtype, 4) for dtype in entry.dtypes] or [4]
    weights = math.ceil(entry.num_params * 4) if entry.num_params else entry.nbytes * 4 // min(stored)
    width, height = request.width, request.height
    if request.hires is not None and request.hires.width and request.hires.height:
        width, height = max(width, request.hires.width), max(height, request.hires.height)
    across, down = width // facts.scale // facts.downscale, height // facts.scale // facts.downscale
    guided = 2 if request.guidance_scale != 1.0 and not facts.takes_guidance_scale else 1
    rows = {"unet": guided, "decode": 1}
    counted = max((facts.activations.get(name, 0) * count * across * down for name, count in rows.items()), default=0)
    pixels = 3 * 4 * width * height * 2
    activations = math.ceil((counted + pixels) * OVERHEAD)
    return {
        "weights_bytes": weights,
        "activations_bytes": activations,
        "peak_bytes": weights + activations + SLACK + BASE,
        "basis": "headers",
    }


def _time(checked: Checked, jobs: tuple[Job, ...]) -> tuple[float | None, int]:
    """Seconds of a request, by the rate of finished jobs of its model, and how many these are."""
    rates = []
    for job in jobs:
        spent = job.metrics.get("execution_ms")
        done = sum(_amount(output.recipe) for output in job.outputs)
        if job.work.model == checked.entry.name and spent and done:
            rates.append(spent / 1000 / done)
    if not rates:
        return None, 0
    return sorted(rates)[len(rates) // 2] * checked.work, len(rates)


def _amount(recipe: Mapping[str, Any]) -> float:
    """Megapixels times steps of a picture."""
    request = recipe.get("request", {})
    try:
        return float(request["width"] * request["height"] * request["num_steps"]) / 1e6
    except (KeyError, TypeError):
        return 0.0
