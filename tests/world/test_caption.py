"""Captions are true and complete, in words that the vocabulary holds."""

import re
from random import Random
from typing import get_args

import numpy as np
import pytest

from gesso.text.tokenizer import learn_vocabulary
from gesso.world.caption import (
    ADJECTIVES,
    CLEAR_PHRASES,
    CLEAR_TAGS,
    COLOUR_SYNONYMS,
    MASS_NOUNS,
    OPENINGS,
    PATTERN_NOUNS,
    PLACE_ADJECTIVES,
    PLACE_NOUNS,
    PLACE_PHRASES,
    PLACE_TAGS,
    PRAISE,
    RELATION_PHRASES,
    SIZE_WORDS,
    STYLE_ADJECTIVES,
    STYLE_PHRASES,
    STYLE_TAGS,
    THROUGH,
    TIME_ADJECTIVES,
    TIME_NOUNS,
    TIME_PHRASES,
    TIME_TAGS,
    VERBS,
    WEATHER_PHRASES,
    WEATHER_TAGS,
    WHOLE_PHRASES,
    Captioner,
    all_words,
    caption_ids,
    num_pieces,
)
from gesso.world.objects import article_of, plural_of, things
from gesso.world.sampler import FULL_MIX, SceneSampler
from gesso.world.scene import BACKDROPS, NUMBERS, PLACES, Background, Category, Item, Scene

CATEGORIES: tuple[Category, ...] = get_args(Category)
OBJECTS = things()
ROWS = {thing.name: row for row, thing in enumerate(OBJECTS)}
COLOUR_OF = {word: name for name in BACKDROPS for word in (name, *COLOUR_SYNONYMS.get(name, ()))}
# Words that claim nothing.
EMPTY = set(
    re.findall(r"\w+", "a an the one and next to of on with against in front background by is together some pair group")
)


STYLE_SIGNS = {
    "flat": "flat|vector",
    "3d": "3d|blender render",
    "cartoon": "cartoon|comic",
    "outline": "outline|line art|line drawing|coloring",
    "pixel": "pixel|8-bit",
    "pencil": "pencil|sketch",
    "watercolor": "watercolou?r|aquarelle",
    "neon": "neon",
    "silhouette": "silhouette",
    "grayscale": "black and white|gr[ae]yscale|monochrome",
}


def words_of(phrases) -> set[str]:
    text = " ".join(phrases)
    return set(re.findall(r"[\w-]+", re.sub(r"{\w*}|@", " ", text)))


def samples(category: Category, count: int = 250, seed: int = 0) -> list[tuple[Scene, str]]:
    sampler, captioner, rng = SceneSampler(OBJECTS, {category: 1.0}, "any"), Captioner(OBJECTS), Random(seed)
    return [(scene, captioner(scene, rng)) for scene in (sampler(rng) for _ in range(count))]


def nouns(row: int, *, plural: bool) -> list[str]:
    thing = OBJECTS[row]
    many = [plural_of(word) for word in thing.synonyms if word not in MASS_NOUNS]
    return [thing.plural, *many] if plural else [thing.name, *thing.synonyms]


def take(text: str, patterns: list[str]) -> tuple[str, str, int]:
    """Take the longest phrase that matches, once -> the rest, what matched and where."""
    found = [match for pattern in patterns if (match := re.search(rf"(?<![\w-]){pattern}(?![\w-])", text))]
    assert found, (text, patterns)
    match = max(found, key=lambda match: len(match[0]))
    return f"{text[: match.start()]} . {text[match.end() :]}", match[0], match.start()


def take_objects(scene: Scene, caption: str) -> tuple[str, list[int]]:
    """Take all objects with their number, size and colour; checks them."""
    rest, places = caption, []
    groups = [group for group in ([one for one in scene.items if one.group == g] for g in range(3)) if group]
    # The longest names first: "tropical fish" must not be taken for a fish.
    for group in sorted(groups, key=lambda group: -max(map(len, nouns(group[0].thing, plural=len(group) > 1)))):
        count, item = len(group), group[0]
        colour = [word for word, name in COLOUR_OF.items() if name == item.tint]
        adjective = f"(?:(?:{'|'.join(ADJECTIVES)}) )?"
        size = f"(?:{'|'.join(SIZE_WORDS[scene.size_word])}) " if scene.size_word else adjective
        style = f"(?:(?:{'|'.join(STYLE_ADJECTIVES.get(scene.style, ('x',)))}) )?"
        tint = f"(?:{'|'.join(colour)}) " if colour else ""
        number = "(?:an? |one |the )?"
        if count > 1:
            number = f"(?:(?:a group of )?{NUMBERS[count]} |{count} )"
            if len(groups) == 1:
                number = f"(?:{number}|a pair of |some |)" if count == 2 else f"(?:{number}|some |)"
        names = nouns(item.thing, plural=count > 1)
        patterns = [f"{number}{style}{size}{tint}{re.escape(name)}" for name in names]
        rest, _, place = take(rest, patterns)
        places.append((item.group, place))
    return rest, [place for _, place in sorted(places)]


