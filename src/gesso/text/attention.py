"""A1111's attention/emphasis syntax: (more), [less], (so much:1.3).

    (text)      times 1.1            [text]      divided by 1.1
    (text:w)    times w              nested brackets multiply
    \\( \\) \\[ \\] \\\\   the sign itself; before anything else a backslash is dropped
    BREAK       ends the chunk, also inside brackets

A bracket that is never closed holds to the end of the text; one that was never opened is text. Round and square
brackets are counted apart, so they may overlap. What follows a colon is a weight where it is a number that closes a
round bracket, and text otherwise. Two things are put right that the reference gets wrong: a number such as 1.2.3 is
text there as well (the reference stops with an error), and BREAK inside brackets breaks.

Time is linear in the length of the text, whatever it holds: brackets are counted on a stack, and a piece's weight is
the product along its chain of brackets, each link of which is multiplied once.
"""

import re
from collections.abc import Iterable

from gesso.text.prompt import Break, Piece, Traced, WeightedText, number_text

STEP = 1.1
LIMIT = 1e30  # no product of weights leaves this range, so that none is infinite or NaN

_SIGN = re.compile(r"[\\()\[\]:]")
_NUMBER = re.compile(r":\s*([+-]?[.\d]+)\s*\)")
_BREAK = re.compile(r"\bBREAK\b")
_SPACE = re.compile(r"\s+")


def parse_attention(text: str | Traced) -> tuple[Piece, ...]:
    """Text to pieces in their order; neighbours of equal weight are one. At least one piece, ("", 1) for no text.

    Cannot fail: what is not meant as emphasis is text.
    """
    traced = Traced.whole(text) if isinstance(text, str) else text
    reader = _Reader(traced)
    reader.read()
    return reader.pieces()


def write_attention(pieces: Iterable[Piece]) -> str:
    """Pieces to a text that `parse_attention` reads as the same pieces, but for their places."""
    parts: list[str] = []
    after_break = False
    for piece in pieces:
        if isinstance(piece, Break):
            # A backslash that is dropped keeps white space that would be taken as belonging to BREAK.
            parts.append("\\ BREAK " if parts and parts[-1][-1:].isspace() else " BREAK ")
            after_break = True
            continue
        text = escape(piece.text)
        if piece.weight != 1:
            text = f"({text}:{number_text(piece.weight)})"
        parts.append("\\" + text if after_break and text[:1].isspace() else text)
        after_break = False
    return "".join(parts)


def escape(text: str) -> str:
    """A text that `parse_attention` reads as exactly this text, of weight 1."""
    return _BREAK.sub(r"B\\REAK", re.sub(r"([\\()\[\]])", r"\\\1", text))


class _Brackets:
    """One kind of bracket: a tree of groups, each with the factor it puts on its text."""

    def __init__(self, factor: float) -> None:
        self.factor = factor  # of a group that is never closed
        self.parents = [0]
        self.factors = [1.0]  # of group 0, which is outside all brackets
        self.open = [0]

    def start(self) -> None:
        self.parents.append(self.open[-1])
        self.open.append(len(self.factors))
        self.factors.append(self.factor)

    def end(self, factor: float) -> None:
        self.factors[self.open.pop()] = factor

    @property
    def inside(self) -> bool:
        return len(self.open) > 1

    def products(self) -> list[float]:
        """The weight of each group. A parent comes before its children."""
        weights = [1.0]
        for parent, factor in zip(self.parents[1:], self.factors[1:], strict=True):
            weights.append(_bounded(weights[parent] * _bounded(factor)))
        return weights


class _Reader:
    """One pass over a text. Atoms are (text, start, end, round group, square group); None as text is a break."""

    def __init__(self, traced: Traced) -> None:
        self.traced = traced
        self.text = traced.text
        self.round = _Brackets(STEP)
        self.square = _Brackets(1 / STEP)
        self.atoms: list[tuple[str | None, int, int, int, int]] = []

    def read(self) -> None:
        position = 0
        while sign := _SIGN.search(self.text, position):
            self.add_plain(position, sign.start())
            position = self.take_sign(sign.start())
        self.add_plain(position, len(self.text))

    def take_sign(self, place: int) -> int:
        """Reads the sign at `place`; gives where reading goes on."""
        sign = self.text[place]
        if sign == "\\":
            following = self.text[place + 1 : place + 2]
            if following and following in "\\()[]":
                self.add(following, place, place + 2)
                return place + 2
            return place + 1
        if sign == "(":
            self.round.start()
        elif sign == "[":
            self.square.start()
        elif sign == ")" and self.round.inside:
            self.round.end(STEP)
        elif sign == "]" and self.square.inside:
            self.square.end(1 / STEP)
        elif sign == ":" and self.round.inside and (weight := self.weight_at(place)):
            self.round.end(weight[0])
            return weight[1]
        else:
            self.add(sign, place, place + 1)
        return place + 1

    def weight_at(self, place: int) -> tuple[float, int] | None:
        """The weight behind the colon at `place` and where the bracket that it closes ends; None where it is text."""
        match = _NUMBER.match(self.text, place)
        if match is None:
            return None
        try:
            return float(match[1]), match.end()
        except ValueError:  # 1.2.3
            return None

    def add_plain(self, start: int, end: int) -> None:
        """Text without signs, in which the word BREAK takes the white space around it along."""
        last = start
        for word in _BREAK.finditer(self.text, start, end):
            before = self.text[last : word.start()].rstrip()
            self.add(before, last, last + len(before))
            self.atoms.append((None, word.start(), word.end(), 0, 0))
            blank = _SPACE.match(self.text, word.end(), end)
            last = blank.end() if blank else word.end()
        self.add(self.text[last:end], last, end)

    def add(self, text: str, start: int, end: int) -> None:
        if text:
            self.atoms.append((text, start, end, self.round.open[-1], self.square.open[-1]))

    def pieces(self) -> tuple[Piece, ...]:
        rounds, squares = self.round.products(), self.square.products()
        pieces: list[Piece] = []
        run: list[str] = []  # texts of neighbours of equal weight
        weight, first, last = 1.0, 0, 0

        def flush() -> None:
            if run:
                pieces.append(WeightedText("".join(run), weight, *self.traced.span(first, last)))
                run.clear()

        for text, start, end, in_round, in_square in self.atoms:
            if text is None:
                flush()
                pieces.append(Break(*self.traced.span(start, end)))
                continue
            own = _bounded(rounds[in_round] * squares[in_square])
            if not run or own != weight:
                flush()
                weight, first = own, start
            run.append(text)
            last = end
        flush()
        return tuple(pieces) or (WeightedText("", 1.0, *self.traced.span(0, 0)),)


def _bounded(weight: float) -> float:
    return max(-LIMIT, min(LIMIT, weight))
