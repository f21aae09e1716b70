"""A1111's text: read by its rules, and what is written comes back."""

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gesso.pictures.infotext import write_infotext
from gesso.pictures.infotext_reading import Infotext, read_infotext, read_pairs
from linear_time import assert_linear

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
