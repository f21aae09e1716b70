"""Prompts in other languages, for models that draw the objects of a table: word by word into the English of captions.

No translator: it knows objects, colours, numbers, sizes and the words between them, and puts adjectives where English
has them. What it does not know stays as it is written.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

from gesso.world.languages import Language, languages
from gesso.world.objects import plural_of, things
from gesso.world.scene import NUMBERS

NAMES = {
    "de": "German",
    "fr": "French",
    "es": "Spanish",
    "it": "Italian",
    "pt": "Portuguese",
    "nl": "Dutch",
    "pl": "Polish",
    "tr": "Turkish",
    "ru": "Russian",
    "ja": "Japanese",
    "zh": "Chinese",
}
UNSPACED = ("ja", "zh")
AFTER_NOUNS = ("fr", "es", "it", "pt")  # where colours stand
PLACE_FIRST = ("ja", "tr", "zh")  # "on the table the cat": the place before its word, and what is there after it
BETWEEN = ("on", "under", "above", "in", "next to", "behind", "in front of", "left of", "right of")
LONGEST = 6  # words of a phrase, or three times as many signs where there are no spaces
LEAST_EXPLAINED = 0.5  # of a text, to take it for a language
PARTICLES = frozenset("のはがをにで的在")
COUNTERS = frozenset("つ個人匹台本枚冊羽頭个只辆条把朵棵艘座张")  # behind a number, without a meaning in English
# Endings of plurals and cases -> what stands in their place, tried where a word is unknown, in this order.
ENDINGS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "de": (("en", ""), ("n", ""), ("er", ""), ("es", ""), ("e", ""), ("s", "")),
    "fr": (("eaux", "eau"), ("s", ""), ("x", "")),
    "es": (("ces", "z"), ("es", ""), ("s", "")),
    "it": (("chi", "co"), ("ghi", "go"), ("i", "o"), ("i", "e"), ("e", "a")),
    "pt": (("ões", "ão"), ("ães", "ão"), ("is", "l"), ("es", ""), ("s", "")),
    "nl": (("en", ""), ("s", "")),
    "pl": (("y", "a"), ("i", ""), ("y", ""), ("a", ""), ("ą", "a"), ("ę", "a")),
    "tr": (("lar", ""), ("ler", ""), ("nın", ""), ("nin", ""), ("ın", ""), ("in", "")),
    "ru": (("ы", ""), ("и", ""), ("ы", "а"), ("и", "а"), ("у", "а"), ("ой", "а"), ("ом", ""), ("а", "")),
}
SHORTEST_STEM = 3  # letters
# A text without spaces in its parts: signs one by one, but words in Latin letters and numbers whole.
_SIGNS = re.compile(r"[0-9]+|[a-z][a-z0-9'-]*|\S")
_CJK = r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]"
_OTHER_LETTER = r"[^\W\d_a-zA-Z\u00aa-\u024f\u1e00-\u1eff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\uffef]"
# What stands in a script that English does not use, with the numbers in it.
_FOREIGN = re.compile("|".join(rf"\d*{letter}+(?:[\s\d、，。]*{letter}+)*" for letter in (_CJK, _OTHER_LETTER)))


@dataclass(frozen=True)
class _Word:
    kind: str  # object, colour, number, size, article, background, between, other
    value: str
    explained: bool = True


@dataclass
class _Noun:
    """A noun with what belongs to it."""

    noun: str | None = None
    number: int | None = None
    article: bool = False
    sizes: list[str] = field(default_factory=list)
    colours: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.noun or self.number or self.article or self.sizes or self.colours)

    def __str__(self) -> str:
        plural = self.number is not None and self.number > 1
        noun = (_plural(self.noun) if plural else self.noun) if self.noun else ""
        words = [*self.sizes, *self.colours, noun]
        if self.number is not None:
            words.insert(0, NUMBERS[self.number])
        elif self.article or noun == "background":
            words.insert(0, "an" if " ".join(filter(None, words))[:1] in "aeiou" and words != [""] else "a")
        return " ".join(filter(None, words))


def language_of(text: str, is_known: Callable[[str], bool]) -> str | None:
    """The code of the language that a text is written in, if not in English; None where no language explains it.

    is_known  whether the model knows a word as it is; a text of known words alone is English
    A language must explain half of the words, more than English does, and name something that can be drawn.
    """
    words = _split(text)
    known = sum(map(is_known, words))
    if not words or known == len(words):
        return None
    best: tuple[float, str] | None = None
    for code in languages():
        read = list(_read(text, code))
        if not any(word.kind in ("object", "colour") and word.explained for word in read):
            continue
        share = sum(word.explained for word in read) / len(read)
        if share >= LEAST_EXPLAINED and share > known / len(words) and (best is None or share > best[0]):
            best = share, code
    return None if best is None else best[1]


def mixed_in_english(text: str, is_known: Callable[[str], bool]) -> tuple[str, tuple[str, ...]]:
    """An English text with words of other scripts among it, these in English: "a red 猫" -> "a red cat".

    Gives the codes of their languages, too: none where the text stays as it is.
    """
    codes: list[str] = []

    def read(match: re.Match[str]) -> str:
        code = language_of(match[0], is_known)
        if code is None:
            return match[0]
        codes.append(code)
        return f" {in_english(match[0], code)} "

    found = _FOREIGN.sub(read, text)
    if not codes:
        return text, ()
    return re.sub(r"\s+(?=[,.;:!?])", "", " ".join(found.split())), tuple(dict.fromkeys(codes))


def in_english(text: str, code: str) -> str:
    """A text of the language `code` in the English of captions: "ein roter Apfel" -> "a red apple"."""
    parts: list[str | _Noun] = []
    open_noun = _Noun()
    last: _Noun | None = None  # that a following adjective may belong to

    def close() -> None:
        nonlocal open_noun
        if open_noun:
            parts.append(open_noun)
        open_noun = _Noun()

    for word in _read(text, code):
        if word.kind in ("object", "background"):
            if open_noun.noun:
                close()
            open_noun.noun = word.value
            last = open_noun
            close()
        elif word.kind in ("colour", "size"):
            follows = last is not None and (code in AFTER_NOUNS) and not open_noun
            target = last if follows and last is not None else open_noun
            (target.colours if word.kind == "colour" else target.sizes).append(word.value)
        elif word.kind == "number":
            open_noun.number, last = int(word.value), None
        elif word.kind == "article":
            open_noun.article, last = word.value == "a", None
        else:
            close()
            parts.append(word.value)
            last = None
    if open_noun and last is not None:  # adjectives at the end
        last.colours += open_noun.colours
        last.sizes += open_noun.sizes
    else:
        close()
    if code in PLACE_FIRST:
        parts = _place_last(parts)
    joined = ""
    for part, before in zip(parts, [None, *parts], strict=False):
        apart = "" if not joined or part in (",", ".") else " "
        if isinstance(part, _Noun) and isinstance(before, _Noun):
            apart = ", "
        joined += apart + str(part)
    return joined


def _place_last(parts: list[str | _Noun]) -> list[str | _Noun]:
    """[table, "on", cat] -> [cat, "on", table], and [cat, table, "on"] too."""
    for place, part in enumerate(parts):
        if part in BETWEEN and place and isinstance(parts[place - 1], _Noun):
            after = parts[place + 1 : place + 2]
            if after and isinstance(after[0], _Noun):
                return [*parts[: place - 1], after[0], part, parts[place - 1], *_place_last(parts[place + 2 :])]
            if place > 1 and isinstance(parts[place - 2], _Noun) and not after:
                return [*parts[: place - 1], part, parts[place - 1]]
    return parts


def _read(text: str, code: str) -> Iterator[_Word]:
    """The words of a text, the longest known phrases first."""
    table, unspaced = _table(code), code in UNSPACED
    tokens = _SIGNS.findall(text.lower()) if unspaced else _split(text, signs=True)
    longest = 3 * LONGEST if unspaced else LONGEST
    place = 0
    while place < len(tokens):
        for length in range(min(longest, len(tokens) - place), 0, -1):
            phrase = ("" if unspaced else " ").join(tokens[place : place + length])
            if (word := table.get(phrase)) is not None:
                yield word
                place += length
                break
        else:
            token = tokens[place]
            place += 1
            if (number := _number(token)) is not None:
                yield number
                place += unspaced and tokens[place : place + 1] != [] and tokens[place] in COUNTERS
                continue
            is_sign = unspaced and _is_sign(token)
            if is_sign and token not in PARTICLES:  # a word of signs that no phrase begins with
                while place < len(tokens) and _is_sign(tokens[place]) and not _begins(tokens[place:], table):
                    token += tokens[place]
                    place += 1
            if not (unspaced and token in PARTICLES):
                token = {"、": ",", "，": ",", "。": "."}.get(token, token)
                yield _inflected(token, table, code) or _Word(
                    "object" if is_sign else "other", token, explained=not token.isalnum()
                )


def _is_sign(token: str) -> bool:
    return token.isalnum() and not token.isascii()


def _begins(tokens: Sequence[str], table: Mapping[str, _Word]) -> bool:
    """Whether a phrase begins here, or a particle stands here."""
    return tokens[0] in PARTICLES or any("".join(tokens[:length]) in table for length in range(1, 3 * LONGEST + 1))


def _number(token: str) -> _Word | None:
    """A number that is written in digits, as far as captions have a word for it."""
    number = int(token) if token.isdecimal() and len(token) == 1 else 0
    return _Word("number", str(number)) if number in NUMBERS else None


def _inflected(token: str, table: Mapping[str, _Word], code: str) -> _Word | None:
    """An object's word without its ending."""
    for ending, instead in ENDINGS.get(code, ()):
        stem = token.removesuffix(ending)
        if stem != token and len(stem) >= SHORTEST_STEM:
            word = table.get(stem + instead)
            if word is not None and word.kind == "object":
                return word
    return None


