"""Starts worker processes, and starts them again when they end.

    with Supervisor(store, [WorkerOptions(database="queue.db", blobs="blobs", device="cuda:0")]):
        ...

Each worker holds the end of a pipe: when this process ends, however it does, the pipe closes and the worker stops.
"""

import logging
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Event, Thread
from types import TracebackType

from gesso.serving.options import WorkerOptions
from gesso.serving.store import JobStore

FIRST_PAUSE = 0.1  # seconds before a worker is started again; twice as long each time ...
LONGEST_PAUSE = 30.0
STEADY_SECONDS = 60.0  # ... until one has lived for so long
STOP_SECONDS = 15.0  # beyond the worker's own, before it is killed
_LOOK = 0.05

log = logging.getLogger(__name__)


@dataclass
class _Place:
    """A worker, the one after it, and so on."""

    options: WorkerOptions
    process: subprocess.Popen[bytes] | None = None
    name: str = ""
    started: float = 0.0
    pause: float = FIRST_PAUSE
    start_at: float = field(default_factory=time.monotonic)
    restarts: int = 0


class Supervisor:
    """Keeps one worker process running for each of these options.

    environment  of the workers; None: that of this process
    """

    def __init__(
        self, store: JobStore, workers: Sequence[WorkerOptions], *, environment: Mapping[str, str] | None = None
    ) -> None:
        self._store, self._environment = store, environment
        self._places = [_Place(options) for options in workers]
        self._stopping = Event()
        self._thread: Thread | None = None

    def start(self) -> None:
        """Start the workers, which are there within seconds."""
        assert self._thread is None, "a supervisor starts once"
        self._thread = Thread(target=self._run, name="supervisor", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Let the workers finish or release what they draw, and wait for their end."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()

    def __enter__(self) -> "Supervisor":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pids(self) -> list[int]:
        """The processes that run now."""
        return [place.process.pid for place in self._places if place.process is not None]

    @property
    def restarts(self) -> int:
        """How often a worker was started again."""
        return sum(place.restarts for place in self._places)

    # ---- the thread --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping.wait(_LOOK):
            for place in self._places:
                try:
                    self._look_after(place)
                except Exception:
                    log.exception("the supervisor met an error, and goes on")
        self._stop_all()

    def _look_after(self, place: _Place) -> None:
        now = time.monotonic()
        if place.process is None:
            if now >= place.start_at:
                self._start(place)
            return
        if (code := place.process.poll()) is None:
            return
        if now - place.started > STEADY_SECONDS:
            place.pause = FIRST_PAUSE
        log.error("worker %s ended with %d; another one starts in %.1f s", place.name, code, place.pause)
        self._ended(place)
        place.start_at, place.pause = now + place.pause, min(2 * place.pause, LONGEST_PAUSE)
        place.restarts += 1

    def _start(self, place: _Place) -> None:
        place.name = f"{os.uname().nodename if hasattr(os, 'uname') else 'worker'}-{secrets.token_hex(6)}"
        place.process = subprocess.Popen(
            [sys.executable, "-m", "gesso.serving.worker", place.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            env=None if self._environment is None else dict(self._environment),
        )
        place.started = time.monotonic()
        assert place.process.stdin is not None
        try:
            place.process.stdin.write(place.options.to_json().encode() + b"\n")
            place.process.stdin.flush()
        except OSError:  # it has ended already, which is seen next time
            log.warning("worker %s ended while it started", place.name)

    def _ended(self, place: _Place) -> None:
        process, place.process = place.process, None
        if process is not None and process.stdin is not None:
            with suppress(OSError):
                process.stdin.close()
        self._store.worker_died(place.name)

    def _stop_all(self) -> None:
        for place in self._places:
            if place.process is not None and place.process.stdin is not None:
                with suppress(OSError):
                    place.process.stdin.close()
        for place in self._places:
            if place.process is None:
                continue
            try:
                place.process.wait(place.options.stop_seconds + STOP_SECONDS)
            except subprocess.TimeoutExpired:
                log.error("worker %s does not stop, so it is killed", place.name)
                place.process.kill()
                place.process.wait()
            self._ended(place)
