"""The pieces of a parsed prompt: text with weights, BREAK, and their places in the source text."""

from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from gesso.errors import GessoError

MAX_CHARS = 32_000  # of a prompt, after wildcards are filled in
MAX_WEIGHT = 10.0  # of a piece of text or a subprompt; far above, numbers overflow and no picture is left

Reason = Literal[
    "prompt_too_long",
    "prompt_characters",  # NUL, half a surrogate pair
    "prompt_limit",  # more parts of a kind than any prompt needs
    "network_tag",  # <lora:...> that cannot be meant
    "number",
    "wildcard",
    "flag",
    "styles",
    "dialect",
]


class PromptError(GessoError, ValueError):
    """A prompt that cannot be read; `reason` is one of a closed list, and the error's code."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message, code=reason)
        self.reason = reason


@dataclass(frozen=True)
class WeightedText:
    """A run of text under one weight.

    weight      1 is plain; finite, bounded only by `gesso.text.chunks`
    start, end  from the first to past the last character it came from, in the source
    """

    text: str
    weight: float = 1.0
    start: int = 0
    end: int = 0


@dataclass(frozen=True)
class Break:
    """The word BREAK: the text after it starts a chunk of its own."""

    start: int = 0
    end: int = 0


Piece = WeightedText | Break


@dataclass(frozen=True, eq=False)
class Traced:
    """A text put together from slices of a source.  at: for each character, its place in the source"""

    text: str
    at: "array[int]"

    @classmethod
    def whole(cls, text: str) -> "Traced":
        """A text that is its own source."""
        return cls(text, array("l", range(len(text))))

    def cut(self, slices: Iterable[tuple[int, int]]) -> "Traced":
        """The slices (start, end), one after the other."""
        slices = list(slices)
        at = array("l")
        for start, end in slices:
            at.extend(self.at[start:end])
        return Traced("".join(self.text[start:end] for start, end in slices), at)

    def without(self, slices: Iterable[tuple[int, int]]) -> "Traced":
        """The text with these slices, in rising order, left out."""
        kept, last = [], 0
        for start, end in slices:
            kept.append((last, start))
            last = end
        return self.cut([*kept, (last, len(self.text))]) if kept else self

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Where text[start:end] stood in the source. An empty slice stands where its first character would."""
        if start < end:
            return self.at[start], self.at[end - 1] + 1
        place = self.at[start] if start < len(self.at) else (self.at[-1] + 1 if self.at else 0)
        return place, place


def check_prompt(text: str, what: str = "prompt") -> None:
    """Raises PromptError for a text that is too long or holds NUL or half a surrogate pair."""
    if len(text) > MAX_CHARS:
        raise PromptError(
            "prompt_too_long", f"{what}: {len(text)} characters, at most {MAX_CHARS} are allowed. Shorten it"
        )
    if "\0" in text:
        raise PromptError("prompt_characters", f"{what}: character {text.index(chr(0)) + 1} is NUL. Remove it")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PromptError(
            "prompt_characters",
            f"{what}: character {error.start + 1} is U+{ord(text[error.start]):04X}, half of a surrogate pair. "
            "Type the character again, or leave it out",
        ) from None


def number_text(value: float) -> str:
    """A finite number without exponent, the shortest that reads back the same: 1.2, 0.00001, -3."""
    text = format(Decimal(repr(value)), "f")
    return text.removesuffix(".0")