def place_phrases(kind: str) -> list[str]:
    return [*PLACE_PHRASES[kind], *PLACE_NOUNS[kind], *PLACE_TAGS[kind], THROUGH[kind]]


def ground_words(scene: Scene) -> set[str]:
    ground = scene.background
    if ground.kind in PLACES:
        phrases = place_phrases(ground.kind)
        for table in (TIME_PHRASES, TIME_TAGS, CLEAR_PHRASES, CLEAR_TAGS, TIME_ADJECTIVES):
            if ground.weather == "clear" or table in (TIME_PHRASES, TIME_TAGS):
                phrases += table[ground.time]
        if ground.weather != "clear":
            for table in (WEATHER_PHRASES, WEATHER_TAGS, PLACE_ADJECTIVES):
                phrases += table[ground.weather]
            phrases.append(TIME_NOUNS[ground.time])
        return words_of(phrases) | words_of(verb for verbs in VERBS.values() for verb in verbs) | {"empty"}
    words = {word for word, name in COLOUR_OF.items() if name in ground.colours}
    words = words_of(words) | {"wall", "plain", "isolated"}
    return words | words_of(PATTERN_NOUNS.get(ground.kind, ()))


@pytest.mark.parametrize("category", CATEGORIES)
@pytest.mark.sampled(2)
def test_a_caption_says_what_is_there_and_nothing_else(category):
    for scene, caption in samples(category):
        rest, places = take_objects(scene, caption)
        relation_words: set[str] = set()
        if scene.relation is not None:
            phrases = [re.escape(phrase) for phrase in RELATION_PHRASES[scene.relation]]
            whole = WHOLE_PHRASES.get(scene.relation, ())
            relation_words = words_of([*RELATION_PHRASES[scene.relation], *whole]) | {"on", "head"}
            assert places[0] < places[1], caption  # "a left of b" means a
            assert any(re.search(rf"(?<!\w){phrase}(?!\w)", rest) for phrase in phrases) or any(
                word in rest for word in ("left", "right", "top", "bottom", "below", "side", "each other", "with")
            ), caption
        if scene.absent is not None:
            names = [name for plural in (False, True) for name in nouns(scene.absent, plural=plural)]
            rest, _, _ = take(rest, [rf"(?:no|without)(?: an?)? {re.escape(name)}" for name in names])
        style = words_of([*STYLE_PHRASES.get(scene.style, ()), *STYLE_TAGS.get(scene.style, ())])
        style |= words_of(STYLE_ADJECTIVES.get(scene.style, ()))
        assert scene.style == "plain" or re.search(STYLE_SIGNS[scene.style], caption), caption
        known = EMPTY | ground_words(scene) | relation_words | style | words_of(OPENINGS) | words_of(PRAISE)
        known |= {"but", "no", "without"} if scene.absent is not None else set()
        assert set(re.findall(r"[\w-]+", rest)) <= known, (caption, rest)


def test_the_background_is_named():
    for category in ("scene", "background", "two", "relation"):
        for scene, caption in samples(category, seed=1):
            ground = scene.background
            if ground.kind not in PLACES:
                for colour in set(ground.colours) - ({"white"} if ground.kind == "plain" else set()):
                    assert any(re.search(rf"\b{word}\b", caption) for word, name in COLOUR_OF.items() if name == colour)
                assert ground.kind in ("plain", "gradient") or re.search("strip|dot|check", caption)
                continue
            plain = re.sub(r" (rainy|snowy|sunny|moonlit|sunset)\b", "", caption)
            phrases = place_phrases(ground.kind)
            forms = {phrase.replace("@", "") for phrase in phrases} | {re.sub(r"\ban? ?@?", "", one) for one in phrases}
            assert any(form.replace("@", "") in text for form in forms for text in (plain, caption)), caption


def test_time_and_weather_are_said_unless_day_and_clear():
    signs = {
        "sunset": "sunset|dusk|dawn|sunrise|evening|golden hour",
        "night": "night|midnight|stars|moonl|starry",
        "rain": "rain",
        "snowfall": "snow",
    }
    for scene, caption in samples("scene", 1500, seed=2):
        ground = scene.background
        names = " ".join(nouns(scene.items[0].thing, plural=False)) if scene.items else ""
        for what, pattern in signs.items():
            if re.search(pattern, names):
                continue
            said = re.search(pattern, caption) is not None
            if what in (ground.time, ground.weather):
                assert said, caption
            elif not (what == "snowfall" and ground.kind == "snow") and ground.kind != "space":
                assert not said, (caption, scene)


