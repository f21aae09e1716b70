"""Who waits for the queue is told at once: `Prefer: wait`, workers that are woken, the bell that they ring."""

import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from gesso.api.context import Context
from gesso.api.submitting import SUBMITTERS
from gesso.serving.jobs import JobStatus
from gesso.serving.options import WorkerOptions
from gesso.serving.supervisor import ChildProcess, Supervisor
from gesso.serving.together import Together
from serving.served import client, context, finish, lease, problem, server
from serving.tiny_worker import tiny, tiny_worker


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Context]:
    with context(tmp_path, rate=10**6, device="cpu", threads=1, max_streams=3) as opened:
        yield opened


def test_a_job_can_be_waited_for(made: Context, tmp_path: Path) -> None:
    with server(made) as address, httpx.Client(base_url=address, timeout=60) as asking, tiny_worker(made, tmp_path):
        answer = asking.post("/v1/jobs", json=tiny(), headers={"Prefer": "respond-async, wait=50"})
        assert answer.status_code == 200 and answer.headers["preference-applied"] == "wait=50"
        job = answer.json()
        assert job["status"] == "succeeded" and asking.get(job["outputs"][0]["url"]).content.startswith(b"\x89PNG")
        assert asking.get(job["urls"]["self"]).json() == job
        again = asking.post("/v1/jobs", json=tiny(), headers={"Prefer": 'wait="50"', "Idempotency-Key": "a"})
        replayed = asking.post("/v1/jobs", json=tiny(), headers={"Prefer": "wait=50", "Idempotency-Key": "a"})
        assert replayed.json() == again.json() and replayed.headers["idempotent-replayed"] == "true"
        assert made.store.counts() == {JobStatus.SUCCEEDED: 2}


def test_who_waits_long_enough_gets_the_job_as_it_is(made: Context) -> None:
    with server(made) as address, httpx.Client(base_url=address, timeout=60) as asking:
        begin = time.monotonic()
        answer = asking.post("/v1/jobs", json=tiny(), headers={"Prefer": "wait=1"})
        assert answer.status_code == 202 and answer.json()["status"] == "queued"
        assert 1 <= time.monotonic() - begin < 20
        for other in ({}, {"Prefer": "wait=0"}, {"Prefer": "handling=strict"}, {"Prefer": "await=9"}):
            plain = asking.post("/v1/jobs", json=tiny(), headers=other)
            assert plain.status_code == 202 and "preference-applied" not in plain.headers
        with ThreadPoolExecutor(3) as pool:
            waiting = [
                pool.submit(asking.post, "/v1/jobs", json=tiny(), headers={"Prefer": "wait=60"}) for _ in range(3)
            ]
            while len(made.store.list_jobs().jobs) < 8:
                time.sleep(0.01)
            # A job is in the queue a moment before its client counts as one who waits.
            while (refused := asking.post("/v1/jobs", json=tiny(), headers={"Prefer": "wait=1"})).status_code == 202:
                assert time.monotonic() - begin < 30
            problem(refused, 503, "overloaded")  # as many wait as there may be streams
            for one in made.store.list_jobs().jobs:
                made.store.cancel(one.id)
            assert {one.result().json()["status"] for one in waiting} == {"canceled"}


def test_an_end_is_told_at_once(made: Context) -> None:
    """Not when the queue is looked at the next time."""
    with server(made) as address, httpx.Client(base_url=address, timeout=60) as asking, ThreadPoolExecutor(1) as pool:
        took = []
        for _ in range(10):
            waiting = pool.submit(asking.post, "/v1/jobs", json=tiny(), headers={"Prefer": "wait=60"})
            while not made.store.counts().get(JobStatus.QUEUED):
                time.sleep(0.005)
            held = lease(made)
            begin = time.monotonic()
            finish(made, held)
            assert waiting.result().json()["status"] == "succeeded"
            took.append(time.monotonic() - begin)
        assert min(took) < 0.09, took  # the next look would come after 0.1 s


BELL = """
import os
os.read(0, 65536)  # the options
os.write(1, b".")
while os.read(0, 4096):
    os.write(1, b".")
"""


