"""Wildcards and dynamic prompts: fills in prompts at random, with the syntax of Dynamic Prompts.

    {a|b|c}           one of them             {0.5::a|b}        a half as often as b
    {2$$a|b|c}        two of them, different, joined by ","     {1-2$$ and $$a|b|c}   one or two, joined by " and "
    __name__          a line of the list of that name; __colours/*__ of all lists whose names fit
    {2$$__name__}     two different lines of a list
    ${x=a}            sets a variable, for the whole text that it stands in; ${x=!{a|b}} draws its value once,
                      ${x={a|b}} at each use, ${x?=a} sets it where the text around has not
    ${x} ${x:a}       its value; a where it has none        __name(x=a)__     a line that uses ${x}
    # ...             a comment, to the end of the line
    \\{ \\} \\_ \\#       the sign itself; the backslash stays for the stages behind

Lists come as a mapping of names to lines: no name here is ever a path. A name that no list has is looked for in all
folders: __a__ finds x/a. A line may hold all of the above, lists among them, and itself, where that can end; else it is
left as it is, and so is a list that is not known. Anything unbalanced is text.

What may come out, and how often, is what the package dynamicprompts draws; tests compare them. On purpose, gesso reads
weights in lines of text files, too, a backslash as an escape, and signs that have no other half as text; and a value
that is drawn once knows the variables that were set before it.

What is drawn depends on the seed, the index of the picture and the number of the draw alone, and is the same
everywhere: a draw is the BLAKE2 hash of the three. Nothing is recursive, and draws and length are bounded.
"""

import hashlib
import re
from bisect import bisect_left, bisect_right, insort
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import accumulate
from string import ascii_letters

from gesso.errors import short
from gesso.notices import Notice
from gesso.text.prompt import MAX_CHARS, PromptError, check_prompt

MAX_DRAWS = 1000  # of one prompt
MAX_LINES = 100_000  # of one list
_MAX_COUNT = 1000  # of {count$$...}
_MAX_NESTED = 40  # lines of one list inside each other
_MAX_STEPS = 100_000  # variables and lists that are written for one prompt

_SIGN = re.compile(r"\\.|#[^\n]*|[$%]?\{|[}|]|__", re.DOTALL)
_OPENING = ("{", "${", "%{")
_PLAIN = frozenset("{}|_" + ascii_letters)  # with these, neither a count nor a share begins
_SKIP = re.compile(r"(?:\s|#[^\n]*)*")  # before an option
_COUNT = re.compile(r"(\d{1,9})?\s*(-)?\s*(\d{1,9})?\s*\$\$(?:([^${}]*)\$\$)?")
_SHARE = re.compile(r"\s*(\d{1,9}(?:\.\d{0,9})?|\.\d{1,9})::")
_VARIABLE = re.compile(r"\s*([A-Za-z_-][\w-]*)\s*(?:(\?)?\s*(=)(!)?|(:)|(?=\}))", re.ASCII)
_PATH = re.compile(r"(?:(?!__)(?:[^(){}|#$%\n\\]|\\+(?=[A-Za-z0-9])))+")
_VALUES = re.compile(r"\s*\(([^()]+)\)")  # of __name(x=a, y=b)__


@dataclass(frozen=True)
class Expansion:
    """A prompt without wildcards.

    draws    how many were made; 0: all pictures have this text
    notices  lists that are not known or lead back to themselves, and braces without their other half
    """

    text: str
    draws: int
    notices: tuple[Notice, ...] = ()


@dataclass(frozen=True)
class _List:
    path: "_Parts"  # its name
    text: str  # as it was typed
    values: "tuple[tuple[str, _Parts], ...]" = ()  # of variables, for its lines
    method: str = "~"


