"""Prompt editing and alternating words: prompts that change over the steps, in A1111's grammar.

    [from:to:when]   `from` up to the step `when`, then `to`; each may be empty
    [to:when]        nothing, then `to`
    [a|b|c]          a, b, c, a, ... one step each; any may be empty

`when` with a point is a share of all steps, without one the number of a step. Anything may be nested. What only looks
alike is text, to be read by the next stage as emphasis: a schedule's parts must be balanced, hold no bare colon and no
bare bar, and `when` must be a number. One thing differs from the reference, where a bare bar anywhere in a prompt
makes all its schedules text; here it is a bar.

Reading and every evaluation are linear in the length of the text, without recursion: the text is marked once where
something starts, gives way or ends, and evaluating is one pass over the marks.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from gesso.errors import short
from gesso.text.attention import parse_attention
from gesso.text.prompt import Piece, PromptError, Traced

MAX_SCHEDULES = 256  # of one prompt
MAX_PLANNED_CHARS = 320_000  # of the different texts that a prompt has over its steps
_MAX_NUMBER = 32  # characters

WhenRule = Literal["point", "share"]

_SIGN = re.compile(r"\\.|[\[\]():|]", re.DOTALL)
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


@dataclass(frozen=True)
class When:
    """The moment at which a schedule changes, as it was typed."""

    text: str

    def step(self, num_steps: int, *, base_steps: int = 0, rule: WhenRule = "point") -> int:
        """The last step, counted from 1, with the text before the change; below 1: none.

        base_steps: steps of the pass before, where this one refines its picture; such moments are counted from the
        start of the first pass, so a share of 1.5 is the middle of the second.
        rule: "point": a number with a point is a share; "share", of A1111 before 1.6, takes any number below 1 as one.
        """
        value = float(self.text)
        if rule == "share":
            value = value * num_steps if value < 1 else value
        elif "." in self.text:
            value = (value - (1.0 if base_steps else 0.0)) * num_steps
        else:
            value -= base_steps
        return int(max(-1.0, min(float(num_steps), value)))  # min first: infinity is no whole number


@dataclass(frozen=True)
class _Mark:
    """text[start:end] is syntax.  op: "when" and "turn" start a group, "next" gives way to its next part"""

    start: int
    end: int
    op: Literal["when", "turn", "next", "end"]
    when: When | None = None
    num_parts: int = 0


@dataclass(frozen=True)
class ScheduledText:
    """A text up to and including a step, counted from 1, and its pieces."""

    last_step: int
    text: str
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, eq=False)
class PromptSchedule:
    """The texts of one prompt over the steps. Made by `parse_schedule`."""

    _traced: Traced
    _marks: tuple[_Mark, ...] = ()
    _read: Callable[[Traced], tuple[Piece, ...]] = parse_attention

    @property
    def is_constant(self) -> bool:
        """Whether all steps have the same text, whatever their number."""
        return not self._marks

    def at(
        self, step: int, num_steps: int, *, base_steps: int = 0, rule: WhenRule = "point", late: bool = False
    ) -> tuple[Piece, ...]:
        """The pieces at a step, 0 to num_steps - 1.

        base_steps, rule: as `When.step` takes them. late: each change one step later, as in A1111, whose samplers
        count steps from 0 while its schedules count from 1: there [a|b] gives a, a, b, a, ...
        Raises ValueError for a step outside.
        """
        if not 0 <= step < num_steps:
            raise ValueError(f"step {step}, expected 0 to {num_steps - 1}")
        number = max(step, 1) if late else step + 1
        return self._read(self._text_at(number, self._last_steps(num_steps, base_steps, rule)))

    def plan(self, num_steps: int, *, base_steps: int = 0, rule: WhenRule = "point") -> tuple[ScheduledText, ...]:
        """All texts in their order, each with the last step that has it; neighbours differ. The last ends the steps.

        Raises ValueError for fewer steps than one, PromptError for more than MAX_PLANNED_CHARS.
        """
        if num_steps < 1:
            raise ValueError(f"num_steps {num_steps}, expected at least 1")
        last_steps = self._last_steps(num_steps, base_steps, rule)
        changes = {num_steps, *(step for step in last_steps.values() if step >= 1)}
        if any(mark.op == "turn" for mark in self._marks):
            changes.update(range(1, num_steps + 1))
        plan: list[tuple[int, str]] = []
        read: dict[str, tuple[Piece, ...]] = {}
        num_chars = 0
        for number in sorted(changes):
            traced = self._text_at(number, last_steps)
            if traced.text not in read:
                num_chars += len(traced.text)
                if num_chars > MAX_PLANNED_CHARS:
                    raise PromptError(
                        "prompt_limit",
                        f"prompt: its texts over {num_steps} steps have more than {MAX_PLANNED_CHARS} characters. "
                        "Shorten it, or remove schedules such as [a|b]",
                    )
                read[traced.text] = self._read(traced)
            if plan and plan[-1][1] == traced.text:
                plan.pop()
            plan.append((number, traced.text))
        return tuple(ScheduledText(number, text, read[text]) for number, text in plan)

    def _last_steps(self, num_steps: int, base_steps: int, rule: WhenRule) -> dict[int, int]:
        """Index of the mark that starts it -> last step of a schedule's first part."""
        return {
            index: mark.when.step(num_steps, base_steps=base_steps, rule=rule)
            for index, mark in enumerate(self._marks)
            if mark.when is not None
        }

    def _text_at(self, number: int, last_steps: dict[int, int]) -> Traced:
        """The text at a step, counted from 1."""
        if not self._marks:
            return self._traced
        slices: list[tuple[int, int]] = []
        groups: list[list[int]] = []  # of each group around: the part read now, and the part that counts
        hidden = 0  # groups around whose part read now is not the one that counts
        position = 0
        for index, mark in enumerate(self._marks):
            if not hidden:
                slices.append((position, mark.start))
            position = mark.end
            if mark.op in ("next", "end"):
                part, chosen = groups[-1]
                hidden -= part != chosen
                groups[-1][0] += 1
                if mark.op == "end":
                    groups.pop()
                    continue
            elif mark.op == "when":
                groups.append([0, int(number > last_steps[index])])
            else:
                groups.append([0, (number - 1) % mark.num_parts])
            hidden += groups[-1][0] != groups[-1][1]
        slices.append((position, len(self._traced.text)))
        return self._traced.cut(slices)


