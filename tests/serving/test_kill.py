"""The kill test: workers and servers die at random moments, and nothing that was accepted is lost, doubled or damaged.

Client threads send jobs with idempotency keys to a server process, and send them again where no answer came. Meanwhile
`kill -9` hits a worker, the server, or both at once, or a worker is stopped until it has lost its leases. In
the end every job has succeeded once, with the pictures that its request and seed make, to the byte.

    pytest tests/serving/test_kill.py -m slow                          50 kills
    GESSO_KILLS=1000 pytest tests/serving/test_kill.py -m slow         as many as you like
    GESSO_KILL_CLIENTS=50 ...                                          with so many clients that write
    GESSO_KILL_PACE=1 ...                                              within so many seconds, on a slow machine
    GESSO_KILL_SEED=7 ...                                              at other moments
"""

import json
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from gesso.pipelines.text_to_image import TextToImage
from gesso.request.request import TextToImageRequest
from gesso.runtime.engine import Engine
from gesso.serving.blobs import BlobStore
from gesso.serving.jobs import Job, JobStatus
from gesso.serving.store import JobStore
from serving.zygote import Forked, wait_for
from tiny_models import save_tiny_mini

ROOT = Path(__file__).parents[2]
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests"), str(ROOT)])}
LEASE_SECONDS = 2.0
PACE = float(os.environ.get("GESSO_KILL_PACE", "0.3"))
PAUSED = "worker paused"  # the strike that is no kill
BOTH_SHARE = 0.05  # of the strikes that hit everything at once


class Place:
    """A server that is killed and started again, its clients, and what is known of their jobs."""

    def __init__(self, folder: Path, model: str, *, workers: int, zygote: str | None, chance: random.Random) -> None:
        self.folder, self.model, self.chance = folder, model, chance
        self.zygote = zygote
        self.database, self.blobs = folder / "queue.db", BlobStore(folder / "blobs")
        self.socket = str(Path(tempfile.mkdtemp()) / "s")  # a path of at most 107 bytes
        self.settings = {
            "socket": self.socket,
            "workers": workers,
            "worker": {
                "database": str(self.database),
                "blobs": str(self.blobs.root),
                "threads": 1,
                "device": "cpu",
                "lease_seconds": LEASE_SECONDS,
                "stop_seconds": 0.5,
                "preview_seconds": 0.01,
                "progress_seconds": 0.01,
                "max_crashes": 1_000_000,
            },
        }
        self.store = JobStore(self.database)
        self.server: subprocess.Popen[bytes] | Forked | None = None
        self.accepted: dict[str, str] = {}  # key -> id that a client was told
        self.strikes = Counter[str]()
        self.stop = threading.Event()

    def start(self) -> None:
        if self.zygote is not None:
            self.server = Forked(self.zygote, "server")
        else:
            self.server = subprocess.Popen(
                [sys.executable, "-m", "serving.killed_server"],
                stdin=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=ENVIRONMENT,
            )
        assert self.server.stdin is not None
        self.server.stdin.write(json.dumps(self.settings).encode() + b"\n")
        self.server.stdin.flush()

    def finish(self) -> None:
        self.stop.set()
        if self.server is not None and self.server.stdin is not None:
            self.server.stdin.close()
            self.server.wait(60)
        for worker in self.worker_pids():
            with suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)
        self.store.close()

    # ---- clients -----------------------------------------------------------------------------------------------------

    def client(self, name: str, keys: list[str]) -> None:
        """Sends one job after the other, each until it has been accepted."""
        connection: socket.socket | None = None
        for key in keys:
            while not self.stop.is_set():
                try:
                    if connection is None:
                        connection = socket.socket(socket.AF_UNIX)
                        connection.settimeout(30)
                        connection.connect(self.socket)
                    connection.sendall(json.dumps(self.asked(name, key)).encode() + b"\n")
                    answer = b""
                    while not answer.endswith(b"\n"):
                        part = connection.recv(100)
                        if not part:
                            raise ConnectionError
                        answer += part
                    self.accepted[key] = answer.decode().strip()
                    break
                except OSError:  # killed; perhaps before it accepted, perhaps after
                    if connection is not None:
                        connection.close()
                    connection = None
                    time.sleep(0.02)
        if connection is not None:
            connection.close()

    def asked(self, name: str, key: str) -> dict[str, Any]:
        return {"owner": name, "key": key, "model": self.model, "request": request_of(key).to_dict()}

    # ---- killing -----------------------------------------------------------------------------------------------------

    def worker_pids(self) -> list[int]:
        """Workers that live, as far as they have said so. A number that another program has by now is none of them."""
        found = []
        with suppress(OSError, RuntimeError):
            for worker in self.store.workers(seen_within=20):
                with suppress(OSError):
                    command = Path(f"/proc/{worker.pid}/cmdline").read_bytes()
                    if b"serving.zygote" in command or b"gesso.serving.worker" in command:
                        found.append(worker.pid)
        return found

    def strike(self, *, server_share: float, pause_share: float) -> None:
        """Kill the server, a worker, or all of them, or stop a worker until its leases have lapsed."""
        draw = self.chance.random()
        if draw < server_share:
            if draw < BOTH_SHARE:
                for worker in self.worker_pids():
                    with suppress(ProcessLookupError):
                        os.kill(worker, signal.SIGKILL)
            self.kill_server("server and workers killed" if draw < BOTH_SHARE else "server killed")
            return
        end = time.monotonic() + 10
        while not (workers := self.worker_pids()) and time.monotonic() < end:
            time.sleep(0.02)
        time.sleep(0.1 * self.chance.random())
        with suppress(ProcessLookupError, IndexError):
            worker = self.chance.choice(workers)
            if draw < server_share + pause_share:
                os.kill(worker, signal.SIGSTOP)
                time.sleep(LEASE_SECONDS * (0.5 + self.chance.random()))
                os.kill(worker, signal.SIGCONT)
                self.strikes[PAUSED] += 1
            else:
                os.kill(worker, signal.SIGKILL)
                self.strikes["worker killed"] += 1

    def kill_server(self, name: str) -> None:
        assert self.server is not None and self.server.stdin is not None
        self.server.kill()
        self.server.wait()
        with suppress(OSError):
            self.server.stdin.close()
        self.start()
        self.strikes[name] += 1


