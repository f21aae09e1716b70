"""Wildcards: what each form means, that draws are repeatable and fair, and that no list explodes."""

from collections import Counter
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gesso.frontends.wildcards import MAX_DRAWS, MAX_LINES, escape_wildcards, expand, parse_list
from gesso.text.grammar import parse_prompt
from gesso.text.prompt import MAX_CHARS, PromptError
from linear_time import assert_quick

LISTS = {
    "colour": ("red", "3::blue"),
    "a": ("x __b__",),
    "b": ("y __a__",),
    "sub/one": ("1",),
    "sub/two": ("2", "{3|4}"),
    "empty": (),
}


def outcomes(text: str, num: int = 60) -> set[str]:
    return {expand(text, LISTS, seed=7, index=index).text for index in range(num)}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a {red|blue} cat", {"a red cat", "a blue cat"}),
        ("{a}", {"a"}),
        ("{}", {""}),
        ("{|}x", {"x"}),
        ("{a|{b|{c|d}}}", {"a", "b", "c", "d"}),
        ("{2$$a|b}", {"a,b", "b,a"}),
        ("{2$$ and $$a|b}", {"a and b", "b and a"}),
        ("{1-2$$a|b}", {"a", "b", "a,b", "b,a"}),
        ("{0$$a|b}", {""}),
        ("{9$$a|b}", {"a,b", "b,a"}),
        ("{-2$$a|b}", {"a", "b", "a,b", "b,a"}),
        ("{2-$$a|b}", {"a,b", "b,a"}),
        ("{0::a|b}", {"b"}),
        ("__colour__ hat", {"red hat", "blue hat"}),
        ("__sub/*__", {"1", "2", "3", "4"}),
        ("{__colour__|green}", {"red", "blue", "green"}),
        ("a|b} {c", {"a|b} {c"}),
        (r"\{a|b\} \__colour__", {r"\{a|b\} \__colour__"}),
        ("foo_bar", {"foo_bar"}),
        ("{{7*7}}", {"7*7"}),
        ("${jndi:ldap://x} %n '; DROP TABLE", {"ldap://x %n '; DROP TABLE"}),
    ],
)
def test_what_may_come_out(text, expected):
    assert outcomes(text) == expected


@pytest.mark.parametrize(
    ("text", "left", "notice"),
    [
        ("__none__ x", "__none__ x", "is unknown"),
        ("__empty__", "__empty__", "is unknown"),
        ("__../../etc/passwd__", "__../../etc/passwd__", "is unknown"),
        ("__a__", "x y __a__", "refers to itself"),
    ],
)
def test_what_cannot_be_filled_in_stays_and_is_told(text, left, notice):
    found = expand(text, LISTS, seed=0)
    assert found.text == left
    assert len(found.notices) == 1 and notice in found.notices[0]


def test_a_text_without_wildcards_is_itself_and_draws_nothing():
    found = expand("a (red:1.2) cat, [a|b] <lora:x:1>", LISTS, seed=0)
    assert (found.text, found.draws, found.notices) == ("a (red:1.2) cat, [a|b] <lora:x:1>", 0, ())


def test_a_draw_depends_on_seed_index_and_number_alone():
    """Known values: they must be the same on every machine and in every version."""
    text = "{a|b|c|d|e|f} {a|b|c|d|e|f} {a|b|c|d|e|f}"
    assert [expand(text, {}, seed=1, index=index).text for index in range(4)] == FROZEN
    assert expand(text, {}, seed=1).text != expand(text, {}, seed=2).text
    # What stands behind does not change what stands before.
    assert expand(text + " {x|y}", {}, seed=1).text.startswith(expand(text, {}, seed=1).text)


FROZEN = ["e d b", "b d f", "c c c", "b d b"]


@pytest.mark.parametrize(
    ("text", "shares"),
    [
        ("{a|b|c|d}", (0.25,) * 4),
        ("{3::a|b}", (0.75, 0.25)),
        ("{.5::a|1.5::b}", (0.25, 0.75)),
        ("__colour__", (0.25, 0.75)),
    ],
)
def test_shares(text, shares):
    """Four standard deviations of 4000 draws."""
    counts = Counter(expand(text, LISTS, seed=3, index=index).text for index in range(4000))
    names = ("a", "b", "c", "d") if text != "__colour__" else ("red", "blue")
    for name, share in zip(names, shares, strict=False):
        assert abs(counts[name] - 4000 * share) < 4 * (4000 * share * (1 - share)) ** 0.5


