"""Whether a function of a text takes time in proportion to the text's length."""

import gc
import time
from collections.abc import Callable

SHORT, LONG = 10_000, 40_000


def assert_linear(function: Callable[[str], object], sign: str) -> None:
    """Four times the text takes about four times the processor time; quadratic would be sixteen times.

    The best of three runs, without the garbage collector, which visits all that lives whoever made it. Ten times and
    100 ms are allowed, for caches that are shared with whatever else runs.
    """

    def seconds(length: int) -> float:
        text = sign * (length // len(sign))
        best = float("inf")
        for _ in range(3):
            gc.collect()
            gc.disable()
            try:
                start = time.process_time()
                function(text)
                best = min(best, time.process_time() - start)
            finally:
                gc.enable()
        return best

    short, long = seconds(SHORT), seconds(LONG)
    assert long < 10 * short + 0.1, f"{SHORT} characters in {short:.3f} s, {LONG} in {long:.3f} s"