@dataclass(frozen=True)
class _Choice:
    """Options with their shares; from low to high of them are taken."""

    options: "tuple[tuple[float, _Parts], ...]"
    low: int = 1
    high: int = 1
    separator: str = ","
    method: str = "~"

    @property
    def only_list(self) -> "_List | None":
        """The list that is the only option: its lines are the options then."""
        if len(self.options) != 1:
            return None
        parts = [part for part in self.options[0][1] if not isinstance(part, str) or part.strip()]
        return parts[0] if len(parts) == 1 and isinstance(parts[0], _List) else None


@dataclass(frozen=True)
class _Use:
    """${name:default}"""

    name: str
    default: "_Parts | None"


@dataclass(frozen=True)
class _Set:
    """${name=value}.  once: drawn once, not at each use; keep: a value from outside stays"""

    name: str
    value: "_Parts"
    once: bool
    keep: bool


_Part = str | _List | _Choice | _Use | _Set
_Parts = tuple[_Part, ...]
_Variables = Mapping[str, _Parts]
_Writing = Generator["_Writing", None, None]  # yields what has to be written first


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

    def between(self, low: int, high: int) -> int:
        """A whole number, each as often."""
        return low + int(self.uniform() * (high - low + 1))


class _Urn:
    """Indices that are drawn, each once, as often as their shares.  sums: of the shares up to and including each"""

    def __init__(self, sums: Sequence[float]) -> None:
        self.sums = sums
        self.taken: list[int] = []  # rising
        self.left = sums[-1]

    def draw(self, draws: Draws) -> int:
        """The first of those that are left where none of them has a share."""
        place = draws.uniform() * self.left
        for index in self.taken:  # the shares that are gone no longer stand in the way
            if self._before(index) > place:
                break
            place += self.sums[index] - self._before(index)
        index = min(bisect_right(self.sums, place), bisect_left(self.sums, self.sums[-1]))
        while index in self.taken:  # by rounding, or as nothing that is left has a share
            index = (index + 1) % len(self.sums)
        self.take(index)
        return index

    def last(self) -> int:
        """The only one that is left."""
        return next((place for place, index in enumerate(self.taken) if place != index), len(self.taken))

    def take(self, index: int) -> None:
        insort(self.taken, index)
        self.left = max(0.0, self.left - (self.sums[index] - self._before(index)))

    def _before(self, index: int) -> float:
        return self.sums[index - 1] if index else 0.0


def expand(text: str, lists: Mapping[str, Sequence[str]], *, seed: int, index: int = 0) -> Expansion:
    """Fills a prompt in.

    lists: name -> lines, as `parse_list` gives them. Raises PromptError for more draws than MAX_DRAWS, for a text that
    is or becomes longer than a prompt may be, for variables that have no value and for what is not supported.
    """
    check_prompt(text)
    parts = _parse(text)
    lone = tuple(_lone_braces(text))
    if not _pairs(text) and all(isinstance(part, str) for part in parts):
        return Expansion(text, 0, lone)
    writer = _Writer(lists, Draws(seed, index), _MAX_NESTED)
    try:
        writer.write(parts)
    except PromptError:
        if not writer.nested:
            raise
        writer = _Writer(lists, Draws(seed, index), 1)  # a list that never ends: without itself
        writer.write(parts)
    return Expansion("".join(writer.texts), writer.draws.count, (*lone, *dict.fromkeys(writer.notices)))


def parse_list(text: str) -> tuple[str, ...]:
    """The lines of a list's file: without white space around, empty lines and lines that begin with #.

    Raises PromptError for more than MAX_LINES.
    """
    lines = tuple(line for line in map(str.strip, re.split("\r\n|\r|\n", text)) if line and not line.startswith("#"))
    if len(lines) > MAX_LINES:
        raise PromptError("wildcard", f"wildcards: {len(lines)} lines, expected at most {MAX_LINES}. Split the list")
    return lines


def escape_wildcards(text: str) -> str:
    """A text that `expand` leaves as it is, but for backslashes that the grammar of A1111 drops."""
    return re.sub(r"([{}_#])", r"\\\1", text)


