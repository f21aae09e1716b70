"""What gesso writes for other tools, read back: the settings that this form can carry are those of the request."""

from operator import attrgetter
from typing import Any

import pytest

from gesso.metadata.a1111 import from_infotext
from gesso.pictures.infotext import infotext
from gesso.pictures.infotext_reading import read_infotext
from gesso.request.parts import ControlUse, HiresPass
from gesso.request.request import NAMED
from made_recipes import make_recipe

MASKED = {"image": "0" * 64, "mask": "1" * 64, "strength": 0.6}


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"noise": "cpu", "clip_skip": 2, "ensd": 31337, "preset": "a1111"},
        {"variation_seed": 0, "variation_strength": 0.25},
        {"seed_width": 32, "seed_height": 48},
        {"tiling": "x"},
        {"tiling": "xy"},
        {"sigmas": (3.0, 1.0, 0.0), "schedule": "own", "num_steps": 2},
        {"hires": HiresPass(scale=2.0, upscaler="latent_bilinear", strength=0.4)},
        {"hires": HiresPass(width=128, height=96, upscaler="4x, best", strength=0.4, num_steps=5, sampler="euler")},
        {"hires": HiresPass(scale=1.5, upscaler="lanczos", strength=0.5, guidance_scale=2.5, prompt="a: b, c\nd")},
        {**MASKED, "mask_content": "noise", "mask_blur": 4.0},
        {**MASKED, "mask_content": "original", "mask_area": "masked", "mask_padding": 16},
    ],
)
def test_settings_survive(values: dict[str, Any]):
    recipe = make_recipe(**values)
    text = infotext(recipe)
    found = from_infotext(read_infotext(text))
    told = {name: value for name, value in values.items() if name not in ("image", "mask", "schedule")}
    if told.get("mask_content") == "original":
        del told["mask_content"]  # as every reader takes it where nothing is said
    assert {name: attrgetter(NAMED[name].path)(found.request) for name in told} == told
    expected = recipe.request
    assert (found.request.prompt, found.request.num_steps) == (expected.prompt, expected.num_steps)
    assert (found.request.seed, found.request.sampler) == (expected.seed, expected.sampler)


def test_the_second_pass_is_told_in_the_names_of_the_web_ui():
    """And read by its names or ours, which stood there before."""
    hires = HiresPass(scale=2.0, upscaler="latent_bilinear", strength=0.4, sampler="euler_ancestral", schedule="turbo")
    text = infotext(make_recipe(hires=hires))
    assert "Hires sampler: Euler a, Hires schedule type: Turbo, " in text
    assert "Sampler: DPM++ 2M, Schedule type: Karras, " in text
    for written in (text, text.replace("Euler a", "euler_ancestral").replace("Turbo", "turbo")):
        found = from_infotext(read_infotext(written)).request.hires
        assert found is not None and (found.sampler, found.schedule) == ("euler_ancestral", "turbo")


def test_what_steered_is_told_in_the_words_of_the_extension():
    use = ControlUse(
        model="edges.safetensors",
        image="0" * 64,
        preprocessor="canny",
        parameters=(("high", 90.0), ("low", 50.0)),
        end=0.7,
        mode="control",
    )
    text = infotext(make_recipe(controls=(use,)))
    pairs = read_infotext(text).pairs
    assert pairs["ControlNet 0"] == (
        "Module: canny, Model: edges, Weight: 1, Threshold A: 50, Threshold B: 90, Guidance Start: 0, "
        "Guidance End: 0.7, Control Mode: ControlNet is more important"
    )
    assert any("ControlNet 0" in notice for notice in from_infotext(read_infotext(text)).notices)
