"""Captions of a step: what stays, what moves, what is left out, and how often."""

import random

import pytest

from gesso.tuning.captions import CaptionRules, trigger_pattern

CAPTION = "sks dog, red, in the snow, side view"


def drawn(rules, caption=CAPTION, count=2000):
    rng = random.Random(1)
    return [rules.at_random(caption, rng) for _ in range(count)]


def test_a_plain_caption_stays_as_it_is():
    odd = "A dog ,  in snow,, (really)"
    assert set(drawn(CaptionRules(), odd, 5)) == {odd}


def test_tags_are_shuffled_behind_those_that_are_kept():
    found = drawn(CaptionRules(shuffle=True, keep=1))
    assert all(one.startswith("sks dog, ") for one in found)
    assert {frozenset(one.split(", ")) for one in found} == {frozenset(CAPTION.split(", "))}
    assert len(set(found)) == 6  # all orders of three


def test_a_mark_says_what_is_kept():
    rules = CaptionRules(shuffle=True, keep_mark="|||")
    found = drawn(rules, "sks dog, red ||| snow, side view")
    assert set(found) == {"sks dog, red, snow, side view", "sks dog, red, side view, snow"}
    assert rules.whole("sks dog ||| snow") == "sks dog, snow"


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_shares_of_captions_and_tags_are_left_out(rate):
    found = drawn(CaptionRules(dropout=rate), count=4000)
    deviation = (rate * (1 - rate) / 4000) ** 0.5
    assert abs(found.count("") / 4000 - rate) < 4 * deviation
    found = drawn(CaptionRules(tag_dropout=rate, keep=1), count=4000)
    assert all("sks dog" in one for one in found)
    assert abs(sum("red" not in one for one in found) / 4000 - rate) < 4 * deviation


def test_prefix_suffix_and_separator():
    rules = CaptionRules(prefix="photo of", suffix="in oil", separator=".")
    assert rules.whole("a dog. red") == "photo of a dog. red in oil"
    assert rules.tags("a dog. red") == ["a dog", "red"]


@pytest.mark.parametrize(
    ("trigger", "caption", "has"),
    [
        ("cat", "a CAT on a mat", True),
        ("cat", "a category of things", False),
        ("cat", "two cats", False),
        ("<my-dog>", "a photo of <my-dog>, sitting", True),
        ("sks dog", "sks dog", True),
        ("\u732b", "\u9ed2\u3044\u732b\u3067\u3059", True),
    ],
)
def test_a_trigger_is_a_word_of_its_own(trigger: str, caption: str, has: bool):
    assert bool(trigger_pattern(trigger).search(caption)) == has
