"""Prompt sets, verdicts and scores, on hand-made detections and with stand-ins for detector and model."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from gesso.mini.judging.composition import (
    CATEGORIES,
    CategoryScore,
    JudgeFigures,
    Prompt,
    is_new,
    judge,
    prompt_set,
    spoiled,
    wilson,
)
from gesso.mini.judging.detector import DetectedObject, Detection
from gesso.scenes.scene import Item, Scene
from gesso.scenes.vocabulary import things

CAT, DOG, OWL = 0, 1, 2


def prompt(category, *items, background="white", relation=None, text="-") -> Prompt:
    return Prompt(text, Scene(category, background, items, relation))


def item(thing, x=0.5, y=0.5, tint=None) -> Item:
    return Item(thing, x, y, 0.44, tint)


def seen(*found, background="white") -> Detection:
    return Detection(background, found)


# ---- intervals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("right", "total", "low", "high"),
    [  # Newcombe 1998, table I, method 3 (score interval)
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_interval_against_published_values(right, total, low, high):
    assert wilson(right, total) == pytest.approx((low, high), abs=5e-5)


def test_wilson_is_symmetric_and_bounded():
    for right in range(11):
        low, high = wilson(right, 10)
        assert 0 <= low <= right / 10 <= high <= 1
        assert wilson(10 - right, 10) == pytest.approx((1 - high, 1 - low), abs=1e-12)
    for wrong in ((0, 0), (-1, 5), (6, 5)):
        with pytest.raises(ValueError, match="not a share"):
            wilson(*wrong)


# ---- verdicts --------------------------------------------------------------------------------------------------------


def test_a_single_object():
    wanted = prompt("single", item(CAT))
    assert judge(wanted, seen(DetectedObject(CAT, 0.5, 0.5))).right
    assert judge(
        wanted, seen(DetectedObject(CAT, 0.1, 0.9, tint="red"), background=None)
    ).right  # neither was asked for
    assert judge(wanted, seen()).broken == ("objects", "number")
    assert judge(wanted, seen(DetectedObject(DOG, 0.5, 0.5))).broken == ("objects", "number")
    assert judge(wanted, seen(DetectedObject(None, 0.5, 0.5))).broken == ("objects", "number")
    for more in (CAT, DOG, None):
        assert judge(wanted, seen(DetectedObject(CAT, 0.3, 0.5), DetectedObject(more, 0.7, 0.5))).broken == ("number",)


def test_a_background():
    wanted = prompt("background", item(CAT), background="blue")
    assert judge(wanted, seen(DetectedObject(CAT, 0.5, 0.5), background="blue")).right
    for other in ("white", "purple", None):
        assert judge(wanted, seen(DetectedObject(CAT, 0.5, 0.5), background=other)).broken == ("background",)


def test_white_counts_only_where_it_is_said():
    silent, said = (
        prompt("two", item(CAT), item(DOG), text=text) for text in ("cat, dog", "cat, dog, white background")
    )
    found = (DetectedObject(CAT, 0.3, 0.5), DetectedObject(DOG, 0.7, 0.5))
    assert judge(silent, seen(*found, background="gray")).right
    assert judge(said, seen(*found, background="gray")).broken == ("background",)
    assert judge(said, seen(*found)).right


def test_colours():
    wanted = prompt("colours", item(CAT, tint="red"))
    assert judge(wanted, seen(DetectedObject(CAT, 0.5, 0.5, tint="red"))).right
    for tint in (None, "orange"):
        assert judge(wanted, seen(DetectedObject(CAT, 0.5, 0.5, tint=tint))).broken == ("tint",)
    assert judge(wanted, seen(DetectedObject(DOG, 0.5, 0.5, tint="red"))).broken == ("objects", "number", "tint")


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_counting(count):
    wanted = prompt("counting", *[item(CAT)] * 3)
    verdict = judge(wanted, seen(*[DetectedObject(CAT, 0.1 + 0.2 * i, 0.5) for i in range(count)]))
    assert verdict.broken == (() if count == 3 else ("number",))


def test_counting_the_wrong_kind():
    wanted = prompt("counting", *[item(CAT)] * 3)
    mixed = [DetectedObject(CAT, 0.2, 0.2), DetectedObject(CAT, 0.8, 0.2), DetectedObject(DOG, 0.5, 0.8)]
    assert judge(wanted, seen(*mixed)).broken == ("number",)


def test_two_objects_need_both():
    wanted = prompt("two", item(CAT), item(DOG))
    assert judge(wanted, seen(DetectedObject(DOG, 0.2, 0.5), DetectedObject(CAT, 0.8, 0.5))).right  # in any order
    assert judge(wanted, seen(DetectedObject(CAT, 0.5, 0.5))).broken == ("objects", "number")
    assert judge(wanted, seen(DetectedObject(CAT, 0.2, 0.5), DetectedObject(CAT, 0.8, 0.5))).broken == (
        "objects",
        "number",
    )
    assert judge(
        wanted, seen(DetectedObject(CAT, 0.2, 0.5), DetectedObject(DOG, 0.8, 0.5), DetectedObject(OWL, 0.5, 0.9))
    ).broken == ("number",)


@pytest.mark.parametrize(
    ("relation", "first", "second"),
    [
        ("left", (0.2, 0.5), (0.8, 0.5)),
        ("right", (0.8, 0.5), (0.2, 0.5)),
        ("above", (0.5, 0.2), (0.5, 0.8)),
        ("below", (0.5, 0.8), (0.5, 0.2)),
    ],
)
def test_positions(relation, first, second):
    for said in ("left", "right", "above", "below"):
        wanted = prompt("position", item(CAT), item(DOG), relation=said)
        verdict = judge(wanted, seen(DetectedObject(CAT, *first), DetectedObject(DOG, *second)))
        assert verdict.broken == (() if said == relation else ("position",))


def test_a_position_must_be_clear():
    wanted = prompt("position", item(CAT), item(DOG), relation="left")
    for second in ((0.55, 0.5), (0.6, 0.8)):  # hardly apart; further below than right
        assert judge(wanted, seen(DetectedObject(CAT, 0.5, 0.5), DetectedObject(DOG, *second))).broken == ("position",)
    assert judge(wanted, seen(DetectedObject(CAT, 0.5, 0.5))).broken == ("objects", "number", "position")


def test_of_two_alike_the_surer_one_stands():
    wanted = prompt("position", item(CAT), item(DOG), relation="left")
    found = (
        DetectedObject(CAT, 0.9, 0.5, confidence=0.5),
        DetectedObject(CAT, 0.2, 0.5, confidence=0.9),
        DetectedObject(DOG, 0.6, 0.5),
    )
    assert judge(wanted, seen(*found)).broken == ("number",)


def test_attribution_binds_colours_to_objects():
    wanted = prompt("attribution", item(CAT, tint="red"), item(DOG, tint="blue"))
    assert judge(
        wanted, seen(DetectedObject(CAT, 0.2, 0.5, tint="red"), DetectedObject(DOG, 0.8, 0.5, tint="blue"))
    ).right
    changed = seen(DetectedObject(CAT, 0.2, 0.5, tint="blue"), DetectedObject(DOG, 0.8, 0.5, tint="red"))
    assert judge(wanted, changed).broken == ("tint",)


# ---- prompt sets -----------------------------------------------------------------------------------------------------


def test_a_prompt_set_covers_categories_and_objects():
    prompts = prompt_set(things(), 560, seed=3)
    assert len(prompts) >= 560
    by_category = Counter(one.scene.category for one in prompts)
    assert list(by_category) == list(CATEGORIES)
    assert set(list(by_category.values())[1:]) == {80}
    assert by_category["single"] == max(80, len(things()))
    assert {one.scene.items[0].thing for one in prompts if one.scene.category == "single"} == set(range(len(things())))
    assert len({(one.scene.category, one.text) for one in prompts}) == len(prompts)
    assert all(is_new(one.scene, things()) for one in prompts)


def test_a_prompt_set_follows_from_its_seed():
    assert prompt_set(things(), 70, 1) == prompt_set(things(), 70, 1)
    assert prompt_set(things(), 70, 1) != prompt_set(things(), 70, 2)
    small = prompt_set(things(), 70, 1, every_object=False)
    assert Counter(one.scene.category for one in small) == dict.fromkeys(CATEGORIES, 10)


def test_what_is_new_is_what_the_category_is_about():
    """A held-out background does not make a colour new."""
    table = things()
    names = [thing.name for thing in table]
    known = Scene("colours", "blue", (Item(names.index("cat"), 0.5, 0.5, 0.7, "red"),))
    assert is_new(known, table) == is_new(replace(known, background="white"), table)


def test_a_prompt_set_about_nothing_is_refused():
    with pytest.raises(ValueError, match="expected 1 or more"):
        prompt_set(things(), 0, 0)
    with pytest.raises(ValueError, match="expected 1 or more"):
        prompt_set((), 70, 0)
    with pytest.raises(ValueError, match="use a larger table"):
        prompt_set(things()[:2], 70, 0)


# ---- spoiled pictures ------------------------------------------------------------------------------------------------


def test_a_spoiled_scene_is_always_wrong():
    """Seen perfectly, the true scene passes and the spoiled one fails, each clause in its turn."""
    rng = np.random.default_rng(0)
    ways: dict[str, set[str]] = {}
    for one in prompt_set(things(), 140, 0, every_object=False):
        for _ in range(3):
            lie = spoiled(one.scene, things(), rng)
            assert judge(one, perfectly_seen(one.scene)).right
            verdict = judge(one, perfectly_seen(lie))
            assert not verdict.right, (one, lie)
            ways.setdefault(one.scene.category, set()).update(verdict.broken)
    assert ways == {
        "single": {"objects", "number"},
        "background": {"objects", "number", "background"},
        "colours": {"objects", "number", "tint"},
        "two": {"objects", "number"},
        "counting": {"objects", "number"},
        "position": {"objects", "number", "position"},
        "attribution": {"objects", "number", "tint"},
    }


def perfectly_seen(scene: Scene) -> Detection:
    return Detection(scene.background, tuple(DetectedObject(one.thing, one.x, one.y, one.tint) for one in scene.items))


# ---- scores ----------------------------------------------------------------------------------------------------------


def score(right=70, accuracy=0.97, floor=0.8) -> CategoryScore:
    return CategoryScore(
        category="two", total=80, right=right, judge_accuracy=accuracy, judge_total=200, judge_fooled=0.0, floor=floor
    )


def test_a_score_counts_only_with_a_good_judge():
    assert score().counts
    assert score(accuracy=0.95).counts
    assert not score(accuracy=0.949).counts
    assert not score(accuracy=None).counts


def test_a_floor_is_reached_or_not_or_open():
    assert score().reached is True
    assert score(right=64).reached is True  # 0.8 itself
    assert score(right=63).reached is False
    assert score(accuracy=0.9).reached is None
    assert score(floor=None).reached is None


def test_judge_figures():
    assert JudgeFigures(total=200, right=190, fooled=3).accuracy == 0.95


def test_a_report_is_json(tmp_path):
    from gesso.mini.judging.composition import CompositionReport, JudgedPicture

    one = prompt("two", item(CAT), item(DOG), text="cat and dog")
    found = seen(DetectedObject(CAT, 0.3, 0.5))
    judged = JudgedPicture(one, 7, found, judge(one, found), np.zeros((64, 64, 3), np.uint8))
    report = CompositionReport(
        scores=(score(), replace(score(right=8), category="counting"), score(accuracy=0.5)),
        seed=7,
        settings={"model": "m"},
        num_objects=2,
        judged=(judged,),
        words=("cat on white",),
    )
    assert report.overall == pytest.approx((70 / 80 + 8 / 80) / 2)
    data = json.loads(report.to_json())
    assert data["pictures"] == [
        {
            "category": "two",
            "prompt": "cat and dog",
            "seed": 7,
            "right": False,
            "clauses": {"objects": False, "number": False},
            "seen": "cat on white",
        }
    ]
    assert [row["counts"] for row in data["scores"]] == [True, True, False]
    assert data["scores"][0]["low"] == pytest.approx(wilson(70, 80)[0])
    text = report.text()
    assert "does not count" in text
    assert "two objects" in text
    assert "0.80 reached" in text
    assert "0.80 missed" in text