def test_a_worker_is_woken_and_rings() -> None:
    process = ChildProcess([sys.executable, "-c", BELL], WorkerOptions(database="d", blobs="b"))
    assert process.listen()  # it is there
    for _ in range(3):
        process.wake()
        assert process.listen()
    process.close()
    process.wake()  # of one that has been told to stop: nothing happens
    assert not process.listen() and process.wait(20)


def test_a_supervisor_tells_what_its_workers_do(made: Context) -> None:
    heard = threading.Event()

    def launch(name: str, options: WorkerOptions) -> ChildProcess:
        return ChildProcess([sys.executable, "-c", BELL], options)

    with Supervisor(made.store, [WorkerOptions(database="d", blobs="b")] * 2, launch=launch) as supervisor:
        supervisor.on_news.append(heard.set)
        end = time.monotonic() + 30
        while not heard.wait(0.05) and time.monotonic() < end:
            supervisor.wake()
        assert heard.is_set()


def test_what_is_asked_at_the_same_time_is_done_at_once() -> None:
    begun, go, groups = threading.Event(), threading.Event(), list[list[int]]()

    def carry_out(wishes: Sequence[int]) -> list[int | Exception]:
        asked = list(wishes)
        groups.append(asked)
        begun.set()
        assert go.wait(20)
        if 13 in asked:
            raise OSError("all of them")
        return [ValueError(str(one)) if one < 0 else 2 * one for one in asked]

    together = Together[int, int](carry_out, most=4)
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(together, 1)
        assert begun.wait(20)
        rest = [pool.submit(together, one) for one in (2, -3, 4, 5)]
        while len(together._waiting) < 4:
            time.sleep(0.001)
        last = pool.submit(together, 13)
        while len(together._waiting) < 5:
            time.sleep(0.001)
        go.set()
        assert first.result() == 2 and [rest[0].result(), rest[2].result(), rest[3].result()] == [4, 8, 10]
        with pytest.raises(ValueError, match="-3"):
            rest[1].result()
        with pytest.raises(OSError, match="all of them"):
            last.result()
    assert [len(group) for group in groups] == [1, 4, 1]


def test_more_than_fit_into_one_go_are_all_done() -> None:
    """Whichever thread comes first: those who wait get their turns in no order."""
    sizes: list[int] = []

    def carry_out(wishes: Sequence[int]) -> list[int | Exception]:
        sizes.append(len(wishes))
        time.sleep(0.001)
        return [2 * one for one in wishes]

    together = Together[int, int](carry_out, most=3)
    with ThreadPoolExecutor(40) as pool:
        assert list(pool.map(together, range(400))) == [2 * one for one in range(400)]
    assert sum(sizes) == 400 and max(sizes) == 3


def test_a_bug_while_jobs_are_accepted_is_answered_and_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with context(tmp_path) as made, client(made) as asking:
        with monkeypatch.context() as broken:
            broken.setattr("gesso.api.submitting._accepted", lambda wishes: 1 / 0)
            for _ in range(SUBMITTERS + 1):
                problem(asking.post("/v1/jobs", json=tiny()), 500, "internal")
        assert asking.post("/v1/jobs", json=tiny()).status_code == 202


def test_a_queue_that_was_full_a_moment_ago_is_not_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gesso.api.submitting.FULL_SECONDS", 1000.0)
    with context(tmp_path, rate=10**6, max_queue=2) as made, client(made) as asking:
        accepted = [asking.post("/v1/jobs", json=tiny(), headers={"Idempotency-Key": key}) for key in "ab"]
        assert [answer.status_code for answer in accepted] == [202, 202]
        problem(asking.post("/v1/jobs", json=tiny()), 429, "queue_full")
        asked: list[object] = []
        submit_each = made.store.submit_each
        monkeypatch.setattr(made.store, "submit_each", lambda new: asked.append(new) or submit_each(new))
        refused = asking.post("/v1/jobs", json=tiny())
        problem(refused, 429, "queue_full")
        assert int(refused.headers["retry-after"]) >= 1 and asked == []
        again = asking.post("/v1/jobs", json=tiny(), headers={"Idempotency-Key": "a"})
        assert again.status_code == 200 and again.json()["id"] == accepted[0].json()["id"] and len(asked) == 1
        made.store.cancel(accepted[0].json()["id"])
        made.full.clear()  # the moment is over
        assert asking.post("/v1/jobs", json=tiny()).status_code == 202
