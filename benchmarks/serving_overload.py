"""Twenty times as many requests as can be drawn, for a minute: how fast the refusals are, and what is still drawn.

    python benchmarks/serving_overload.py --seconds 60 --warm-up 30

A real server with a worker whose model takes `--picture-ms` a picture and no processor, as one on a GPU does. First its
peak: as many clients as keep it busy. Then jobs are submitted at twenty times that rate, each at its time whatever
became of the one before (an open loop). The queue of 100 is full within seconds; from then on most are refused with
429. Tells

    refusals    milliseconds to the answer of those that were refused, new connections included
    useful      pictures finished a second in the minute, beside the peak
    memory      resident memory of server and worker, MiB, at the begin, after each sixth of the time, and its growth;
                `--warm-up` seconds of the same flood come before, in which the heap reaches its size
    recovery    seconds after the flood until a job is accepted again
"""

import argparse
import asyncio
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from gesso.serving.jobs import JobStatus
from gesso.serving.store import JobStore
from serving_noop import ask, await_worker, child_of, quantiles


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--warm-up", type=float, default=30.0, help="seconds of the same before; not measured")
    parser.add_argument("--times", type=float, default=20.0, help="the peak")
    parser.add_argument("--picture-ms", type=float, default=100.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        script = Path(__file__).with_name("serving_noop.py")
        command = [sys.executable, str(script), "--serve", folder, "4", "100"]
        environment = os.environ | {"GESSO_BENCHMARK_PICTURE_MS": str(options.picture_ms)}
        server = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
        )
        try:
            assert server.stdout is not None
            address = server.stdout.readline().strip()
            chance = random.Random(0)
            await_worker(address)
            ask(address, 1, 3, chance, same=True)
            worker = child_of(server.pid)
            begin = time.perf_counter()
            peak = len(ask(address, 12, 15, chance, same=True)) / (time.perf_counter() - begin)
            store = JobStore(Path(folder) / "queue.sqlite3")
            asyncio.run(submit(address, options.times * peak, options.warm_up, (), None))
            flood = asyncio.run(submit(address, options.times * peak, options.seconds, (server.pid, worker), store))
            begin = time.perf_counter()
            while asyncio.run(submit(address, 1, 1.0, (), None))["statuses"].get(202, 0) < 1:
                time.sleep(0.2)
            recovery = time.perf_counter() - begin
            store.close()
        finally:
            server.terminate()
            server.wait(60)
    print(
        json.dumps(
            {
                "what": f"{options.times:g} times as many requests as can be drawn, for {options.seconds:g} s",
                "processor": platform.processor() or platform.machine(),
                "cores": os.cpu_count(),
                "load_of_machine": os.getloadavg()[0],
                "peak_per_second": round(peak, 1),
                "offered_per_second": round(flood["sent"] / flood["seconds"], 1),
                "statuses": flood["statuses"],
                "ms_of_refusals": quantiles(flood["refusals"]),
                "useful_by_peak": round(flood["finished"] / flood["seconds"] / peak, 3),
                "memory_mib": flood["memory"],
                "memory_growth": [round(each[-1] / each[0] - 1, 4) for each in flood["memory"]],
                "recovery_seconds": round(recovery, 1),
            }
        )
    )


async def submit(
    address: str, rate: float, seconds: float, pids: tuple[int, ...], store: JobStore | None
) -> dict[str, Any]:
    """Submit so many jobs a second, each at its time."""
    host, _, port = address.removeprefix("http://").partition(":")
    free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    statuses, refusals, sent = Counter[int](), list[float](), 0
    body = b'{"request":{"prompt":"a red car","seed":7,"num_steps":8}}'
    head = (
        b"POST /v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        % len(body)
    )

    async def one() -> None:
        while free and free[-1][0].at_eof():  # the server has closed those that were idle for long
            free.pop()[1].close()
        begin = time.perf_counter()
        while True:
            is_used = bool(free)
            reader, writer = free.pop() if is_used else await asyncio.open_connection(host, int(port))
            writer.write(head + body)
            try:
                answer = await reader.readuntil(b"\r\n\r\n")
                break
            except (ConnectionResetError, asyncio.IncompleteReadError):  # closed for being idle, at this very moment
                if not is_used:
                    raise
        await reader.readexactly(int(answer.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]))
        status = int(answer[9:12])
        statuses[status] += 1
        if status == 429:
            refusals.append(time.perf_counter() - begin)
        free.append((reader, writer))

    def done() -> int:
        return 0 if store is None else store.counts().get(JobStatus.SUCCEEDED, 0)

    before, begin, tasks = done(), time.perf_counter(), set[asyncio.Task[None]]()
    memory: list[list[float]] = [[] for _ in pids]
    while (now := time.perf_counter() - begin) < seconds:
        if pids and now >= len(memory[0]) * seconds / 6:
            for each, pid in zip(memory, pids, strict=True):
                each.append(round(resident(pid) / 2**20, 2))
        while sent < now * rate:
            tasks.add(task := asyncio.create_task(one()))
            task.add_done_callback(tasks.discard)
            sent += 1
        await asyncio.sleep(0.002)
    took = time.perf_counter() - begin
    finished = done() - before
    for each, pid in zip(memory, pids, strict=True):
        each.append(round(resident(pid) / 2**20, 2))
    await asyncio.gather(*tasks)
    for _, writer in free:
        writer.close()
    return {
        "sent": sent,
        "seconds": took,
        "statuses": dict(statuses),
        "refusals": refusals,
        "finished": finished,
        "memory": memory,
    }


def resident(pid: int) -> int:
    """Bytes of memory that a process has."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
