"""What notices carry besides their words: code, field and data, which a server hands to programs."""

from types import SimpleNamespace
from typing import Any

import pytest

from gesso.adapters.lora import Match
from gesso.notices import Notice
from gesso.pipelines.prompts import _cut, _few
from gesso.pipelines.unusual_guidance import as_diffusers_guides, guidance_notices
from gesso.pipelines.vocabulary import emoji_notice, language_notice, vocabulary_notices
from gesso.request.parts import HiresPass
from gesso.text.chunks import ChunkReport
from gesso.text.grammar import parse_prompt
from gesso.text.tokenizer import Tokenizer
from made_recipes import make_recipe
from tiny_models import OBJECTS, WORDS

TOKENIZER = Tokenizer.from_words(WORDS, length=16)


def parts(notice: Notice) -> tuple[str, str, str | None, Any]:
    return str(notice), notice.code, notice.field, notice.data


def test_words_that_a_model_does_not_know():
    def told(text: str, field: str) -> list[tuple[str, str, str | None, Any]]:
        found = vocabulary_notices(TOKENIZER, text, field=field, objects=OBJECTS, model="tiny")
        return [parts(notice) for notice in found]

    assert told("a zxqw cat", "prompt") == [
        ("unknown words ignored: 'zxqw'", "words_ignored", "prompt", {"words": ["zxqw"]})
    ]
    ((_, *rest),) = told("zxqw", "negative prompt")
    assert rest == ["words_ignored", "negative_prompt", {"words": ["zxqw"]}]
    ((text, *rest),) = told("red", "prompt")
    assert text == (
        "tiny knows nothing in this prompt, so the picture will be meaningless. It draws 3 things, such as "
        f"{', '.join(OBJECTS)} (gesso models info lists them)"
    )
    assert rest == ["no_object", "prompt", {}]


def test_emoji_and_languages_that_were_read():
    assert parts(emoji_notice({"🐱": "cat", "🐢": "turtle"}, "prompt")) == (
        "emoji read: 🐱 as 'cat', 🐢 as 'turtle'",
        "emoji_read",
        "prompt",
        {"emoji": {"🐱": "cat", "🐢": "turtle"}},
    )
    names = {letter: letter for letter in "abcdefghi"}
    assert str(emoji_notice(names, "x")).endswith("h as 'h' and 1 more")
    assert str(emoji_notice({name: name for name in "abcdefgh"}, "x")).endswith("h as 'h'")
    assert parts(language_notice(("de", "a cat"), "negative_prompt")) == (
        "German read as: a cat",
        "language_read",
        "negative_prompt",
        {"language": "de", "english": "a cat"},
    )
    for length, shown in ((200, "x" * 200), (201, "x" * 200 + "...")):
        notice = language_notice(("de", "x" * length), "prompt")
        assert str(notice) == f"German read as: {shown}" and notice.data["english"] == "x" * length


def test_modules_of_a_lora_without_a_place():
    assert Match(3).notice is None
    notice = Match(3, ("a", "b")).notice
    assert notice is not None and parts(notice) == (
        "3 modules fit, 2 do not exist in the model: a, b",
        "lora_incomplete",
        "loras",
        {"matched": 3, "unmatched": 2},
    )


def test_text_that_does_not_fit():
    report = ChunkReport((75, 3), cut=" and more", clamped=(("red ", 30.0, 10.0),))
    assert [parts(notice) for notice in report.notices] == [
        ("the weight 30 of 'red' was changed to 10", "weight_clamped", None, {"asked": 30.0, "taken": 10.0}),
        ("prompt too long for 2 chunks: ignored from ' and more'", "prompt_cut", None, {"cut": " and more"}),
    ]
    assert report.total_tokens == 78
    broken = ChunkReport((5,), cut="x", broken=True)
    assert [str(notice) for notice in broken.notices] == ["BREAK begins a further chunk than 1 chunk: ignored from 'x'"]
    assert len(ChunkReport((5,), clamped=(("a", 30.0, 10.0),) * 9).notices) == 8
    encoded: Any = SimpleNamespace(chunks=ChunkReport((75,), cut="x" * 81, clamped=(("red", 30.0, 10.0),)))
    clamped, cut = _cut(encoded, "prompt")
    assert clamped.code == "weight_clamped"
    assert parts(cut) == (
        f"prompt too long: the first 75 tokens are used; ignored from '{'x' * 77}...' on",
        "prompt_cut",
        None,
        {"cut": "x" * 81, "num_tokens": 75},
    )
    (cut,) = _cut(SimpleNamespace(chunks=ChunkReport((7,), cut="x" * 80, broken=True)), "negative prompt")
    assert str(cut) == (
        "negative prompt: BREAK begins another chunk, but one chunk is all that is used here; leave BREAK out; "
        f"ignored from '{'x' * 80}' on"
    )
    (only,) = _cut(SimpleNamespace(chunks=ChunkReport((7,), clamped=(("red", 30.0, 10.0),))), "prompt")
    assert only.code == "weight_clamped"


def test_sixteen_notices_of_one_text_at_most():
    made = [Notice(str(number), code="x") for number in range(17)]
    assert _few([*made[:16], *made[:3]]) == tuple(made[:16])
    assert _few(made)[:15] == tuple(made[:15])
    assert parts(_few(made)[15]) == ("and 2 more notices about this text", "notices_left_out", None, {"count": 2})


def test_parts_of_a_prompt_that_were_changed_or_left_out():
    found = parse_prompt("a <hypernet:x:1> AND b :50 # c").notices
    assert [parts(notice)[1:] for notice in found] == [
        ("comment_ignored", None, {}),
        ("network_ignored", None, {"kind": "hypernet"}),
        ("weight_clamped", None, {"asked": 50.0, "taken": 10.0}),
    ]
    assert len(parse_prompt("a\n" + "# c\n" * 5).notices) == 3


