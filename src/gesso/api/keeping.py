"""What a server does besides answering: forgets what is over, takes back what was lost, and counts what was done."""

import logging
import time
from collections.abc import Mapping
from threading import Event, Thread
from typing import Any

from sqlalchemy import select

from gesso.api.metrics import Metrics
from gesso.serving.numbers import difference
from gesso.serving.storage import Blobs
from gesso.serving.store import JobStore
from gesso.serving.tables import jobs
from gesso.serving.thumbnails import Thumbnails

COUNT_SECONDS = 1.0
RECOVER_SECONDS = 5.0
SWEEP_SECONDS = 600.0
AT_ONCE = 1000  # jobs, new ones
REMEMBERED = 256  # workers; one may be silent for a while and come back

_CLOCKS = 2.0  # seconds that those of several machines may differ
_COUNTED = (jobs.c.id, jobs.c.status, jobs.c.created_at, jobs.c.started_at, jobs.c.completed_at)

log = logging.getLogger(__name__)


class Housekeeper:
    """A thread beside the server."""

    def __init__(self, store: JobStore, blobs: Blobs, metrics: Metrics, thumbnails: Thumbnails | None = None) -> None:
        self.store, self.blobs, self.metrics, self.thumbnails = store, blobs, metrics, thumbnails
        self._stopping = Event()
        self._thread = Thread(target=self._run, name="housekeeper", daemon=True)
        self._counted_until = time.time()
        self._counted: set[str] = set()
        self._began = time.time()
        self._worked: dict[str, Mapping[str, Any]] = {}  # what each worker had counted when last looked at

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, within a moment."""
        self._stopping.set()
        self._thread.join(5)

    def _run(self) -> None:
        recovered = swept = time.monotonic()
        mark = ""
        while not self._stopping.wait(COUNT_SECONDS):
            now = time.monotonic()
            try:
                if (changed := self.store.changes()) != mark:
                    mark = changed
                    self.count()
                if now - recovered > RECOVER_SECONDS:
                    recovered = now
                    self.store.recover()
                if now - swept > SWEEP_SECONDS:
                    swept = now
                    self.store.sweep()
                    self.blobs.sweep(self.store.referenced)
                    if self.thumbnails is not None:
                        self.thumbnails.sweep(self.store.referenced)
            except Exception as error:  # the database is away for a moment, or the disk is
                log.warning("housekeeping waits: %s", type(error).__name__)

    def count(self) -> None:
        """Add to the numbers what was finished and loaded since the last time."""
        while self._count_jobs() == AT_ONCE:
            pass
        self.count_work()

    def _count_jobs(self) -> int:
        """Count those that were finished since the last time. -> how many, at most `AT_ONCE`"""
        begin = self._counted_until - _CLOCKS
        done = select(*_COUNTED).where(jobs.c.completed_at > begin).order_by(jobs.c.completed_at)
        with self.store.database.reading() as connection:
            rows = connection.execute(done.limit(AT_ONCE + len(self._counted))).all()
        new = [row for row in rows if row.id not in self._counted]
        for row in new:
            self._count_job(row)
        if rows:
            self._counted_until = max(self._counted_until, rows[-1].completed_at)
        self._counted = {row.id for row in rows if row.completed_at > self._counted_until - _CLOCKS}
        return len(new)

    def count_work(self) -> None:
        """Add what workers have counted since the last time. Of one that is older than this server, from now on."""
        workers = self.store.workers()
        for worker in workers:
            is_older = worker.started_at < self._began
            before = self._worked.get(worker.id, worker.numbers if is_older else {})
            for (name, label), amount in difference(worker.numbers, before).items():
                self.metrics.worked(name, label, amount)
            self._worked.pop(worker.id, None)
            self._worked[worker.id] = worker.numbers  # the last one
        for gone in list(self._worked)[:-REMEMBERED]:
            del self._worked[gone]

    def _count_job(self, row: Any) -> None:
        self.metrics.finished.labels(str(row.status)).inc()
        if row.started_at is not None:
            self.metrics.waits.observe(max(row.started_at - row.created_at, 0.0))
            self.metrics.runs.observe(max(row.completed_at - row.started_at, 0.0))
