"""Random files for the readers of strangers' files: the same seed makes the same files, on every machine.

A target makes inputs (half of them by changing bytes of good files, half by rules that keep the outer layers intact so
that the inner ones are reached) and runs its reader on them. The reader may accept a file, whereupon the target checks
that another implementation reads the same, or refuse it with a ModelFileError. Anything else is a failure: another
exception, a run of more than HANG seconds of CPU, growth of memory beyond GROWTH.
"""

import json
import random
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from gesso.checkpoints.errors import ModelFileError

HANG = 10.0  # seconds of CPU for one input; the slowest honest ones take milliseconds
GROWTH = 256 * 2**20  # bytes of resident memory over a whole run

Make = Callable[[random.Random], bytes]
Run = Callable[[bytes], None]

_NUMBERS = (0, 1, 2, 4, 7, 8, 16, 31, 32, 64, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**16, 2**31 - 1, 2**31, 2**32 - 1)
_WIDE = (2**32, 2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 1)


@dataclass(frozen=True)
class Target:
    """make: a random file; run: reads it, raises ModelFileError where it refuses, AssertionError where it errs."""

    name: str
    make: Make
    run: Run


class FuzzError(Exception):
    """An input that a reader did not stand."""

    def __init__(self, target: str, index: int, data: bytes, cause: BaseException | str) -> None:
        what = cause if isinstance(cause, str) else f"{type(cause).__name__}: {cause}"
        super().__init__(f"{target}, input {index} ({len(data)} bytes): {what}")
        self.data = data


@dataclass
class Outcome:
    """What a run came to."""

    target: str
    seed: int
    count: int = 0
    seconds: float = 0.0
    slowest: float = 0.0  # seconds of CPU
    growth: int = 0  # bytes
    reasons: Counter[str] = field(default_factory=Counter)  # "read" for accepted files

    def line(self) -> str:
        """One line of JSON."""
        return json.dumps(
            {
                "what": f"fuzz {self.target}",
                "seed": self.seed,
                "inputs": self.count,
                "seconds": round(self.seconds, 1),
                "slowest_ms": round(self.slowest * 1000, 1),
                "growth_mib": round(self.growth / 2**20, 1),
                "outcomes": dict(self.reasons.most_common()),
            }
        )


def fuzz(target: Target, count: int, *, seed: int = 0, first: int = 0) -> Outcome:
    """Runs a target on inputs first..first+count of a seed. Raises FuzzError at the first failure."""
    outcome = Outcome(target.name, seed)
    begin, before = time.monotonic(), _resident()
    for index in range(first, first + count):
        data = target.make(random.Random(seed << 40 | index))
        started = time.thread_time()
        try:
            with _alarm():
                target.run(data)
            reason = "read"
        except ModelFileError as error:
            reason = error.reason
            if len(error.message) > 2000:  # `one_line` is cut, whatever is in it
                raise FuzzError(target.name, index, data, "a message without a bound") from None
        except Exception as error:
            raise FuzzError(target.name, index, data, error) from error
        outcome.slowest = max(outcome.slowest, time.thread_time() - started)
        outcome.reasons[reason] += 1
        outcome.count += 1
    outcome.seconds = time.monotonic() - begin
    outcome.growth = _resident() - before
    if outcome.growth > GROWTH:
        raise FuzzError(target.name, first + count, b"", f"memory grew by {outcome.growth:,} bytes")
    return outcome


def _resident() -> int:
    """The most memory that this process ever held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class HangError(Exception):
    """More CPU than any file is worth."""


@contextmanager
def _alarm() -> Iterator[None]:
    def ring(*_: Any) -> None:
        raise HangError(f"more than {HANG:g} seconds of CPU")

    before = signal.signal(signal.SIGVTALRM, ring)
    signal.setitimer(signal.ITIMER_VIRTUAL, HANG)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


# ---- changes ---------------------------------------------------------------------------------------------------------


def boundary(rng: random.Random) -> int:
    """A number at which something might break."""
    return rng.choice(_WIDE if rng.random() < 0.3 else _NUMBERS)


def mutate(rng: random.Random, data: bytes, tokens: tuple[bytes, ...] = (), *, other: bytes = b"") -> bytes:
    """A few changes of the kinds that break parsers."""
    out = bytearray(data)
    for _ in range(1 + min(int(rng.expovariate(0.6)), 12)):
        at = rng.randrange(len(out) + 1)
        end = min(len(out), at + int(rng.expovariate(0.1)) + 1)
        kind = rng.randrange(9)
        if kind == 0 and at < len(out):
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and at < len(out):
            out[at] = rng.randrange(256)
        elif kind == 2:
            width = rng.choice((1, 2, 4, 8))
            out[at : at + width] = (boundary(rng) % 256**width).to_bytes(width, rng.choice(("little", "big")))
        elif kind == 3:
            del out[at:end]
        elif kind == 4:
            out[at:at] = out[at:end] * rng.randrange(1, 4)
        elif kind == 5 and tokens:
            out[at:at] = rng.choice(tokens)
        elif kind == 6 and tokens:
            token = rng.choice(tokens)
            out[at : at + len(token)] = token
        elif kind == 7 and other:
            cut = rng.randrange(len(other))
            out[at:] = other[cut:]
        elif kind == 8 and rng.random() < 0.3:
            del out[at:]
    return bytes(out[:65536])
