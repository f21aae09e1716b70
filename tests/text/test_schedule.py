"""Prompts that change over the steps: every example that was run against A1111, and what no text may do."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gesso.text.prompt import PromptError
from gesso.text.schedule import MAX_SCHEDULES, parse_schedule
from linear_time import assert_linear

A, B = [(10, "a")], [(10, "b")]
HALF = [(5, "a"), (10, "b")]


def turns(*texts: str, steps: int = 10) -> list[tuple[int, str]]:
    return [(step + 1, texts[step % len(texts)]) for step in range(steps)]


# (text, [(last step, text)]) over 10 steps: results of A1111's own parser, recorded once.
RECORDED = [
    ("[a:b:0.5]", HALF),
    ("[a:b:.5]", HALF),
    ("[a:b:5]", HALF),
    ("[a:b:1]", [(1, "a"), (10, "b")]),
    ("[a:b:1.0]", A),
    ("[a:b:0]", B),
    ("[a:b:-1]", B),
    ("[a:b:11]", A),
    ("[a:b:2.5]", A),
    ("[b:3]", [(3, ""), (10, "b")]),
    ("[a::5]", [(5, "a"), (10, "")]),
    ("[a:b]", [(10, "[a:b]")]),
    ("[a:b:c]", [(10, "[a:b:c]")]),
    ("[a|b:1.2]", [(10, "[a|b:1.2]")]),
    ("x [a:b: 5 ] y", [(5, "x a y"), (10, "x b y")]),
    ("a[b:[c:d:2]:1]e", [(1, "abe"), (2, "ace"), (10, "ade")]),
    ("[[a|b]:c:5]", [*turns("a", "b", steps=5), (10, "c")]),
    ("[a|(b:1.1)]", turns("a", "(b:1.1)")),
    ("[fe|]male", turns("female", "male")),
    ("[a|b|c]", turns("a", "b", "c")),
    ("a [[[b]]:2]", [(2, "a "), (10, "a [[b]]")]),
    (r"\[a:b:5\]", [(10, r"\[a:b:5\]")]),
]
# Texts that are hard to read: rows of the list of hostile prompts, and brackets that hold what is not balanced.
HARD = [
    ("[|", [(10, "[|")]),
    ("[a|]", turns("a", "")),
    ("[|]", [(10, "")]),
    ("[a:b:1e9]", A),
    ("[a:b:1e999]", A),
    ("[a:b:-1e999]", B),
    ("[a:b:nan]", [(10, "[a:b:nan]")]),
    ("[::]", [(10, "[::]")]),
    ("[::5]", [(10, "")]),
    ("[a:b:" + "1" * 5000 + "]", [(10, "[a:b:" + "1" * 5000 + "]")]),
    ("[x (a:b:5]", [(10, "[x (a:b:5]")]),
    ("[x) a:b:5]", [(10, "[x) a:b:5]")]),
    ("[x [a:b] : y : 5]", [(10, "[x [a:b] : y : 5]")]),
    ("( [a:b:5]", [(5, "( a"), (10, "( b")]),
    ("x: [a:b:5] c|d", [(5, "x: a c|d"), (10, "x: b c|d")]),
    (r"[a\:b:c:5]", [(5, r"a\:b"), (10, "c")]),
    ("[(a:1.2):(b:1.3):5]", [(5, "(a:1.2)"), (10, "(b:1.3)")]),
]


@pytest.mark.parametrize(("text", "plan"), RECORDED + HARD)
def test_plan(text, plan):
    merged: list[tuple[int, str]] = []
    for last_step, part in plan:
        if merged and merged[-1][1] == part:
            merged.pop()
        merged.append((last_step, part))
    assert [(entry.last_step, entry.text) for entry in parse_schedule(text).plan(10)] == merged


@pytest.mark.parametrize(
    ("text", "plan"),
    [
        ("[a:b:1.5]", HALF),
        ("[a:b:12]", [(2, "a"), (10, "b")]),
        ("[a:b:0.5]", B),
        ("[a:b:2.0]", A),
        ("[a|b]", turns("a", "b")),
    ],
)
def test_second_pass_counts_from_the_start_of_the_first(text, plan):
    found = parse_schedule(text).plan(10, base_steps=10)
    assert [(entry.last_step, entry.text) for entry in found] == plan


def test_old_rule_takes_any_number_below_one_as_a_share():
    def plan(text: str) -> list[tuple[int, str]]:
        return [(entry.last_step, entry.text) for entry in parse_schedule(text).plan(10, rule="share")]

    assert plan("[a:b:0.5]") == HALF
    assert plan("[a:b:2.5]") == [(2, "a"), (10, "b")]
    assert plan("[a:b:1.0]") == [(1, "a"), (10, "b")]


@pytest.mark.parametrize("text", [text for text, _ in RECORDED + HARD])
@pytest.mark.parametrize("num_steps", [1, 2, 10])
def test_at_agrees_with_the_plan(text, num_steps):
    schedule = parse_schedule(text)
    plan = schedule.plan(num_steps)
    assert plan[-1].last_step == num_steps
    for step in range(num_steps):
        entry = next(entry for entry in plan if step < entry.last_step)
        assert schedule.at(step, num_steps) == entry.pieces


def test_late_is_one_step_later_as_in_the_samplers_of_a1111():
    schedule = parse_schedule("[a|b]")
    assert [schedule.at(step, 5)[0].text for step in range(5)] == ["a", "b", "a", "b", "a"]
    assert [schedule.at(step, 5, late=True)[0].text for step in range(5)] == ["a", "a", "b", "a", "b"]


def test_arguments_that_make_no_sense():
    for step in (-1, 5):
        with pytest.raises(ValueError, match="step"):
            parse_schedule("[a|b]").at(step, 5)
    with pytest.raises(ValueError, match="num_steps"):
        parse_schedule("a").plan(0)


def test_pieces_keep_their_places_in_the_source():
    text = "big [red (cat:1.2):dog:3] here"
    for entry in parse_schedule(text).plan(6):
        for piece in entry.pieces:
            assert piece.text.split()[0] in text[piece.start : piece.end]


def test_what_is_constant():
    assert parse_schedule("a [b] (c:1.2)").is_constant
    assert not parse_schedule("[a:b:3]").is_constant


def test_too_many_schedules():
    parse_schedule("[a|b]" * MAX_SCHEDULES)
    with pytest.raises(PromptError, match="schedules") as raised:
        parse_schedule("[a|b]" * (MAX_SCHEDULES + 1))
    assert raised.value.reason == "prompt_limit"


@pytest.mark.parametrize("sign", ["[", "(", "[a:", "[a|", "[[a]:", "]", "|", "\\", "[(])"])
@pytest.mark.sampled(2)
def test_reading_takes_linear_time(sign):
    assert_linear(lambda text: parse_schedule(text).plan(3), sign)


def test_deep_nesting_needs_no_recursion():
    depth = MAX_SCHEDULES
    text = "[" * 20_000 + "[x:" * depth + "a" + ":1]" * depth + "]" * 20_000
    plan = parse_schedule(text).plan(2)
    assert [entry.last_step for entry in plan] == [1, 2]
    assert plan[1].text.strip("[]") == "a"


@settings(max_examples=300, deadline=None)
@given(st.text("ab[]()|:\\ 0.51", max_size=40), st.integers(1, 12))
def test_any_text_has_a_plan(text, num_steps):
    """Texts come from the prompt itself, in order, and steps rise up to the last."""
    plan = parse_schedule(text).plan(num_steps)
    steps = [entry.last_step for entry in plan]
    assert steps == sorted(set(steps)) and steps[-1] == num_steps
    for entry in plan:
        rest = iter(text)
        assert all(char in rest for char in entry.text)


NESTED = st.recursive(
    st.sampled_from(["a", "b ", "", "(c:1.2)"]),
    lambda parts: st.one_of(
        st.tuples(parts, parts).map(lambda pair: ("both", *pair)),
        st.tuples(parts, parts, st.integers(-1, 9)).map(lambda triple: ("when", *triple)),
        st.lists(parts, min_size=2, max_size=3).map(lambda turn: ("turn", *turn)),
    ),
    max_leaves=8,
)


def spell(tree) -> str:
    if isinstance(tree, str):
        return tree
    op, *parts = tree
    if op == "both":
        return spell(parts[0]) + spell(parts[1])
    if op == "when":
        return f"[{spell(parts[0])}:{spell(parts[1])}:{parts[2]}]"
    return "[" + "|".join(spell(part) for part in parts) + "]"


def read(tree, number: int) -> str:
    if isinstance(tree, str):
        return tree
    op, *parts = tree
    if op == "both":
        return read(parts[0], number) + read(parts[1], number)
    if op == "when":
        return read(parts[0] if number <= parts[2] else parts[1], number)
    return read(parts[(number - 1) % len(parts)], number)


@settings(max_examples=200, deadline=None)
@given(NESTED)
def test_what_is_written_is_read_again(tree):
    schedule = parse_schedule(spell(tree))
    for entry in schedule.plan(8):
        assert entry.text == read(tree, entry.last_step)