def request_of(key: str) -> TextToImageRequest:
    number = int(key)
    return TextToImageRequest(
        prompt=("a red cat", "a blue turtle", "two cats")[number % 3],
        seed=number % 4,
        num_steps=2 + number % 3,
        num_images=1 + number % 2,
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny_mini(tmp_path_factory.mktemp("model") / "tiny.safetensors"))


@pytest.fixture(scope="module")
def zygote() -> Iterator[str]:
    path = str(Path(tempfile.mkdtemp()) / "z")
    with subprocess.Popen([sys.executable, "-m", "serving.zygote", path], env=ENVIRONMENT) as process:
        wait_for(path)
        yield path
        process.kill()


def expected_digests(model: str, keys: list[str]) -> Iterator[tuple[str, list[str]]]:
    """What each job makes where nothing goes wrong."""
    engine = Engine("cpu")
    pipeline = TextToImage(engine, engine.load(model))
    scratch = BlobStore(Path(tempfile.mkdtemp()))
    known: dict[str, list[str]] = {}
    for key in keys:
        request = request_of(key)
        if request.to_json() not in known:
            known[request.to_json()] = [scratch.put(picture.to_png()) for picture in pipeline(request)]
        yield key, known[request.to_json()]


def run(
    folder: Path,
    model: str,
    *,
    kills: int,
    jobs: int,
    clients: int,
    workers: int,
    zygote: str | None,
    pause_share: float = 0.0,
) -> None:
    chance = random.Random(int(os.environ.get("GESSO_KILL_SEED", "0")))
    place = Place(folder, model, workers=workers, zygote=zygote, chance=chance)
    keys, threads = list[str](), list[threading.Thread]()

    def send(count: int) -> None:
        new = [str(len(keys) + number) for number in range(count)]
        keys.extend(new)
        for number in range(clients):
            threads.append(threading.Thread(target=place.client, args=(f"client {number}", new[number::clients])))
            threads[-1].start()

    place.start()
    try:
        send(jobs)
        while (killed := place.strikes.total() - place.strikes[PAUSED]) < kills:
            time.sleep(0.05 * chance.random())
            counts = place.store.counts()
            if killed % 50 == 49:
                print(json.dumps({"strikes": place.strikes, "jobs": counts}), flush=True)
            if counts.get(JobStatus.RUNNING) or chance.random() < 0.01:
                time.sleep(PACE * chance.random())  # while jobs are drawn, end, and others begin
                place.strike(server_share=0.2, pause_share=pause_share)
            if not any(thread.is_alive() for thread in threads) and set(counts) <= {JobStatus.SUCCEEDED}:
                send(5 * clients)  # all is drawn, and kills are left
        for thread in threads:
            thread.join(120)
            assert not thread.is_alive(), "a client still waits for its answer"
        end, done = time.monotonic() + 60, -1
        while (counts := place.store.counts()).keys() != {JobStatus.SUCCEEDED}:
            now_done = counts.get(JobStatus.SUCCEEDED, 0)
            end = time.monotonic() + 60 if now_done != done else end
            done = now_done
            assert time.monotonic() < end, f"nothing goes on any more: {counts}"
            time.sleep(0.05)
        check(place, keys)
    finally:
        place.finish()
    print(json.dumps({"strikes": place.strikes, "jobs": len(keys)}))


