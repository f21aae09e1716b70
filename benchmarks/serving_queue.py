"""The queue alone: several processes submit, claim and finish jobs at once; how long each takes, and that none is lost.

    python benchmarks/serving_queue.py --processes 4 --jobs 500
    python benchmarks/serving_queue.py --depth 100000
    python benchmarks/serving_queue.py --database postgresql://user@host/empty

Nothing is drawn. With --depth so many jobs of another owner wait already. Checks in the end that every job was finished
once.
"""

import argparse
import json
import multiprocessing
import platform
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from sqlalchemy import __version__ as sqlalchemy_version

from gesso.serving.jobs import JobStatus, NewJob, Output, Work
from gesso.serving.store import JobStore

T = TypeVar("T")
Times = dict[str, list[float]]
WORK = Work(request={"prompt": "a red car and a blue bird on a yellow background", "num_steps": 20})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database", help="an empty one; default: SQLite in a temporary folder")
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--jobs", type=int, default=200, help="jobs that each process submits")
    parser.add_argument("--depth", type=int, default=0, help="jobs that wait already")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        url = options.database or str(Path(folder) / "queue.db")
        store = JobStore(url, max_queued=10**8)
        for first in range(0, options.depth, 5000):
            count = min(5000, options.depth - first)
            store.submit_all([NewJob(owner="waiting", work=WORK)] * count)
        begin = time.perf_counter()
        with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
            parts = pool.starmap(run, [(url, number, options.jobs) for number in range(options.processes)])
        wall = time.perf_counter() - begin
        num_done = options.processes * options.jobs
        assert store.counts().get(JobStatus.SUCCEEDED, 0) == num_done, store.counts()
        finished = [id for _, ids in parts for id in ids]
        assert len(set(finished)) == len(finished) == num_done, "a job was finished twice"
        timed("list", seconds := Times(), lambda: store.list_jobs(limit=50), repeats=20)
        timed("get", seconds, lambda: store.get(finished[0]), repeats=20)
        times = {name: [value for part, _ in parts for value in part[name]] for name in parts[0][0]} | seconds
        store.close()
    print(
        json.dumps(
            {
                "what": f"{num_done} jobs through the queue",
                "database": url.partition(":")[0] if "://" in url else f"sqlite {sqlite3.sqlite_version}",
                "sqlalchemy": sqlalchemy_version,
                "processor": platform.processor() or platform.machine(),
                "processes": options.processes,
                "waiting_before": options.depth,
                "jobs_per_second": round(num_done / wall, 1),
                "ms_median_and_p99": {
                    name: [round(statistics.median(values) * 1e3, 2), round(p99(values) * 1e3, 2)]
                    for name, values in times.items()
                },
            }
        )
    )


def run(url: str, number: int, count: int) -> tuple[Times, list[str]]:
    """Submit so many jobs and work off what waits. -> the times, and the ids of those that were finished here"""
    store, times, finished = JobStore(url, max_queued=10**8), Times(), list[str]()
    owner, worker, submitted = f"client {number}", f"worker {number}", 0
    while submitted < count or JobStatus.QUEUED in store.counts(owner):
        if submitted < count:
            new = NewJob(owner=owner, work=WORK, idempotency_key=str(submitted))
            timed("submit", times, partial(store.submit, new))
            submitted += 1
        lease = timed("claim", times, partial(store.claim, worker, lease_seconds=60))
        if lease is None:  # another process was faster
            continue
        if lease.job.owner.startswith("waiting"):
            store.canceled(lease)
            continue
        id = lease.job.id
        output = Output(
            id=f"{id}-0",
            index=0,
            content_type="image/png",
            nbytes=1,
            width=1,
            height=1,
            digest="0" * 64,
            seed=submitted,
            recipe={},
        )
        timed("progress", times, partial(store.progress, lease, {"value": 0.5}))
        assert timed("output", times, partial(store.add_output, lease, output))
        assert timed("finish", times, partial(store.finish, lease))
        finished.append(id)
    store.close()
    return times, finished


def timed(name: str, times: Times, work: Callable[[], T], *, repeats: int = 1) -> T:
    for _ in range(repeats):
        begin = time.perf_counter()
        result = work()
        times.setdefault(name, []).append(time.perf_counter() - begin)
    return result


def p99(values: Sequence[float]) -> float:
    return sorted(values)[min(int(0.99 * len(values)), len(values) - 1)]


if __name__ == "__main__":
    main()
