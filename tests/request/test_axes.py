"""Axes of a grid: what is typed, and what it does to a request."""

from operator import attrgetter
from typing import Any

import pytest

from gesso.request.axes import MAX_CELLS, cells, check_apart, parse_axis
from gesso.request.checks import RequestError
from gesso.request.parts import LoraUse
from gesso.request.request import TextToImageRequest

BASE = TextToImageRequest(prompt="a red cat", negative_prompt="red eyes", sigmas=(2.0, 1.0, 0.0))


def applied(text: str) -> list[TextToImageRequest]:
    axis = parse_axis(text)
    return [change(BASE) for change in axis.changes if change is not None]


@pytest.mark.parametrize(
    ("text", "path", "values"),
    [
        ("steps=4,8, 20", "num_steps", [4, 8, 20]),
        ("steps=1-5", "num_steps", [1, 2, 3, 4, 5]),
        ("steps=1-6 (+2)", "num_steps", [1, 3, 5]),
        ("steps=10-4(-3)", "num_steps", [10, 7, 4]),
        ("steps=1-10[5]", "num_steps", [1, 3, 6, 8, 10]),
        ("steps=1-3,30", "num_steps", [1, 2, 3, 30]),
        ("cfg=2-3 (+0.25)", "guidance_scale", [2.0, 2.25, 2.5, 2.75, 3.0]),
        ("guidance=0-1[3]", "guidance_scale", [0.0, 0.5, 1.0]),
        ("seed=0,1", "seed", [0, 1]),
        ("seed=1152921504606846977-1152921504606846979", "seed", [2**60 + 1, 2**60 + 2, 2**60 + 3]),
        ("seed=18446744073709551613-18446744073709551615[2]", "seed", [2**64 - 3, 2**64 - 1]),
        ("sampler=euler, DPM++ 2M", "sampler", ["euler", "DPM++ 2M"]),
        ("round-timesteps=true,false", "conventions.round_timesteps", [True, False]),
        ("hires.strength=0.3,0.5", "hires.strength", [0.3, 0.5]),
        ("source.strength=0.3,0.5", "source.strength", [0.3, 0.5]),
        ("denoise=0.3", "source.strength", [0.3]),
        ("mask_blur=0,4", "mask.blur", [0.0, 4.0]),
        ("negative=x", "negative_prompt", ["x"]),
        ("size=64,64x128", "height", [64, 128]),
    ],
)
def test_values(text: str, path: str, values: list[Any]):
    assert [attrgetter(path)(request) for request in applied(text)] == values


def test_steps_take_the_place_of_own_sigmas():
    assert applied("steps=4")[0].sigmas is None
    assert applied("seed=4")[0].sigmas == BASE.sigmas


def test_search_and_replace_in_both_prompts():
    found = applied('prompt=red,green,"dark, blue"')
    assert [request.prompt for request in found] == ["a red cat", "a green cat", "a dark, blue cat"]
    assert [request.negative_prompt for request in found] == ["red eyes", "green eyes", "dark, blue eyes"]
    with pytest.raises(RequestError, match="'dog' is in neither prompt"):
        applied("prompt=dog,fox")


def test_weights_of_a_lora():
    found = applied("lora:ink=0,0.5-1(+0.5)")
    assert [request.loras for request in found] == [(LoraUse(name="ink", weight=w),) for w in (0.0, 0.5, 1.0)]


def test_models_are_told_apart():
    axis = parse_axis("model=a.safetensors,b")
    assert axis.is_model
    assert axis.values == ("a.safetensors", "b")
    assert not parse_axis("steps=1").is_model


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("steps", "expected NAME=VALUES"),
        ("=1", "expected NAME=VALUES"),
        ("steps=", "expected NAME=VALUES"),
        ("stepz=1", "did you mean 'steps'"),
        ("steps=a", "expected a whole number"),
        ("steps=1.5", "expected a whole number"),
        ("steps=0", "1 to 1000"),
        ("steps=1-2(+0.5)", "whole numbers"),
        ("steps=1-5(-1)", "expected a range"),
        ("steps=1-5(+0)", "expected a range"),
        ("seed=1-9999999", "expected a range"),
        ("steps=1-9[999]", "expected 1 to 256"),
        ("guidance=nan", "expected a number"),
        ("steps=1,,2", "between two commas is missing"),
        ('prompt="a', "is not closed"),
        ("image=x", "unknown axis"),
        ("size=axb", "WIDTHxHEIGHT"),
        ("levels=sometimes", "unknown conventions.levels"),
        ("seed=" + ",".join("1" * 300), "at most 256"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_drawn(text: str, words: str):
    with pytest.raises(RequestError, match=words):
        applied(text)


def test_the_number_of_pictures_is_bounded():
    axis = parse_axis("seed=1-200")
    assert cells([axis]) == 200
    with pytest.raises(RequestError, match=f"at most {MAX_CELLS}"):
        cells([axis, axis])


def test_each_minus_one_is_a_random_seed_of_its_own():
    seeds = [(request.seed, request.first_index) for request in applied("seed=-1,7,-1")]
    assert seeds == [(None, BASE.first_index), (7, BASE.first_index), (None, BASE.first_index + 1)]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("steps=1", "steps=2,3"),
        ("cfg=1", "guidance=2"),
        ("size=256", "width=512"),
        ("model=a", "model=b"),
        ("lora:ink=1", "lora:ink=0.5"),
    ],
)
def test_two_axes_do_not_set_the_same(one: str, other: str):
    with pytest.raises(RequestError, match="give each axis a setting of its own"):
        check_apart([parse_axis(one), parse_axis(other)])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("steps=1", "guidance=2"),
        ("prompt=red,blue", "prompt=car,cat"),
        ("width=256", "height=512"),
        ("lora:a=1", "lora:b=1"),
    ],
)
def test_axes_that_stand_beside_each_other(one: str, other: str):
    check_apart([parse_axis(one), parse_axis(other)])