def _split(text: str, *, signs: bool = False) -> list[str]:
    """Words in lower case; an article that is joined by an apostrophe is one: "l'", "chat". signs: punctuation, too."""
    spread = re.sub(r"(\b\w{1,5}['’])(?=\w)", r"\1 ", text.lower()).replace("’", "'")
    return re.findall(r"[\w'-]+|[,.;:!?]" if signs else r"[\w'-]+", spread)


@cache
def _table(code: str) -> Mapping[str, _Word]:
    language = languages()[code]
    plain = {phrase: name for phrase, name in language.objects.items() if not _is_tinted(phrase, name, language, code)}
    table = {_key(phrase, code): _Word("object", name) for phrase, name in plain.items()}
    table |= {_key(phrase, code): _Word("colour", colour) for phrase, colour in language.colours.items()}
    table |= {_key(phrase, code): _Word("number", str(number)) for phrase, number in language.numbers.items()}
    kinds = {"a": "article", "the": "article", "big": "size", "small": "size", "background": "background"}
    kinds |= dict.fromkeys(BETWEEN, "between")
    table |= {_key(phrase, code): _Word(kinds.get(word, "other"), word) for phrase, word in language.words.items()}
    return table


def _is_tinted(phrase: str, name: str, language: Language, code: str) -> bool:
    """Whether a phrase is an object in one of its colours, "roter apfel": the colour must not be lost."""
    if code in UNSPACED:
        colours = [colour for colour in language.colours if phrase.startswith(colour) or phrase.endswith(colour)]
        rests = [phrase.removeprefix(colour).removesuffix(colour) for colour in colours]
    else:
        words = phrase.split()
        rests = [" ".join(word for word in words if word not in language.colours)] if len(words) > 1 else []
    return any(rest != phrase and language.objects.get(rest) == name for rest in rests)


def _key(phrase: str, code: str) -> str:
    return phrase.replace(" ", "") if code in UNSPACED else " ".join(_split(phrase))


@cache
def _plurals() -> Mapping[str, str]:
    return {thing.name: thing.plural for thing in things()}


def _plural(noun: str) -> str:
    return _plurals().get(noun) or plural_of(noun)
