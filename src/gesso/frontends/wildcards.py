"""Wildcards and dynamic prompts: fills in prompts at random, with the syntax of Dynamic Prompts.

    {a|b|c}           one of them             {0.5::a|b}        a half as often as b
    {2$$a|b|c}        two of them, different, joined by ", "    {1-2$$ and $$a|b|c}   one or two, joined by " and "
    __name__          a line of the list of that name; __colours/*__ of all lists whose names fit
    \\{ \\} \\_          the sign itself; the backslash stays for the stages behind

Lists come as a mapping of names to lines: no name here is ever a path. A line may hold all of the above, lists among
them; one that leads back to itself is left as it is, and so is a list that is not known. Anything unbalanced is text.

What is drawn depends on the seed, the index of the picture and the number of the draw alone, and is the same
everywhere: a draw is the BLAKE2 hash of the three. Nothing is recursive, and draws and length are bounded.
"""

import hashlib
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import accumulate

from gesso.notices import Notice
from gesso.text.prompt import MAX_CHARS, PromptError, check_prompt, quote

MAX_DRAWS = 1000  # of one prompt
MAX_LINES = 100_000  # of one list
_MAX_COUNT = 1000  # of {count$$...}

_SIGN = re.compile(r"\\.|[{}|]|__(?=([\w\-./*]*?[\w*])__)", re.DOTALL)
_COUNT = re.compile(r"\s*(\d{1,9})?(-)?(\d{1,9})?\$\$(?:([^${}|\\]*)\$\$)?")
_SHARE = re.compile(r"\s*(\d{1,9}(?:\.\d{0,9})?|\.\d{1,9})::")


@dataclass(frozen=True)
class Expansion:
    """A prompt without wildcards.

    draws    how many were made; 0: the text is the one that was given
    notices  lists that are not known or lead back to themselves
    """

    text: str
    draws: int
    notices: tuple[Notice, ...] = ()


@dataclass(frozen=True)
class _List:
    name: str
    text: str  # as it was typed


@dataclass(frozen=True)
class _Choice:
    """Options with their shares; from low to high of them are taken."""

    options: "tuple[tuple[float, tuple[str | _List | _Choice, ...]], ...]"
    low: int = 1
    high: int = 1
    separator: str = ", "


_Parts = tuple["str | _List | _Choice", ...]


class Draws:
    """Numbers from (seed, index, counter), the same on every machine."""

    def __init__(self, seed: int, index: int) -> None:
        self.key = f"gesso wildcards {seed} {index} "
        self.count = 0

    def uniform(self) -> float:
        """The next number of [0, 1). Raises PromptError after MAX_DRAWS."""
        if self.count == MAX_DRAWS:
            raise PromptError("wildcard", f"prompt: more than {MAX_DRAWS} wildcards to fill in. Remove some")
        digest = hashlib.blake2b(f"{self.key}{self.count}".encode(), digest_size=8).digest()
        self.count += 1
        return (int.from_bytes(digest, "big") >> 11) / 2**53

    def choose(self, sums: Sequence[float]) -> int:
        """An index, each as often as its share; sums: of the shares up to and including each. 0 where all are 0."""
        index = bisect_right(sums, self.uniform() * sums[-1])
        return min(index, bisect_left(sums, sums[-1]))  # no further than the last that has a share


def expand(text: str, lists: Mapping[str, Sequence[str]], *, seed: int, index: int = 0) -> Expansion:
    """Fills a prompt in.

    lists: name -> lines, as `parse_list` gives them. Raises PromptError for more draws than MAX_DRAWS, and for a text
    that is or becomes longer than a prompt may be.
    """
    check_prompt(text)
    writer = _Writer(lists, Draws(seed, index))
    writer.write(text)
    return Expansion("".join(writer.texts), writer.draws.count, tuple(dict.fromkeys(writer.notices)))


def parse_list(text: str) -> tuple[str, ...]:
    """The lines of a list's file: without white space around, empty lines and lines that begin with #.

    Raises PromptError for more than MAX_LINES.
    """
    lines = tuple(line for line in map(str.strip, text.splitlines()) if line and not line.startswith("#"))
    if len(lines) > MAX_LINES:
        raise PromptError("wildcard", f"wildcards: {len(lines)} lines, expected at most {MAX_LINES}. Split the list")
    return lines


def escape_wildcards(text: str) -> str:
    """A text that `expand` leaves as it is, but for backslashes that the grammar of A1111 drops."""
    return re.sub(r"([{}_])", r"\\\1", text)


@dataclass
class _Frame:
    """Parts that are being written, and the list that they are a line of."""

    parts: Iterator["str | _List | _Choice"]
    name: str | None = None


