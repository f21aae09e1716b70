"""Emoji are read as the objects that they show."""

import pytest

from gesso.scenes.emoji import emoji_in, object_of, with_emoji_named
from gesso.scenes.vocabulary import things

OBJECTS = {thing.name: (thing.plural, *thing.synonyms) for thing in things()}


def test_the_glyph_of_each_object_is_that_object():
    assert {thing.name: object_of(thing.glyph, OBJECTS) for thing in things()} == {name: name for name in OBJECTS}


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("🐱", "cat"),
        ("🐈", "cat"),
        ("🐕", "dog"),
        ("a 🐱 on a red background", "a cat on a red background"),
        ("🐱🐱", "two cats"),
        ("🐱 🐱 🐱", "three cats"),
        ("🐱🐱🐱🐱🐱", "four cats"),
        ("🐭🐭 🐟🐟🐟", "two mice three fish"),
        ("💙💙", "two blue hearts"),
        ("🐱🐶", "cat dog"),
        ("❤️", "heart"),
        ("💙", "blue heart"),
        ("🍏", "green apple"),
        ("🌳", "tree"),
        ("☀️", "sun"),
        ("★", "star"),
        ("😹", "cat"),
        ("🐈‍⬛", "cat"),
        ("✈", "airplane"),
    ],
)
def test_emoji_are_read(text, read):
    found, names = with_emoji_named(text, OBJECTS)
    assert " ".join(found.split()) == read
    assert names


@pytest.mark.parametrize(
    "text", ["", "a cat", "🌭", "🚒", "🥮", "🎉", "👍🏽", "👩‍🚀", "™ © ℃", "🎣", "\u200d\ufe0f", "猫"]
)
def test_what_is_no_object_stays(text):
    assert with_emoji_named(text, OBJECTS) == (text, {})


def test_an_emoji_beside_its_name_is_left_out():
    found, names = with_emoji_named("a cat 🐱✨", OBJECTS, ("cat",))
    assert found.split() == ["a", "cat", "✨"]
    assert names == {"🐱": "cat"}


def test_what_belongs_to_one_emoji_stays_together():
    text = "x👩‍🚀👍🏽❤️y"
    assert [text[start:end] for start, end in emoji_in(text)] == ["👩‍🚀", "👍🏽", "❤️"]
    assert list(emoji_in("☀" * 20_000)) == [(place, place + 1) for place in range(20_000)]
