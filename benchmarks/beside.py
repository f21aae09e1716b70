"""Whole commands of this checkout beside those of another one, by turns in one run: is anything slower than it was?

    git worktree add /tmp/before v0.1
    python benchmarks/beside.py /tmp/before --pairs 15

Each command runs in a process of its own, from the start of Python to its end, `pairs` times with either code, in an
order that changes from pair to pair. Pictures of both must have the same pixels before anything is timed. Prints a line
of JSON for each command: the median of the pairs' ratios (this checkout by the other) of CPU seconds and of wall
seconds, an interval of 95 % for the first (bootstrap over the pairs), and the medians themselves.

On a shared machine read the CPU seconds. One thread, so that no time is lost in waiting for another.
"""

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

HERE = Path(__file__).resolve().parents[1]
PROMPT = ["a red car on a yellow background", "--seed", "7"]
COMMANDS = {
    "help": ["--help"],
    "one step": ["generate", *PROMPT, "--steps", "1", "-o", "{out}", "--quiet"],
    "picture": ["generate", *PROMPT, "--steps", "20", "-o", "{out}", "--quiet"],
    "two passes": ["generate", *PROMPT, "--steps", "8", "--hires", "2", "-o", "{out}", "--quiet"],
    "settings": ["metadata", "show", "{picture}", "--json"],
}


def run(tree: Path, words: list[str]) -> tuple[float, float]:
    """CPU seconds and wall seconds of one command."""
    env = {**os.environ, "PYTHONPATH": str(tree / "src"), "OMP_NUM_THREADS": "1"}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-m", "gesso", *words], env=env, check=True, stdout=subprocess.DEVNULL)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def interval(ratios: list[float], rounds: int = 2000) -> tuple[float, float]:
    """95 % of the medians of samples drawn from the ratios with replacement."""
    draw = random.Random(0)
    medians = sorted(statistics.median(draw.choices(ratios, k=len(ratios))) for _ in range(rounds))
    return medians[int(0.025 * rounds)], medians[int(0.975 * rounds)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("other", type=Path, help="another checkout")
    parser.add_argument("--pairs", type=int, default=15, help="times that each command runs with either code")
    parser.add_argument("--only", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    arguments = parser.parse_args()
    trees = {"this": HERE, "other": arguments.other.resolve()}
    if not (trees["other"] / "src" / "gesso" / "__init__.py").is_file():  # else the installed gesso would stand in
        parser.error(f"{arguments.other}: no checkout of gesso")
    order = random.Random(1)
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder, "picture.png")  # drawn by the other, older code, which need not know newer recipes
        run(trees["other"], [*COMMANDS["one step"][:-3], "-o", str(picture), "--quiet"])
        for name in arguments.only:
            times: dict[str, list[tuple[float, float]]] = {"this": [], "other": []}
            for pair in range(-1, arguments.pairs):  # the first is not timed: caches, and whether they draw the same
                for which in order.sample(sorted(trees), 2):
                    out = Path(folder, f"{which}.png")
                    out.unlink(missing_ok=True)
                    words = [word.format(out=out, picture=picture) for word in COMMANDS[name]]
                    took = run(trees[which], words)
                    if pair >= 0:
                        times[which].append(took)
                if pair < 0 and out.exists():
                    pixels = {Image.open(Path(folder, f"{which}.png")).tobytes() for which in trees}
                    assert len(pixels) == 1, f"{name}: the two draw different pictures"
            cpu, wall = ([t[i] / o[i] for t, o in zip(times["this"], times["other"], strict=True)] for i in (0, 1))
            print(
                json.dumps(
                    {
                        "command": name,
                        "pairs": arguments.pairs,
                        "cpu_ratio": round(statistics.median(cpu), 3),
                        "cpu_ratio_95": [round(bound, 3) for bound in interval(cpu)],
                        "wall_ratio": round(statistics.median(wall), 3),
                        "cpu_s": {which: round(statistics.median(t[0] for t in times[which]), 3) for which in trees},
                        "wall_s": {which: round(statistics.median(t[1] for t in times[which]), 3) for which in trees},
                    }
                ),
                flush=True,
            )


if __name__ == "__main__":
    main()
