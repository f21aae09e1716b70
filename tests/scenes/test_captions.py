"""Captions are true, and made of words that the vocabulary holds."""

import re

import numpy as np
import pytest

from gesso.scenes.caption import Captioner, all_words
from gesso.scenes.scene import Category, Item, Scene, SceneSampler
from gesso.scenes.vocabulary import (
    BACKGROUNDS,
    COLOUR_SYNONYMS,
    NUMBERS,
    RELATIONS,
    SIZES,
    STYLES,
    plural_of,
    things,
)
from gesso.text.tokenizer import learn_vocabulary

CATEGORIES: list[Category] = [
    "single", "background", "colours", "counting", "two", "position", "attribution", "size", "style"
]  # fmt: skip
COLOUR_OF = {word: name for name in BACKGROUNDS for word in (name, *COLOUR_SYNONYMS.get(name, ()))}
# What a caption may hold besides objects, colours, numbers, relations, sizes and styles: words that claim nothing.
EMPTY = {"a", "an", "the", "and", "next", "to", "of", "on", "with", "against", "in", "front", "background"}
EMPTY |= {"picture", "photo", "image", "drawing", "painting", "emoji"}


def samples(category: Category, count: int = 250, seed: int = 0) -> list[tuple[Scene, str]]:
    rng = np.random.default_rng(seed)
    sampler, captioner = SceneSampler(things(), {category: 1.0}, "any"), Captioner(things())
    return [(scene, captioner(scene, rng)) for scene in (sampler(rng) for _ in range(count))]


def take(text: str, phrases: list[str]) -> tuple[str, int]:
    """Replace the longest of the phrases that occurs, once, by a full stop -> the rest and where it was."""
    for phrase in sorted(phrases, key=len, reverse=True):
        if found := re.search(rf"\b{re.escape(phrase)}\b", text):
            return f"{text[: found.start()]} . {text[found.end() :]}", found.start()
    raise AssertionError(f"none of {phrases} in {text!r}")


def words_for(row: int, *, plural: bool) -> list[str]:
    thing = things()[row]
    return [thing.plural, *map(plural_of, thing.synonyms)] if plural else [thing.name, *thing.synonyms]


@pytest.mark.parametrize("category", CATEGORIES)
def test_a_caption_says_what_is_there_and_nothing_else(category):
    for scene, caption in samples(category):
        rest, items = caption, scene.items[:1] if category == "counting" else scene.items
        places = []
        for item in items:
            rest, place = take(rest, words_for(item.thing, plural=category == "counting"))
            places.append(place)
        assert places == sorted(places), caption  # the first item comes first: "a left of b" means a
        if scene.relation is not None:
            rest, place = take(rest, list(RELATIONS[scene.relation]))
            assert places[0] < place, caption
        words = re.findall(r"[\w-]+", rest)
        colours = [COLOUR_OF.get(word) for word in words if word in COLOUR_OF]
        wanted = [item.tint for item in items if item.tint is not None]
        if scene.background != "white" or "white" in colours:
            wanted.insert(
                0 if caption.startswith(tuple(f"{word} background" for word in COLOUR_OF)) else 2, scene.background
            )
        if scene.items[0].style != "plain":  # "a black silhouette", "in black and white"
            assert scene.items[0].style in caption or "black and white" in caption
            for word in set(colours) - {scene.background}:
                assert word in ("black", "white"), caption
        else:
            assert colours == wanted, caption
        numbers = [word for word in words if word in NUMBERS.values() or word.isdigit()]
        count = len(scene.items)
        assert numbers in ([[str(count)], [NUMBERS[count]]] if category == "counting" else [[]]), caption
        sizes = [name for name, synonyms in SIZES.items() for word in words if word in synonyms]
        assert sizes == ([scene.size_word] if scene.size_word else []), caption
        known = EMPTY | COLOUR_OF.keys() | set(STYLES) | set(numbers) | {word for s in SIZES.values() for word in s}
        assert set(words) <= known, caption


@pytest.mark.parametrize(
    ("relation", "dx", "dy"), [("left", 1, 0), ("right", -1, 0), ("above", 0, 1), ("below", 0, -1)]
)
def test_a_relation_is_where_the_objects_are(relation, dx, dy):
    found = [scene for scene, _ in samples("position") if scene.relation == relation]
    assert len(found) > 20
    for scene in found:
        first, second = scene.items
        along, across = (second.x - first.x) * dx + (second.y - first.y) * dy, abs((second.x - first.x) * dy)
        assert along > 0.4 > across


def test_every_caption_is_known_to_the_vocabulary():
    tokenizer = learn_vocabulary(all_words(), 4096, length=48)
    for category in CATEGORIES:
        captions = [caption for _, caption in samples(category, 100, seed=1)]
        assert [word for caption in captions for word in tokenizer.unknown_words(caption)] == []
        assert not any(tokenizer.encode_with_report(captions).cut)  # and is short enough


def test_the_same_draw_gives_the_same_words():
    assert samples("attribution", 20) == samples("attribution", 20)
    assert samples("attribution", 20) != samples("attribution", 20, seed=1)


def test_all_templates_come_up():
    """Every way to name a background, every relation, with and without an article."""
    captions = [caption for _, caption in samples("background", 400)] + [c for _, c in samples("position", 400)]
    for sign in (" against ", " in front of ", " with a", ", ", " on ", "background, ", *RELATIONS["above"]):
        assert any(sign in caption for caption in captions), sign


def test_a_scene_of_one_colour_word():
    """A fixed scene, so that the templates are seen as people read them."""
    captioner = Captioner(things())
    row = [thing.name for thing in things()].index("owl")
    scene = Scene("colours", "orange", (Item(row, 0.5, 0.5, 0.7, "purple"),))
    captions = {captioner(scene, np.random.default_rng(seed)) for seed in range(200)}
    assert "a purple owl on an orange background" in captions
    assert any("violet owl" in caption for caption in captions)
    assert not any(" a orange" in caption or "a owl" in caption for caption in captions)


def test_a_plural_has_no_article():
    number = next(i for i, thing in enumerate(things()) if thing.name == "scissors")
    scene = Scene("colours", "white", (Item(number, 0.5, 0.5, 0.7, "red"),))
    captioner = Captioner(things())
    found = {captioner(scene, np.random.default_rng(seed)) for seed in range(100)}
    assert {"red scissors", "the red scissors"} < found
    assert "a red pair of scissors" in found
    assert not any(text.startswith("a red scissors") for text in found)
