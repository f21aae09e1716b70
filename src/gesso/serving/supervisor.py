"""Starts worker processes, and starts them again when they end.

    with Supervisor(store, [WorkerOptions(database="queue.db", blobs="blobs", device="cuda:0")]):
        ...

Each worker holds the end of a pipe: when this process ends, however it does, the pipe closes and the worker stops.
"""

import logging
import os
import platform
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from threading import Event, Thread
from types import TracebackType
from typing import Protocol

from gesso.serving.options import WorkerOptions
from gesso.serving.store import JobStore

FIRST_PAUSE = 0.1  # seconds before a worker is started again; twice as long each time ...
LONGEST_PAUSE = 30.0
STEADY_SECONDS = 60.0  # ... until one has lived for so long
STOP_SECONDS = 15.0  # beyond the worker's own, before it is killed
_LOOK = 0.05

log = logging.getLogger(__name__)


class WorkerProcess(Protocol):
    """A running worker."""

    @property
    def pid(self) -> int: ...

    def poll(self) -> int | None:
        """How it ended; None: it has not."""
        ...

    def close(self) -> None:
        """Tell it to stop, by closing the pipe. May be called when it has ended, and more than once."""
        ...

    def wait(self, seconds: float) -> bool:
        """Wait for its end. -> whether it has ended"""
        ...

    def kill(self) -> None: ...

    def wake(self) -> None:
        """Tell it that there is something new in the queue. Waits for nothing."""
        ...

    def listen(self) -> bool:
        """Wait until it has changed something in the queue. -> False: it never will again"""
        ...


class ChildProcess:
    """A worker in a process of its own.  command: that runs it, which reads its options and rings as `worker.main`"""

    def __init__(self, command: Sequence[str], options: WorkerOptions) -> None:
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        self.pid = self._process.pid
        assert self._process.stdin is not None and self._process.stdout is not None
        self._pipe, self._bell = self._process.stdin, self._process.stdout
        with suppress(OSError):  # it has ended already, which is seen next time
            self._pipe.write(options.to_json().encode() + b"\n")
        with suppress(OSError, ValueError):
            os.set_blocking(self._pipe.fileno(), False)

    def poll(self) -> int | None:
        return self._process.poll()

    def close(self) -> None:
        with suppress(OSError):
            self._pipe.close()

    def wait(self, seconds: float) -> bool:
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def wake(self) -> None:
        with suppress(OSError, ValueError):  # it has much to read yet, or has ended
            self._pipe.write(b"\n")

    def listen(self) -> bool:
        try:
            heard = bool(self._bell.read(4096))
        except (OSError, ValueError):
            heard = False
        if not heard:
            self._bell.close()
        return heard


def start_worker(name: str, options: WorkerOptions) -> ChildProcess:
    """A worker of this name, in a Python of its own."""
    return ChildProcess([sys.executable, "-m", "gesso.serving.worker", name], options)


@dataclass
class _Place:
    """A worker, the one after it, and so on."""

    options: WorkerOptions
    process: WorkerProcess | None = None
    name: str = ""
    started: float = 0.0
    pause: float = FIRST_PAUSE
    start_at: float = field(default_factory=time.monotonic)
    restarts: int = 0


class Supervisor:
    """Keeps one worker process running for each of these options.

    launch   starts a worker of this name; another way than a process that Python starts anew, for tests
    on_news  called by some thread when a worker has changed something in the queue
    """

    def __init__(
        self,
        store: JobStore,
        workers: Sequence[WorkerOptions],
        *,
        launch: Callable[[str, WorkerOptions], WorkerProcess] = start_worker,
    ) -> None:
        self._store, self._launch = store, launch
        self.on_news: list[Callable[[], None]] = []
        self._places = [_Place(replace(options, number=number)) for number, options in enumerate(workers)]
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

    def wake(self) -> None:
        """Tell the workers that there is something new in the queue. Waits for nothing."""
        for place in self._places:
            process = place.process
            if process is not None:
                process.wake()

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
                try:
                    self._start(place)
                except OSError as error:  # too many processes, no memory
                    log.error("no worker can be started (%s); the next try is in %.1f s", error.strerror, place.pause)
                    self._later(place, now)
            return
        if (code := place.process.poll()) is None:
            return
        if now - place.started > STEADY_SECONDS:
            place.pause = FIRST_PAUSE
        log.error("worker %s ended with %d; another one starts in %.1f s", place.name, code, place.pause)
        self._ended(place)
        self._later(place, now)
        place.restarts += 1

    def _later(self, place: _Place, now: float) -> None:
        place.start_at, place.pause = now + place.pause, min(2 * place.pause, LONGEST_PAUSE)

    def _start(self, place: _Place) -> None:
        place.name = f"{platform.node()[:64] or 'worker'}-{secrets.token_hex(6)}"
        place.process = self._launch(place.name, place.options)
        place.started = time.monotonic()
        Thread(target=self._listen, args=(place.process,), name="bell", daemon=True).start()

    def _listen(self, process: WorkerProcess) -> None:
        while process.listen():
            for call in self.on_news:
                call()

    def _ended(self, place: _Place) -> None:
        process, place.process = place.process, None
        if process is not None:
            process.close()
        self._store.worker_died(place.name)

    def _stop_all(self) -> None:
        for place in self._places:
            if place.process is not None:
                place.process.close()
        for place in self._places:
            if place.process is None:
                continue
            if not place.process.wait(place.options.stop_seconds + STOP_SECONDS):
                log.error("worker %s does not stop, so it is killed", place.name)
                place.process.kill()
            self._ended(place)
