"""Whole prompts: comments, extra networks, AND; limits; hostile texts."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gesso.text.attention import parse_attention
from gesso.text.grammar import (
    MAX_BREAKS,
    MAX_NETWORKS,
    MAX_SUBPROMPTS,
    LoraTag,
    ParsedPrompt,
    escape_prompt,
    parse_prompt,
    write_subprompts,
)
from gesso.text.prompt import MAX_CHARS, MAX_WEIGHT, PromptError
from linear_time import assert_quick


def texts(text: str) -> list[tuple[str, float]]:
    """What each subprompt says at the first of 10 steps, and its weight."""
    parsed = parse_prompt(text).subprompts
    return [(subprompt.schedule.plan(10)[0].text, subprompt.weight) for subprompt in parsed]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a AND b :1.2 AND c:-1", [("a", 1), (" b", 1.2), (" c", -1)]),
        ("a AND", [("a", 1), ("", 1)]),
        ("a: b AND c", [("a: b", 1), (" c", 1)]),
        ("a AND b : 2.", [("a", 1), (" b", 2)]),
        ("a AND b :.5", [("a", 1), (" b", 0.5)]),
        ("a AND b :1.2.3", [("a", 1), (" b :1.2.3", 1)]),
        ("sand AND land bAND", [("sand", 1), (" land bAND", 1)]),
        ("a and b", [("a and b", 1)]),
        (r"a A\ND b", [(r"a A\ND b", 1)]),
        ("(a AND b:1.2)", [("(a", 1), (" b:1.2)", 1)]),
        ("a clock at 12:30", [("a clock at 12:30", 1)]),  # a weight of 30 in the reference
        ("[a:b:3] AND c", [("a", 1), (" c", 1)]),
    ],
)
def test_subprompts(text, expected):
    assert texts(text) == expected


def test_a_negative_prompt_knows_neither_and_nor_tags():
    parsed = parse_prompt("a AND b <lora:x:1> [c:d:3] # e", negative=True)
    (subprompt,) = parsed.subprompts
    assert not parsed.networks and subprompt.schedule.plan(9)[1].text.strip() == "a AND b <lora:x:1> d"


def test_a_plan_of_all_subprompts():
    planned = parse_prompt("[a:b:2] AND [c|d] :0.5 AND e").plan(4)
    assert [(entry.last_step, "".join(prompt.text.strip() for prompt in entry.prompts)) for entry in planned] == [
        (1, "ace"),
        (2, "ade"),
        (3, "bce"),
        (4, "bde"),
    ]
    assert [prompt.weight for prompt in planned[0].prompts] == [1, 0.5, 1]
    (only,) = parse_prompt("a cat").plan(20)
    assert only.last_step == 20 and only.prompts[0].pieces[0].text == "a cat"


def test_one_context_holds_for_all_steps():
    """For no schedule and no AND; texts that are blended are one, unless one of them changes."""
    alike, unlike = (parse_prompt(f"a AND {other}").subprompts for other in ("b", "[b:c:3]"))
    assert parse_prompt("a cat").is_constant and not parse_prompt("a [b:c:3]").is_constant
    assert [ParsedPrompt(source="", subprompts=alike, joined=how).is_constant for how in ("guidance", "blend")] == [
        False,
        True,
    ]
    assert not ParsedPrompt(source="", subprompts=unlike, joined="blend").is_constant
    assert ParsedPrompt(source="", subprompts=alike[:1]).is_constant


def test_a_weight_that_is_too_large_is_changed_and_told():
    parsed = parse_prompt("a AND b :1000 AND c :-99")
    assert [subprompt.weight for subprompt in parsed.subprompts] == [1, MAX_WEIGHT, -MAX_WEIGHT]
    assert len(parsed.notices) == 2 and "1000" in parsed.notices[0] and "'b'" in parsed.notices[0]


def test_comments_end_with_the_line():
    parsed = parse_prompt("a cat # (not\n  # a dog\non \\# a mat")
    (entry,) = parsed.subprompts[0].schedule.plan(1)
    assert entry.text.split() == ["a", "cat", "on", "\\#", "a", "mat"]
    assert entry.pieces[0].text.split() == ["a", "cat", "on", "#", "a", "mat"]
    assert parsed.notices == ("ignored as a comment: '# (not'", "ignored as a comment: '# a dog'")


def test_extra_networks_are_taken_out():
    text = (
        "a <lora:style:0.5> cat<lyco:other:te=0.5:unet=1:dyn=8># <lora:none:1>\n<hypernet:h:1> \\<lora:text:1> <lora:"
    )
    parsed = parse_prompt(text)
    (entry,) = parsed.subprompts[0].schedule.plan(1)
    assert entry.pieces[0].text.split() == ["a", "cat", "<lora:text:1>", "<lora:"]
    assert parsed.loras == (
        LoraTag(name="style", text_weight=0.5, unet_weight=0.5),
        LoraTag(name="other", text_weight=0.5, unet_weight=1, rank=8),
    )
    assert [text[tag.start : tag.end] for tag in parsed.networks] == [
        "<lora:style:0.5>",
        "<lyco:other:te=0.5:unet=1:dyn=8>",
        "<hypernet:h:1>",
    ]
    assert any("hypernet" in notice for notice in parsed.notices)


@pytest.mark.parametrize(
    ("tag", "te", "unet", "rank"),
    [
        ("<lora:x>", 1, 1, None),
        ("<lora:x:0.7>", 0.7, 0.7, None),
        ("<lora:x:0.7:0.2>", 0.7, 0.2, None),
        ("<lora:x:0.7:0.2:4>", 0.7, 0.2, 4),
        ("<lora:x:unet=0.3>", 1, 0.3, None),
        ("<lora:x:-1>", -1, -1, None),
        ("<lora:my lora v1.5:1>", 1, 1, None),
    ],
)
def test_weights_of_a_lora(tag, te, unet, rank):
    (lora,) = parse_prompt(tag).loras
    assert (lora.text_weight, lora.unet_weight, lora.rank) == (te, unet, rank)


@pytest.mark.parametrize(
    ("tag", "ignored"),
    [
        ("<lora:x:0.7:lbw=MIDD>", ["lbw"]),
        ("<lora:x:0.7:lbw=1,0,0,0,1:start=5:stop=20>", ["lbw", "start", "stop"]),
        ("<lyco:x:unet=0.7:te=0.7:step=5-10>", ["step"]),
    ],
)
def test_block_weights_are_ignored_with_a_notice(tag, ignored):
    parsed = parse_prompt(f"a cat {tag}")
    (lora,) = parsed.loras
    assert (lora.text_weight, lora.unet_weight) == (0.7, 0.7)
    (notice,) = parsed.notices
    assert (notice.code, notice.data["arguments"]) == ("lora_argument_ignored", ignored)


@pytest.mark.parametrize(
    ("tag", "words"),
    [("<lora:x:who=1>", "has the argument 'who'; expected te, unet"), ("<lora:x:1:1:1:1>", "has too many arguments")],
)
def test_what_is_wrong_with_a_tag_is_said(tag, words):
    with pytest.raises(PromptError, match=words):
        _ = parse_prompt(tag).loras


@pytest.mark.parametrize(
    ("tag", "reason"),
    [
        ("<lora:../../x:1>", "network_tag"),
        ("<lora:/etc/passwd:1>", "network_tag"),
        ("<lora:C:\\x:1>", "number"),
        ("<lora:a\\b:1>", "network_tag"),
        ("<lora:a\x1b[31m:1>", "network_tag"),
        ("<lora: ..:1>", "network_tag"),
        ("<lora::1>", "network_tag"),
        ("<lora:" + "x" * 200 + ":1>", "network_tag"),
        ("<lora:x:nan>", "number"),
        ("<lora:x:1e999>", "number"),
        ("<lora:x:one>", "number"),
        ("<lora:x:>", "number"),
        ("<lora:x:1:1:0>", "number"),
        ("<lora:x:1:1:1:1>", "network_tag"),
        ("<lora:x:who=1>", "network_tag"),
    ],
)
def test_tags_that_cannot_be_meant(tag, reason):
    """The name is no path, the numbers are numbers; the message repeats little of it, and nothing a terminal obeys."""
    with pytest.raises(PromptError) as raised:
        _ = parse_prompt(tag).loras
    assert raised.value.reason == reason
    assert len(raised.value.message) < 250 and raised.value.message.isprintable()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a" * (MAX_CHARS + 1), "prompt_too_long"),
        ("token " * 100_000, "prompt_too_long"),
        ("a\0b", "prompt_characters"),
        ("a\ud800", "prompt_characters"),
        ("a AND " * MAX_SUBPROMPTS, "prompt_limit"),
        ("AND " * 8000, "prompt_limit"),
        ("BREAK " * (MAX_BREAKS + 1), "prompt_limit"),
        ("<lora:x:1>" * (MAX_NETWORKS + 1), "prompt_limit"),
        ("".join(f"<lora:x{index}:1>" for index in range(2000)), "prompt_limit"),
    ],
)
def test_limits(text, reason):
    with pytest.raises(PromptError) as raised:
        parse_prompt(text)
    assert raised.value.reason == reason
    assert len(raised.value.one_line) < 250


HOSTILE = [
    *(sign * (MAX_CHARS // len(sign)) for sign in ("(", "[", ")", "]", "\\", ":", "|", "#", "<", "<a:", "([", " ")),
    "(" * 100, "((a:1.2)", "a)", r"\(", "(:1.2)", "(a:)", "(a:1e999)", "(a:nan)", "(a:-5)",
    "[|", "[a|]", "[a:b:1e9]", "[::]", "[a:b:-1]",
    "a\x01\x7f\x85b", "\ufeffa", "\u202egnp.exe", "👩‍🚀" * 100, "e" + "\u0301" * 10_000, "ｆｕｌｌ", "é", "e\u0301",
    "<|startoftext|> <|endoftext|> <pad>", "__x__ {a|b}", "py:print(1)", "{{7*7}}", "${jndi:ldap://x}", "%n%s",
    "'; DROP TABLE pictures; --", "=cmd|' /C calc'!A0", "a\nNegative prompt: b\nSteps: 20, Seed: 1",
    "x" * MAX_CHARS, "(a:1.1) " * (MAX_CHARS // 8), "[a]" * (MAX_CHARS // 3), "<a:" * 5000 + "x" * 10_000,
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.sampled(2)
def test_hostile_prompts_mean_something_at_once(text):
    """Each is read, the same each time; 100 ms are asked for, of which a yardstick is a tenth."""

    def read():
        return [subprompt.schedule.plan(20) for subprompt in parse_prompt(text).subprompts]

    assert_quick(read, 20)
    plans = read()
    assert plans == [subprompt.schedule.plan(20) for subprompt in parse_prompt(text).subprompts]


@settings(max_examples=200, deadline=None)
@given(
    st.text(max_size=60).filter(lambda text: "\0" not in text) | st.text("ab(){}[]<>:#\\|_ANDBREAK\n .1", max_size=60)
)
def test_an_escaped_prompt_is_itself(text):
    parsed = parse_prompt(escape_prompt(text))
    assert parsed.is_constant and not parsed.networks and not parsed.notices
    (entry,) = parsed.subprompts[0].schedule.plan(3)
    assert "".join(piece.text for piece in entry.pieces) == text
    assert all(piece.weight == 1 for piece in entry.pieces)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.text("ab :.1(", max_size=8), st.floats(-9, 9)), min_size=2, max_size=4))
def test_subprompts_that_are_written_are_read_again(parts):
    written = write_subprompts([(escape_prompt(text), weight) for text, weight in parts])
    read = parse_prompt(written).subprompts
    assert [subprompt.weight for subprompt in read] == [weight for _, weight in parts]
    assert [parse_attention(escape_prompt(text).strip())[0].text for text, _ in parts] == [
        subprompt.schedule.plan(1)[0].pieces[0].text.strip() for subprompt in read
    ]


def test_a_single_text_is_written_as_it_is():
    assert write_subprompts([("a cat", 1)]) == "a cat"
    with pytest.raises(ValueError, match=r"a single prompt of weight 0\.5; change the guidance scale instead"):
        write_subprompts([("a cat", 0.5)])


def test_a_tag_without_a_name_is_text():
    found = parse_prompt("a <lora:> <lora:x:0.5> <lora:")
    assert [tag.name for tag in found.networks] == ["x"]
    assert texts("a <lora:> <lora:x:0.5> <lora:") == [("a <lora:>  <lora:", 1)]
