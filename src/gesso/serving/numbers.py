"""What a worker counts, for /metrics of the servers: it goes through the queue's database, which all of them share.

Everything counted grows from 0 while the process lives; a server adds up the differences. What is measured is as it was
when the worker last said that it lives.
"""

import mmap
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import Any

from PIL import Image

FLAT = 3  # levels of 256 that a picture of one colour may span

# Counted, with the labels that the names of `add` stand for.
STEPS = "steps"  # sampling steps, each of one picture
CALLS = "calls"  # calls of networks, by the number of pictures that share one
CALL_SECONDS = "call_seconds"  # time in them
PICTURES = "pictures"  # pictures drawn
FLAT_PICTURES = "flat_pictures"  # of them, in one colour
NONFINITE = "nonfinite"  # NaN or infinity came out of a network; "recomputed" in float32, or "failed" all the same
LOADS = "loads"  # models loaded, by their names
LOAD_SECONDS = "load_seconds"  # time that took


class Numbers:
    """The counts of one process. Safe from several threads."""

    def __init__(self) -> None:
        self._lock, self._counts = Lock(), Counter[tuple[str, str]]()

    def add(self, name: str, amount: float = 1, label: object = "") -> None:
        """Count.  name: one of those above"""
        with self._lock:
            self._counts[name, str(label)] += amount  # type: ignore[assignment]  # a Counter holds floats as well

    def value(self, **measured: float | None) -> dict[str, Any]:
        """As JSON: {"counts": {name: {label: count}}, and what was measured, as far as it could be}"""
        counts: dict[str, dict[str, float]] = {}
        with self._lock:
            for (name, label), count in sorted(self._counts.items()):
                counts.setdefault(name, {})[label] = round(count, 6)
        return {"counts": counts} | {name: value for name, value in measured.items() if value is not None}


def difference(now: Mapping[str, Any], before: Mapping[str, Any]) -> dict[tuple[str, str], float]:
    """What was counted between two values of one process -> {(name, label): count}, where it is not 0."""
    earlier = before.get("counts", {})
    grown = {
        (name, label): count - earlier.get(name, {}).get(label, 0)
        for name, labels in now.get("counts", {}).items()
        for label, count in labels.items()
    }
    return {key: count for key, count in grown.items() if count > 0}


def is_flat(image: Image.Image) -> bool:
    """Whether a picture is all of one colour, as a black one: nobody asks for that, something has failed in silence."""
    extrema = image.convert("RGB").getextrema()
    return all(high - low <= FLAT for low, high in extrema)  # type: ignore[misc]  # a pair for each channel


def resident_bytes() -> int | None:
    """Memory of this process that is in use; None where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        pass
    else:
        return pages * _page_size()
    try:
        import resource
    except ImportError:
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # the highest so far, which is near
    return most if sys.platform == "darwin" else most * 1024


def _page_size() -> int:
    return mmap.PAGESIZE
