"""Emphasis: every example that was run against A1111, what the reference gets wrong, and what no text may do."""

import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gesso.text.attention import LIMIT, escape, parse_attention, write_attention
from gesso.text.prompt import Break, WeightedText
from linear_time import assert_linear

# (text, [(piece, weight)]): results of A1111's own parser, recorded once; None as a piece is BREAK.
RECORDED = [
    ("((a))", [("a", 1.21)]),
    ("[a]", [("a", 0.9091)]),
    ("(a:1.5", [("a:1.5", 1.1)]),
    ("a:1.5)", [("a:1.5)", 1)]),
    ("(a:.5)", [("a", 0.5)]),
    ("(a:-1)", [("a", -1)]),
    ("(a:0)", [("a", 0)]),
    ("(a: 1.2)", [("a", 1.2)]),
    ("(a:1.2 )", [("a", 1.2)]),
    ("(a:+1.3)", [("a", 1.3)]),
    ("(a:abc)", [("a:abc", 1.1)]),
    ("(a:1e2)", [("a:1e2", 1.1)]),
    ("(a (b:1.5):0.5)", [("a ", 0.5), ("b", 0.75)]),
    ("[a:1.5]", [("a:1.5", 0.9091)]),
    ("(a:1.2:1.3)", [("a:1.2", 1.3)]),
    ("[(a:1.2)]", [("a", 1.0909)]),
    ("()", [("", 1)]),
    ("(", [("", 1)]),
    ("", [("", 1)]),
    ("a]b", [("a]b", 1)]),
    ("a)b", [("a)b", 1)]),
    (":1.2)", [(":1.2)", 1)]),
    ("(a,b)(c)", [("a,bc", 1.1)]),
    (
        "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
        [
            ("a ", 1),
            ("house", 1.573),
            (" ", 1.1),
            ("on", 1),
            (" a ", 1.1),
            ("hill", 0.55),
            (", sun, ", 1.1),
            ("sky", 1.4641),
            (".", 1.1),
        ],
    ),
    (r"\(literal\]", [("(literal]", 1)]),
    (r"a\\b", [("a\\b", 1)]),
    (r"a\n", [("an", 1)]),
    ("a BREAK b", [("a", 1), None, ("b", 1)]),
]
# What the reference gets wrong: it stops with an error, and it writes the word BREAK into the picture.
PUT_RIGHT = [
    ("(a:1.2.3)", [("a:1.2.3", 1.1)]),
    ("(a:.)", [("a:.", 1.1)]),
    ("(a BREAK b:1.2)", [("a", 1.2), None, ("b", 1.2)]),
    ("[(a\nBREAK b)]", [("a", 1), None, ("b", 1)]),
]
ALPHABET = "ab (())[]\\:1.5-,\n é漢👩‍🚀"


def found(text: str) -> list[tuple[str, float] | None]:
    return [
        None if isinstance(piece, Break) else (piece.text, round(piece.weight, 4)) for piece in parse_attention(text)
    ]


@pytest.mark.parametrize(("text", "pieces"), RECORDED + PUT_RIGHT)
def test_pieces_and_weights(text, pieces):
    assert found(text) == [None if piece is None else (piece[0], round(piece[1], 4)) for piece in pieces]


def test_round_and_square_brackets_may_overlap():
    assert found("([a)b]c") == [("a", 1.0), ("b", 0.9091), ("c", 1.0)]


def test_break_is_a_word():
    assert found("BREAKs aBREAK _BREAK") == [("BREAKs aBREAK _BREAK", 1)]
    assert found("BREAK") == [None]
    assert found(r"B\REAK") == [("BREAK", 1)]
    assert found("(a)BREAK\n\n BREAK[b]") == [("a", 1.1), None, None, ("b", 0.9091)]


def test_places_are_those_of_the_source():
    text = r"a \(big (red:1.3) cat\) BREAK dog"
    pieces = parse_attention(text)
    assert [text[piece.start : piece.end] for piece in pieces] == [r"a \(big ", "red", r" cat\)", "BREAK", "dog"]


@pytest.mark.parametrize(
    "text", ["(" * 20_000 + "a", "[" * 20_000 + "a", "(" * 400 + "a" + ":10)" * 400, "(a:-" + "9" * 999 + ")"]
)
def test_no_weight_is_infinite(text):
    (piece,) = parse_attention(text)
    assert abs(piece.weight) <= LIMIT
    assert piece.weight == piece.weight


