"""Faults of what is around the server: a full disk, a database that is locked or restarts, many for one key.

pytest tests/serving/test_faults.py -m slow     also 20 restarts of PostgreSQL, and 10,000 races for a key
"""

import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from gesso.api.context import Context
from gesso.serving.jobs import JobStatus
from serving.databases import postgres_server
from serving.served import context, problem, server
from serving.tiny_worker import tiny, tiny_worker

ROOT = Path(__file__).parents[2]
PATIENT = httpx.Timeout(120)


def client(address: str, **words: Any) -> httpx.Client:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    return httpx.Client(base_url=address, timeout=PATIENT, limits=limits, **words)


def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.02)


# ---- a full disk -----------------------------------------------------------------------------------------------------


def own_mounts() -> bool:
    """Whether this user may mount a small disk where nobody else sees it."""
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not own_mounts(), reason="needs user namespaces, to mount a small disk")
def test_a_full_disk_refuses_loses_nothing_and_recovers(tmp_path: Path) -> None:
    """On a disk of 3 MB that is really full; see `on_a_small_disk`."""
    disk = tmp_path / "disk"
    disk.mkdir()
    script = 'mount -t tmpfs -o size=3m small "$1" && exec "$2" -m serving.test_faults "$1" "$3"'
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests"), str(ROOT)])
    ran = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, "sh", str(disk), sys.executable, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert ran.returncode == 0 and ran.stdout.endswith("well\n"), ran.stdout + ran.stderr


def on_a_small_disk(disk: Path, folder: Path) -> None:
    """What has to hold on a disk that is full, and after it is full no more."""
    with context(disk, rate=10**6, device="cpu", threads=1) as made:
        with server(made) as address, client(address) as asking:
            # A server refuses before the disk is full: as long as there is not room for what it has accepted.
            problem(asking.post("/v1/jobs", json=tiny()), 507, "disk_full")
            assert asking.get("/readyz").status_code == 503
            import gesso.api.context
            import gesso.api.submitting

            gesso.api.context.MIN_FREE = gesso.api.submitting.MIN_FREE = 0
            accepted = [asking.post("/v1/jobs", json=tiny(seed)).json()["id"] for seed in range(3)]
            filler = disk / "filler"
            fill(filler)
            refused = 0
            for seed in range(200):
                answer = asking.post("/v1/jobs", json=tiny(seed, metadata={"long": "x" * 8000}))
                if answer.status_code == 202:  # the log has room that it has used before
                    accepted.append(answer.json()["id"])
                    fill(filler)
                else:
                    problem(answer, 507, "disk_full")
                    refused += 1
            assert refused > 100, refused
            assert all(asking.get(f"/v1/jobs/{id}").status_code == 200 for id in accepted), "the old can be read"
            with tiny_worker(made, folder) as loop:
                until(lambda: (not loop._drawings and loop.store.counts()) or True)
                time.sleep(1.0)  # it draws, and cannot store what it draws
                filler.unlink()
                problem_free = asking.post("/v1/jobs", json=tiny(99))
                assert problem_free.status_code == 202, "it recovers by itself"
                accepted.append(problem_free.json()["id"])
                until(lambda: all(is_final(asking, id) for id in accepted), 120)
            found = [asking.get(f"/v1/jobs/{id}").json() for id in accepted]
            assert found[-1]["status"] == "succeeded"
            for job in found:  # drawn, or told that there was no room
                assert job["status"] == "succeeded" or job["error"]["code"] in ("disk_full", "unwritable"), job
                for output in job["outputs"]:
                    assert asking.get(output["url"]).content.startswith(b"\x89PNG")
            failed = [job["id"] for job in found if job["status"] == "failed"]
            again = [asking.post(f"/v1/jobs/{id}/retry").json()["id"] for id in failed]
            with tiny_worker(made, folder):
                until(lambda: all(is_final(asking, id) for id in again))
            assert all(asking.get(f"/v1/jobs/{id}").json()["status"] == "succeeded" for id in again)
        with closing(sqlite3.connect(disk / "queue.sqlite3")) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def is_final(asking: httpx.Client, id: str) -> bool:
    return JobStatus(asking.get(f"/v1/jobs/{id}").json()["status"]).is_final


def fill(path: Path) -> None:
    """Take all that is left of a disk."""
    with suppress(OSError), open(path, "ab", buffering=0) as handle:
        while handle.write(b"\0" * 1024):
            pass


# ---- a locked database -----------------------------------------------------------------------------------------------


HOLDER = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Context]:
    with context(tmp_path, rate=10**6, max_queue=10**5, max_queue_per_key=10**5, device="cpu", threads=1) as opened:
        yield opened


