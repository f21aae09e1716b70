"""The worker: one process a device, which draws what waits in the queue.

    python -m gesso.serving.worker NAME <options

A supervisor starts it and writes `WorkerOptions` as the first line of its standard input. That stays open as long as
the supervisor lives: at its end the worker stops, as it does at SIGTERM and SIGINT. What is being drawn is finished if
that takes but seconds, and goes back to the queue otherwise.

One thread draws. Jobs of one model are drawn side by side where they share calls of the network, and where a short one
can pass a long one: a step goes to the job that needs the least time until it is done, and every fourth to the one that
came first. Another thread says that the worker lives, and watches for jobs that are canceled, late or lost.
"""

import gc
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import Any, TypeVar

import torch

from gesso.errors import GessoError
from gesso.library import Library
from gesso.pipelines.text_to_image import TextToImage
from gesso.runtime.batcher import Batcher
from gesso.runtime.cancel import CancelledError
from gesso.serving.drawing import AWAY, Drawing, Encoded, Part, as_known
from gesso.serving.jobs import JobStatus, Output, Worker
from gesso.serving.logs import LogLines, know_no_threads
from gesso.serving.numbers import CALL_SECONDS, CALLS, LOAD_SECONDS, LOADS, Numbers, resident_bytes
from gesso.serving.options import WorkerOptions
from gesso.serving.storage import open_blobs
from gesso.serving.store import JobStore
from gesso.serving.tracing import Tracing, open_tracing
from gesso.studio.studio import EngineOptions, Studio

WATCH_SECONDS = 0.05  # between two looks for cancelled jobs
SEEN_SECONDS = 5.0  # between two signs of life ...
COUNT_SECONDS = 1.0  # ... while there is something to count
IDLE_SECONDS = {True: 0.02, False: 0.1}  # between two looks at an empty queue; SQLite: True
LOOK_SECONDS = 1.0  # between two looks where nothing seems to have changed: leases lapse in silence
PATIENCE = 5.0  # that a job for another model waits at most before jobs of this one are let in no more
FIRST_COME = 4  # one step in so many goes to the job that came first: it takes so many times its own time at most
SHORT = 0.5  # a job is let in to pass others where it costs at most so much of what each of these still does
STORAGE_SECONDS = 2.0  # between two looks whether the object storage is back
MAX_STORING = 32  # pictures that are stored at a time
LAST_SECONDS = 20.0  # beyond `stop_seconds`, before a worker that does not stop ends itself
EXIT_WRONG = 2  # its options cannot be
EXIT_BROKEN = 70  # the device does not work any more, or a step has no end

T = TypeVar("T")

log = logging.getLogger(__name__)


