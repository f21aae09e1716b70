"""A server that may be killed: takes jobs on a socket, and keeps workers running.

    python -m serving.killed_server <settings

The first line of its standard input has the settings as JSON. Clients write a line of JSON for each job, and read a
line with its id, which is written when the job is accepted and not before.
"""

import json
import os
import socketserver
import sys
import threading
from typing import Any

import gesso.serving.supervisor as supervising
from gesso.serving.jobs import NewJob, Work
from gesso.serving.options import WorkerOptions
from gesso.serving.store import JobStore
from gesso.serving.supervisor import Supervisor, start_worker
from serving.zygote import Forked


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


def main(zygote: str | None = None) -> None:
    """Serve until the input ends.  zygote: forks the workers; None: each is a Python of its own"""
    settings: dict[str, Any] = json.loads(sys.stdin.readline())
    supervising.LONGEST_PAUSE = 0.4  # workers that are killed all the time are to be there all the same
    workers = [WorkerOptions(**settings["worker"])] * settings["workers"]
    store = JobStore(settings["worker"]["database"], max_queued=100_000, max_crashes=settings["worker"]["max_crashes"])
    if os.path.exists(settings["socket"]):
        os.unlink(settings["socket"])
    server = Server(settings["socket"], store)

    def fork(name: str, options: WorkerOptions) -> Forked:
        assert zygote is not None
        return Forked(zygote, "worker", name=name, options=options.to_json())

    supervisor = Supervisor(store, workers, launch=start_worker if zygote is None else fork)
    store.on_write.append(supervisor.wake)
    supervisor.start()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()  # until the test is done with it
    supervisor.stop()


if __name__ == "__main__":
    main()