@contextmanager
def held(database: Path) -> Iterator[Callable[[], None]]:
    """The lock is another process's until the block ends, or what this yields is called."""
    words = [sys.executable, "-c", HOLDER, str(database)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"

        def release() -> None:
            holder.kill()
            holder.wait()

        try:
            yield release
        finally:
            release()


def test_a_database_that_is_locked_for_a_while_is_waited_for(made: Context, tmp_path: Path) -> None:
    with server(made) as address, client(address) as asking, tiny_worker(made, tmp_path):
        with held(tmp_path / "queue.sqlite3") as release, ThreadPoolExecutor(60) as pool:
            sent = [pool.submit(asking.post, "/v1/jobs", json=tiny(seed)) for seed in range(60)]
            time.sleep(0.5)
            begin = time.monotonic()
            assert asking.get("/v1/jobs").status_code == 200 and asking.get("/healthz").status_code == 200
            assert time.monotonic() - begin < 5, "those who read wait for those who write"
            assert not any(one.done() for one in sent)
            release()
            answers = [one.result() for one in sent]
        assert [answer.status_code for answer in answers] == [202] * 60
        until(lambda: made.store.counts() == {JobStatus.SUCCEEDED: 60})


def test_a_database_that_stays_locked_is_told_and_recovers(
    made: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gesso.serving.database.PATIENCE", 0.2)
    monkeypatch.setattr("gesso.serving.database.BUSY_SECONDS", 0.05)
    with server(made) as address, client(address) as asking:
        with held(tmp_path / "queue.sqlite3"):
            refused = asking.post("/v1/jobs", json=tiny(), headers={"Idempotency-Key": "a"})
            problem(refused, 503, "database_unusable")
            assert int(refused.headers["retry-after"]) >= 1
        assert asking.post("/v1/jobs", json=tiny(), headers={"Idempotency-Key": "a"}).status_code == 202
        assert made.store.counts() == {JobStatus.QUEUED: 1}


# ---- a database that restarts ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("restarts", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_postgresql_restarts_under_load(tmp_path: Path, restarts: int) -> None:
    """Clients over HTTP and a worker; the database crashes and comes back. Nothing that was accepted is lost."""
    with postgres_server() as postgres:
        settings: dict[str, Any] = {"rate": 10**6, "max_queue": 10**5, "max_queue_per_key": 10**5}
        with (
            context(tmp_path, database=postgres.url, device="cpu", threads=1, **settings) as made,
            server(made) as address,
            tiny_worker(made, tmp_path),
        ):
            stop, accepted, refusals = threading.Event(), dict[str, str](), Counter[int]()

            def submit(number: int) -> None:
                with client(address) as asking:
                    count = 0
                    while not stop.is_set():
                        key = f"{number} {count}"
                        answer = asking.post("/v1/jobs", json=tiny(count % 5), headers={"Idempotency-Key": key})
                        if answer.status_code in (200, 202):
                            accepted[key] = answer.json()["id"]
                            count += 1
                        else:
                            refusals[answer.status_code] += 1

            threads = [threading.Thread(target=submit, args=(number,)) for number in range(4)]
            for thread in threads:
                thread.start()
            for _ in range(restarts):
                time.sleep(0.5)
                postgres.restart()
            stop.set()
            for thread in threads:
                thread.join(60)
                assert not thread.is_alive()
            until(lambda: made.store.counts().keys() == {JobStatus.SUCCEEDED}, 120)
            assert len(accepted) > restarts and made.store.counts() == {JobStatus.SUCCEEDED: len(accepted)}
            for id in accepted.values():
                told = [event.data.get("status") for event in made.store.events_after(id)]
                assert told.count("succeeded") == 1 and len(made.store.get(id).outputs) == 1
            assert set(refusals) <= {503}, refusals


# ---- races for one key -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [200, pytest.param(10_000, marks=pytest.mark.slow)])
def test_a_race_for_one_key_makes_one_job(made: Context, count: int) -> None:
    """So many requests with one key, from 32 connections; the same again with 32 workers' worth of other work."""
    with server(made) as address, client(address) as asking:

        def ask(number: int) -> tuple[int, str]:
            other = number % 16 == 15  # the key with other work
            answer = asking.post("/v1/jobs", json=tiny(8 if other else 7), headers={"Idempotency-Key": "one"})
            return answer.status_code, answer.json()["id"] if answer.status_code < 300 else ""

        assert ask(0)[0] == 202  # whose work the key has
        made.store.delete(made.store.cancel(made.store.list_jobs().jobs[0].id).id)
        with ThreadPoolExecutor(32) as pool:
            begun = list(pool.map(ask, [number - number % 16 for number in range(64)]))
            answers = begun + list(pool.map(ask, range(count - 64)))
        ids = {id for status, id in answers if status < 300}
        counts = Counter(status for status, _ in answers)
        assert len(ids) == 1 and counts[202] == 1 and counts.keys() <= {200, 202, 422}, counts
        assert counts[422] == sum(number % 16 == 15 for number in range(count - 64))
        assert made.store.counts() == {JobStatus.QUEUED: 1}
        assert len(made.store.events_after(ids.pop())) == 1


def test_races_for_many_keys_make_a_job_each(made: Context) -> None:
    with server(made) as address, client(address) as asking:

        def ask(number: int) -> tuple[int, int, str]:
            key = number % 25
            answer = asking.post("/v1/jobs", json=tiny(key), headers={"Idempotency-Key": f"key {key}"})
            return key, answer.status_code, answer.json()["id"]

        with ThreadPoolExecutor(32) as pool:
            answers = list(pool.map(ask, range(400)))
        assert len({(key, id) for key, _, id in answers}) == len({id for _, _, id in answers}) == 25
        assert Counter(status for _, status, _ in answers) == {202: 25, 200: 375}
        assert made.store.counts() == {JobStatus.QUEUED: 25}


if __name__ == "__main__":
    on_a_small_disk(Path(sys.argv[1]), Path(sys.argv[2]))
    print("well")
