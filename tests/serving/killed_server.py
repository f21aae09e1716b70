"""A server that may be killed: takes jobs on a socket, and keeps workers running.

    python -m serving.killed_server <settings

The first line of its standard input has the settings as JSON. Clients write a line of JSON for each job, and read a
line with its id, which is written when the job is accepted and not before.
"""

import json
import multiprocessing
import os
import socketserver
import sys
import threading
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

import gesso.serving.supervisor as supervising
from gesso.serving.jobs import NewJob, Work
from gesso.serving.options import WorkerOptions
from gesso.serving.store import JobStore
from gesso.serving.supervisor import Supervisor


class ForkedWorker:
    """A worker forked from a process that has imported everything already: it is there at once, not after seconds."""

    def __init__(self, name: str, options: WorkerOptions) -> None:
        context = multiprocessing.get_context("forkserver")
        theirs, self._ours = context.Pipe(duplex=False)
        self._process = context.Process(target=work_forked, args=(name, options.to_json(), theirs), daemon=False)
        self._process.start()
        theirs.close()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def close(self) -> None:
        self._ours.close()

    def wait(self, seconds: float) -> bool:
        self._process.join(seconds)
        return self._process.exitcode is not None

    def kill(self) -> None:
        self._process.kill()
        self._process.join()

    def wake(self) -> None:
        with suppress(OSError):
            os.write(self._ours.fileno(), b"\n")

    def listen(self) -> bool:
        return False


def work_forked(name: str, options: str, pipe: Connection) -> None:
    from gesso.serving.worker import work

    work(name, WorkerOptions.from_json(options), pipe.fileno())


class Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, path: str, store: JobStore) -> None:
        self.store = store
        super().__init__(path, Clients)


class Clients(socketserver.StreamRequestHandler):
    """One client: jobs come, ids go."""

    server: Server

    def handle(self) -> None:
        for line in self.rfile:
            asked: dict[str, Any] = json.loads(line)
            work = Work(model=asked["model"], request=asked["request"])
            new = NewJob(owner=asked["owner"], work=work, idempotency_key=asked["key"])
            job, _ = self.server.store.submit(new)
            self.wfile.write(f"{job.id}\n".encode())


def main() -> None:
    settings: dict[str, Any] = json.loads(sys.stdin.readline())
    supervising.LONGEST_PAUSE = 0.4  # workers that are killed all the time are to be there all the same
    workers = [WorkerOptions(**settings["worker"])] * settings["workers"]
    if settings["forks"]:
        multiprocessing.set_forkserver_preload(["gesso.serving.worker"])
    store = JobStore(settings["worker"]["database"], max_queued=100_000, max_crashes=settings["worker"]["max_crashes"])
    if os.path.exists(settings["socket"]):
        os.unlink(settings["socket"])
    server = Server(settings["socket"], store)
    supervisor = Supervisor(store, workers, **({"launch": ForkedWorker} if settings["forks"] else {}))
    supervisor.start()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()  # until the test is done with it
    supervisor.stop()


if __name__ == "__main__":
    main()
