"""How often somebody may ask: a bucket of tokens for each key or address, refilled at a steady rate.

Of one server process; several behind a balancer each count for themselves.
"""

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock

from gesso.api.problems import HttpError

MAX_BUCKETS = 10_000
FAILURES = 10  # a minute, of keys that are none, from one address


@dataclass
class _Bucket:
    tokens: float
    at: float


class Buckets:
    """Buckets by name; those that were not asked for longest are forgotten.  clock: seconds, never set back"""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._lock = clock, Lock()
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def wait(self, name: str, a_minute: int, most: float | None = None, cost: float = 1.0) -> float:
        """Take a token. -> 0.0, or the seconds until there is one again.

        most  that a bucket holds; None: `at_once`
        cost  how many tokens are taken
        """
        most = at_once(a_minute) if most is None else most
        with self._lock:
            now = self._clock()
            bucket = self._buckets.pop(name, None) or _Bucket(most, now)
            bucket.tokens = min(most, bucket.tokens + (now - bucket.at) * a_minute / 60)
            bucket.at = now
            self._buckets[name] = bucket
            if len(self._buckets) > MAX_BUCKETS:
                self._buckets.popitem(last=False)
            if bucket.tokens >= cost:
                bucket.tokens -= cost
                return 0.0
            return (cost - bucket.tokens) * 60 / a_minute

    def take(self, name: str, a_minute: int, cost: float = 1.0) -> None:
        """Take a token, or as much of one as a request costs. Raises HttpError (429) where there is none."""
        seconds = self.wait(name, a_minute, cost=cost)
        if seconds:
            raise too_often(seconds, f"more than {a_minute} requests a minute, or {at_once(a_minute):.0f} at once")


def at_once(a_minute: int) -> float:
    """How many requests may come one after the other: ten seconds' worth."""
    return max(1.0, a_minute / 6)


def too_often(seconds: float, why: str) -> HttpError:
    """The refusal, which says when to come back."""
    after = max(1, math.ceil(seconds))
    return HttpError(
        429,
        "rate_limited",
        f"{why}; try again in {after} s",
        data={"retry_after": after},
        headers={"Retry-After": str(after)},
    )
