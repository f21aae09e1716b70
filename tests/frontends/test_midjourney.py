"""The flags of Midjourney, and what becomes of them."""

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gesso.frontends.midjourney import FLAGS, SHORT, FlaggedPrompt, aspect_size, parse_flags
from gesso.text.grammar import parse_prompt
from gesso.text.prompt import MAX_CHARS, PromptError
from linear_time import assert_quick

MODEL = {"native_size": 512, "multiple": 64, "num_steps": 20, "guidance_scale": 7.0}


def fields(text: str) -> dict:
    return parse_flags(text).fields(**MODEL)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a cat", {"prompt": "a cat"}),
        ("a cat --ar 3:2", {"prompt": "a cat", "width": 576, "height": 384}),
        ("a cat --aspect 1:1", {"prompt": "a cat", "width": 512, "height": 512}),
        ("a cat --seed 0", {"prompt": "a cat", "seed": 0}),
        ("a cat --NO dogs,  rain --Seed 7", {"prompt": "a cat", "negative_prompt": "dogs, rain", "seed": 7}),
        ("a cat —seed 7 –no dogs", {"prompt": "a cat", "negative_prompt": "dogs", "seed": 7}),
        ("a cat\n--repeat 4", {"prompt": "a cat", "num_images": 4}),
        ("a cat --q 2", {"prompt": "a cat", "num_steps": 40}),
        ("a cat --q .25 --draft", {"prompt": "a cat", "num_steps": 2}),
        ("a cat --s 100", {"prompt": "a cat"}),
        ("a cat --stylize 0", {"prompt": "a cat", "guidance_scale": 8.75}),
        ("a cat --stylize 1000", {"prompt": "a cat", "guidance_scale": 4.2}),
        ("a well-known cat -- on a mat, a--b", {"prompt": "a well-known cat -- on a mat, a--b"}),
        ("--seed 7", {"prompt": "", "seed": 7}),
    ],
)
def test_fields(text, expected):
    assert fields(text) == expected
    assert not parse_flags(text).notices


@pytest.mark.parametrize("flag", [flag for flag in FLAGS if flag.notice], ids=lambda flag: flag.name)
def test_what_has_no_meaning_is_told(flag):
    value = {"none": "", "text": "7", "style": "raw"}.get(flag.kind, f"{flag.high:.0f}")
    found = parse_flags(f"a cat --{flag.name} {value}")
    assert found.fields(**MODEL) == {"prompt": "a cat"}
    assert len(found.notices) == 1 and f"--{flag.name}" in found.notices[0]


def test_short_names():
    for short, name in SHORT.items():
        value = {"ar": "2:1", "quality": "1", "v": "7", "profile": "x"}.get(name, "2")
        assert list(parse_flags(f"a --{short} {value}").flags) == [name]


def test_links_stand_first():
    found = parse_flags("https://example.org/a.png http://example.org/b.png a cat --iw 1.5")
    assert found.links == ("https://example.org/a.png", "http://example.org/b.png")
    assert found.prompt == "a cat" and found.flags["iw"] == 1.5 and len(found.notices) == 2


@pytest.mark.parametrize(
    "text",
    [
        "a --foo 1", "a --ar 3/2", "a --ar 0:1", "a --ar 1:17", "a --ar 3", "a --ar", "a --seed -1",
        "a --seed 4294967296", "a --seed 1.5", "a --seed x", "a --seed", "a --chaos 101", "a --q 9", "a --q nan",
        "a --q 1e3", "a --repeat 1",
        "a --no", "a --no ,", "a --tile dog", "a --style cute", "a --sref --ar 2:3", "a --ar 1:1 --aspect 1:1",
        "a --seed " + "9" * 5000, "a::1 b::-1", "a::99 b", "a::1 " * 40, "a --\x1b[31m", "a --x" + "y" * 5000,
    ],
)  # fmt: skip
def test_refused(text):
    """Named, in a line, without what a terminal would obey."""
    if text == "a --\x1b[31m":  # no letter: text
        assert parse_flags(text).prompt == text
        return
    with pytest.raises(PromptError) as raised:
        parse_flags(text)
    assert raised.value.reason in ("flag", "number", "prompt_limit")
    assert len(raised.value.message) < 500 and raised.value.message.isprintable()


def test_unknown_flags_are_answered_with_all_that_are_known():
    with pytest.raises(PromptError) as raised:
        parse_flags("a --fooo")
    assert all(f"--{flag.name}" in raised.value.message for flag in FLAGS)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hot::2 dog::-0.5", [("hot", 2), ("dog", -0.5)]),
        ("hot:: dog", [("hot", 1), ("dog", 1)]),
        ("hot::dog", [("hot", 1), ("dog", 1)]),
        ("a cat::2", [("a cat", 1)]),
        ("hot ::.5 dog --ar 1:1", [("hot", 0.5), ("dog", 1)]),
    ],
)
def test_weighted_parts_are_joined_by_and(text, expected):
    parsed = parse_prompt(parse_flags(text).prompt)
    found = [(entry.schedule.plan(1)[0].text.strip(), entry.weight) for entry in parsed.subprompts]
    assert found == expected


@pytest.mark.parametrize(
    ("aspect", "native_size", "multiple", "expected"),
    [
        ((1, 1), 512, 64, (512, 512)),
        ((3, 2), 1024, 64, (1216, 832)),  # sizes that SDXL was trained with
        ((16, 9), 1024, 64, (1344, 768)),
        ((9, 16), 1024, 64, (768, 1344)),
        ((21, 9), 1024, 64, (1536, 640)),
        ((4, 3), 1024, 64, (1152, 896)),
        ((16, 9), 128, 8, (168, 96)),
        ((16, 1), 64, 64, (256, 64)),
    ],
)
def test_sizes(aspect, native_size, multiple, expected):
    assert aspect_size(aspect, native_size, multiple) == expected


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([(512, 64), (768, 64), (1024, 64), (128, 8)]))
def test_any_shape_has_a_size(wide, high, model):
    native_size, multiple = model
    width, height = aspect_size((wide, high), native_size, multiple)
    assert width % multiple == height % multiple == 0
    assert min(width, height) >= multiple
    mirrored = aspect_size((high, wide), native_size, multiple)
    assert width * height == mirrored[0] * mirrored[1]


def test_hostile_texts_are_answered_at_once():
    """100 ms are asked for, of which a yardstick is a tenth."""
    for sign in ("--ar 1:1 ", "-- ", "-", "::", "a::", "—", "--no ", "https://x ", " ", "--a", "::1" * 3):
        text = sign * (MAX_CHARS // len(sign))

        def read(text: str = text) -> None:
            with suppress(PromptError):
                parse_flags(text)

        assert_quick(read, 20)


@settings(max_examples=200, deadline=None)
@given(st.text("ab-—: .,19sx\n", max_size=40))
def test_any_text_is_read_or_refused(text):
    try:
        found = parse_flags(text)
    except PromptError:
        return
    assert isinstance(found, FlaggedPrompt)
    assert found.fields(**MODEL)["prompt"] == found.prompt