def test_articles_and_plurals_are_english():
    for category in CATEGORIES:
        for _, caption in samples(category, 300, seed=3):
            for article, noun in re.findall(r"(?<![\w-])(an?) ([\w-]+)", caption):
                assert article == ("an" if noun == "8-bit" else article_of(noun)), caption
            assert not re.search(r"  |^ | $|@|{|}| ,", caption), repr(caption)
            assert caption == caption.lower()


def test_every_caption_is_known_to_the_vocabulary_and_fits():
    tokenizer = learn_vocabulary(all_words(OBJECTS), 8192, length=40)
    assert tokenizer.size < 4096
    for category in CATEGORIES:
        captions = [caption for _, caption in samples(category, 300, seed=4)]
        assert [word for caption in captions for word in tokenizer.unknown_words(caption)] == []
        report = tokenizer.encode_with_report(captions)
        assert not any(report.cut)
        assert all(num_pieces(caption) >= count for caption, count in zip(captions, report.num_tokens, strict=True))


def test_captions_become_the_ids_of_the_tokenizer():
    tokenizer = learn_vocabulary(all_words(OBJECTS), 8192, length=40)
    sampler, captioner, rng = SceneSampler(OBJECTS, FULL_MIX), Captioner(OBJECTS), Random(0)
    scenes = [sampler(rng) for _ in range(2000)]
    ids = caption_ids(scenes, captioner, tokenizer, Random(1))
    rng = Random(1)
    assert ids.dtype == np.int16
    assert np.array_equal(ids, tokenizer.encode([captioner(scene, rng) for scene in scenes]).numpy())
    short = tokenizer.with_length(8)  # cut as the tokenizer cuts
    rng = Random(1)
    expected = short.encode([captioner(scene, rng) for scene in scenes]).numpy()
    assert np.array_equal(caption_ids(scenes, captioner, short, Random(1)), expected)


def test_a_share_of_the_captions_is_left_out():
    tokenizer = learn_vocabulary(all_words(OBJECTS), 8192, length=40)
    scene = Scene("single", (Item(0, 0.5, 0.5, 0.7),))
    ids = caption_ids([scene] * 2000, Captioner(OBJECTS), tokenizer, Random(0), empty_share=0.1)
    empty = (ids == tokenizer.encode([""]).numpy()).all(axis=1)
    assert 0.07 < empty.mean() < 0.13
    assert (caption_ids([scene], Captioner(OBJECTS), tokenizer, Random(0), 1.0) == tokenizer.encode([""]).numpy()).all()


def test_the_same_draw_gives_the_same_words():
    assert samples("attribution", 40) == samples("attribution", 40) != samples("attribution", 40, seed=1)


def said(scene: Scene, count: int = 600) -> set[str]:
    captioner = Captioner(OBJECTS)
    return {captioner(scene, Random(seed)) for seed in range(count)}


def test_one_scene_is_put_as_people_put_it():
    cats = tuple(Item(ROWS["cat"], 0.2 * i, 0.7, 0.2) for i in range(1, 4))
    dog = Item(ROWS["dog"], 0.8, 0.7, 0.2, group=1)
    found = said(Scene("two", (*cats, dog), Background("beach", time="sunset")), 3000)
    assert "three cats and a dog on the beach at sunset" in found
    assert any(text.startswith("3 cats") for text in found)
    assert "three cats and a dog, beach, sunset" in found

    rider = Scene("relation", (Item(ROWS["cat"], 0.5, 0.3, 0.3), Item(ROWS["horse"], 0.5, 0.6, 0.5, group=1)))
    assert {"a cat riding a horse", "cat riding horse"} <= said(Scene("relation", rider.items, relation="riding"))

    owl = Scene("colours", (Item(ROWS["owl"], 0.5, 0.5, 0.7, "purple"),), Background("plain", ("orange", "orange")))
    found = said(owl)
    assert "a purple owl on an orange background" in found
    assert any("violet owl" in text for text in found)

    none = Scene("negation", dog_alone := (Item(ROWS["dog"], 0.5, 0.5, 0.7),), absent=ROWS["cat"])
    assert {"a dog and no cat", "a dog without a cat", "a dog but no cat"} <= said(none)
    assert {"pixel art of a dog", "a dog, pixel art"} <= said(Scene("style", dog_alone, style="pixel"), 2000)
    assert "a beach at sunset" in said(Scene("scene", (), Background("beach", time="sunset")))


def test_things_that_are_plurals_have_no_article():
    scene = Scene("colours", (Item(ROWS["scissors"], 0.5, 0.5, 0.7, "red"),))
    found = said(scene)
    assert {"red scissors", "the red scissors", "a red pair of scissors"} < found
    assert not any(text.startswith("a red scissors") for text in found)