class WorkerLoop:
    """Draws until it is told to stop.

    name     of this process, for leases
    stopping set to stop
    news     set when something may wait in the queue; it is looked at every now and then anyway
    numbers  what it has counted
    device   that it computes on, as far as is known
    """

    def __init__(
        self,
        name: str,
        options: WorkerOptions,
        *,
        exit: Callable[[int], object] = os._exit,
        tracing: Tracing | None = None,
    ) -> None:
        self.name, self.options, self.stopping, self.news = name, options, Event(), Event()
        self._exit = exit
        self.numbers, self.device = Numbers(), options.device
        self.tracing = tracing or open_tracing(options.traces, "worker")
        self.store = JobStore(options.database, keep_seconds=options.keep_seconds, max_crashes=options.max_crashes)
        self.blobs = open_blobs(options.blobs, Path(options.copies or "copies"))
        self.studio = self._new_studio()
        self._storing = ThreadPoolExecutor(MAX_STORING, "storing")
        self._pipelines: dict[str, TextToImage] = {}
        self._drawings: list[Drawing] = []
        self._started = time.time()
        self._last_work = self._last_step = time.monotonic()
        self._last_look, self._seen_mark = 0.0, ""
        self._num_steps = 0
        self._step_seconds: float | None = None
        self._done = Event()
        self._is_busy = False
        self._storage_away: float | None = None  # since when, or when that was last seen

    # ---- the thread that draws ---------------------------------------------------------------------------------------

    def run(self) -> None:
        """Draw until `stopping` is set, then finish or release what is being drawn."""
        watcher = Thread(target=self._watch, name="watcher", daemon=True)
        watcher.start()
        stop_at: float | None = None
        try:
            while True:
                if self.stopping.is_set():
                    stop_at = stop_at or time.monotonic() + self.options.stop_seconds
                    if not self._drawings:
                        break
                    self._release_what_takes_longer(stop_at)
                else:
                    self._admit()
                if self._drawings:
                    self._step()
                else:
                    self._idle()
        finally:
            self._done.set()
            watcher.join(5)
            for drawing in list(self._drawings):  # an error of the database, or a bug
                drawing.stop("released")
                with suppress(GessoError):
                    self._end(drawing, CancelledError())
            with suppress(GessoError):
                self.store.worker_left(self.name)
            self._storing.shutdown()
            self.store.close()
            self.tracing.close()

    def _idle(self) -> None:
        keep_alive = self.options.keep_alive
        if self._pipelines and 0 <= keep_alive < time.monotonic() - self._last_work:
            self._unload()
        self.news.wait(IDLE_SECONDS[self.store.database.is_sqlite])
        self.news.clear()

    def _admit(self) -> None:
        """Take jobs that wait, as far as there is room."""
        room = (1 if self.options.memory is not None else self.options.jobs_at_once) - len(self._drawings)
        if room < 1 or not self._has_storage() or any(drawing.job.crashes for drawing in self._drawings):
            return
        now, mark = time.monotonic(), self.store.changes()
        if mark == self._seen_mark and now - self._last_look < LOOK_SECONDS:
            return
        free_rows = self.options.rows_per_call - len(self._drawings)
        leases = self._patiently(
            self.store.claim_many,
            self.name,
            max(1, min(room, free_rows)),
            lease_seconds=self.options.lease_seconds,
            warm=self._pipelines,
            model=self._drawings[0].job.work.model if self._drawings else None,
            max_cost=None if free_rows > 0 else SHORT * min(drawing.cost_left for drawing in self._drawings),
            patience=PATIENCE,
        )
        if not leases:
            self._seen_mark, self._last_look = mark, now
        for lease in leases:
            self._drawings.append(
                Drawing(lease, self.store, self.blobs, self.options, numbers=self.numbers, tracing=self.tracing)
            )
        for drawing in self._drawings[len(self._drawings) - len(leases) :]:
            self._last_step = time.monotonic()
            self._guarded(drawing, partial(self._begin, drawing))

    def _has_storage(self) -> bool:
        """Whether pictures can be kept, as far as is known: where they could not, that is asked now and then."""
        if self._storage_away is None:
            return True
        if time.monotonic() - self._storage_away < STORAGE_SECONDS:
            return False
        try:
            self.blobs.check()
            self._storage_away = None
        except GessoError as error:
            log.warning("worker %s waits: %s", self.name, error.one_line)
            self._storage_away = time.monotonic()
        return self._storage_away is None

    def _begin(self, drawing: Drawing) -> None:
        if drawing.job.work.kind == "upscale":
            drawing.enlarge(self.studio)
            self._last_work = time.monotonic()
            self._tell([drawing])
            return
        drawing.step_seconds = self._step_seconds
        drawing.begin(self._pipeline(drawing.job.work.model, drawing.span.traceparent))
        if drawing.next_part() is None:
            self._tell([drawing])

    def _step(self) -> None:
        """Make the next step of the most urgent pictures."""
        for drawing in [drawing for drawing in self._drawings if drawing.cancel.is_cancelled]:
            self._end(drawing, CancelledError())
        begin = time.monotonic()
        chosen = self._chosen()
        batcher = Batcher(self.options.rows_per_call)
        for _, part in chosen:
            batcher.add(part.run)
        ended = batcher.step()
        now = time.monotonic()
        self._last_step = self._last_work = now
        self._count(now - begin, chosen)
        for rows in batcher.shared:
            self.numbers.add(CALLS, label=rows)
        self.numbers.add(CALL_SECONDS, now - begin)
        finished = [(drawing, part) for drawing, part in chosen if part.run in ended]
        self._keep(finished)
        self._tell(list(dict.fromkeys(drawing for drawing, _ in finished)))

    def _keep(self, finished: Sequence[tuple[Drawing, Part]]) -> None:
        """Store finished pictures, side by side: the disk makes several stay in the time that it takes for one."""
        encoded = list[tuple[Drawing, Encoded]]()

        def encode(drawing: Drawing, part: Part) -> None:
            encoded.append((drawing, drawing.encoded(part)))

        for drawing, part in finished:
            self._guarded(drawing, partial(encode, drawing, part))
        if len(encoded) == 1:  # without asking another thread
            ((drawing, picture),) = encoded
            self._guarded(drawing, lambda: drawing.keep(drawing.stored(picture)))
            return

        def keep(drawing: Drawing, stored: Future[Output]) -> None:
            drawing.keep(stored.result())

        stored = [(drawing, self._storing.submit(drawing.stored, picture)) for drawing, picture in encoded]
        for drawing, output in stored:
            self._guarded(drawing, partial(keep, drawing, output))

    def _chosen(self) -> list[tuple[Drawing, Part]]:
        """The pictures that are drawn in the next step, at most so many as share a call."""
        rows, chosen = self.options.rows_per_call, list[tuple[Drawing, Part]]()
        self._num_steps += 1
        urgent = list(self._drawings)  # in the order in which they came
        if self._num_steps % FIRST_COME:
            urgent.sort(key=lambda drawing: drawing.seconds_left)
        for drawing in urgent:
            chosen += [(drawing, part) for part in drawing.active]
        for drawing in urgent:  # more pictures of the same jobs, where the call has room for them
            while len(chosen) < rows:
                try:
                    part = drawing.next_part()
                except Exception as error:
                    self._end(drawing, error)
                    chosen = [each for each in chosen if each[0] is not drawing]
                    break
                if part is None:
                    break
                chosen.append((drawing, part))
        return chosen[:rows]

    def _count(self, seconds: float, chosen: Sequence[tuple[Drawing, Part]]) -> None:
        """Learn from a step how long one takes."""
        share = seconds / max(len(chosen), 1)
        for drawing, _ in chosen:
            drawing.step_seconds = _smoothed(drawing.step_seconds, share)
        self._step_seconds = _smoothed(self._step_seconds, share)

    def _tell(self, drawings: Sequence[Drawing]) -> None:
        """Write down what these have finished: pictures, and jobs of which these were the last."""
        told = [(drawing, self._is_done(drawing)) for drawing in drawings if drawing in self._drawings]
        told = [(drawing, is_done) for drawing, is_done in told if drawing in self._drawings]
        if not told:
            return
        values = [drawing.told(is_done=is_done) for drawing, is_done in told]
        holds = self._patiently(self.store.record, values)
        for (drawing, is_done), value, is_held in zip(told, values, holds, strict=True):
            if not is_held:
                drawing.stop("lost")
            if value.is_done and is_held:
                self._drawings.remove(drawing)
                drawing.ended_well()
            elif is_done:
                self._end(drawing, CancelledError())

    def _is_done(self, drawing: Drawing) -> bool:
        """Whether a job has no more pictures to draw; else the next is begun."""
        if drawing.active:
            return False
        try:
            return drawing.next_part() is None
        except Exception as error:
            self._end(drawing, error)
            return False

    def _guarded(self, drawing: Drawing, work: Callable[[], None]) -> None:
        """Do something for a job. What fails, fails this job alone."""
        try:
            work()
        except Exception as error:
            self._end(drawing, error)

    def _end(self, drawing: Drawing, error: Exception) -> None:
        if drawing not in self._drawings:
            return
        self._drawings.remove(drawing)
        if isinstance(error, GessoError) and error.code == AWAY:  # no fault of the job, which goes back
            log.error("worker %s: %s", self.name, error.one_line)
            self._storage_away = time.monotonic()
            drawing.stop("released")
            error = CancelledError()
        self._patiently(drawing.end, error)
        if _is_broken(error):
            log.critical("the device does not work any more: %s", error)
            self._exit(EXIT_BROKEN)
        if not self._drawings and as_known(error, drawing.job.id).code == "out_of_memory":
            self._unload()  # perhaps in pieces by now

    def _patiently(self, work: Callable[..., T], *words: Any, **named: Any) -> T:
        """What `work` returns. While the queue takes nothing, as on a full disk, it is tried again until it does."""
        while True:
            try:
                return work(*words, **named)
            except GessoError as error:
                if error.code not in ("disk_full", "database_unusable") or self.stopping.is_set():
                    raise
                log.error("worker %s waits: %s", self.name, error.one_line)
            self.stopping.wait(1.0)
            self._last_step = time.monotonic()  # a worker that waits does not hang

    def _release_what_takes_longer(self, stop_at: float) -> None:
        left = stop_at - time.monotonic()
        for drawing in self._drawings:
            if drawing.seconds_left > left or drawing.step_seconds is None:
                drawing.stop("released")

    # ---- models ------------------------------------------------------------------------------------------------------

    def _new_studio(self) -> Studio:
        options = self.options
        device = options.device
        if device in ("auto", "cuda") and torch.cuda.device_count() > 1:  # a worker a device
            device = f"cuda:{options.number % torch.cuda.device_count()}"
        engine = EngineOptions(
            device=device,
            dtype=options.dtype,
            threads=options.threads,
            rows_per_call=options.rows_per_call,
            max_models=options.max_models,
            memory=options.memory,
        )
        library = None if options.library is None else Library(Path(options.library))
        return Studio(engine, library=library, offline=True)  # a client's name fetches nothing

    def _pipeline(self, model: str, parent: str | None = None) -> TextToImage:
        """The pipeline of a model; the least recently used is forgotten where there are too many.

        parent  traceparent of the job that wants it
        """
        pipeline = self._pipelines.pop(model, None)
        if pipeline is None:
            while len(self._pipelines) >= self.options.max_models:
                del self._pipelines[next(iter(self._pipelines))]
            begin = time.monotonic()
            with self.tracing.span("load model", parent=parent, model=model):
                pipeline = self.studio.open(model)
            self.numbers.add(LOADS, label=model)
            self.numbers.add(LOAD_SECONDS, time.monotonic() - begin)
        self._pipelines[model] = pipeline
        return pipeline

    def _unload(self) -> None:
        """Give the memory of all models back; they are loaded again when they are wanted."""
        self._pipelines.clear()
        self.studio = self._new_studio()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    # ---- the thread that watches -------------------------------------------------------------------------------------

    def _watch(self) -> None:
        seen = renewed = 0.0
        mark = ""
        while not self._done.wait(WATCH_SECONDS):
            now = time.monotonic()
            try:
                if now - seen > (COUNT_SECONDS if self._is_busy else SEEN_SECONDS):
                    seen = now
                    self._is_busy = bool(self._drawings)
                    self.store.worker_seen(self._self())
                mark, before = self.store.changes(), mark
                renews = now - renewed > self.options.lease_seconds / 4
                renewed = now if renews else renewed
                drawings = list(self._drawings)
                held = self.store.held_by(self.name) if drawings and mark != before and not renews else None
                for drawing in drawings:
                    self._look_after(drawing, held, renews=renews)
                    self._report(drawing, now)
            except Exception as error:  # the database is away for a moment; leases and drawings go on
                log.warning("worker %s: %s", self.name, error)
            self._check_hanging()

    def _look_after(self, drawing: Drawing, held: Mapping[tuple[str, int], JobStatus] | None, *, renews: bool) -> None:
        """Stop a job that is late, cancelled or lost.  held: what this worker holds; None: as before"""
        deadline = drawing.job.deadline
        if deadline is not None and time.time() >= deadline:
            drawing.stop("expired")
        if drawing.is_waiting and self.stopping.is_set():  # the thread that draws cannot see to it
            drawing.stop("released")
        if renews:
            status = self.store.renew(drawing.lease, lease_seconds=self.options.lease_seconds)
        elif held is not None:
            status = held.get((drawing.job.id, drawing.lease.fence))
        else:
            return
        if status == JobStatus.CANCELING:
            drawing.stop("canceled")
        elif status is None and drawing in self._drawings:
            drawing.stop("lost")

    def _report(self, drawing: Drawing, now: float) -> None:
        at, before = drawing.reported
        state = drawing.state
        if state and state is not before and now - at >= self.options.progress_seconds:
            drawing.reported = now, state
            self.store.progress(drawing.lease, state)

    def _check_hanging(self) -> None:
        limit = self.options.hang_seconds
        if limit is not None and self._drawings and time.monotonic() - self._last_step > limit:
            log.critical("worker %s: no step was finished in %g s", self.name, limit)
            self._exit(EXIT_BROKEN)

    def _self(self) -> Worker:
        return Worker(
            id=self.name,
            device=self.device,
            pid=os.getpid(),
            started_at=self._started,
            seen_at=time.time(),
            models=tuple(self._pipelines),
            numbers=self.numbers.value(rows=self.options.rows_per_call, resident=resident_bytes(), **self._on_device()),
        )

    def _on_device(self) -> dict[str, float]:
        """Bytes of the device's memory that tensors take, and that PyTorch holds."""
        if not torch.cuda.is_available() or not torch.cuda.is_initialized():
            return {}
        numbers = range(torch.cuda.device_count())
        return {
            "allocated": sum(torch.cuda.memory_allocated(number) for number in numbers),
            "reserved": sum(torch.cuda.memory_reserved(number) for number in numbers),
        }


