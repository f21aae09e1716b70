"""ComfyUI's prompt syntax: (more), (so much:1.3); all else is plain text.

    (text)     the weight around it, times 1.1
    (text:w)   w itself, whatever stands around: in ((a:1.2)) a has 1.2, where A1111 multiplies to 1.32
    \\( \\)      the sign itself

No square brackets, no schedules, no AND, no BREAK. A bracket without its other half is text, and so is all that follows
one that is never closed. (ComfyUI reads a prompt that ends in such a bracket in a way of its own, by cutting off its
last character; that is not repeated.)

Time is linear in the length of the text, without recursion.
"""

import math
import re

from gesso.text.attention import LIMIT, STEP
from gesso.text.prompt import Piece, Traced, WeightedText, number_text

_SIGN = re.compile(r"\\[()]|[()]")
_ESCAPE = re.compile(r"\\([()])")


def parse_comfyui(text: str | Traced) -> tuple[Piece, ...]:
    """Text to pieces in their order; at least one, ("", 1) for no text. Cannot fail."""
    traced = Traced.whole(text) if isinstance(text, str) else text
    reader = _Reader(traced)
    reader.read()
    return reader.pieces()


def write_comfyui(pieces: tuple[WeightedText, ...]) -> str:
    """Pieces to a text that `parse_comfyui` reads as the same texts and weights."""
    parts = []
    for piece in pieces:
        text = re.sub(r"([()])", r"\\\1", piece.text)
        parts.append(text if piece.weight == 1 else f"({text}:{number_text(piece.weight)})")
    return "".join(parts)


class _Reader:
    """One pass. A group is a pair of brackets: its parent, and its weight if it has one."""

    def __init__(self, traced: Traced) -> None:
        self.traced = traced
        self.text = traced.text
        self.parents = [0]
        self.explicit: list[float | None] = [1.0]  # group 0 is outside all brackets
        self.open: list[tuple[int, int, int]] = []  # group, place of the bracket, atoms before it
        self.atoms: list[tuple[int, int, int]] = []  # start, end, group
        self.start = 0  # of the text that is not yet an atom

    def read(self) -> None:
        owed = 0  # closing brackets without an opening one; each takes the next opening one with it
        for match in _SIGN.finditer(self.text):
            sign, place = match[0], match.start()
            if sign == "(":
                if owed and not self.open:
                    owed -= 1
                else:
                    self.begin(place)
            elif sign == ")":
                if self.open:
                    self.end(place)
                else:
                    owed += 1
        if self.open:  # never closed: from the outermost on, all is text
            _, place, before = self.open[0]
            del self.atoms[before:]
            self.atoms.append((place, len(self.text), 0))
        else:
            self.flush(len(self.text), len(self.text))

    def begin(self, place: int) -> None:
        self.flush(place, place + 1)
        self.parents.append(self.group)
        self.explicit.append(None)
        self.open.append((len(self.parents) - 1, place, len(self.atoms)))

    def end(self, place: int) -> None:
        group, opened, _ = self.open[-1]
        # A number can only follow a colon behind the last bracket inside, since it holds none itself.
        colon = self.text.rfind(":", self.start, place)
        weight = _number(self.text[colon + 1 : place]) if colon > opened + 1 else None
        self.explicit[group] = weight
        self.flush(place if weight is None else colon, place + 1)
        self.open.pop()

    @property
    def group(self) -> int:
        return self.open[-1][0] if self.open else 0

    def flush(self, end: int, start: int) -> None:
        """Makes an atom of the text up to `end`; the next begins at `start`."""
        if end > self.start:
            self.atoms.append((self.start, end, self.group))
        self.start = start

    def pieces(self) -> tuple[Piece, ...]:
        weights = [1.0]
        for parent, explicit in zip(self.parents[1:], self.explicit[1:], strict=True):
            weights.append(min(LIMIT, max(-LIMIT, weights[parent] * STEP if explicit is None else explicit)))
        return tuple(
            WeightedText(_ESCAPE.sub(r"\1", self.text[start:end]), weights[group], *self.traced.span(start, end))
            for start, end, group in self.atoms
        ) or (WeightedText("", 1.0, *self.traced.span(0, 0)),)


def _number(text: str) -> float | None:
    """A weight as ComfyUI takes it, any finite number that Python writes; None for what is none."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
