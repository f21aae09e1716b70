"""The server's own cost: a model that computes nothing, asked for pictures over HTTP.

    python benchmarks/serving_noop.py --seconds 20 --clients 64

A real server with a worker process, a real queue on the disk, and a client in a process of its own, over sockets. Each
request is a job of its own (`POST /v1/jobs` with `Prefer: wait`), and is answered when its picture is finished:
checked, committed, on the disk, claimed, "drawn", encoded, recorded. Only the networks are missing: the worker has a
fixed picture in place of what a model would draw. Two parts, each after a warm-up:

    throughput  so many clients, each with one request at a time
    latency     one client; what is beyond the time that the same picture takes without a server is the server's

Tells CPU milliseconds a request of server, worker and client, too, as wall-clock figures on a machine that does other
work say little: the three together are to stay below 2 cores * 1000 ms / 500 requests = 4 ms.
"""

import argparse
import asyncio
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=200, help="requests of the latency part")
    parser.add_argument("--at-once", type=int, default=32, help="jobs that the worker has at a time")
    parser.add_argument("--same-bytes", action="store_true", help="one seed: every picture has the same bytes")
    parser.add_argument("--folder", type=Path, help="where the queue lies; default: a temporary folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        home = Path(folder)
        server = subprocess.Popen(
            [sys.executable, __file__, "--serve", folder, str(options.at_once)], stdout=subprocess.PIPE, text=True
        )
        try:
            assert server.stdout is not None
            address = server.stdout.readline().strip()
            await_worker(address)
            chance = random.Random(0)
            ask(address, 1, 3, chance, same=options.same_bytes)
            ask(address, options.clients, 2, chance, same=options.same_bytes)
            alone = ask(address, 1, None, chance, same=options.same_bytes, most=options.repeats)
            worker = child_of(server.pid)
            before = {pid: cpu_seconds(pid) for pid in (server.pid, worker)}
            begin, own = time.perf_counter(), time.process_time()
            many = ask(address, options.clients, options.seconds, chance, same=options.same_bytes)
            wall, own = time.perf_counter() - begin, time.process_time() - own
            spent = {pid: cpu_seconds(pid) - before[pid] for pid in before}
            engine = engine_seconds(options.repeats, home)
            disk = [fsync_seconds(home) for _ in range(50)]
        finally:
            server.terminate()
            server.wait(30)
    shares = {"server": spent[server.pid], "worker": spent[worker], "client": own}
    added = statistics.median(alone) - statistics.median(engine)
    print(
        json.dumps(
            {
                "what": "pictures of a model that computes nothing, over HTTP",
                "processor": platform.processor() or platform.machine(),
                "cores": os.cpu_count(),
                "load_of_machine": os.getloadavg()[0],
                "clients": options.clients,
                "same_bytes": options.same_bytes,
                "requests": len(many),
                "requests_per_second": round(len(many) / wall, 1),
                "cpu_ms_per_request": {name: round(1e3 * each / len(many), 2) for name, each in shares.items()},
                "requests_per_two_cpu_seconds": round(2 * len(many) / sum(shares.values())),
                "ms_under_load": quantiles(many),
                "ms_alone": quantiles(alone),
                "ms_engine": quantiles(engine),
                "ms_fsync_of_4_KiB": quantiles(disk),
                "ms_added_median": round(1e3 * added, 2),
            }
        )
    )


def quantiles(seconds: Sequence[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    return {
        f"p{share}": round(1e3 * ordered[min(len(ordered) * share // 100, len(ordered) - 1)], 2)
        for share in (50, 95, 99)
    }


def fsync_seconds(folder: Path) -> float:
    """How long this disk takes to keep something: each request waits for that once."""
    with open(folder / "log", "ab") as handle:
        handle.write(b"x" * 4096)
        handle.flush()
        begin = time.perf_counter()
        os.fsync(handle.fileno())
        return time.perf_counter() - begin


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def child_of(pid: int) -> int:
    """The worker of a server."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += (task / "children").read_text().split()
        if found:
            return int(found[0])
        time.sleep(0.1)
    raise SystemExit("the server has no worker")


def await_worker(address: str) -> None:
    """Wait until the worker has started, which takes long where others compute."""
    end = time.monotonic() + 300
    while time.monotonic() < end:
        with suppress(HTTPError), urlopen(f"{address}/readyz"):
            return
        time.sleep(0.2)
    raise SystemExit("the worker does not start")


# ---- the client ------------------------------------------------------------------------------------------------------


def ask(
    address: str, clients: int, seconds: float | None, chance: random.Random, *, same: bool, most: int = 10**9
) -> list[float]:
    """Ask for pictures, each client for one at a time. -> how long each took"""
    return asyncio.run(_ask(address, clients, seconds, chance, same, most))


async def _ask(
    address: str, clients: int, seconds: float | None, chance: random.Random, same: bool, most: int
) -> list[float]:
    host, _, port = address.removeprefix("http://").partition(":")
    end = None if seconds is None else time.perf_counter() + seconds
    took: list[float] = []

    async def client() -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        while len(took) < most and (end is None or time.perf_counter() < end):
            seed = 7 if same else chance.getrandbits(32)
            body = b'{"request":{"prompt":"a red car","seed":%d,"num_steps":8}}' % seed
            head = (
                b"POST /v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
                b"Prefer: wait=60\r\nContent-Length: %d\r\n\r\n" % len(body)
            )
            begin = time.perf_counter()
            writer.write(head + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            length = int(answer.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
            text = await reader.readexactly(length)
            took.append(time.perf_counter() - begin)
            assert b'"status":"succeeded"' in text, (answer, text)
        writer.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return took


# ---- the server ------------------------------------------------------------------------------------------------------


def serve_without_model(home: Path, at_once: int, max_queue: int = 1000) -> None:
    """A server whose worker is `work_without_model`."""
    from functools import partial

    from gesso.server import run
    from gesso.serving.logs import logged
    from gesso.serving.options import WorkerOptions
    from gesso.serving.settings import ServeSettings
    from gesso.serving.supervisor import ChildProcess, Supervisor

    def launch(name: str, options: WorkerOptions) -> ChildProcess:
        return ChildProcess([sys.executable, __file__, "--work", name], options)

    run.Supervisor = partial(Supervisor, launch=launch)  # type: ignore[misc,assignment]
    settings = ServeSettings(
        home=home,
        port=0,
        device="cpu",
        threads=1,
        rate=10**6,
        batch=at_once,
        jobs_at_once=at_once,
        previews=0.0,
        max_queue=max_queue,
        max_queue_per_key=max_queue,
    )
    with logged(as_json=False):  # as `gesso serve` does
        run.serve(settings, lambda address: print(address, flush=True))


def pipeline_without_model() -> Any:
    """A pipeline that resolves and records as any, and draws the same picture each time."""
    from PIL import Image

    from gesso.pipelines.picture import Picture
    from gesso.pipelines.text_to_image import TextToImage
    from gesso.runtime.batcher import Run
    from gesso.runtime.engine import Engine

    engine = Engine("cpu")
    real = TextToImage(engine, engine.load())
    (drawn,) = real("a red car")
    pause = float(os.environ.get("GESSO_BENCHMARK_PICTURE_MS", "0")) / 1000  # as a GPU, which asks for no processor
    picture = Image.linear_gradient("L").resize((64, 64)).convert("RGB")  # one colour would be warned of

    class Nothing(TextToImage):
        def runs(self, request: Any, on_progress: Any = None, **given: Any) -> list[Run[Picture]]:
            resolved = self.resolve(request)
            return [Run(self._nothing(resolved.picture(row))) for row in range(resolved.num_images)]

        def _nothing(self, request: Any) -> Any:
            if pause:
                time.sleep(pause)
            return Picture(image=picture, recipe=replace(drawn.recipe, request=request))
            yield

    return Nothing(engine, real.model)


def work_without_model() -> None:
    from gesso.serving import worker

    pipeline = pipeline_without_model()
    worker.WorkerLoop._pipeline = lambda self, model, parent=None: pipeline  # type: ignore[method-assign]
    worker.main()


def engine_seconds(repeats: int, folder: Path) -> list[float]:
    """How long the same picture takes without a server: resolved, made, encoded and written to a file."""
    from gesso import TextToImageRequest
    from gesso.runtime.batcher import Batcher

    pipeline = pipeline_without_model()
    took = []
    for seed in range(repeats):
        begin = time.perf_counter()
        (picture,) = Batcher().complete(pipeline.runs(TextToImageRequest(prompt="a red car", seed=seed, num_steps=8)))
        (folder / "picture.png").write_bytes(picture.to_png())
        took.append(time.perf_counter() - begin)
    return took


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve_without_model(Path(sys.argv[2]), *map(int, sys.argv[3:]))
    elif sys.argv[1:2] == ["--work"]:
        del sys.argv[1]
        work_without_model()
    else:
        main()
