"""Sixteen requests at once beside one after the other, over HTTP, with the model that comes with gesso.

    python benchmarks/serving_together.py --rounds 3

`gesso serve` as a user starts it, but for `--batch 16 --jobs-at-once 16`: unlike requests share calls of the
networks. By turns one client asks for sixteen pictures one by one, and sixteen clients for one each: other prompts,
seeds, samplers, guidance and numbers of steps. Beside it the same with `--batch 1`, the default, where rows are
computed apart and a picture is the same bit by bit whatever else is drawn. Compares the pictures of the two ways: with
rows apart they are the same, else they differ by at most two levels of 256.
"""

import argparse
import io
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

PROMPTS = ("a red car", "two cats", "a blue bird on a yellow background", "a tree", "a purple rocket", "a bee", "a dog")
SAMPLERS = ("dpmpp_2m", "euler", "ddim", "euler_ancestral")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    found = {batch: measured(batch, options) for batch in (options.clients, 1)}
    print(
        json.dumps(
            {
                "what": f"{options.clients} unlike pictures of gesso-mini over HTTP, at once and one by one",
                "processor": platform.processor() or platform.machine(),
                "cores": os.cpu_count(),
                "threads": options.threads,
                "load_of_machine": os.getloadavg()[0],
                "batches": found[options.clients],
                "rows_apart": found[1],
            }
        )
    )


def requests(count: int) -> list[dict[str, Any]]:
    each = zip(range(count), itertools.cycle(PROMPTS), itertools.cycle(SAMPLERS), itertools.cycle((12, 16, 20)))
    return [
        {"prompt": prompt, "seed": number, "sampler": sampler, "num_steps": steps, "guidance_scale": 3.0 + number % 4}
        for number, prompt, sampler, steps in each
    ]


def measured(batch: int, options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as home:
        command = [sys.executable, "-m", "gesso", "serve", "--home", home, "--port", "0", "--previews", "0"]
        command += ["--rate", "100000", "--threads", str(options.threads)]
        command += ["--batch", str(batch), "--jobs-at-once", str(options.clients)]
        log = open(Path(home) / "log", "w+", encoding="utf-8")  # noqa: SIM115
        server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            address = address_in(Path(home) / "log")
            with httpx.Client(base_url=address, timeout=600) as client:
                asked = requests(options.clients)
                draw(client, asked[0])
                alone, together, ratios = [], [], []
                for _ in range(options.rounds):
                    begin = time.perf_counter()
                    one_by_one = [draw(client, request) for request in asked]
                    middle = time.perf_counter()
                    with ThreadPoolExecutor(options.clients) as pool:
                        at_once = list(pool.map(lambda request: draw(client, request), asked))
                    alone.append(middle - begin)
                    together.append(time.perf_counter() - middle)
                    ratios.append(alone[-1] / together[-1])
            gaps = [np.abs(a.astype(int) - b.astype(int)) for a, b in zip(one_by_one, at_once, strict=True)]
        finally:
            server.terminate()
            server.wait(60)
            log.close()
    assert max(gap.max() for gap in gaps) <= (2 if batch > 1 else 0), "a picture is another one in company"
    return {
        "seconds_one_by_one": round(statistics.median(alone), 2),
        "seconds_at_once": round(statistics.median(together), 2),
        "throughput_ratio": round(statistics.median(ratios), 2),
        "of_rounds": [round(ratio, 2) for ratio in ratios],
        "largest_gap_levels": int(max(gap.max() for gap in gaps)),
        "share_of_values_moved": float(np.mean([(gap > 0).mean() for gap in gaps])),
    }


def draw(client: httpx.Client, request: dict[str, Any]) -> np.ndarray:
    job = client.post("/v1/jobs", json={"request": request}, headers={"Prefer": "wait=600"}).json()
    assert job["status"] == "succeeded", job
    return np.asarray(Image.open(io.BytesIO(client.get(job["outputs"][0]["url"]).content)))


def address_in(log: Path) -> str:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        for word in log.read_text(encoding="utf-8").split():
            if word.startswith("http://"):
                return word
        time.sleep(0.1)
    raise SystemExit(f"no address: {log.read_text(encoding='utf-8')}")


if __name__ == "__main__":
    main()
