"""The grammars of ComfyUI and Compel, and the table of dialects."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gesso.text.comfyui import parse_comfyui, write_comfyui
from gesso.text.compel import MAX_PARTS, parse_compel
from gesso.text.dialects import DIALECTS, find_dialect, weighted_dialect
from gesso.text.emphasis import RULES
from gesso.text.prompt import MAX_CHARS, Piece, PromptError, WeightedText
from linear_time import assert_quick


def pieces(found) -> list[tuple[str, float]]:
    return [(piece.text, round(piece.weight, 4)) for piece in found]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a (b) c", [("a ", 1), ("b", 1.1), (" c", 1)]),
        ("((a))", [("a", 1.21)]),
        ("((a:1.2))", [("a", 1.2)]),  # 1.32 in A1111
        ("(a:1.2:1.3)", [("a:1.2", 1.3)]),
        ("(a (b:1.5):0.5)", [("a ", 0.5), ("b", 1.5)]),
        ("(a (b) c:0.5)", [("a ", 0.5), ("b", 0.55), (" c", 0.5)]),
        ("(a:1.2 (b))", [("a:1.2 ", 1.1), ("b", 1.21)]),
        ("(:1.2)", [(":1.2", 1.1)]),
        ("(a: 1.2 )", [("a", 1.2)]),
        ("(a:1e1)", [("a", 10)]),
        ("(a:-1)", [("a", -1)]),
        ("(a:nan)", [("a:nan", 1.1)]),
        ("(a:1e999)", [("a:1e999", 1.1)]),
        ("[a] {b|c} AND BREAK", [("[a] {b|c} AND BREAK", 1)]),
        (r"\(a\) (b\):2)", [("(a) ", 1), ("b)", 2)]),
        ("a)b(c) (d)", [("a)b(c) (d)", 1)]),
        ("a) (b) (c) d", [("a) (b) (c) d", 1)]),
        ("a) (b (c)", [("a) (b ", 1), ("c", 1.1)]),
        ("(a (b:1.2) c", [("(a (b:1.2) c", 1)]),
        ("((((a)", [("((((a)", 1)]),
        ("", [("", 1)]),
        ("()", [("", 1)]),
    ],
)
def test_comfyui(text, expected):
    assert pieces(parse_comfyui(text)) == [(piece, pytest.approx(weight)) for piece, weight in expected]


# Parsed by Compel 2.5.1 itself, recorded once; its fragments are joined by spaces, so white space is not compared.
RECORDED = [
    ("a red cat", [("a red cat", 1)]),
    ("a red+ cat--", [("a", 1), ("red", 1.1), ("cat", 0.81)]),
    ("(a cat)++ dog", [("a cat", 1.21), ("dog", 1)]),
    ("(a (red cat)+ dog)1.3", [("a", 1.3), ("red cat", 1.43), ("dog", 1.3)]),
    ("(cat)-1.2", [("cat", 0.9), ("1.2", 1)]),
    ("(cat)0.5 dog", [("cat", 0.5), ("dog", 1)]),
    ('"a cat"+ dog', [("a cat", 1.1), ("dog", 1)]),
    ("one-two three- +four", [("one-two", 1), ("three", 0.9), ("+four", 1)]),
    ("(unbalanced cat", [("(unbalanced cat", 1)]),
    ("cat) dog", [("cat) dog", 1)]),
    ("cat.attend(1.3) (x y).attend(++)", [("cat", 1.3), ("x y", 1.21)]),
    ("a, b+, c", [("a,", 1), ("b", 1.1), (", c", 1)]),
    ("a (cat)3dogs", [("a", 1), ("cat", 3), ("dogs", 1)]),
    ("word+-", [("word", 1.1), ("-", 1)]),
    ("(a) (b)", [("a b", 1)]),
    ('a "quoted (thing)+ here"1.2', [("a", 1), ("quoted", 1.2), ("thing", 1.32), ("here", 1.2)]),
    ("((cat))", [("cat", 1)]),
    ("(cat+)+", [("cat", 1.21)]),
    ("3.5 cats+ 10", [("3.5", 1), ("cats", 1.1), ("10", 1)]),
    ('hello "world', [('hello "world', 1)]),
    ("(((cat)1.1)0.9)2", [("cat", 1.98)]),
    ("C++ code", [("C", 1.21), ("code", 1)]),
    ("a - b + c", [("a - b + c", 1)]),
    ("--ar", [("--ar", 1)]),
    ("a (b) 1.3 c", [("a b 1.3 c", 1)]),
    ("", [("", 1)]),
]


@pytest.mark.parametrize(("text", "expected"), RECORDED)
def test_compel(text, expected):
    parsed = parse_compel(text)
    assert parsed.joined == "guidance" and parsed.is_constant
    found = [(" ".join(piece.split()), weight) for piece, weight in pieces(parsed.subprompts[0].schedule.at(0, 1))]
    assert found == [(piece, pytest.approx(weight)) for piece, weight in expected]


def test_compel_escapes():
    parsed = parse_compel(r"a \(cat\) \"x\" one\+ two\-")
    assert pieces(parsed.subprompts[0].schedule.at(0, 1)) == [('a (cat) "x" one+ two-', 1)]


@pytest.mark.parametrize(
    ("text", "joined", "parts"),
    [
        ('("a cat", "a dog").blend(1,0.8)', "blend", [("a cat", 1), ("a dog", 0.8)]),
        ('("a cat", "a dog").blend()', "blend", [("a cat", 1), ("a dog", 1)]),
        ('("a","b").blend(1,-1,no_normalize)', "sum", [("a", 1), ("b", -1)]),
        ('("a cat", (a dog), bird).and(1,0.8,2)', "chain", [("a cat", 1), ("a dog", 0.8), ("bird", 2)]),
        ('("a, (b", "c").and()', "chain", [("a, (b", 1), ("c", 1)]),
    ],
)
def test_compel_joins_prompts(text, joined, parts):
    parsed = parse_compel(text)
    assert parsed.joined == joined
    found = [(subprompt.schedule.at(0, 1)[0].text, subprompt.weight) for subprompt in parsed.subprompts]
    assert found == parts


def test_compel_names_its_lora():
    text = "a cat++ withLora(style, 0.5) useLora(other)"
    parsed = parse_compel(text)
    assert [(lora.name, lora.text_weight) for lora in parsed.loras] == [("style", 0.5), ("other", 1)]
    assert text[parsed.networks[0].start : parsed.networks[0].end] == "withLora(style, 0.5)"
    assert pieces(parsed.subprompts[0].schedule.at(0, 1))[0] == ("a ", 1)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a (cat).swap(dog)", "dialect"),
        ('("a", "b").blend(1)', "dialect"),
        ('("a", "b").blend(1, -1)', "number"),
        ('("a", "b").blend(1, nan)', "number"),
        ('("a", "b").and(1, 1e9)', "number"),
        ("(" + ",".join(["a"] * (MAX_PARTS + 1)) + ").blend()", "dialect"),
        ("a" * (MAX_CHARS + 1), "prompt_too_long"),
    ],
)
def test_compel_refuses(text, reason):
    with pytest.raises(PromptError) as raised:
        parse_compel(text)
    assert raised.value.reason == reason


HOSTILE = [
    sign * (MAX_CHARS // len(sign))
    for sign in ("(", ")", '"', "\\", "+", "(a)+", "a+ ", "a.attend(", "(a:", ")(", '("a",', '("', "x", " ", "(a:1)")
] + ["(" * 10_000 + "a" + ")" * 10_000, "(" * 8000 + "a" + ")9" * 8000, "a" + "+" * 30_000, "a" + "-" * 30_000]


# As long as a prompt may be: each in one dialect is quick, in turn.
@pytest.mark.parametrize(
    ("text", "name"),
    [
        pytest.param(text, name, marks=() if (i + j) % len(DIALECTS) == 0 else pytest.mark.slow, id=f"{i}-{name}")
        for i, text in enumerate(HOSTILE)
        for j, name in enumerate(DIALECTS)
    ],
)
@pytest.mark.sampled(2)
def test_hostile_prompts_in_every_dialect(text, name):
    """Linear, without recursion, finite. 100 ms are asked for, of which a yardstick is a tenth."""

    def read() -> list[Piece]:
        parsed = find_dialect(name).parse(text)
        return [piece for subprompt in parsed.subprompts for piece in subprompt.schedule.at(0, 1)]

    assert_quick(read, 50)
    assert all(abs(piece.weight) < 1e31 for piece in read())


@settings(max_examples=150, deadline=None)
@given(st.text('ab()":.+-,\\ 12', max_size=40))
def test_any_text_is_read(text):
    for dialect in DIALECTS.values():
        parsed = dialect.parse(text)
        for subprompt in parsed.subprompts:
            for piece in subprompt.schedule.at(0, 1):
                assert 0 <= piece.start <= piece.end <= len(text)


TEXTS = st.text("ab (),[]\\:é", min_size=1, max_size=8).filter(lambda text: not text.endswith("\\"))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(TEXTS, st.floats(-9, 9).filter(lambda weight: weight != 1)), max_size=5))
def test_what_is_written_for_comfyui_is_read_again(parts):
    """A backslash before a bracket cannot be written as text there; such texts are left out."""
    if any("\\(" in text or "\\)" in text for text, _ in parts):
        return
    found = parse_comfyui(write_comfyui(tuple(WeightedText(*part) for part in parts)))
    assert [(piece.text, piece.weight) for piece in found] == (parts or [("", 1.0)])


def test_the_table():
    assert set(DIALECTS) == {"a1111", "comfyui", "compel", "plain"}
    assert all(dialect.emphasis in RULES for dialect in DIALECTS.values())
    assert find_dialect("plain").parse("(a:1.2) <lora:x>").subprompts[0].schedule.at(0, 1)[0].text == "(a:1.2) <lora:x>"
    with pytest.raises(PromptError, match="a1111, comfyui"):
        find_dialect("midjourney")


def test_a_dialect_of_pieces_for_plug_ins():
    """Pieces with their weights and places, or the empty prompt; what lies outside the text is refused."""
    given: list[WeightedText] = []
    dialect = weighted_dialect("mine", lambda text: given, whole_words=True)
    assert (dialect.name, dialect.emphasis, dialect.whole_words) == ("mine", "no_norm", True)
    assert weighted_dialect("mine", lambda text: given, emphasis="comfyui").emphasis == "comfyui"
    assert not weighted_dialect("mine", lambda text: given).whole_words
    (entry,) = dialect.parse("abcd").plan(5)
    assert (entry.last_step, [piece.text for piece in entry.prompts[0].pieces]) == (5, [""])
    given[:] = [WeightedText("ab", 1.5, start=0, end=2), WeightedText("cd", -1.0, start=2, end=4)]
    for parse in (dialect.parse, dialect.parse_negative):
        found = parse("abcd")
        assert found.source == "abcd" and list(found.plan(5)[0].prompts[0].pieces) == given
    for weight, start, end in ((float("inf"), 0, 1), (float("nan"), 0, 1), (1.0, -1, 1), (1.0, 3, 2), (1.0, 0, 5)):
        given[:] = [WeightedText("x", weight, start=start, end=end)]
        with pytest.raises(ValueError, match=f"a piece of the prompt has weight {weight} and lies at {start}:{end}"):
            dialect.parse("abcd")
    given[:] = []
    with pytest.raises(PromptError):
        dialect.parse("x" * (MAX_CHARS + 1))
