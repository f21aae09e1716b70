"""Numbers for Prometheus: what this process counted, and what the queue holds when it is asked."""

import time
from collections.abc import Callable, Iterable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gesso import __version__
from gesso.serving.jobs import JobStatus
from gesso.serving.store import JobStore

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_WAITS = (0.1, 0.5, 1, 5, 15, 60, 300, 1800, 7200)


class Metrics:
    """The numbers of one server.  restarts: how often workers were started anew"""

    def __init__(self, store: JobStore, restarts: Callable[[], int] = lambda: 0) -> None:
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
        self.steps = Counter("gesso_steps", "Sampling steps of finished jobs.", **made)
        self.pictures = Counter("gesso_pictures", "Finished pictures.", **made)
        self.webhooks = Counter("gesso_webhooks", "Tries to tell a webhook.", ["result"], **made)
        self.loads = Counter("gesso_model_loads", "Models that workers loaded.", ["model"], **made)
        self.streams = Gauge("gesso_event_streams", "Event streams that are open.", **made)
        Gauge("gesso_info", "Version.", ["version"], **made).labels(__version__).set(1)
        Gauge("gesso_start_time_seconds", "When the server started.", **made).set(time.time())
        self.registry.register(_Queue(store, restarts))

    def text(self) -> bytes:
        """Everything, in the format of Prometheus."""
        return generate_latest(self.registry)


class _Queue(Collector):
    """Numbers that are read from the database when they are asked for."""

    def __init__(self, store: JobStore, restarts: Callable[[], int]) -> None:
        self.store, self.restarts = store, restarts

    def collect(self) -> Iterable[Metric]:
        counts = self.store.counts()
        depth = GaugeMetricFamily("gesso_jobs", "Jobs by their status.", labels=["status"])
        for status in JobStatus:
            depth.add_metric([str(status)], counts.get(status, 0))
        yield depth
        workers = self.store.workers()
        alive = GaugeMetricFamily("gesso_workers", "Workers that live.", labels=["device"])
        for device in sorted({worker.device for worker in workers}):
            alive.add_metric([device], sum(worker.device == device for worker in workers))
        yield alive
        loaded = GaugeMetricFamily("gesso_models_loaded", "Models in the memory of workers.", labels=["model"])
        for model in sorted({model for worker in workers for model in worker.models}):
            loaded.add_metric([model], sum(model in worker.models for worker in workers))
        yield loaded
        yield GaugeMetricFamily("gesso_worker_restarts", "Workers that were started anew.", value=self.restarts())

    def describe(self) -> Iterable[Metric]:
        return ()
