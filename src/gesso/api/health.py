"""Whether the server lives, whether it is ready, and its numbers."""

from collections.abc import Callable

from fastapi import Response
from starlette.concurrency import run_in_threadpool

from gesso.api.context import MIN_FREE, Calling, Context
from gesso.api.metrics import CONTENT_TYPE
from gesso.api.operations import Media, Routes, operation
from gesso.api.problems import JsonAnswer
from gesso.api.schemas import Health, Readiness
from gesso.serving.keys import Scope
from gesso.serving.storage import Blobs

TAG = "Operation"


def router(metrics_rule: Scope | None) -> Routes:
    """The routes.  metrics_rule: who may see the numbers"""
    made = Routes()

    @operation(made, "GET", "/healthz", id="getHealth", rule=None, tag=TAG, summary="The server lives", answer=Health)
    async def health(call: Calling) -> Response:
        """Answers as long as the process does anything at all; looks at nothing else."""
        return JsonAnswer({"status": "ok"})

    @operation(
        made,
        "GET",
        "/readyz",
        id="getReadiness",
        rule=None,
        tag=TAG,
        summary="The server is ready",
        answer=Readiness,
        also={503: "Something is missing; `checks` says what."},
    )
    async def ready(call: Calling) -> Response:
        """Whether the database and the object storage answer, the disk has room and a worker lives."""
        checks = await run_in_threadpool(_checks, call.context)
        is_ready = all(checks.values())
        content = {"status": "ready" if is_ready else "not_ready", "checks": checks}
        return JsonAnswer(content, 200 if is_ready else 503)

    @operation(
        made,
        "GET",
        "/metrics",
        id="getMetrics",
        rule=metrics_rule,
        tag=TAG,
        summary="Numbers for Prometheus",
        answer=Media(("text/plain",), {"type": "string"}),
    )
    async def metrics(call: Calling) -> Response:
        """Depth of the queue, waits, steps, refusals by reason, restarts of workers, loads of models."""
        text = await run_in_threadpool(call.context.metrics.text)
        return Response(text, media_type=CONTENT_TYPE)

    return made


def _answers(blobs: Blobs) -> bool:
    blobs.check()
    return True


def _checks(context: Context) -> dict[str, bool]:
    def holds(check: Callable[[], object]) -> bool:
        try:
            return bool(check())
        except Exception:
            return False

    checks = {
        "database": holds(lambda: context.store.counts() is not None),
        "disk": holds(lambda: context.free_bytes() > MIN_FREE),
        "worker": context.settings.workers == 0 or holds(lambda: context.store.workers(seen_within=30.0)),
    }
    if "://" in context.blobs.address:
        checks["storage"] = holds(lambda: _answers(context.blobs))
    return checks
