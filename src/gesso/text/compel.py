"""Compel's prompt syntax, which InvokeAI uses: word+, (a phrase)++, "a phrase"-, (a phrase)1.3.

    word+  word---          times 1.1 for each +, times 0.9 for each -, at the end of a word
    (text)+  (text)1.3      the same for a phrase, right behind its bracket; "text" is as good as (text)
    word.attend(1.3)        the same, spelled out
    ("a", "b").blend(1, 0.8)                  one prompt between several; with no_normalize their weighted sum
    ("a", "b").and(1, 0.8)                    prompts one behind the other
    withLora(name, 0.8)     a LoRA
    \\( \\) \\" \\+ \\-          the sign itself

Nested weights multiply. A bracket or quote without its other half is text. `.swap()` is refused: text embeddings cannot
do what it asks for.

Time is linear in the length of the text, without recursion.
"""

import re
from dataclasses import replace

from gesso.text.attention import LIMIT
from gesso.text.grammar import ExtraNetwork, Joined, ParsedPrompt, SubPrompt
from gesso.text.prompt import MAX_WEIGHT, Piece, PromptError, Traced, WeightedText, check_prompt
from gesso.text.schedule import constant

PLUS, MINUS = 1.1, 0.9
MAX_PARTS = 32  # prompts of a blend

_NUMBER = r"[0-9]+(?:\.[0-9]*)?|\.[0-9]+"
_BRACKET = re.compile(r'\\.|[()"]', re.DOTALL)
_SIGN = re.compile(
    r"\\.|[()\"]|(?<=[^\s()\"+\-])(?:\+{2,}+|-{2,}+|[+\-](?=[\s()\",.+\-]|$))|\.(?:attend|swap)\(", re.DOTALL
)
_WEIGHT = re.compile(rf"\++|-+|{_NUMBER}")
_ATTEND = re.compile(rf"\.attend\(\s*(\++|-+|-?(?:{_NUMBER}))\s*\)")
_LORA = re.compile(r"\b(?:withLora|useLora)\(\s*([\w-]+)\s*(?:,\s*(-?(?:" + _NUMBER + r"))\s*)?\)")
_ESCAPE = re.compile(r'\\([()"+\-.,=])')
_PART = re.compile(r'\s*(?:"((?:[^"\\]|\\.)*)"|\(((?:[^()\\]|\\.)*)\)|([^\s()",]+))\s*', re.DOTALL)
_JOIN = re.compile(r"\.(blend|and|add)\(\s*((?:[^()]*))\)\s*")


def parse_compel(text: str) -> ParsedPrompt:
    """A prompt as it was typed, to its parts. Time is linear in its length.

    Raises PromptError for a text that `check_prompt` refuses, for .swap(), and for a blend whose weights are none.
    """
    check_prompt(text)
    whole = Traced.whole(text)
    matches = list(_LORA.finditer(text))
    networks = tuple(
        ExtraNetwork(kind="lora", name=lora[1], arguments=(lora[2] or "1",), start=lora.start(), end=lora.end())
        for lora in matches
    )
    traced = whole.without(lora.span() for lora in matches)
    joined = _joined(traced)
    if joined is None:
        return ParsedPrompt(source=text, subprompts=(_subprompt(traced, 1.0),), networks=networks)
    return ParsedPrompt(source=text, subprompts=joined[0], joined=joined[1], networks=networks)


def parse_weights(text: str | Traced) -> tuple[Piece, ...]:
    """A single prompt, without blends, to pieces in their order; at least one. Raises PromptError for .swap()."""
    traced = Traced.whole(text) if isinstance(text, str) else text
    reader = _Reader(traced)
    reader.read()
    return reader.pieces()


def _subprompt(traced: Traced, weight: float) -> SubPrompt:
    pieces = parse_weights(traced)
    return SubPrompt(schedule=constant(traced.text, lambda _: pieces), weight=weight)


def _joined(traced: Traced) -> tuple[tuple[SubPrompt, ...], Joined] | None:
    """The prompts of ("a", "b").blend(...) or .and(...), where the whole text is one; else None."""
    text = traced.text
    start = len(text) - len(text.lstrip())
    if not text.startswith("(", start):
        return None
    parts: list[Traced] = []
    position = start + 1
    while part := _PART.match(text, position):
        group = next(index for index in (1, 2, 3) if part[index] is not None)
        parts.append(traced.cut([part.span(group)]))
        position = part.end()
        if not text.startswith(",", position):
            break
        position += 1
    if not parts or not text.startswith(")", position):
        return None
    join = _JOIN.fullmatch(text, position + 1)
    if join is None:
        return None
    options = [option.strip() for option in join[2].split(",") if option.strip()]
    normalize = "no_normalize" not in options
    weights = [_weight(option) for option in options if option != "no_normalize"] or [1.0] * len(parts)
    if len(weights) != len(parts) or len(parts) > MAX_PARTS:
        raise PromptError(
            "dialect",
            f"prompt: {len(parts)} prompts and {len(weights)} weights in .{join[1]}(); expected as many weights as "
            f"prompts, at most {MAX_PARTS}",
        )
    blends = join[1] == "blend"
    if blends and normalize and sum(weights) == 0:
        raise PromptError("number", "prompt: the weights of .blend() sum to 0. Change one, or write no_normalize")
    how: Joined = "chain"
    if blends:
        how = "blend" if normalize else "sum"
    return tuple(_subprompt(part, weight) for part, weight in zip(parts, weights, strict=True)), how


