"""The table that a GPU's training takes: the small one, and as many objects again as a picture can tell apart."""

import re
from collections import Counter

import numpy as np
import pytest

from gesso.scenes.caption import Captioner, all_words
from gesso.scenes.scene import SceneSampler, held_out
from gesso.scenes.vocabulary import (
    BACKGROUNDS,
    COLOUR_SYNONYMS,
    COLOURS,
    NUMBERS,
    RELATIONS,
    SIZES,
    plural_of,
    things,
)
from gesso.text.tokenizer import learn_vocabulary

FULL = things("full")


def words_of(thing):
    return {thing.name, thing.plural, *thing.synonyms, *map(plural_of, thing.synonyms)}


def test_it_is_large_and_begins_with_the_small_table():
    assert 600 <= len(FULL) <= 1000
    small = things()
    assert [(t.glyph, t.name, t.plural) for t in FULL[: len(small)]] == [(t.glyph, t.name, t.plural) for t in small]
    assert things("default") == small


def test_another_table_is_refused():
    with pytest.raises(ValueError, match="expected one of default, full"):
        things("emoji")


def test_a_word_and_a_glyph_stand_for_one_object_only():
    owners = {}
    for thing in FULL:
        for word in words_of(thing):
            owners.setdefault(word, set()).add(thing.name)
    assert {word: names for word, names in owners.items() if len(names) > 1} == {}
    assert max(Counter(thing.glyph.removesuffix("\ufe0f") for thing in FULL).values()) == 1


def test_no_name_holds_a_word_for_a_colour_a_number_or_a_size():
    """The captions would say two colours, and the hold-out rule would look at the wrong one."""
    taken = {*COLOURS, *BACKGROUNDS, *NUMBERS.values(), "left", "right", "above", "below", "under", "beneath", "over"}
    taken |= {word for words in (*COLOUR_SYNONYMS.values(), *SIZES.values()) for word in words}
    for thing in FULL:
        for word in words_of(thing):
            assert word.isascii()
            assert word == word.lower()
            assert not taken & set(re.split(r"[ -]", word)), word
            assert not any(phrase in word for phrases in RELATIONS.values() for phrase in phrases if " " in phrase)


def test_every_object_keeps_colours_to_learn_from():
    for thing in FULL:
        assert sum(held_out(thing.name, colour) for colour in COLOURS) < len(COLOURS) / 2 + 2, thing.name


def test_its_captions_are_known_and_short():
    """32 tokens, beginning and end among them, are the text length of the GPU recipe."""
    tokenizer = learn_vocabulary(all_words(FULL), 4096, length=32)
    assert tokenizer.size < 4096  # no word fell out
    sampler, captioner = SceneSampler(FULL, {"position": 1.0, "attribution": 1.0, "counting": 1.0}), Captioner(FULL)
    rng = np.random.default_rng(0)
    captions = [captioner(sampler(rng), rng) for _ in range(600)]
    assert [word for caption in captions for word in tokenizer.unknown_words(caption)] == []
    assert not any(tokenizer.encode_with_report(captions).cut)