FAMILY: Any = SimpleNamespace(takes_guidance_scale=False)
DISTILLED: Any = SimpleNamespace(takes_guidance_scale=True)


def guided(values: dict[str, Any], family: Any = FAMILY, asked: float | None = None) -> list[tuple[str, str | None]]:
    request = make_recipe(**values).request
    return [
        (notice.code, notice.field)
        for notice in guidance_notices(SimpleNamespace(guidance_scale=asked), request, family)
    ]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"guidance_scale": 30.0}, []),
        ({"guidance_scale": 30.5}, [("guidance_too_high", "guidance_scale")]),
        ({"guidance_scale": 1.0}, []),
        ({"guidance_scale": 0.9}, [("guidance_below_one", "guidance_scale")]),
        ({"guidance_scale": 0.0}, [("guidance_below_one", "guidance_scale")]),
        ({"hires": HiresPass(guidance_scale=31.0)}, [("guidance_too_high", "hires.guidance_scale")]),
        ({"guidance_scale": 31.0, "hires": HiresPass(guidance_scale=31.0)}, [("guidance_too_high", "guidance_scale")]),
        ({"guidance_scale": 31.0, "hires": HiresPass()}, [("guidance_too_high", "guidance_scale")]),
        ({"image": "0" * 64, "image_guidance": 31.0}, [("guidance_too_high", "source.guidance_scale")]),
        ({"sampler": "ddim_cfgpp", "guidance_scale": 1.0}, []),
        ({"sampler": "ddim_cfgpp", "guidance_scale": 1.1}, [("guidance_too_high", "guidance_scale")]),
        ({"sampler": "ddim_cfgpp", "guidance_scale": 12.5, "timestep_spacing": "a1111"}, []),
        (
            {"sampler": "ddim_cfgpp", "guidance_scale": 12.6, "timestep_spacing": "a1111"},
            [("guidance_too_high", "guidance_scale")],
        ),
        ({"sampler": "ddim_cfgpp", "guidance_scale": 0.5}, []),  # a share there
    ],
)
def test_guidance_that_is_far_from_the_usual(values: dict[str, Any], told: list[tuple[str, str]]):
    assert guided(values) == told


def test_guidance_as_an_input_of_the_network_is_no_share():
    assert guided({"guidance_scale": 0.5}, DISTILLED) == []
    assert guided({"sampler": "ddim_cfgpp", "guidance_scale": 25.0}, DISTILLED) == []
    assert guided({"guidance_scale": 31.0}, DISTILLED) == [("guidance_too_high", "guidance_scale")]


def test_what_is_said_of_guidance():
    def words(scale: float, asked: float | None, **values: Any) -> tuple[str, Any]:
        request = make_recipe(guidance_scale=scale, **values).request
        (notice,) = guidance_notices(SimpleNamespace(guidance_scale=asked), request, FAMILY)
        return str(notice), notice.data

    assert words(1.0, 0.5)[0].startswith("guidance 0.5: diffusers switches guidance off below 1")
    assert words(0.0, 0.0)[0].startswith("guidance 0 draws from the negative prompt alone")
    assert words(0.5, None)[0].startswith("guidance 0.5 lies between the negative prompt (0) and the prompt (1)")
    assert words(40.0, None) == (
        "guidance 40 is far too high, so colours and shapes burn out; the usual range is 1 to 15",
        {"value": 40.0, "high": 30.0},
    )
    text, data = words(2.0, None, sampler="ddim_cfgpp")
    assert text.endswith("takes 0 to 1") and data == {"value": 2.0, "high": 1.0}


@pytest.mark.parametrize(
    ("values", "family", "scale", "image", "second"),
    [
        ({"guidance_scale": 0.5}, FAMILY, 1.0, None, None),
        ({"guidance_scale": 1.0}, FAMILY, 1.0, None, None),
        ({"guidance_scale": 0.5}, DISTILLED, 0.5, None, None),
        ({"guidance_scale": 0.5, "preset": "gesso"}, FAMILY, 0.5, None, None),
        ({"guidance_scale": 0.5, "sampler": "ddim_cfgpp"}, FAMILY, 0.5, None, None),
        ({"guidance_scale": 7.0, "image_guidance": 0.9}, FAMILY, 1.0, 1.0, None),
        ({"guidance_scale": 7.0, "image_guidance": 1.0}, FAMILY, 7.0, 1.0, None),
        ({"guidance_scale": 1.0, "image_guidance": 1.5}, FAMILY, 1.0, 1.0, None),
        ({"guidance_scale": 1.5, "image_guidance": 1.5}, FAMILY, 1.5, 1.5, None),
        ({"guidance_scale": 7.0, "hires": HiresPass(guidance_scale=0.5)}, FAMILY, 7.0, None, 1.0),
        ({"guidance_scale": 7.0, "hires": HiresPass(guidance_scale=1.5)}, FAMILY, 7.0, None, 1.5),
        ({"guidance_scale": 0.5, "hires": HiresPass()}, FAMILY, 1.0, None, None),
    ],
)
def test_where_diffusers_switches_guidance_off(
    values: dict[str, Any], family: Any, scale: float, image: float | None, second: float | None
):
    given = {"image": "0" * 64} if "image_guidance" in values else {}
    found = as_diffusers_guides(make_recipe(**{"preset": "diffusers"} | given | values).request, family)
    assert (found.guidance_scale, found.source.guidance_scale) == (scale, image)
    assert (found.hires.guidance_scale if found.hires else None) == second
