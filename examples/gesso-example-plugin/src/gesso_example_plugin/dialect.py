"""A prompt dialect: how a prompt is read. Here "!" behind a word makes it weigh more."""

import re
from collections.abc import Iterator, Sequence

from gesso import WeightedText, weighted_dialect

STEP = 1.1
MOST = 8  # exclamation marks that count
_LOUD = re.compile(r"(\w+)(!+)")


def read(prompt: str) -> Sequence[WeightedText]:
    """ "a red!! car" -> "a " of weight 1, "red" of weight 1.21, " car" of weight 1, each with its place."""
    return list(_pieces(prompt))


def _pieces(prompt: str) -> Iterator[WeightedText]:
    done = 0
    for loud in _LOUD.finditer(prompt):
        if done < loud.start():
            yield WeightedText(prompt[done : loud.start()], 1.0, done, loud.start())
        yield WeightedText(loud[1], STEP ** min(len(loud[2]), MOST), loud.start(), loud.end())
        done = loud.end()
    if done < len(prompt):
        yield WeightedText(prompt[done:], 1.0, done, len(prompt))


BANG = weighted_dialect("bang", read)