class _Writer:
    """Writes parts, with a stack of those that wait."""

    def __init__(self, lists: Mapping[str, Sequence[str]], draws: Draws, most: int) -> None:
        self.lists = lists
        self.draws = draws
        self.most = most  # lines of one list inside each other
        self.nested = False  # a line was written inside one of the same list
        self.texts: list[str] = []
        self.length = self.steps = 0
        self.notices: list[Notice] = []
        self.names: dict[str, int] = {}  # lists whose lines are being written, and how many of each
        self.variables: set[str] = set()  # that are being written
        self.read: dict[str, tuple[list[str], list[float]]] = {}  # name -> lines, sums of their shares

    def write(self, parts: _Parts) -> None:
        waiting: list[_Writing] = [self.whole(parts, {}, self.texts)]
        while waiting:
            if (first := next(waiting[-1], None)) is None:
                waiting.pop()
            else:
                waiting.append(first)

    def add(self, text: str, out: list[str]) -> None:
        self.count(len(text))
        out.append(text)

    def count(self, length: int) -> None:
        self.length += length
        if self.length > MAX_CHARS:
            raise PromptError(
                "prompt_too_long", f"prompt: more than {MAX_CHARS} characters once filled in. Remove some wildcards"
            )

    def whole(self, parts: _Parts, variables: _Variables, out: list[str]) -> _Writing:
        """A prompt, or the line of a list. Its variables are set first, wherever they stand."""
        inside = dict(variables)
        for part in parts:
            if isinstance(part, _Set) and part.keep and part.name in variables:
                inside[part.name] = variables[part.name]
            elif isinstance(part, _Set) and part.once:
                value: list[str] = []
                yield self.sequence(part.value, inside, value)
                inside[part.name] = ("".join(value),)
            elif isinstance(part, _Set):
                inside[part.name] = part.value
        yield self.sequence(parts, inside, out)

    def sequence(self, parts: _Parts, variables: _Variables, out: list[str]) -> _Writing:
        for part in parts:
            if isinstance(part, str):
                self.add(part, out)
            elif isinstance(part, _List):
                self.tell_method(part.method)
                yield self.list_line(part, variables, out)
            elif isinstance(part, _Choice):
                self.tell_method(part.method)
                yield self.choice(part, variables, out)
            elif isinstance(part, _Use):
                yield self.variable(part, variables, out)

    def variable(self, use: _Use, variables: _Variables, out: list[str]) -> _Writing:
        value = variables.get(use.name, use.default)
        name = short(use.name)
        if value is None:
            raise PromptError(
                "wildcard",
                f"prompt: the variable {name} has no value. Set it with ${{{use.name}=...}}, or give one to use "
                f"without it: ${{{use.name}:...}}",
            )
        if use.name in self.variables:
            raise PromptError("wildcard", f"prompt: the variable {name} refers to itself. Give it another value")
        self.step()
        self.variables.add(use.name)
        yield self.sequence(value, variables, out)
        self.variables.discard(use.name)

    def list_line(self, wildcard: _List, variables: _Variables, out: list[str]) -> _Writing:
        """One line of a list."""
        name: list[str] = []
        yield self.list_name(wildcard, variables, name)
        if self.known(name[0], wildcard, out):
            lines, sums = self.lines(name[0])
            line = lines[_Urn(sums).draw(self.draws)]
            yield self.line(line, name[0], wildcard, variables, out)

    def list_name(self, wildcard: _List, variables: _Variables, found: list[str]) -> _Writing:
        """Puts the name of a list into `found`."""
        text: list[str] = []
        length = self.length
        yield self.sequence(wildcard.path, variables, text)
        self.length = length  # the name is not part of the text
        found.append(re.sub(r"[\\/]+", "/", "".join(text)).strip("/"))

    def known(self, name: str, wildcard: _List, out: list[str]) -> bool:
        """Whether a line of the list can be written; else, the name is."""
        self.step()
        around = self.names.get(name, 0)
        lines, _ = self.lines(name)
        if lines and around < self.most:
            self.nested |= around > 0
            return True
        if lines and self.most > 1:
            raise PromptError("wildcard", f"prompt: the wildcard {short(name)} has no end")
        text = wildcard.text if all(isinstance(part, str) for part in wildcard.path) else f"__{name}__"
        why = "refers to itself" if lines else "is unknown or empty"
        hint = "" if self.lists else "; give the folder of its list with `wildcards`"
        notice = f"the wildcard {short(text)} {why} and was left unchanged{hint}"
        self.notices.append(Notice(notice, code="wildcard_unchanged", data={"name": name}))
        self.add(text, out)
        return False

    def line(self, line: str, name: str, wildcard: _List, variables: _Variables, out: list[str]) -> _Writing:
        """A line of the list `name`."""
        check_prompt(line, f"wildcard {short(wildcard.text)}")
        share = _SHARE.match(line)
        self.names[name] = self.names.get(name, 0) + 1
        yield self.whole(_parse(line[share.end() if share else 0 :]), {**variables, **dict(wildcard.values)}, out)
        self.names[name] -= 1

    def lines(self, name: str) -> tuple[list[str], list[float]]:
        """The lines of all lists that a name means, each once, and the sums of their shares."""
        if name not in self.read:
            names = [name] if name in self.lists else sorted(_fitting(name, self.lists))
            lines = list(dict.fromkeys(line for each in names for line in self.lists[each]))
            shares = (_SHARE.match(line) for line in lines)
            self.read[name] = lines, list(accumulate(float(share[1]) if share else 1.0 for share in shares))
        return self.read[name]

    def choice(self, choice: _Choice, variables: _Variables, out: list[str]) -> _Writing:
        """The options that are taken."""
        wildcard = choice.only_list
        name: list[str] = []
        if wildcard is None:
            sums = list(accumulate(share for share, _ in choice.options))
        else:
            yield self.list_name(wildcard, variables, name)
            if not self.known(name[0], wildcard, out):
                return
            lines, sums = self.lines(name[0])
        high = min(choice.high, len(sums))
        low = min(choice.low, high)
        number = self.draws.between(low, high) if low < high else low
        urn = _Urn(sums)
        texts: list[str] = []
        for count in range(number):
            text: list[str] = [] if number > 1 else out
            # The last option that is left needs no draw; the line of a list always takes one.
            pick = urn.draw(self.draws) if wildcard is not None or len(sums) - count > 1 else urn.last()
            if wildcard is None:
                yield self.sequence(choice.options[pick][1], variables, text)
            else:
                yield self.line(lines[pick], name[0], wildcard, variables, text)
            texts.append("".join(text) if number > 1 else "")
        if number > 1:
            self.count(len(choice.separator) * (number - 1))
            out.append(_joined(texts, choice.separator))

    def tell_method(self, method: str) -> None:
        if method != "~":
            what = "all options in order" if method == "!" else "options in turn"
            notice = f"{method} in a wildcard ({what}) is not supported, and its options were drawn at random"
            self.notices.append(Notice(notice, code="wildcard_at_random", data={"method": method}))

    def step(self) -> None:
        """Counts what costs time and draws nothing."""
        self.steps += 1
        if self.steps > _MAX_STEPS:
            raise PromptError("wildcard", f"prompt: more than {_MAX_STEPS} wildcards to fill in. Remove some")


