"""How long a function takes: in proportion to a text's length, or beside a piece of work that is always the same.

Processor time of the best of three runs, without the garbage collector, which visits all that lives whoever made it. On
a busy machine all of it grows, so that only ratios tell.
"""

import gc
import time
from collections.abc import Callable

SHORT, LONG = 10_000, 40_000
YARDSTICK = 200_000  # rounds of a loop: about 10 ms on an idle machine


def assert_linear(function: Callable[[str], object], sign: str) -> None:
    """Four times the text takes about four times the processor time; quadratic would be sixteen times.

    Ten times and 100 ms are allowed, for caches that are shared with whatever else runs.
    """
    short, long = (_seconds(lambda size=size: function(sign * (size // len(sign)))) for size in (SHORT, LONG))
    assert long < 10 * short + 0.1, f"{SHORT} characters in {short:.3f} s, {LONG} in {long:.3f} s"


def assert_quick(function: Callable[[], object], yardsticks: float) -> None:
    """It takes no longer than so many yardsticks, measured beside it."""
    took, yardstick = _seconds(function), _seconds(_yardstick)
    assert took < yardsticks * yardstick, f"{took:.3f} s, a yardstick is {yardstick:.3f} s"


def _yardstick() -> int:
    total = 0
    for number in range(YARDSTICK):
        total += number & 7
    return total


def _seconds(function: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(3):
        gc.disable()  # and no collection before: in a process with torch and many tests that alone takes half a second
        try:
            start = time.process_time()
            function()
            best = min(best, time.process_time() - start)
        finally:
            gc.enable()
    return best