def constant(text: str, read: Callable[[Traced], tuple[Piece, ...]]) -> PromptSchedule:
    """The schedule of a text without any, whose pieces another grammar reads."""
    return PromptSchedule(Traced.whole(text), (), read)


def parse_schedule(text: str | Traced) -> PromptSchedule:
    """Marks the schedules of a text. Raises PromptError for more than MAX_SCHEDULES; all else is a schedule or text."""
    traced = Traced.whole(text) if isinstance(text, str) else text
    if "[" not in traced.text:
        return PromptSchedule(traced, ())
    marks: list[_Mark] = []
    groups: list[_Group] = []
    num_schedules = 0
    for match in _SIGN.finditer(traced.text):
        sign, place = match[0], match.start()
        if sign in "[(":
            groups.append(_Group(sign, place))
        elif sign in ":|":
            if groups:
                groups[-1].separators.append(place)
                groups[-1].bars += sign == "|"
        elif sign in "])" and groups:
            group = groups.pop()
            new = group.close(traced.text, place) if _PAIRS[group.opener] == sign else None
            if new is None:  # this bracket is text, so none around it is balanced
                groups.clear()
            elif new:
                num_schedules += 1
                marks += new
    if num_schedules > MAX_SCHEDULES:
        raise PromptError(
            "prompt_limit",
            f"prompt: {num_schedules} schedules such as [a:b:0.5], at most {MAX_SCHEDULES} are allowed, "
            f"in {short(traced.text)}. Escape brackets that you mean as text: \\[",
        )
    return PromptSchedule(traced, tuple(sorted(marks, key=lambda mark: mark.start)))


_PAIRS = {"[": "]", "(": ")"}


class _Group:
    """A bracket that is open, with the bare colons and bars seen in it."""

    __slots__ = ("bars", "opener", "place", "separators")

    def __init__(self, opener: str, place: int) -> None:
        self.opener = opener
        self.place = place
        self.separators: list[int] = []
        self.bars = 0

    def close(self, text: str, place: int) -> Sequence[_Mark] | None:
        """The marks of a schedule that ends at `place`; () for a balanced bracket; None where it is neither."""
        colons = len(self.separators) - self.bars
        if self.opener == "(":
            return () if not self.bars and colons <= 1 else None
        if not self.separators:
            return ()
        if not colons:
            return self.turns(place)
        if self.bars or colons > 2:
            return None
        when = text[self.separators[-1] + 1 : place].strip()
        if len(when) > _MAX_NUMBER or not _NUMBER.fullmatch(when):
            return None
        return self.change(When(when), place)

    def turns(self, place: int) -> Sequence[_Mark]:
        steps = [_Mark(bar, bar + 1, "next") for bar in self.separators]
        start = _Mark(self.place, self.place + 1, "turn", num_parts=len(steps) + 1)
        return [start, *steps, _Mark(place, place + 1, "end")]

    def change(self, when: When, place: int) -> Sequence[_Mark]:
        first, last = self.separators[0], self.separators[-1]
        if first == last:  # [to:when]: the first part is empty
            start, middle = self.place, self.place + 1
            between = _Mark(middle, middle, "next")
        else:
            start, between = self.place, _Mark(first, first + 1, "next")
        return [_Mark(start, start + 1, "when", when=when), between, _Mark(last, place + 1, "end")]
