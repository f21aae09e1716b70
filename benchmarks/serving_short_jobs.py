"""Short jobs behind long ones in one worker: how long they wait, first come first served and as the worker does it.

    python benchmarks/serving_short_jobs.py --threads 2 --seconds 60

Jobs of 50 steps and of 4 steps arrive at random moments, the same in both ways, all of one owner and one model. The
ways run at the same time, each in a process of its own, so that what else the machine does slows both alike: give each
as many threads as half of the cores. Checks first that every picture is the same in both ways, byte by byte; then tells
the times from acceptance to end.
"""

import argparse
import json
import multiprocessing
import platform
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from gesso import TextToImageRequest
from gesso.serving.jobs import Job, JobStatus, NewJob, Work
from gesso.serving.options import WorkerOptions
from gesso.serving.store import JobStore
from gesso.serving.worker import WorkerLoop

LONG, SHORT = 50, 4  # steps
Arrival = tuple[float, int, int]  # seconds from the begin, steps, seed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="gesso-mini")
    parser.add_argument("--threads", type=int, default=max(torch.get_num_threads() // 2, 1))
    parser.add_argument("--seconds", type=float, default=60.0, help="time in which jobs arrive")
    parser.add_argument("--load", type=float, default=0.8, help="share of the worker's time that the jobs need")
    parser.add_argument("--long-share", type=float, default=0.75, help="share of that time for the long ones")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, multiprocessing.get_context("spawn").Pool(2) as pool:
        step = max(pool.starmap(seconds_a_step, [(Path(folder) / name, options) for name in ("first", "second")]))
        chance = random.Random(options.seed)
        arrivals = sorted(
            (at, steps, number)
            for steps, share in ((LONG, options.long_share), (SHORT, 1 - options.long_share))
            for number, at in enumerate(poisson(chance, options.load * share / (steps * step), options.seconds))
        )
        both = [(Path(folder) / str(at_once), arrivals, options, at_once) for at_once in (1, 4)]
        ways = dict(zip(("first_come", "by_step"), pool.starmap(run, both), strict=True))
    drawn = [[[output.digest for output in job.outputs] for job in jobs] for jobs in ways.values()]
    assert drawn[0] == drawn[1], "a picture depends on what else is drawn"
    found = {name: times(jobs) for name, jobs in ways.items()}
    print(
        json.dumps(
            {
                "what": f"jobs of {SHORT} steps among jobs of {LONG}, one worker, {options.model}",
                "device": "cpu",
                "processor": platform.processor() or platform.machine(),
                "torch": str(torch.__version__),
                "threads": options.threads,
                "seconds_a_step": round(step, 3),
                "load": options.load,
                "jobs": {"short": sum(steps == SHORT for _, steps, _ in arrivals), "all": len(arrivals)},
                "seconds": found,
                "short_p95_ratio": round(found["by_step"]["short_p95"] / found["first_come"]["short_p95"], 3),
                "long_mean_ratio": round(found["by_step"]["long_mean"] / found["first_come"]["long_mean"], 3),
            }
        )
    )


def poisson(chance: random.Random, rate: float, seconds: float) -> list[float]:
    """Moments at which jobs arrive, so many a second on average."""
    moments, now = list[float](), chance.expovariate(rate)
    while now < seconds:
        moments.append(now)
        now += chance.expovariate(rate)
    return moments


def seconds_a_step(folder: Path, options: argparse.Namespace) -> float:
    """Of one step of a job alone, its share of loading and decoding included, once everything is warm."""
    (_, job) = run(folder, [(0.0, SHORT, 0), (0.0, LONG, 0)], options, 1)
    assert job.completed_at is not None and job.started_at is not None
    return (job.completed_at - job.started_at) / LONG


def run(folder: Path, arrivals: Sequence[Arrival], options: argparse.Namespace, jobs_at_once: int) -> list[Job]:
    """The jobs when all are done, in the order in which they arrived."""
    folder.mkdir()
    store = JobStore(folder / "queue.db")
    loop = WorkerLoop(
        "worker",
        WorkerOptions(
            database=str(folder / "queue.db"),
            blobs=str(folder / "blobs"),
            device="cpu",
            threads=options.threads,
            jobs_at_once=jobs_at_once,
            preview_seconds=0.0,
        ),
    )
    loop._pipeline(options.model)  # loaded before the clock runs
    worker = threading.Thread(target=loop.run)
    worker.start()
    begin, ids = time.monotonic(), list[str]()
    for at, steps, seed in arrivals:
        time.sleep(max(0.0, begin + at - time.monotonic()))
        request = TextToImageRequest(prompt="a red car on a yellow background", seed=seed, num_steps=steps)
        work = Work(model=options.model, request=request.to_dict())
        ids.append(store.submit(NewJob(owner="local", work=work))[0].id)
    while any(not status.is_final for status in store.counts()):
        time.sleep(0.05)
    loop.stopping.set()
    worker.join()
    jobs = [store.get(id) for id in ids]
    store.close()
    assert all(job.status == JobStatus.SUCCEEDED for job in jobs)
    return jobs


def times(jobs: Sequence[Job]) -> dict[str, float]:
    """Seconds from acceptance to end."""
    took: dict[int, list[float]] = {SHORT: [], LONG: []}
    for job in jobs:
        assert job.completed_at is not None
        took[int(job.work.request["num_steps"])].append(job.completed_at - job.created_at)
    return {
        "short_median": round(statistics.median(took[SHORT]), 2),
        "short_p95": round(quantile(took[SHORT], 0.95), 2),
        "long_mean": round(statistics.mean(took[LONG]), 2),
        "long_worst": round(max(took[LONG]), 2),
    }


def quantile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(int(share * len(values)), len(values) - 1)]


if __name__ == "__main__":
    main()