@pytest.mark.parametrize("sign", ["(", "[", ")", "\\", ":", "([", "(a:", "BREAK ", "(:1.1)", " " * 50 + ":", "(a"])
@pytest.mark.sampled(2)
def test_reading_takes_linear_time(sign):
    assert_linear(parse_attention, sign)


@pytest.mark.parametrize("count", [10**5, pytest.param(10**6, marks=pytest.mark.slow)])
@pytest.mark.parametrize("sign", ["(", "["])
def test_a_million_brackets(sign, count):
    (piece,) = parse_attention(sign * count + "a")
    assert piece.text == "a"


def oracle(text: str) -> list[tuple[str, float] | None]:
    """The rule spelled out in the slow way: each bracket, when it ends, multiplies the weight of all it holds."""
    signs = re.compile(r"\\[\\()\[\]]|\\|:\s*[+-]?[.\d]+\s*\)|[()\[\]:]|[^\\()\[\]:]+")
    pieces: list[list] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}

    def scale(bracket: str, factor: float) -> None:
        for piece in pieces[opened[bracket].pop() :]:
            piece[1] *= factor

    for sign in signs.findall(text):
        number = sign[1:-1].strip() if sign[0] == ":" and len(sign) > 1 else None
        if sign[0] == "\\":
            pieces.append([sign[1:], 1.0])
        elif sign in opened:
            opened[sign].append(len(pieces))
        elif sign == ")" and opened["("]:
            scale("(", 1.1)
        elif sign == "]" and opened["["]:
            scale("[", 1 / 1.1)
        elif number is not None and opened["("] and number.count(".") <= 1 and number.strip("+-."):
            scale("(", float(number))
        elif number is not None and opened["("]:
            pieces.append([sign[:-1], 1.0])
            scale("(", 1.1)
        else:
            pieces.append([sign, 1.0])
    for bracket, factor in (("(", 1.1), ("[", 1 / 1.1)):
        while opened[bracket]:
            scale(bracket, factor)
    return [(piece, weight) for piece, weight in pieces if piece]


@settings(max_examples=300, deadline=None)
@given(st.text(ALPHABET, max_size=60))
def test_weights_are_those_of_the_slow_rule(text):
    """Character by character, so that merging plays no part; 1e-9: the order of multiplications differs."""
    slow = [(char, weight) for piece, weight in oracle(text) for char in piece]
    quick = [(char, piece.weight) for piece in parse_attention(text) for char in piece.text]
    assert [char for char, _ in quick] == [char for char, _ in slow]
    assert [weight for _, weight in quick] == pytest.approx([weight for _, weight in slow], rel=1e-9)


WEIGHTS = st.floats(-20, 20).map(lambda weight: round(weight, 3)).filter(lambda weight: weight != 0) | st.floats(
    1e-7, 9
)
TEXTS = st.text(ALPHABET + "BREAK", min_size=1, max_size=12) | st.sampled_from(
    ["BREAK", " a", "a ", "x BREAK y", ":1.2)"]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.none() | st.tuples(TEXTS, WEIGHTS), max_size=8))
def test_what_is_written_is_read_again(parts):
    merged: list[tuple[str, float] | None] = []
    for part in parts:
        if part and merged and merged[-1] and merged[-1][1] == part[1]:
            merged[-1] = (merged[-1][0] + part[0], part[1])
        else:
            merged.append(part)
    pieces = [Break() if part is None else WeightedText(*part) for part in merged] or [WeightedText("")]
    read = parse_attention(write_attention(pieces))
    assert [None if isinstance(piece, Break) else (piece.text, piece.weight) for piece in read] == [
        None if isinstance(piece, Break) else (piece.text, piece.weight) for piece in pieces
    ]


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40) | st.text(ALPHABET + "BREAK", max_size=40))
def test_an_escaped_text_is_itself(text):
    assert [(piece.text, piece.weight) for piece in parse_attention(escape(text))] == [(text, 1)]


def test_the_same_text_gives_the_same_pieces():
    text = "".join(random.Random(0).choices(ALPHABET, k=2000))
    assert parse_attention(text) == parse_attention(text)
