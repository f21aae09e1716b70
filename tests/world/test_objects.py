"""The table of objects and the words of other languages."""

import re

import pytest

from gesso.errors import GessoError
from gesso.world.languages import languages
from gesso.world.objects import TAGS, article_of, is_plural, parse_things, plural_of, things
from gesso.world.scene import BACKDROPS, COLOURS, NUMBERS


def test_the_table_holds_the_everyday_things():
    named = {word for thing in things() for word in (thing.name, *thing.synonyms)}
    assert 900 <= len(things()) <= 1200
    assert named >= {
        "cat",
        "kitten",
        "dog",
        "castle",
        "key",
        "rocket",
        "sun",
        "house",
        "car",
        "flower",
        "witch",
        "lighthouse",
    }


def test_the_objects_of_the_first_table_come_first():
    assert [thing.name for thing in things()[:5]] == ["cat", "dog", "mouse", "rabbit", "fox"]


def test_no_name_holds_a_word_for_a_colour_a_number_or_a_size():
    reserved = {
        *COLOURS,
        *BACKDROPS,
        "grey",
        "violet",
        *NUMBERS.values(),
        "small",
        "tiny",
        "little",
        "large",
        "big",
        "huge",
    }
    for thing in things():
        for word in (thing.name, thing.plural, *thing.synonyms):
            assert word.isascii() and word == word.lower(), word
            assert not reserved & set(re.split(r"[ -]", word)), word


def test_every_tag_is_used_and_what_wears_a_hat_lives_or_has_a_head():
    assert {tag for thing in things() for tag in thing.tags} == set(TAGS)
    tags = {thing.name: thing.tags for thing in things()}
    assert "face" not in tags["cat"] and tags["cat face"] >= {"living", "face"}
    assert "mount" in tags["horse"] and "vehicle" in tags["bicycle"] and "hat" in tags["crown"]
    assert "holds" in tags["package"] and "flat" in tags["bed"] and "symbol" in tags["heart"]


@pytest.mark.parametrize(
    ("noun", "plural"),
    [
        ("cat", "cats"),
        ("box", "boxes"),
        ("cherry", "cherries"),
        ("toy", "toys"),
        ("snowman", "snowmen"),
        ("human", "humans"),
        ("slice of pizza", "slices of pizza"),
        ("house with a garden", "houses with a garden"),
        ("pair of scissors", "pairs of scissors"),
        ("scissors", "scissors"),
        ("kitchen knife", "kitchen knives"),
        ("jellyfish", "jellyfish"),
        ("monarch", "monarchs"),
    ],
)
def test_plurals(noun, plural):
    assert plural_of(noun) == plural


@pytest.mark.parametrize(
    ("noun", "article"),
    [
        ("apple", "an"),
        ("cat", "a"),
        ("hourglass", "an"),
        ("horse", "a"),
        ("unicorn", "a"),
        ("uniform", "a"),
        ("umbrella", "an"),
        ("unamused face", "an"),
        ("UFO", "a"),
        ("x-ray", "an"),
        ("suv", "an"),
        ("euro banknote", "a"),
        ("one-way sign", "a"),
        ("orange cat", "an"),
        ("hour", "an"),
    ],
)
def test_articles_go_by_the_sound(noun, article):
    assert article_of(noun) == article


def test_no_article_stands_before_nothing():
    with pytest.raises(ValueError, match="nothing"):
        article_of(" ")


def test_plural_names():
    assert is_plural("scissors") and is_plural("french fries") and is_plural("glasses")
    assert not is_plural("pair of scissors") and not is_plural("hourglass") and not is_plural("bus")


def test_a_table_is_read():
    cat, mouse = parse_things("# a comment\n\n🐈 | cat | kitty | living\n🐁 | mouse/mice | | living, mount\n", "here")
    assert (cat.name, cat.plural, cat.synonyms, cat.tags) == ("cat", "cats", ("kitty",), {"living"})
    assert (mouse.plural, mouse.synonyms, mouse.tags) == ("mice", (), {"living", "mount"})


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("🐈 | cat | kitty", "expected: glyph"),
        ("🐈 | | kitty | living", "expected: glyph"),
        ("🐈 | cat | | flying", "no tag"),
        ("🐕 | cat | | ", "glyph"),
        ("🐈 | puppy | | ", "already stands for 'dog'"),
        ("🐈 | dogs | | ", "already stands for 'dog'"),
        ("🐈 | cat | kitty, kitty | ", "twice"),
    ],
)
def test_a_wrong_line_is_named(line, message):
    with pytest.raises(GessoError, match=rf"here line 2: .*{message}"):
        parse_things(f"🐕 | dog | puppy | living\n{line}\n", "here")


def test_other_languages_name_the_objects():
    names = {thing.name for thing in things()}
    assert len(languages()) == 11
    for language in languages().values():
        assert set(language.objects.values()) | set(language.keywords.values()) <= names
        assert len(set(language.objects.values())) > 0.9 * len(names)
        assert set(language.colours.values()) == set(COLOURS)
        assert set(language.numbers.values()) >= {2, 3, 4, 5, 6}
        assert {"and", "on", "under", "in", "background"} - {"and"} <= set(language.words.values())
        assert not set(language.keywords) & {*language.objects, *language.colours, *language.numbers, *language.words}
    german = languages()["de"]
    assert [german.objects["apfel"], german.colours["roter"], german.colours["gelbem"], german.words["grund"]] == [
        "apple",
        "red",
        "yellow",
        "background",
    ]