class _Writer:
    """Writes parts, with a stack of those that wait."""

    def __init__(self, lists: Mapping[str, Sequence[str]], draws: Draws) -> None:
        self.lists = lists
        self.draws = draws
        self.texts: list[str] = []
        self.length = 0
        self.notices: list[Notice] = []
        self.names: set[str] = set()  # lists whose lines are being written
        self.read: dict[str, tuple[list[str], list[float]]] = {}  # name -> lines, sums of their shares

    def write(self, text: str) -> None:
        frames = [_Frame(iter(_parse(text)))]
        while frames:
            part = next(frames[-1].parts, None)
            if part is None:
                self.names.discard(frames.pop().name or "")
            elif isinstance(part, str):
                self.add(part)
            elif isinstance(part, _List):
                if frame := self.line_of(part):
                    frames.append(frame)
            else:
                frames.append(_Frame(self.chosen(part)))

    def add(self, text: str) -> None:
        self.length += len(text)
        if self.length > MAX_CHARS:
            raise PromptError(
                "prompt_too_long", f"prompt: more than {MAX_CHARS} characters once filled in. Remove some wildcards"
            )
        self.texts.append(text)

    def line_of(self, wildcard: _List) -> _Frame | None:
        """A line of a list, ready to be written; None where the name is written instead."""
        lines, sums = self.lines(wildcard.name)
        if not lines or wildcard.name in self.names:
            why = "refers to itself" if lines else "is unknown or empty"
            notice = f"the wildcard {quote(wildcard.text)} {why} and was left unchanged"
            self.notices.append(Notice(notice, code="wildcard_unchanged", data={"name": wildcard.name}))
            self.add(wildcard.text)
            return None
        line = lines[self.draws.choose(sums)]
        check_prompt(line, f"wildcard {quote(wildcard.text)}")
        self.names.add(wildcard.name)
        share = _SHARE.match(line)
        return _Frame(iter(_parse(line[share.end() if share else 0 :])), wildcard.name)

    def lines(self, name: str) -> tuple[list[str], list[float]]:
        """The lines of all lists that a name means, and the sums of their shares."""
        if name not in self.read:
            names = [name] if name in self.lists else sorted(_fitting(name, self.lists))
            lines = [line for each in names for line in self.lists[each]]
            shares = (_SHARE.match(line) for line in lines)
            self.read[name] = lines, list(accumulate(float(share[1]) if share else 1.0 for share in shares))
        return self.read[name]

    def chosen(self, choice: _Choice) -> Iterator["str | _List | _Choice"]:
        """The parts of the options that are taken."""
        high = min(choice.high, len(choice.options))
        low = min(choice.low, high)
        number = low + int(self.draws.uniform() * (high - low + 1)) if low < high else low
        left = list(choice.options)
        for count in range(number):
            if count:
                yield choice.separator
            pick = self.draws.choose(list(accumulate(share for share, _ in left))) if len(left) > 1 else 0
            yield from left.pop(pick)[1]


def _fitting(pattern: str, lists: Mapping[str, Sequence[str]]) -> Iterator[str]:
    return (name for name in lists if fnmatchcase(name, pattern)) if "*" in pattern else iter(())


def _parse(text: str) -> _Parts:
    """A text to its parts, in one pass."""
    pairs = _pairs(text)
    # Of each brace around, and of the whole: options so far, share and parts of the one that is read, count.
    frames = [_Open()]
    start = position = 0
    while match := _SIGN.search(text, position):
        sign, place, position = match[0], match.start(), match.end()
        if sign[0] == "\\" or (sign in "{}" and place not in pairs) or (sign == "|" and len(frames) == 1):
            continue
        frames[-1].add(text[start:place])
        if sign == "{":
            frames.append(_Open())
            position = frames[-1].read_count(text, position)
            position = frames[-1].read_share(text, position)
        elif sign == "|":
            frames[-1].end_option()
            position = frames[-1].read_share(text, position)
        elif sign == "}":
            closed = frames.pop()
            closed.end_option()
            frames[-1].parts.append(_Choice(tuple(closed.options), closed.low, closed.high, closed.separator))
        else:
            position = match.end(1) + 2
            frames[-1].parts.append(_List(match[1], text[place:position]))
        start = position
    frames[-1].add(text[start:])
    return tuple(frames[0].parts)


class _Open:
    """A brace that is open."""

    def __init__(self) -> None:
        self.options: list[tuple[float, _Parts]] = []
        self.parts: list[str | _List | _Choice] = []
        self.share = 1.0
        self.low = self.high = 1
        self.separator = ", "

    def add(self, text: str) -> None:
        if text:
            self.parts.append(text)

    def end_option(self) -> None:
        self.options.append((self.share, tuple(self.parts)))
        self.parts = []

    def read_count(self, text: str, position: int) -> int:
        """Reads 2$$, 1-2$$, 2$$ and $$ where one stands; gives where reading goes on."""
        match = _COUNT.match(text, position)
        if match is None or not (match[1] or match[3]):
            return position
        low = int(match[1]) if match[1] else 0
        high = int(match[3]) if match[3] else (_MAX_COUNT if match[2] else low)
        self.low, self.high = sorted((min(low, _MAX_COUNT), min(high, _MAX_COUNT)))
        self.separator = ", " if match[4] is None else match[4]
        return match.end()

    def read_share(self, text: str, position: int) -> int:
        """Reads 0.5:: where it stands; gives where reading goes on."""
        match = _SHARE.match(text, position)
        self.share = float(match[1]) if match else 1.0
        return match.end() if match else position


def _pairs(text: str) -> set[int]:
    """Places of the braces that have their other half."""
    pairs: set[int] = set()
    opened: list[int] = []
    for match in _SIGN.finditer(text):
        if match[0] == "{":
            opened.append(match.start())
        elif match[0] == "}" and opened:
            pairs |= {opened.pop(), match.start()}
    return pairs
