"""Emoji in prompts for models that draw the objects of a table: each is read as the object that it shows."""

import unicodedata
from collections.abc import Collection, Iterator, Mapping
from functools import cache

from gesso.scenes.vocabulary import COLOURS, NUMBERS, plural_of, things

_JOINER, _AS_PICTURE = "\u200d", "\ufe0f"
_FIRST_ROUND = 0x1F000  # before it, "black" and "white" in the names of signs mean filled and hollow
_FACES = ("smiling ", "grinning ", "kissing ", "pouting ", "crying ", "weary ", "deciduous ", "oncoming ")


def with_emoji_named(
    text: str, objects: Mapping[str, Collection[str]], left_out: Collection[str] = ()
) -> tuple[str, dict[str, str]]:
    """The text with the names of objects in place of their emoji, and the names by the emoji that were read.

    objects   names of what a model draws -> other names of it; emoji of anything else stay
    left_out  objects whose emoji are dropped, because the text names them already
    The same emoji several times is as many of the object: two cats, three, and four for any more.
    """
    parts: list[str] = []
    read: dict[str, str] = {}
    named: dict[str, str | None] = {}  # a prompt may be the same emoji many times
    last, previous, count = 0, "", 0
    for start, end in emoji_in(text):
        emoji = text[start:end]
        if emoji not in named:
            named[emoji] = object_of(emoji, objects)
        if (name := named[emoji]) is None:
            previous = ""
            continue
        between = text[last:start]
        if name == previous and not between.strip():
            count += 1
            parts[-1] = f" {NUMBERS[min(count, max(NUMBERS))]} {_plural(name)} "
        else:
            parts.append(between)
            parts.append(" " if any(one in name.split() or one == name for one in left_out) else f" {name} ")
            previous, count = name, 1
            if parts[-1] == " ":
                previous = ""
        read[emoji] = name
        last = end
    return "".join((*parts, text[last:])), read


def emoji_in(text: str) -> Iterator[tuple[int, int]]:
    """Where emoji start and end, with their skin tones and what is joined to them."""
    position = 0
    while position < len(text):
        start, position = position, position + 1
        if unicodedata.category(text[start]) != "So":
            continue
        while position < len(text):
            sign = text[position]
            if sign == _AS_PICTURE or unicodedata.category(sign) == "Sk":
                position += 1
            elif sign == _JOINER and position + 1 < len(text) and unicodedata.category(text[position + 1]) == "So":
                position += 2
            else:
                break
        yield start, position


def object_of(emoji: str, objects: Mapping[str, Collection[str]]) -> str | None:
    """What an emoji shows, by a name that `objects` has, with its colour if it has one; None for anything else.

    First by the glyphs of the package's tables, then by the name that Unicode gives it.
    """
    plain = emoji.replace(_AS_PICTURE, "")
    for glyph in dict.fromkeys((plain, plain[0])):
        if (name := _glyphs().get(glyph)) is not None and name in objects:
            return name
    words = unicodedata.name(plain[0], "").lower().split(" with ")[0].removesuffix(" face")
    if ord(plain[0]) < _FIRST_ROUND:
        words = words.replace("heavy ", "").removeprefix("black ").removeprefix("white ")
    for face in _FACES:
        words = words.removeprefix(face)
    colour, _, rest = words.partition(" ")
    noun = rest if colour in COLOURS else words
    known = any(noun == name or noun in others for name, others in objects.items())
    return words if known else None


def _plural(name: str) -> str:
    return next((thing.plural for thing in things("full") if thing.name == name), None) or plural_of(name)


@cache
def _glyphs() -> Mapping[str, str]:
    return {thing.glyph.replace(_AS_PICTURE, ""): thing.name for thing in reversed(things("full"))}