def check(place: Place, keys: list[str]) -> None:
    """Nothing is lost, nothing is there twice, nothing is damaged."""
    jobs, cursor = list[Job](), None
    while True:
        page = place.store.list_jobs(limit=1000, cursor=cursor)
        jobs += page.jobs
        cursor = page.cursor
        if cursor is None:
            break
    by_key = {job.idempotency_key: job for job in jobs}
    assert place.accepted == {key: by_key[key].id for key in keys}  # every job that a client was told of, and no other
    assert len(jobs) == len(by_key) == len(keys)
    for key, digests in expected_digests(place.model, keys):
        job = by_key[key]
        assert [output.digest for output in job.outputs] == digests, f"job {key}: other pictures than its seed makes"
        told = [event for event in place.store.events_after(job.id) if event.type in ("status", "output")]
        assert [event.data.get("status") for event in told].count("succeeded") == 1
        assert told[-1].data["status"] == "succeeded"
        assert sorted(event.data["index"] for event in told if event.type == "output") == list(range(len(digests)))
        for digest in digests:
            place.blobs.read(digest)  # the hash is that of the bytes
    with closing(sqlite3.connect(place.database)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    place.blobs.sweep(place.store.referenced, grace_seconds=-3600)
    named = {output.digest for job in jobs for output in job.outputs}
    files = {path.name for path in place.blobs.root.rglob("*") if path.is_file() and not path.name.startswith(".")}
    assert files == named


@pytest.mark.slow
def test_nothing_is_lost_when_processes_are_killed(tmp_path: Path, model: str, zygote: str) -> None:
    run(tmp_path, model, kills=50, jobs=100, clients=8, workers=2, zygote=zygote)


@pytest.mark.slow
@pytest.mark.parametrize("forks", [True, False], ids=["forked", "spawned"])
def test_nothing_is_lost_when_processes_are_killed_many_times(
    tmp_path: Path, model: str, zygote: str, forks: bool
) -> None:
    kills, clients = int(os.environ.get("GESSO_KILLS", "50")), int(os.environ.get("GESSO_KILL_CLIENTS", "8"))
    run(
        tmp_path,
        model,
        kills=kills,
        jobs=4 * kills,
        clients=clients,
        workers=2,
        zygote=zygote if forks else None,
        pause_share=0.1,
    )
