"""The table of objects: what captions, judge and users go by."""

from collections import Counter

import pytest

from gesso.errors import GessoError
from gesso.scenes.caption import all_words
from gesso.scenes.vocabulary import (
    BACKGROUNDS,
    COLOUR_SYNONYMS,
    COLOURS,
    RELATIONS,
    SIZES,
    article_of,
    parse_things,
    plural_of,
    things,
)

TABLE = "# a comment\n\n🐭 | mouse/mice | field mouse\n🍎 | apple |\n"


def test_a_word_stands_for_one_object_only():
    """Plurals too: they may equal the singular of their own object ("fish"), never another's word."""
    owners: dict[str, set[str]] = {}
    for thing in things():
        for word in {thing.name, thing.plural, *thing.synonyms, *map(plural_of, thing.synonyms)}:
            owners.setdefault(word, set()).add(thing.name)
    assert {word: names for word, names in owners.items() if len(names) > 1} == {}


def test_a_glyph_stands_for_one_object_only():
    glyphs = Counter(thing.glyph.removesuffix("\ufe0f") for thing in things())
    assert [glyph for glyph, count in glyphs.items() if count > 1] == []


def test_no_object_is_named_like_a_colour_a_size_or_a_place():
    """The hold-out rule and the captions would take one for the other."""
    taken = {*COLOURS, *BACKGROUNDS, "on", *SIZES, *(word for words in COLOUR_SYNONYMS.values() for word in words)}
    taken |= {phrase for phrases in (*SIZES.values(), *RELATIONS.values()) for phrase in phrases}
    words = {word for thing in things() for word in (thing.name, thing.plural, *thing.synonyms)}
    assert words & taken == set()


def test_the_table_is_large_enough_and_plain():
    assert len(things()) >= 100
    for word in all_words():
        assert word == word.lower()
        assert word.isascii()


@pytest.mark.parametrize(
    ("noun", "plural"),
    [
        ("cat", "cats"),
        ("kitty", "kitties"),
        ("monkey", "monkeys"),
        ("fox", "foxes"),
        ("bus", "buses"),
        ("beach", "beaches"),
        ("tomato", "tomatoes"),
        ("scissors", "scissors"),
        ("slice of pizza", "slices of pizza"),
        ("pair of scissors", "pairs of scissors"),
        ("bunch of grapes", "bunches of grapes"),
    ],
)
def test_plurals(noun, plural):
    assert plural_of(noun) == plural


def test_odd_plurals_of_the_table():
    plurals = {thing.name: thing.plural for thing in things()}
    odd = {"mouse": "mice", "fish": "fish", "cactus": "cacti", "leaf": "leaves", "die": "dice", "snowman": "snowmen"}
    assert {name: plurals[name] for name in odd if name in plurals} == {n: p for n, p in odd.items() if n in plurals}


@pytest.mark.parametrize(
    ("noun", "article"),
    [("cat", "a"), ("apple", "an"), ("umbrella", "an"), ("unicorn", "a"), ("owl", "an"), ("eggplant", "an")],
)
def test_articles(noun, article):
    assert article_of(noun) == article


def test_a_table_is_read():
    mouse, apple = parse_things(TABLE, "table")
    assert (mouse.glyph, mouse.name, mouse.plural, mouse.synonyms) == ("🐭", "mouse", "mice", ("field mouse",))
    assert (apple.plural, apple.synonyms) == ("apples", ())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("🍌 | banana", "table line 5: found '🍌 | banana', expected: glyph"),
        ("| banana |", "line 5"),
        ("🍌 | |", "line 5"),
        ("🍏 | apple |", "line 5: 'apple' already stands for 'apple'"),
        ("🍌 | banana | field mouse", "'field mouse' already stands for 'mouse'"),
    ],
)
def test_a_wrong_line_is_named(line, message):
    with pytest.raises(GessoError, match=message.replace("|", r"\|")):
        parse_things(TABLE + line, "table")
