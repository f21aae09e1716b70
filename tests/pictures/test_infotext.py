"""A1111's text: read by its rules, and what is written comes back."""

import random
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gesso.pictures.infotext import infotext, write_infotext
from gesso.pictures.infotext_reading import Infotext, read_infotext, read_pairs
from gesso.request.parts import ControlUse, HiresPass, LoraUse
from gesso.request.recipe import ExtraFile, Recipe, WeightFile
from linear_time import assert_linear
from made_recipes import make_recipe

PAIRS = [("Steps", "20"), ("Sampler", "DPM++ 2M"), ("Seed", "5"), ("Version", "gesso 0.1.0")]
# The web UI's own way to read its last line (interoperability grammar, retold).
THEIRS = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')


def test_a_text_of_the_web_ui():
    text = (
        "a (red:1.2) cat, sitting\nsecond line\nNegative prompt: blurry, low quality\nalso this\n"
        "Steps: 25, Sampler: Euler a, Schedule type: Automatic, CFG scale: 7, Seed: 123, Size: 512x768, "
        'Model hash: 6ce0161689, Model: v1-5-pruned-emaonly, Lora hashes: "ink: 1a2b3c4d5e6f, old: 0a0b0c0d0e0f", '
        "Version: v1.10.1"
    )
    found = read_infotext(text)
    assert found.prompt == "a (red:1.2) cat, sitting\nsecond line"
    assert found.negative_prompt == "blurry, low quality\nalso this"
    assert found.pairs["Lora hashes"] == "ink: 1a2b3c4d5e6f, old: 0a0b0c0d0e0f"
    assert found.pairs["Size"] == "512x768"
    assert list(found.pairs)[-1] == "Version"


def test_json_that_plugins_leave_does_not_break_the_line():
    text = (
        'a cat\nSteps: 1, Seed: 2, Hashes: {"model": "0a1b, 2", "lora:x": "ff"}, '
        'Civitai resources: [{"type":"lora","weight":0.7},{"a":"]"}], Size: 8x8'
    )
    pairs = read_infotext(text).pairs
    assert pairs["Hashes"] == '{"model": "0a1b, 2", "lora:x": "ff"}'
    assert pairs["Civitai resources"] == '[{"type":"lora","weight":0.7},{"a":"]"}]'
    assert pairs["Size"] == "8x8"


@pytest.mark.parametrize(
    ("text", "prompt"),
    [("a cat", "a cat"), ("a cat\nSteps: 20, Seed: 1", "a cat\nSteps: 20, Seed: 1"), ("", ""), ("\n\n", "")],
)
def test_a_last_line_of_few_pairs_is_prompt(text, prompt):
    assert read_infotext(text) == Infotext(prompt)


@pytest.mark.parametrize(
    "line",
    [
        "Steps: 20, Sampler: DPM++ 2M Karras, CFG scale: 7",
        'A: 1, Hires prompt: "a, b: c", Mask blur: 4',
        "Token merging ratio hr: 0.5, Model: a-b/c d, VAE: x",
        'Broken: "no end, Seed: 1, Steps: 2',
    ],
)
def test_plain_lines_are_read_as_the_web_ui_reads_them(line):
    theirs = [(key, value) for key, value in THEIRS.findall(line) if not value.startswith('"') or value.count('"') == 1]
    ours = [(key, value) for key, value in read_pairs(line) if (key, value) in theirs or '"' not in line]
    assert ours == [(key, value.strip()) for key, value in theirs]


HOSTILE = [
    "Negative prompt: x",
    "a\nNegative prompt: b\nSteps: 20, Sampler: x, Seed: 1",
    " Negative prompt:",
    "Steps: 20, Seed: 1, Size: 1x1",
    "a\n",
    "\na",
    "  a ",
    "a\r\nb\rc",
    'q "x", {"a": [1',
    "\\Negative prompt:",
    "Exact prompt: y, a: b, c: d",
    "a\x0bb\x85\u2028c\u2029",
    "\u202e\U0001f468\u200d\U0001f469 e\u0301",
    "",
]


@pytest.mark.parametrize("prompt", HOSTILE)
@pytest.mark.parametrize("negative", HOSTILE)
def test_hostile_prompts_come_back(prompt, negative):
    assert read_infotext(write_infotext(prompt, negative, PAIRS)) == Infotext(prompt, negative, dict(PAIRS))


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=60)


@given(TEXT, TEXT, st.text(st.characters(codec="utf-8"), max_size=20))
def test_any_text_comes_back(prompt, negative, value):
    pairs = [*PAIRS, ("Note", value)]
    assert read_infotext(write_infotext(prompt, negative, pairs)) == Infotext(prompt, negative, dict(pairs))


