"""The supervisor: workers run, are started again when they end, and stop when they are told to or when it is gone."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest

from gesso.serving import supervisor as module
from gesso.serving.jobs import JobStatus, NewJob, Work
from gesso.serving.options import WorkerOptions
from gesso.serving.store import JobStore
from gesso.serving.supervisor import Supervisor

SECONDS = 30.0


class Fake:
    """A worker that lives until it is killed or its pipe is closed."""

    made: ClassVar[list["Fake"]] = []

    def __init__(self, name: str, options: WorkerOptions) -> None:
        self.name, self.options, self.pid = name, options, 1000 + len(Fake.made)
        self.code: int | None = None
        self.obeys, self.woken = True, 0
        Fake.made.append(self)

    def poll(self) -> int | None:
        return self.code

    def close(self) -> None:
        if self.obeys and self.code is None:
            self.code = 0

    def wait(self, seconds: float) -> bool:
        return self.code is not None

    def kill(self) -> None:
        self.code = -9

    def wake(self) -> None:
        self.woken += 1

    def listen(self) -> bool:
        return False


@pytest.fixture
def store(tmp_path: Path) -> Iterator[JobStore]:
    store = JobStore(tmp_path / "queue.db")
    yield store
    store.close()


@pytest.fixture
def options(tmp_path: Path) -> WorkerOptions:
    return WorkerOptions(
        database=str(tmp_path / "queue.db"), blobs=str(tmp_path / "blobs"), device="cpu", threads=1, stop_seconds=0.0
    )


@pytest.fixture(autouse=True)
def _made() -> None:
    Fake.made = []


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.01)


def test_each_worker_has_a_number_and_a_name(store: JobStore, options: WorkerOptions) -> None:
    with Supervisor(store, [options] * 3, launch=Fake) as supervisor:
        until(lambda: len(supervisor.pids) == 3)
    assert [fake.options.number for fake in Fake.made] == [0, 1, 2]
    assert len({fake.name for fake in Fake.made}) == 3 and [fake.code for fake in Fake.made] == [0, 0, 0]
    assert supervisor.pids == [] and supervisor.restarts == 0


def test_what_a_dead_worker_held_goes_back_at_once(store: JobStore, options: WorkerOptions) -> None:
    job, _ = store.submit(NewJob(owner="ann", work=Work()))
    with Supervisor(store, [options], launch=Fake) as supervisor:
        until(lambda: supervisor.pids)
        assert store.claim(Fake.made[0].name, lease_seconds=3600) is not None
        Fake.made[0].code = -9
        until(lambda: len(Fake.made) == 2)
    again = store.get(job.id)
    assert (again.status, again.crashes, supervisor.restarts) == (JobStatus.QUEUED, 1, 1)
    assert Fake.made[0].name != Fake.made[1].name


def test_a_worker_that_keeps_ending_is_started_less_and_less_often(
    store: JobStore, options: WorkerOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.02)

    class Ending(Fake):
        def __init__(self, name: str, options: WorkerOptions) -> None:
            super().__init__(name, options)
            self.code = 1
            times.append(time.monotonic())

    times: list[float] = []
    supervisor = Supervisor(store, [options], launch=Ending)
    supervisor._places[0].pause = 0.02
    with supervisor:
        until(lambda: len(times) == 6)
    assert times[5] - times[4] >= 0.02 * 2**4 > times[1] - times[0]


def test_a_worker_that_cannot_be_started_is_tried_less_and_less_often(
    store: JobStore, options: WorkerOptions, caplog: pytest.LogCaptureFixture
) -> None:
    def launch(name: str, options: WorkerOptions) -> Fake:
        times.append(time.monotonic())
        if len(times) < 5:
            raise PermissionError(13, "Permission denied")
        return Fake(name, options)

    times: list[float] = []
    supervisor = Supervisor(store, [options], launch=launch)
    supervisor._places[0].pause = 0.05
    with supervisor:
        until(lambda: supervisor.pids)
    assert times[4] - times[3] >= 0.05 * 2**3
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 4 and all("Permission denied" in line for line in told)


def test_a_worker_that_does_not_stop_is_killed(store: JobStore, options: WorkerOptions) -> None:
    with Supervisor(store, [options], launch=Fake) as supervisor:
        until(lambda: supervisor.pids)
        Fake.made[0].obeys = False
    assert Fake.made[0].code == -9


def test_an_error_of_the_store_ends_no_supervisor(
    store: JobStore, options: WorkerOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "worker_died", lambda name: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        store.worker_died("x")
    with Supervisor(store, [options], launch=Fake) as supervisor:
        until(lambda: supervisor.pids)
        Fake.made[0].code = -9
        until(lambda: len(Fake.made) == 2)
        monkeypatch.undo()


@pytest.mark.slow  # each of them imports torch anew
def test_real_workers_start_die_and_stop(store: JobStore, options: WorkerOptions) -> None:
    """Processes as a server has them; the model is the one that every installation has."""
    job, _ = store.submit(NewJob(owner="ann", work=Work(request=request("a red cat"))))
    with Supervisor(store, [options]) as supervisor:
        until(lambda: store.get(job.id).status.is_final)
        assert store.get(job.id).status == JobStatus.SUCCEEDED, store.get(job.id).error
        (pid,) = supervisor.pids
        os.kill(pid, signal.SIGKILL)
        until(lambda: supervisor.pids not in ([], [pid]))
        job, _ = store.submit(NewJob(owner="ann", work=Work(request=request("a blue car", num_steps=300))))
        until(lambda: store.get(job.id).progress.get("step"))
        (pid,) = supervisor.pids
        os.kill(pid, signal.SIGTERM)
        until(lambda: store.get(job.id).attempts == 2)
        assert store.get(job.id).crashes == 0  # it was given back
        (pid,) = supervisor.pids
    assert store.get(job.id).status == JobStatus.QUEUED and store.get(job.id).crashes == 0
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_worker_without_its_device_says_so_and_fails_nothing(
    store: JobStore, options: WorkerOptions, caplog: pytest.LogCaptureFixture
) -> None:
    from gesso.serving.worker import work

    store.submit(NewJob(owner="ann", work=Work()))
    with pytest.raises(SystemExit) as end:
        work("w", replace(options, device="cuda:99"), pipe=0)
    assert end.value.code == 2 and "cuda" in caplog.text
    assert store.counts() == {JobStatus.QUEUED: 1}


def request(prompt: str, num_steps: int = 1) -> dict[str, object]:
    from gesso.request.request import TextToImageRequest

    return TextToImageRequest(prompt=prompt, num_steps=num_steps).to_dict()
