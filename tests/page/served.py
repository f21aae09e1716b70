"""The real server of the page: `gesso serve` in a process of its own, with its own folder, library and port."""

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import httpx

READY = 120.0  # seconds in which a server must answer, on a machine that does much else
DRAWN = 120.0  # seconds in which a small job must be done
LONG = {"prompt": "a red car", "seed": 7, "num_steps": 150, "num_images": 4}  # some 20 s: to be interrupted


def free_port() -> int:
    """A port of this machine that nothing listens at."""
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        return int(made.getsockname()[1])


class PageServer:
    """A server that can be stopped, killed and started again at the same address.

    folder    of its queue and pictures; its library is beside them
    settings  of the command, such as max_queue=2
    """

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder, self.library = folder / "home", folder / "library"
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self.log = folder / "log"
        self._settings = {"threads": 1, "device": "cpu", "rate": 10**6, "previews": 0.1} | settings
        self._process: subprocess.Popen[str] | None = None
        self.api = httpx.Client(base_url=self.address, timeout=30)

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start, and wait until it answers."""
        words = [text for name, value in self._settings.items() for text in (f"--{name.replace('_', '-')}", str(value))]
        command = [sys.executable, "-m", "gesso", "serve", "--no-browser", "--port", str(self.port)]
        self.library.mkdir(parents=True, exist_ok=True)
        with self.log.open("a") as log:
            self._process = subprocess.Popen(
                [*command, "--home", str(self.folder), *words],
                env=os.environ | {"GESSO_HOME": str(self.library)},
                stdout=log,
                stderr=log,
                text=True,
                start_new_session=True,  # workers die with it
            )
        end = time.monotonic() + READY
        while time.monotonic() < end:
            assert self._process.poll() is None, self.log.read_text()[-3000:]
            with suppress(httpx.TransportError):
                if self.api.get("/healthz").status_code == 200:
                    return
            time.sleep(0.05)
        raise AssertionError(self.log.read_text()[-3000:])

    def stop(self) -> None:
        """As Ctrl-C does."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()
            self._process = None

    def kill(self) -> None:
        """As a power cut does."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(20)
            self._process = None

    def age(self) -> None:
        """Let the time pass, while it is stopped, after which a job is taken from a worker that is heard of no more."""
        assert self._process is None
        with closing(sqlite3.connect(self.folder / "queue.sqlite3")) as database, database:
            database.execute("UPDATE jobs SET lease_until = 0 WHERE lease_until IS NOT NULL")

    def copy(self, folder: Path, **settings: Any) -> "PageServer":
        """Another server, not yet started, with the queue and the pictures that this one has now."""
        other = PageServer(folder, **settings)
        shutil.copytree(self.folder, other.folder, ignore=shutil.ignore_patterns("queue.sqlite3*"))
        with (
            closing(sqlite3.connect(self.folder / "queue.sqlite3")) as ours,
            closing(sqlite3.connect(other.folder / "queue.sqlite3")) as theirs,
        ):
            ours.backup(theirs)
        return other

    def close(self) -> None:
        self.stop()
        self.api.close()

    # ---- what tests ask it for, besides the page ---------------------------------------------------------------------

    def submit(self, request: dict[str, Any] | None = None, **body: Any) -> dict[str, Any]:
        """A job of few steps, accepted."""
        asked = {"prompt": "a red car", "seed": 7, "num_steps": 3} | (request or {})
        answer = self.api.post("/v1/jobs", json={"request": asked, **body})
        assert answer.status_code == 202, answer.text
        return answer.json()

    def drawn(self, request: dict[str, Any] | None = None, **body: Any) -> dict[str, Any]:
        """A job of few steps, done."""
        return self.wait(self.submit(request, **body)["id"], "succeeded")

    def jobs(self) -> list[dict[str, Any]]:
        """All jobs, the newest first."""
        return self.api.get("/v1/jobs?limit=200").json()["jobs"]

    def wait(self, job: str, *statuses: str, seconds: float = DRAWN) -> dict[str, Any]:
        """The job, once it has one of these statuses."""
        return self.until(
            lambda: (found := self.api.get(f"/v1/jobs/{job}").json())["status"] in statuses and found, seconds
        )

    def until(self, found: Callable[[], Any], seconds: float = DRAWN) -> Any:
        """What `found` gives, once that is something."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if what := found():
                return what
            time.sleep(0.03)
        raise AssertionError(json.dumps(self.jobs(), indent=1)[:3000])

    def clear(self) -> None:
        """Forget all jobs, so that the next test finds an empty house."""
        for job in self.jobs():
            if job["status"] in ("queued", "running", "canceling"):
                self.api.post(f"/v1/jobs/{job['id']}/cancel")
        for job in self.jobs():
            self.wait(job["id"], "succeeded", "failed", "canceled", "expired")
            self.api.delete(f"/v1/jobs/{job['id']}")