def _is_broken(error: BaseException) -> bool:
    """Whether a process that met this error can compute nothing any more: a CUDA context is lost for good."""
    return type(error).__name__ == "AcceleratorError" or (
        isinstance(error, RuntimeError) and "CUDA error" in str(error)
    )


def _smoothed(before: float | None, value: float) -> float:
    return value if before is None else 0.8 * before + 0.2 * value


def work(name: str, options: WorkerOptions, pipe: int, bell: int | None = None) -> None:
    """Run a worker in this process until it is told to stop.

    pipe  a file descriptor that its supervisor holds the other end of, and writes to when there is something new in the
          queue. At its end, the worker stops
    bell  one to write to when the worker has changed something
    """
    try:
        loop = WorkerLoop(name, options)
        loop.device = str(loop.studio.engine.device)  # one that is not there ends the worker, and fails no jobs
    except GessoError as error:
        log.critical("worker %s: %s", name, error.one_line)
        sys.exit(EXIT_WRONG)
    if bell is not None:
        os.set_blocking(bell, False)  # a supervisor that does not listen holds nothing up
        loop.store.on_write.append(partial(_ring, bell))

    def stop(*_: object) -> None:
        loop.stopping.set()
        loop.news.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)

    def until_closed() -> None:
        with suppress(OSError):
            while os.read(pipe, 4096):
                loop.news.set()
        stop()
        time.sleep(options.stop_seconds + LAST_SECONDS)
        os._exit(EXIT_BROKEN)

    Thread(target=until_closed, name="pipe", daemon=True).start()
    loop.run()


def _ring(bell: int) -> None:
    with suppress(OSError):  # full, so that it is heard anyway; or nobody is there any more
        os.write(bell, b".")


def main() -> None:
    """Run by `python -m gesso.serving.worker NAME`."""
    options = WorkerOptions.from_json(sys.stdin.buffer.readline().decode())
    know_no_threads()
    handler = logging.StreamHandler()
    handler.setFormatter(LogLines(options.json_log))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("gesso").setLevel(logging.INFO)
    # Nobody else reads this input: its lock would stay with the thread. What a library prints rings the bell without
    # need, which does no harm.
    work(sys.argv[1], options, sys.stdin.fileno(), sys.stdout.fileno())


if __name__ == "__main__":
    main()