@pytest.mark.parametrize("count", [10_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_many_prompts_come_back(count):
    """Put together from what the grammar is made of, faster than a general search would."""
    rng = random.Random(0)
    parts = [
        *HOSTILE,
        ",",
        ":",
        "\n",
        '"',
        "\\",
        "{",
        "}",
        "[",
        "]",
        " ",
        "Negative prompt:",
        "Steps: 1",
        "cat",
        "Seed",
    ]
    for _ in range(count):
        prompt, negative = ("".join(rng.choices(parts, k=rng.randrange(5))) for _ in range(2))
        found = read_infotext(write_infotext(prompt, negative, PAIRS))
        assert (found.prompt, found.negative_prompt) == (prompt, negative)


def test_what_is_written_is_harmless_to_the_web_ui():
    """Its own rules find our pairs and no others, whatever the prompt says."""
    prompt = "a\nNegative prompt: b\nSteps: 99, Sampler: x, Seed: 77"
    *lines, last = write_infotext(prompt, "", PAIRS).split("\n")
    assert not any(line.strip().startswith("Negative prompt:") for line in lines)
    assert [pair for pair in THEIRS.findall(last) if pair[0] != "Exact prompt"] == PAIRS


@pytest.mark.parametrize("piece", ["a: ", "{", '["', '"\\', "a,", "word ", ":", "a: {,", "a: [{,", 'a: ",', "a: {}"])
def test_time_is_linear(piece):
    assert_linear(lambda text: read_infotext(f"x\n{text}"), piece)


SETTINGS = "Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 512x512"


@pytest.mark.parametrize("mark", ["Negative Prompt:", "negative prompt:", "NEGATIVE PROMPT:", "Negative prompt:"])
def test_the_mark_of_the_negative_prompt_in_any_case(mark: str):
    found = read_infotext(f"a cat\n  {mark} blurry\nlow quality\n{SETTINGS}")
    assert (found.prompt, found.negative_prompt, found.pairs["Steps"]) == ("a cat", "blurry\nlow quality", "20")


@pytest.mark.parametrize(
    "text",
    [
        "a cat\nNegative Prompt: blurry",  # no settings: anybody's text
        "a cat\nNegative Prompt: blurry\nSteps: 20",  # fewer than three are none
        f"a cat, Negative Prompt: blurry\n{SETTINGS}",  # within a line, as in that tool
        f"a poster that says\nNEGATIVE PROMPT:\nNegative Prompt: x\n{SETTINGS}",  # which of them?
        f"a cat\nNegative  Prompt: blurry\n{SETTINGS}",
    ],
)
def test_where_it_may_be_part_of_the_prompt_it_stays(text: str):
    found = read_infotext(text)
    assert (found.prompt + (f"\n{SETTINGS}" if found.pairs else ""), found.negative_prompt) == (text, "")


def test_the_mark_of_that_tool_comes_first():
    found = read_infotext(f"Negative Prompt: is what the sign says\nNegative prompt: blurry\n{SETTINGS}")
    assert (found.prompt, found.negative_prompt) == ("Negative Prompt: is what the sign says", "blurry")


@pytest.mark.parametrize("prompt", ["a cat\nNegative Prompt: blurry", "negative prompt: x", "NEGATIVE PROMPT:"])
@pytest.mark.parametrize("negative", ["", "a dog"])
def test_gesso_s_own_text_is_read_back_whatever_its_prompt_says(prompt: str, negative: str):
    assert read_infotext(write_infotext(prompt, negative, PAIRS)) == Infotext(prompt, negative, dict(PAIRS))


BASE = {
    "Steps": "20",
    "Sampler": "DPM++ 2M",
    "Schedule type": "Karras",
    "CFG scale": "4",
    "Seed": "5",
    "Size": "64x64",
    "Model hash": "0123456789",
    "Model": "gesso-mini",
    "Noise": "philox",
    "Picture index": "0",
    "Version": "gesso 0.1.0",
}
GIVEN, TOLD = {"image": "0123456789abcdef" * 4}, {"Init image hash": "0123456789"}
TWICE = {"Hires upscale": "2"}


def pairs_of(recipe: Recipe) -> Mapping[str, str]:
    return read_infotext(infotext(recipe)).pairs


@pytest.mark.parametrize(
    ("values", "more"),
    [
        ({}, {}),
        ({"first_index": 3}, {"Picture index": "3"}),  # gesso's own noise: the seed stays, the picture has an index
        ({"guidance_scale": 7.5, "clip_skip": 2, "eta": 0.5}, {"CFG scale": "7.5", "Clip skip": "2", "Eta": "0.5"}),
        ({"guidance_rescale": 0.7, "tiling": "xy"}, {"CFG rescale": "0.7", "Tiling": "True"}),
        (GIVEN | {"strength": 0.6}, TOLD | {"Denoising strength": "0.6"}),
        (GIVEN | {"image_guidance": 1.5}, TOLD | {"Image CFG scale": "1.5"}),
        ({"variation_seed": 9, "variation_strength": 0.25}, {"Variation seed": "9", "Variation seed strength": "0.25"}),
        ({"seed_width": 32, "seed_height": 48}, {"Seed resize from": "32x48"}),
        ({"hires": HiresPass(scale=1.5, strength=0.4)}, {"Hires upscale": "1.5", "Denoising strength": "0.4"}),
        ({"hires": HiresPass(scale=2.0, strength=0.4), "strength": 0.6}, TWICE | {"Denoising strength": "0.6"}),
        ({"hires": HiresPass(width=96, height=128)}, {"Hires resize": "96x128"}),
        ({"hires": HiresPass(scale=2.0, num_steps=20, sampler="dpmpp_2m", schedule="karras")}, TWICE),  # as the first
        (
            {"hires": HiresPass(scale=2.0, num_steps=9, upscaler="latent_bicubic", guidance_scale=3.0)},
            TWICE | {"Hires steps": "9", "Hires upscaler": "Latent (bicubic)", "Hires CFG Scale": "3"},
        ),
        (
            {"hires": HiresPass(scale=2.0, prompt="x", negative_prompt="y")},
            TWICE | {"Hires prompt": "x", "Hires negative prompt": "y"},
        ),
    ],
)
def test_each_setting_stands_under_that_tools_key(values: dict[str, Any], more: dict[str, str]):
    assert pairs_of(make_recipe(**values)) == BASE | more


@pytest.mark.parametrize(
    ("values", "seed", "variation"),
    [
        ({}, "8", None),  # that tool's seed grows by one a picture
        ({"variation_strength": 0.5, "variation_seed": 100}, "5", "103"),  # here that of the variation does
        ({"variation_strength": 0.0, "variation_seed": 100}, "8", "100"),
    ],
)
def test_seeds_of_noise_that_other_tools_have(values: dict[str, Any], seed: str, variation: str | None):
    for noise in ("cpu", "nv"):
        pairs = pairs_of(make_recipe(noise=noise, first_index=3, **values))
        assert (pairs["Seed"], pairs.get("Variation seed"), pairs["RNG"]) == (seed, variation, noise.upper())
        assert "Noise" not in pairs and "Picture index" not in pairs
    own = pairs_of(make_recipe(first_index=3, **values))
    assert (own["Seed"], own.get("Variation seed")) == ("5", "100" if variation else None)


def test_masks_are_told_where_they_differ_from_that_tools_ways():
    masked = GIVEN | {"mask": "1" * 64}
    assert pairs_of(make_recipe(**masked, mask_blur=0.0, mask_content="original")) == BASE | TOLD
    blurred = pairs_of(make_recipe(**masked, mask_blur=4.0, mask_content="noise"))
    assert blurred == BASE | TOLD | {"Mask blur": "4", "Masked content": "latent noise"}
    part = pairs_of(make_recipe(**masked, mask_blur=0.0, mask_area="masked", mask_padding=16))
    assert part == BASE | TOLD | {"Inpaint area": "Only masked", "Masked area padding": "16"}
    assert pairs_of(make_recipe(**GIVEN, mask_blur=4.0)) == BASE | TOLD  # no mask, nothing to tell of it


def test_models_and_adapters_are_told_by_their_hashes():
    loras = (
        LoraUse(name="a", weight=0.5),
        LoraUse(name="b", weight=0.5, text_weight=1.0),
        LoraUse(name="c", weight=2.0, points=((0.0, 0.25), (1.0, 1.0))),
    )
    recipe = replace(
        make_recipe(refiner_switch_at=0.8, loras=loras),
        model="other.safetensors",
        refiner="fine.safetensors",
        refiner_files=(WeightFile(name="fine.safetensors", sha256="abcdef0123456789" * 4),),
        extras=(
            ExtraFile(kind="lora", name="a", sha256="1" * 64, autov3="a1b2c3d4e5f6"),
            ExtraFile(kind="lora", name="b", sha256="2" * 64),
            ExtraFile(kind="embedding", name="e", sha256="3" * 64),
            ExtraFile(kind="control", name="n", sha256="4" * 64),
        ),
    )
    found = read_infotext(infotext(recipe))
    assert found.prompt == "a cat <lora:a:0.5> <lora:b:1:0.5> <lora:c:2:0.5>"
    assert (found.pairs["Model"], found.pairs["Model hash"]) == ("other", "0123456789")
    assert (found.pairs["Refiner"], found.pairs["Refiner switch at"]) == ("fine [abcdef0123]", "0.8")
    assert found.pairs["Lora hashes"] == f"a: a1b2c3d4e5f6, b: {'2' * 12}"
    assert found.pairs["TI hashes"] == f"e: {'3' * 12}"
    assert "Model hash" not in pairs_of(replace(recipe, files=()))


@pytest.mark.parametrize(
    ("name", "parameters", "told"),
    [
        ("canny", {"low": 50.0, "high": 90.0}, "Threshold A: 50, Threshold B: 90, "),
        ("canny", {"high": 90.0}, "Threshold B: 90, "),
        ("scribble", {"threshold": 0.5}, "Threshold A: 0.5, "),
        ("tile", {"factor": 2.0}, "Threshold A: 2, "),
        ("depth", {"other": 2.0}, ""),
    ],
)
def test_thresholds_of_preprocessors(name: str, parameters: dict[str, float], told: str):
    given = tuple(parameters.items())
    use = ControlUse(model="m.safetensors", image="0" * 64, preprocessor=name, parameters=given, weight=0.5)
    plain = ControlUse(model="n", image="0" * 64, start=0.25, mode="prompt")
    pairs = pairs_of(make_recipe(controls=(use, plain)))
    rest = "Guidance Start: 0, Guidance End: 1, Control Mode: Balanced"
    assert pairs["ControlNet 0"] == f"Module: {name}, Model: m, Weight: 0.5, {told}{rest}"
    rest = "Guidance Start: 0.25, Guidance End: 1, Control Mode: My prompt is more important"
    assert pairs["ControlNet 1"] == f"Module: none, Model: n, Weight: 1, {rest}"


def test_templates_below_the_last_line_are_read():
    """The Dynamic Prompts extension writes them; the prompts above are those that were drawn."""
    templates = "Template: a {red|blue} cat\nof two lines\nNegative Template: x"
    found = read_infotext(f"a red cat\nNegative prompt: blurry\n{SETTINGS}\n{templates}")
    assert (found.prompt, found.negative_prompt, found.pairs["Steps"]) == ("a red cat", "blurry", "20")
    assert found.pairs["Template"] == "a {red|blue} cat\nof two lines"
    assert found.pairs["Negative Template"] == "x"
    assert read_infotext(f"a cat\nTemplate: a\n{SETTINGS}").prompt == "a cat\nTemplate: a"  # above the settings
    assert read_infotext("a cat\nSteps: 1\nTemplate: a").prompt == "a cat\nSteps: 1\nTemplate: a"  # without any
    assert read_infotext(f"a\n{SETTINGS}\nTemplate: first\nTemplate: second").pairs["Template"] == "first"
    plain = read_infotext(f"Template: b\n{SETTINGS}\nTemplate: with key1: 1, key2: 2, key3: 3")
    assert (plain.prompt, plain.pairs["Template"]) == ("Template: b", "with key1: 1, key2: 2, key3: 3")


@pytest.mark.parametrize(
    ("line", "pairs"),
    [
        ("word, Steps: 1, two words, Seed: 2", {"Steps": "1", "Seed": "2"}),
        ("a: 1, bc: 2", {"bc": "2"}),  # a key has two letters
        ("x (Steps: 1, A-b/c_d 2: 3", {"Steps": "1", "A-b/c_d 2": "3"}),
        ('K1: "a, b: c", K2: {"x": [1, 2]}, K4: z', {"K1": "a, b: c", "K2": '{"x": [1, 2]}', "K4": "z"}),
        ('K1: [3, {"y": "]"}] and more, K2: 1', {"K1": '[3, {"y": "]"}]', "K2": "1"}),
        ("K1: {open, K2: [1, 2], K3: 3", {"K1": "{open", "K2": "[1", "K3": "3"}),
        (r'K1: "bad \q", K2: 1', {"K1": r'"bad \q"', "K2": "1"}),
        ("K1:", {"K1": ""}),
        ("", {}),
        ("no pairs at all", {}),
    ],
)
def test_pairs_of_a_line(line: str, pairs: dict[str, str]):
    assert dict(read_pairs(line)) == pairs