def test_options_are_taken_once():
    for index in range(50):
        taken = expand("{3$$a|b|c|d}", {}, seed=0, index=index).text.split(",")
        assert len(taken) == len(set(taken)) == 3


def test_the_file_of_a_list():
    assert parse_list("\ufeff# colours\r\nred \n\n  blue, green\n#x\n".lstrip("\ufeff")) == ("red", "blue, green")
    with pytest.raises(PromptError, match="lines"):
        parse_list("a\n" * (MAX_LINES + 1))


@pytest.mark.parametrize(
    ("text", "lists", "reason"),
    [
        ("{a|b}" * (MAX_DRAWS + 1), {}, "wildcard"),
        ("__x__", {"x": ("__y__ " * 200,), "y": ("z" * 400,)}, "prompt_too_long"),
        ("__x__", {"x": ("__y__" * 100,), "y": ("__z__" * 100,), "z": ("a",)}, "wildcard"),
        ("x" * (MAX_CHARS + 1), {}, "prompt_too_long"),
        ("__x__", {"x": ("a\0",)}, "prompt_characters"),
    ],
)
def test_explosions_are_refused(text, lists, reason):
    with pytest.raises(PromptError) as raised:
        expand(text, lists, seed=0)
    assert raised.value.reason == reason


@pytest.mark.parametrize(
    "sign",
    [
        "{",
        "}",
        "|",
        "{a|",
        "__",
        "__a",
        "__a*",
        "_",
        "$$",
        "{1",
        "{1-2$$",
        "{9$$",
        "1::",
        "\\",
        "{}",
        "{|",
        "{" * 99 + "}" * 99,
    ],
)
@pytest.mark.sampled(2)
def test_hostile_texts_are_filled_in_at_once(sign):
    """100 ms are asked for, of which a yardstick is a tenth."""
    text = sign * (MAX_CHARS // len(sign))

    def fill_in():
        with suppress(PromptError):
            expand(text, LISTS, seed=0)

    assert_quick(fill_in, 20)


def test_deep_nesting_needs_no_recursion():
    depth = MAX_DRAWS - 1
    assert set(expand("{a|" * depth + "b" + "}" * depth, {}, seed=0).text) <= {"a", "b"}


def test_a_large_list_costs_little():
    lists = {"x": tuple(map(str, range(MAX_LINES)))}
    assert len(expand("__x__ " * 500, lists, seed=0).text.split()) == 500
    assert_quick(lambda: expand("__x__ " * 500, lists, seed=0), 60)


@settings(max_examples=150, deadline=None)
@given(st.text("ab{}|_:$0.5\\- ", max_size=40), st.integers(0, 2**64))
def test_any_text_is_filled_in_the_same_each_time(text, seed):
    try:
        first = expand(text, LISTS, seed=seed)
    except PromptError:  # ${a} has no value
        assert "${" in text
        return
    assert first == expand(text, LISTS, seed=seed)
    assert len(first.text) <= len(text) + 2 * len(text)  # braces go, and at most a comma and a space come for each bar


@settings(max_examples=100, deadline=None)
@given(st.text("ab{}|_:$1- ", max_size=30))
def test_an_escaped_text_is_itself(text):
    found = expand(escape_wildcards(text), LISTS, seed=0)
    assert found.draws == 0
    (entry,) = parse_prompt(found.text).plan(1)
    assert "".join(piece.text for piece in entry.prompts[0].pieces) == text


@pytest.mark.parametrize(
    ("text", "place"), [("a {red|blue car", 3), ("a red} car", 6), ("${x=a} {x|{b|c} d", 8), ("%{a", 2)]
)
def test_a_brace_without_its_other_half_is_told(text: str, place: int) -> None:
    (notice,) = expand(text, {}, seed=1).notices
    assert (notice.code, notice.data) == ("brace_as_text", {"at": place})


@pytest.mark.parametrize("text", [r"a \{red car", "{a|b} c", "# {\na", "${x={a|b}}${x}"])
def test_whole_braces_are_not_told(text: str) -> None:
    assert expand(text, {}, seed=1).notices == ()
