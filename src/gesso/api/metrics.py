"""Numbers for Prometheus: what this process counted, and what the queue holds when it is asked."""

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy.exc import DBAPIError

from gesso import __version__
from gesso.errors import GessoError
from gesso.serving import numbers
from gesso.serving.jobs import JobStatus, Worker
from gesso.serving.store import JobStore

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_WAITS = (0.1, 0.5, 1, 5, 15, 60, 300, 1800, 7200)


class Metrics:
    """The numbers of one server.

    restarts    how often workers were started anew
    free_bytes  room on the disk of the pictures
    Where several servers share a queue, each tells of all of it: take the largest of what they say, not the sum.
    """

    def __init__(
        self,
        store: JobStore,
        restarts: Callable[[], int] = lambda: 0,
        free_bytes: Callable[[], int] | None = None,
    ) -> None:
        self.registry = CollectorRegistry()
        made: dict[str, Any] = {"registry": self.registry}
        self.requests = Counter("gesso_http_requests", "Requests answered.", ["method", "route", "status"], **made)
        self.seconds = Histogram(
            "gesso_http_seconds", "Time to the end of an answer.", ["route"], buckets=_SECONDS, **made
        )
        self.refusals = Counter("gesso_refusals", "Requests refused, by the code of the error.", ["code"], **made)
        self.accepted = Counter("gesso_jobs_accepted", "Jobs accepted.", ["model"], **made)
        self.finished = Counter("gesso_jobs_finished", "Jobs that came to their end.", ["status"], **made)
        self.waits = Histogram(
            "gesso_job_wait_seconds", "Time from acceptance to the first step.", buckets=_WAITS, **made
        )
        self.runs = Histogram("gesso_job_run_seconds", "Time that a job was worked on.", buckets=_WAITS, **made)
        self.webhooks = Counter("gesso_webhooks", "Tries to tell a webhook.", ["result"], **made)
        self._worked = {
            numbers.STEPS: Counter("gesso_worker_steps", "Sampling steps made, each of one picture.", **made),
            numbers.CALLS: Counter(
                "gesso_network_calls", "Calls of networks, by the number of pictures that share one.", ["rows"], **made
            ),
            numbers.CALL_SECONDS: Counter("gesso_network_seconds", "Time that workers spent in steps.", **made),
            numbers.PICTURES: Counter("gesso_worker_pictures", "Pictures drawn.", **made),
            numbers.FLAT_PICTURES: Counter("gesso_flat_pictures", "Pictures drawn that are of one colour.", **made),
            numbers.NONFINITE: Counter(
                "gesso_nonfinite",
                "Pictures for which a network gave NaN or infinity: recomputed in float32, or failed.",
                ["outcome"],
                **made,
            ),
            numbers.LOADS: Counter("gesso_model_loads", "Models that workers loaded.", ["model"], **made),
            numbers.LOAD_SECONDS: Counter("gesso_model_load_seconds", "Time that workers loaded models.", **made),
        }
        # A rate does not see the first of anything that does not begin with 0.
        for counter, labels in (
            (self._worked[numbers.NONFINITE], ("recomputed", "failed")),
            (self.finished, [str(status) for status in JobStatus if status.is_final]),
            (self.webhooks, ("told", "failed", "gone", "refused", "forgotten")),
            (self.refusals, ("queue_full", "rate_limited", "storage_unusable", "database_unusable")),
        ):
            for label in labels:
                counter.labels(label)
        self.streams = Gauge("gesso_event_streams", "Event streams that are open.", **made)
        Gauge("gesso_info", "Version.", ["version"], **made).labels(__version__).set(1)
        Gauge("gesso_start_time_seconds", "When the server started.", **made).set(time.time())
        ProcessCollector(registry=self.registry)  # memory, processor time and open files of this process
        self.registry.register(_Queue(store, restarts, free_bytes))

    def worked(self, name: str, label: str, amount: float) -> None:
        """Workers have counted so much more, see `gesso.serving.numbers`."""
        counter = self._worked.get(name)
        if counter is not None:  # else one of a newer worker
            (counter.labels(label) if label else counter).inc(amount)

    def text(self) -> bytes:
        """Everything, in the format of Prometheus."""
        return generate_latest(self.registry)


class _Queue(Collector):
    """Numbers that are read from the database when they are asked for."""

    def __init__(
        self, store: JobStore, restarts: Callable[[], int], free_bytes: Callable[[], int] | None = None
    ) -> None:
        self.store, self.restarts, self.free_bytes = store, restarts, free_bytes

    def collect(self) -> Iterable[Metric]:
        yield GaugeMetricFamily("gesso_worker_restarts", "Workers that were started anew.", value=self.restarts())
        if self.free_bytes is not None:
            with suppress(OSError):
                yield GaugeMetricFamily(
                    "gesso_disk_free_bytes", "Room on the disk of the pictures.", value=self.free_bytes()
                )
        try:
            self.store.check()
            counts, workers, oldest = self.store.counts(), self.store.workers(), self.store.oldest_wait()
        except (GessoError, DBAPIError):  # what is known without it is told all the same
            yield GaugeMetricFamily("gesso_database_up", "Whether the queue's database answers.", value=0)
            return
        yield GaugeMetricFamily("gesso_database_up", "Whether the queue's database answers.", value=1)
        depth = GaugeMetricFamily("gesso_jobs", "Jobs by their status.", labels=["status"])
        for status in JobStatus:
            depth.add_metric([str(status)], counts.get(status, 0))
        yield depth
        yield GaugeMetricFamily(
            "gesso_oldest_wait_seconds", "How long the job waits that was accepted first; 0: none does.", value=oldest
        )
        yield from _of_workers(workers)

    def describe(self) -> Iterable[Metric]:
        return ()


def _of_workers(workers: list[Worker]) -> Iterable[Metric]:
    devices = sorted({worker.device for worker in workers})
    alive = GaugeMetricFamily("gesso_workers", "Workers that live.", labels=["device"])
    rows = GaugeMetricFamily(
        "gesso_worker_rows", "Pictures that may share a call of a network, of all workers.", labels=["device"]
    )
    memory = GaugeMetricFamily(
        "gesso_worker_memory_bytes",
        "Memory of the workers: resident in the machine's, allocated and reserved in the device's.",
        labels=["device", "kind"],
    )
    for device in devices:
        mine = [worker for worker in workers if worker.device == device]
        alive.add_metric([device], len(mine))
        rows.add_metric([device], sum(worker.numbers.get("rows", 1) for worker in mine))
        for kind in ("resident", "allocated", "reserved"):
            told = [worker.numbers[kind] for worker in mine if kind in worker.numbers]
            if told:
                memory.add_metric([device, kind], sum(told))
    yield alive
    yield rows
    yield memory
    loaded = GaugeMetricFamily("gesso_models_loaded", "Models in the memory of workers.", labels=["model"])
    for model in sorted({model for worker in workers for model in worker.models}):
        loaded.add_metric([model], sum(model in worker.models for worker in workers))
    yield loaded
