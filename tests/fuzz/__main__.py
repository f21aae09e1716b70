"""Random files for the readers of strangers' files, as many as asked for.

    python -m tests.fuzz                        a million for each reader
    python -m tests.fuzz header --count 10000   one reader
    python -m tests.fuzz --seed 20261123        other files than yesterday's

One line of JSON for each reader; an input that a reader did not stand is written into the current folder, and the exit
code is 1.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from fuzz.engine import FuzzError, fuzz
from fuzz.targets import TARGETS


def main() -> int:
    """Runs the targets that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument(
        "targets", nargs="*", metavar="reader", help=f"of {', '.join(TARGETS)}; all where none is given"
    )
    parser.add_argument("--count", type=int, default=1_000_000, help="inputs for each reader")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first input; a failure names its own")
    wanted = parser.parse_args()
    if unknown := set(wanted.targets) - set(TARGETS):
        parser.error(f"unknown reader {sorted(unknown)[0]}, expected {', '.join(TARGETS)}")
    failed = 0
    for name in wanted.targets or TARGETS:
        try:
            print(fuzz(TARGETS[name], wanted.count, seed=wanted.seed, first=wanted.first).line(), flush=True)
        except FuzzError as error:
            failed = 1
            path = Path(f"fuzz-{name}-failure.bin")
            path.write_bytes(error.data)
            print(f"{error}\n  the input is in {path}", file=sys.stderr)
    return failed


if __name__ == "__main__":
    sys.exit(main())
