"""Parses the infotext that AUTOMATIC1111's web UI and its relatives write into a picture: `read_infotext`.

By that tool's rules, except where they lose something: a value may be a JSON object or list as plugins write them
(Hashes, Civitai resources), "Negative Prompt:" in any case of letters is read where a line of settings follows, and
everything is linear in the length of the text.
"""

import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

NEGATIVE = "Negative prompt:"
# Prompts that the lines above the last one cannot carry stand whole among the pairs; see `infotext`.
EXACT_PROMPT, EXACT_NEGATIVE = "Exact prompt", "Exact negative prompt"
TEMPLATES = ("Template:", "Negative Template:")  # lines of the Dynamic Prompts extension
MIN_PAIRS = 3  # fewer on the last line, and it belongs to the prompt
_KEY_SIGNS = frozenset(" -/_")
_CLOSING = {"{": "}", "[": "]"}


@dataclass(frozen=True)
class Infotext:
    """One text.  pairs: the last line, in its order; of a key that comes twice the last value"""

    prompt: str
    negative_prompt: str = ""
    pairs: Mapping[str, str] = field(default_factory=dict)


def read_infotext(text: str) -> Infotext:
    """Prompt, negative prompt and pairs of a text. Any text is one: without pairs it is all prompt."""
    lines, templates, pairs = _without_templates(text.strip().split("\n"))
    if len(pairs) < MIN_PAIRS:
        pairs = {}
    else:
        lines.pop()
    lines = [line.strip() for line in lines]
    mark = NEGATIVE if not pairs or any(line.startswith(NEGATIVE) for line in lines) else _mark_in_other_case(lines)
    prompts: tuple[list[str], list[str]] = ([], [])
    negative = False
    for line in lines:
        if mark is not None and line.startswith(mark):
            negative, line = True, line.removeprefix(mark).strip()
        prompts[negative].append(line)
    prompt = pairs.pop(EXACT_PROMPT, "\n".join(prompts[False]))
    return Infotext(prompt, pairs.pop(EXACT_NEGATIVE, "\n".join(prompts[True])), pairs | templates)


def _mark_in_other_case(lines: list[str]) -> str | None:
    """ "Negative Prompt:" as people and other tools write it, for a text that has its settings and no other mark.

    One line alone may begin so; with more it cannot be told which one ends the prompt, and all stay in it.
    """
    found = [line[: len(NEGATIVE)] for line in lines if line[: len(NEGATIVE)].lower() == NEGATIVE.lower()]
    return found[0] if len(found) == 1 else None


def _without_templates(lines: list[str]) -> tuple[list[str], dict[str, str], dict[str, str]]:
    """The lines, the templates that the Dynamic Prompts extension writes below the last one, and the pairs on that.

    The prompts above are those that were drawn.
    """
    pairs = dict(read_pairs(lines[-1]))
    if len(pairs) >= MIN_PAIRS and not lines[-1].startswith(TEMPLATES):
        return lines, {}, pairs
    starts = [at for at, line in enumerate(lines) if at and line.startswith(TEMPLATES)]
    first = next((at for at in starts if len(dict(read_pairs(lines[at - 1]))) >= MIN_PAIRS), None)
    if first is None:
        return lines, {}, pairs
    templates: dict[str, str] = {}
    for at, end in itertools.pairwise([*(at for at in starts if at >= first), len(lines)]):
        key, _, value = "\n".join(lines[at:end]).partition(":")
        templates.setdefault(key, value.strip())
    return lines[:first], templates, dict(read_pairs(lines[first - 1]))


def read_pairs(line: str) -> Iterator[tuple[str, str]]:
    """ "key: value, key: value": a value ends at a comma unless it is a JSON string, object or list."""
    at, brackets = 0, True  # one bracket without its partner, and those that follow are signs like others
    while at < len(line):
        comma, colon = line.find(",", at), line.find(":", at)
        if colon < 0:
            return
        if 0 <= comma < colon:  # a word without a value
            at = comma + 1
            continue
        key = _key(line, at, colon)
        value, at, brackets = _value(line, colon + 1, brackets)
        if len(key) >= 2:
            yield key, value


def _key(line: str, start: int, end: int) -> str:
    """The letters, digits, blanks and - / before a colon."""
    first = end
    while first > start and (line[first - 1].isalnum() or line[first - 1] in _KEY_SIGNS):
        first -= 1
    return line[first:end].strip()


def _value(line: str, at: int, brackets: bool) -> tuple[str, int, bool]:
    """The value from a place on, where what follows begins, and whether brackets still have partners."""
    while at < len(line) and line[at] == " ":
        at += 1
    comma = line.find(",", at)
    plain_end = comma if comma >= 0 else len(line)
    sign = line[at] if at < len(line) else ""
    if sign == '"':
        end = _string_end(line, at)
        if end is not None:
            try:
                return str(json.loads(line[at:end])), _after(line, end), brackets
            except ValueError:
                return line[at:end], _after(line, end), brackets
    elif sign in _CLOSING and brackets:
        end = _bracket_end(line, at)
        if end is not None:
            return line[at:end], _after(line, end), True
        brackets = False
    return line[at:plain_end].strip(), plain_end + 1, brackets


def _after(line: str, end: int) -> int:
    comma = line.find(",", end)
    return comma + 1 if comma >= 0 else len(line)


def _string_end(line: str, at: int) -> int | None:
    """Past the quote that ends a string; None where none does."""
    at += 1
    while at < len(line):
        if line[at] == "\\":
            at += 2
        elif line[at] == '"':
            return at + 1
        else:
            at += 1
    return None


def _bracket_end(line: str, at: int) -> int | None:
    """Past the bracket that closes this one, counting all of them; None where none does."""
    open_brackets: list[str] = []
    while at < len(line):
        sign = line[at]
        if sign == '"':
            end = _string_end(line, at)
            if end is None:
                return None
            at = end
            continue
        if sign in _CLOSING:
            open_brackets.append(_CLOSING[sign])
        elif open_brackets and sign == open_brackets[-1]:
            open_brackets.pop()
            if not open_brackets:
                return at + 1
        at += 1
    return None