def _weight(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not abs(value) <= MAX_WEIGHT:
        raise PromptError("number", f"prompt: {text[:32]!r} is not a weight from {-MAX_WEIGHT} to {MAX_WEIGHT}")
    return value


def _factor(sign: str) -> float:
    """The factor of ++, --- or 1.3."""
    if sign.strip("+-"):
        return min(LIMIT, max(-LIMIT, float(sign)))
    base = PLUS if sign[0] == "+" else MINUS
    return min(LIMIT, base ** min(len(sign), 1000))


def _pairs(text: str) -> dict[int, int]:
    """Places of brackets and quotes that have their other half: opening -> closing, and closing -> opening."""
    pairs: dict[int, int] = {}
    opened: list[int] = []
    num_round = 0
    for match in _BRACKET.finditer(text):
        sign, place = match[0], match.start()
        if sign == "(":
            opened.append(place)
            num_round += 1
        elif sign == ")" and num_round:
            while text[opened[-1]] == '"':  # a quote that was not closed inside is text
                opened.pop()
            num_round -= 1
            pairs[place] = opened.pop()
            pairs[pairs[place]] = place
        elif sign == '"':
            if opened and text[opened[-1]] == '"':
                pairs[place] = opened.pop()
                pairs[pairs[place]] = place
            else:
                opened.append(place)
    return pairs


class _Reader:
    """One pass. A group is a phrase, or a word with a sign: its parent, and its factor."""

    def __init__(self, traced: Traced) -> None:
        self.traced = traced
        self.text = traced.text
        self.pairs = _pairs(self.text)
        self.parents = [0]
        self.factors = [1.0]
        self.open = [0]
        self.atoms: list[tuple[int, int, int]] = []  # start, end, group
        self.start = 0  # of the text that is not yet an atom

    def read(self) -> None:
        position = 0
        while match := _SIGN.search(self.text, position):
            position = self.take(match[0], match.start(), match.end())
        self.flush(len(self.text), len(self.text))

    def take(self, sign: str, place: int, end: int) -> int:
        """Reads a sign; gives where reading goes on."""
        if sign == ".swap(":
            raise PromptError("dialect", "prompt: .swap() is not supported. Write the prompt that you want instead")
        if sign[0] == "\\" or (sign in '()"' and place not in self.pairs):
            return end
        if sign not in '()"':
            return self.weigh_word(sign, place, end)
        self.flush(place, end)
        if self.pairs[place] > place:
            self.open.append(self.add_group(1.0))
            return end
        group = self.open.pop()
        attend = _ATTEND.match(self.text, end)
        weight = attend or _WEIGHT.match(self.text, end)
        if weight is None:
            return end
        self.factors[group] = _factor(attend[1] if attend else weight[0])
        self.start = weight.end()
        return weight.end()

    def weigh_word(self, sign: str, place: int, end: int) -> int:
        """A word with + or - or .attend() behind it."""
        if sign == ".attend(":
            attend = _ATTEND.match(self.text, place)
            if attend is None:
                return end
            sign, end = attend[1], attend.end()
        first = place
        while first > self.start and not self.text[first - 1].isspace() and self.text[first - 1] != ",":
            first -= 1
        if first < place:
            self.flush(first, first)
            self.atoms.append((first, place, self.add_group(_factor(sign))))
            self.start = end
        return end

    def add_group(self, factor: float) -> int:
        self.parents.append(self.open[-1])
        self.factors.append(factor)
        return len(self.factors) - 1

    def flush(self, end: int, start: int) -> None:
        """Makes an atom of the text up to `end`; the next begins at `start`."""
        if end > self.start:
            self.atoms.append((self.start, end, self.open[-1]))
        self.start = start

    def pieces(self) -> tuple[Piece, ...]:
        weights = [1.0]
        for parent, factor in zip(self.parents[1:], self.factors[1:], strict=True):
            weights.append(min(LIMIT, max(-LIMIT, weights[parent] * factor)))
        merged: list[WeightedText] = []
        for start, end, group in self.atoms:
            text = _ESCAPE.sub(r"\1", self.text[start:end])
            first, last = self.traced.span(start, end)
            if merged and merged[-1].weight == weights[group]:
                # A space: brackets and quotes end words, so that what they part must not become one.
                merged[-1] = replace(merged[-1], text=f"{merged[-1].text} {text}", end=last)
            else:
                merged.append(WeightedText(text, weights[group], first, last))
        return tuple(piece for piece in merged if piece.text.strip()) or (WeightedText("", 1.0, 0, 0),)