def _joined(texts: list[str], separator: str) -> str:
    """Options that are taken; one of them empty at an end leaves no separator there."""
    return separator.join(texts).removeprefix(separator).removesuffix(separator)


def _fitting(pattern: str, lists: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Names that a pattern means; those in any folder where none does else."""
    if fitting := [name for name in lists if fnmatchcase(name, pattern)]:
        return iter(fitting)
    return (name for name in lists if fnmatchcase(name, f"**/{pattern}"))


# ---- reading ---------------------------------------------------------------------------------------------------------


def _parse(text: str, *, path: bool = False) -> _Parts:
    """A text to its parts, in one pass.  path: of the name of a list, where a variable without a value is its name"""
    pairs = _pairs(text)
    closing = set(pairs.values())
    # Of each brace around, and of the whole: options so far, share and parts of the one that is read, count.
    frames = [_Open()]
    start = position = 0
    while match := _SIGN.search(text, position):
        sign, place, position = match[0], match.start(), match.end()
        unpaired = (sign in _OPENING and position - 1 not in pairs) or (sign == "}" and place not in closing)
        if sign[0] == "\\" or unpaired or (sign == "|" and not frames[-1].choice):
            continue
        wildcard = _list_at(text, place, pairs) if sign == "__" and not path else None
        if sign == "__" and wildcard is None:
            position = place + 1
            continue
        frames[-1].add(text[start:place])
        if wildcard is not None:
            part, position = wildcard
            frames[-1].parts.append(part)
        elif sign in _OPENING:
            if sign != "{" and (opened := _Open.variable(text, position) if sign == "${" else None):
                position = opened.position
                frames.append(opened)
            else:
                if sign == "%{" and _is_wrap(text, position, pairs[position - 1]):
                    raise PromptError(
                        "wildcard", f"prompt: {short(text[place:])}: %{{...$$...}} is not supported. Write it without"
                    )
                frames[-1].add(sign[:-1])
                frames.append(_Open(choice=True))
                position = frames[-1].read_count(text, position)
                position = frames[-1].read_share(text, position)
        elif sign == "|":
            frames[-1].end_option()
            position = frames[-1].read_share(text, position)
        elif sign == "}":
            closed = frames.pop().closed(path)
            if isinstance(closed, _Set) and len(frames) > 1:
                raise PromptError(
                    "wildcard",
                    f"prompt: the variable {short(closed.name)} is set inside braces. Set it before them, outside",
                )
            if closed is not None:
                frames[-1].parts.append(closed)
        start = position
    frames[-1].add(text[start:])
    return tuple(frames[0].parts)


def _is_wrap(text: str, start: int, end: int) -> bool:
    """Whether %{...} wraps one text around another."""
    inner = text[start:end]
    return "$$" in inner and _COUNT.match(inner) is None


def _list_at(text: str, place: int, pairs: Mapping[int, int]) -> tuple[_List, int] | None:
    """The list whose name begins with the __ at `place`, and where reading goes on; None: the __ is text."""
    method, start = _method(text, place + 2)
    position = start
    while True:
        if match := _PATH.match(text, position):
            position = match.end()
            continue
        brace = position + text.startswith("$", position)
        if brace not in pairs or "__" in text[brace : pairs[brace]]:
            break
        position = pairs[brace] + 1
    name = text[start:position]
    values = _VALUES.match(text, position)
    end = values.end() if values else position
    if not text.startswith("__", end) or not re.search(r"[\w*]", name):
        return None
    end += 2
    return _List(_parse(name, path=True), text[place:end], _values(values[1]) if values else (), method), end


def _values(text: str) -> tuple[tuple[str, _Parts], ...]:
    """x=a, y=b"""
    pairs = (part.partition("=") for part in text.split(","))
    return tuple((name.strip(), _parse(value.strip())) for name, _, value in pairs)


def _method(text: str, position: int) -> tuple[str, int]:
    """How options are taken: ~ at random, ! all of them, @ in turn; and where reading goes on."""
    sign = text[position : position + 1]
    return (sign, position + 1) if sign and sign in "~!@" else ("~", position)


def _after(pattern: re.Pattern[str], text: str, position: int) -> int:
    match = pattern.match(text, position)
    return match.end() if match else position


class _Open:
    """A brace that is open.

    choice    its options stand between bars
    name      of the variable that it sets or uses
    """

    def __init__(self, choice: bool = False, name: str = "", sets: bool = False) -> None:
        self.choice = choice
        self.name = name
        self.sets = sets
        self.once = self.keep = self.default = False
        self.position = 0
        self.options: list[tuple[float, _Parts]] = []
        self.parts: list[_Part] = []
        self.share = 1.0
        self.low = 1
        self.high: int | None = 1  # None: all
        self.separator = ","
        self.method = "~"

    @classmethod
    def variable(cls, text: str, position: int) -> "_Open | None":
        """The variable that ${ begins, read up to its value."""
        match = _VARIABLE.match(text, position)
        if match is None:
            return None
        opened = cls(name=match[1], sets=match[3] is not None)
        opened.keep, opened.once, opened.default = match[2] is not None, match[4] is not None, match[5] is not None
        opened.position = _after(_SKIP, text, match.end())
        return opened

    def closed(self, path: bool) -> _Part | None:
        """What stands in the brace; None for nothing."""
        if self.choice:
            if not self.options and self.low == self.high == 1 and self.method == "~" and len(self.parts) <= 1:
                part = self.parts[0] if self.parts else None
                if not isinstance(part, _List):  # braces with nothing to choose
                    return part
            self.end_option()
            # 2- ends at the options that are written, so {2-$$__name__} takes one or two lines.
            low, high = sorted((self.low, len(self.options) if self.high is None else self.high))
            return _Choice(tuple(self.options), low, high, self.separator, self.method)
        if self.sets:
            return _Set(self.name, tuple(self.parts), self.once, self.keep)
        return _Use(self.name, (tuple(self.parts) or None) if self.default else (self.name,) if path else None)

    def add(self, text: str) -> None:
        if text:
            self.parts.append(text)

    def end_option(self) -> None:
        self.options.append((self.share, tuple(self.parts)))
        self.parts = []

    def read_count(self, text: str, position: int) -> int:
        """Reads 2$$, 1-2$$, 2$$ and $$ where one stands, and ~ before it; gives where reading goes on."""
        if text[position] in _PLAIN:
            return position
        self.method, position = _method(text, _after(_SKIP, text, position))
        match = _COUNT.match(text, position)
        if match is None or not (match[1] or match[3]):
            return position
        self.low = min(int(match[1]), _MAX_COUNT) if match[1] else 1
        self.high = min(int(match[3]), _MAX_COUNT) if match[3] else None if match[2] else self.low
        self.separator = "," if match[4] is None else match[4]
        return match.end()

    def read_share(self, text: str, position: int) -> int:
        """Reads 0.5:: where it stands, behind comments and white space; gives where reading goes on."""
        if text[position] in _PLAIN:
            self.share = 1.0
            return position
        position = _after(_SKIP, text, position)
        match = _SHARE.match(text, position)
        self.share = float(match[1]) if match else 1.0
        return match.end() if match else position


def _pairs(text: str) -> dict[int, int]:
    """Places of the braces that have their other half: of the opening one -> of the closing one."""
    pairs: dict[int, int] = {}
    opened: list[int] = []
    for match in _SIGN.finditer(text):
        if match[0] in _OPENING:
            opened.append(match.end() - 1)
        elif match[0] == "}" and opened:
            pairs[opened.pop()] = match.start()
    return pairs


def _lone_braces(text: str) -> Iterator[Notice]:
    """A notice about the first brace that has no other half, where there is one."""
    pairs = _pairs(text)
    halves = pairs.keys() | pairs.values()
    for match in _SIGN.finditer(text):
        if match[0] in (*_OPENING, "}") and match.end() - 1 not in halves:
            sign, other = ("{", "}") if match[0] in _OPENING else ("}", "{")
            yield Notice(
                f"{sign} at character {match.end()} has no {other} and was left as text; add {other}, or write "
                f"\\{sign} for the sign itself",
                code="brace_as_text",
                data={"at": match.end()},
            )
            return
