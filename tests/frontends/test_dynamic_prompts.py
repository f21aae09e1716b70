"""Wildcards beside the package dynamicprompts: the same results, as often, in prompts, lists, YAML and JSON.

Its random numbers are others, so the whole distribution of a prompt is compared: gesso is asked for every row of draws,
dynamicprompts is watched many times, or walked through with a generator of random numbers that takes every way.
"""

import json
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from random import Random

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gesso.errors import GessoError
from gesso.frontends.front_end import WildcardFolder
from gesso.frontends.wildcards import Draws, _Writer, expand, parse_list
from gesso.frontends.wildcards import _parse as parse_template
from gesso.text.prompt import PromptError

pytest.importorskip("dynamicprompts", reason="the oracle; in the dev extra")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of pyparsing, by the oracle

import dynamicprompts.parser.parse  # noqa: E402
import dynamicprompts.samplers.utils  # noqa: E402
from dynamicprompts.enums import SamplingMethod  # noqa: E402
from dynamicprompts.sampling_context import SamplingContext  # noqa: E402
from dynamicprompts.wildcards import WildcardManager  # noqa: E402

MOST_WAYS = 400
LISTS = {
    "num": ("1", "2", "3"),
    "twice": ("x", "y", "x"),
    "nested": ("p {q|r}", "__num__"),
    "animals/wild": ("lion", "bear"),
    "animals/tame": ("cat",),
    "animals/old/deep": ("auroch",),
    "one/deep": ("d",),
    "commented": ("red # not blue", "green"),
    "asks": ("in ${season:May}",),
    "sets": ("${season=June}in ${season}",),
}


class Ways:
    """Takes every row of choices in turn, and knows how likely each is."""

    def __init__(self) -> None:
        self.row: list[int] = []
        self.shares: list[list[float]] = []
        self.place = 0

    def pick(self, shares: Sequence[float]) -> int:
        if self.place == len(self.row):
            self.row.append(next(index for index, share in enumerate(shares) if share > 0))
            self.shares.append(list(shares))
        self.place += 1
        assert self.place < 10_000, "has no end"
        return self.row[self.place - 1]

    def likely(self) -> float:
        product = 1.0
        for index, shares in zip(self.row, self.shares, strict=True):
            product *= shares[index] / sum(shares)
        return product

    def next(self) -> bool:
        """Turns to the next row; False after the last."""
        self.place = 0
        while self.row:
            later = [i for i in range(self.row[-1] + 1, len(self.shares[-1])) if self.shares[-1][i] > 0]
            if later:
                self.row[-1] = later[0]
                return True
            self.row.pop()
            self.shares.pop()
        return False


def distribution(one: Callable[[Ways], str]) -> dict[str, float]:
    """All results and how likely each is, with white space as a tokenizer sees it."""
    ways = Ways()
    found: Counter[str] = Counter()
    for _ in range(MOST_WAYS):
        text = one(ways)
        found[" ".join(text.split())] += ways.likely()  # type: ignore[assignment]
        if not ways.next():
            return dict(found)
    assume(False)  # too many ways to walk them all
    raise AssertionError


class AllDraws(Draws):
    """gesso's draws, by which `_walked` knows that all of them are asked for."""

    def __init__(self, ways: Ways) -> None:
        super().__init__(0, 0)
        self.ways = ways


class WalkedRandom(Random):
    """Python's random numbers, as dynamicprompts asks for them."""

    ways: Ways

    def choice(self, seq):
        return seq[self.ways.pick([1.0] * len(seq))]

    def randint(self, a, b):
        return a + self.ways.pick([1.0] * (b - a + 1))

    def choices(self, population, weights=None, *, cum_weights=None, k=1):
        if weights is None:
            weights = [high - low for low, high in zip([0, *cum_weights], cum_weights, strict=False)]
        if k > 1:  # of a list with weights: only the first is used
            k = 1
        return [population[self.ways.pick(weights)] for _ in range(k)]


def oracle(template: str, manager: WildcardManager) -> dict[str, float]:
    def one(ways: Ways) -> str:
        random = WalkedRandom()
        random.ways = ways
        context = SamplingContext(SamplingMethod.RANDOM, manager, rand=random)
        return str(next(iter(context.sample_prompts(template, 1))))

    return distribution(one)


def ours(template: str, lists: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Walks through gesso's draws, which `_walked` answers."""

    def one(ways: Ways) -> str:
        writer = _Writer(lists, AllDraws(ways), 40)
        writer.write(parse_template(template))
        return "".join(writer.texts)

    return distribution(one)


@pytest.fixture(autouse=True)
def _walked(monkeypatch):
    """The two places where gesso draws tell which shares there are."""
    from gesso.frontends import wildcards

    def draw(urn, draws):
        if not isinstance(draws, AllDraws):
            return plain_draw(urn, draws)
        shares = [high - low for low, high in zip([0, *urn.sums], urn.sums, strict=False)]
        index = draws.ways.pick([0.0 if i in urn.taken else share for i, share in enumerate(shares)])
        urn.take(index)
        return index

    def number(draws, low, high):
        if not isinstance(draws, AllDraws):
            return plain_number(draws, low, high)
        return low + draws.ways.pick([1.0] * (high - low + 1))

    parse = lru_cache(dynamicprompts.parser.parse.parse)  # it is slow, and parses a line each time that it is drawn
    monkeypatch.setattr(dynamicprompts.parser.parse, "parse", parse)
    monkeypatch.setattr(dynamicprompts.samplers.utils, "parse", parse)
    plain_draw, plain_number = wildcards._Urn.draw, wildcards.Draws.between
    monkeypatch.setattr(wildcards._Urn, "draw", draw)
    monkeypatch.setattr(wildcards.Draws, "between", number)
    logging.getLogger("dynamicprompts").setLevel(logging.CRITICAL)


def write(folder: Path, lists: Mapping[str, Sequence[str]]) -> Path:
    for name, lines in lists.items():
        path = folder / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def manager(tmp_path_factory) -> WildcardManager:
    return WildcardManager(write(tmp_path_factory.mktemp("lists"), LISTS))


def assert_same(template: str, manager: WildcardManager, lists: Mapping[str, Sequence[str]] = LISTS) -> None:
    expected, found = oracle(template, manager), ours(template, lists)
    assert set(found) == set(expected)
    assert found == pytest.approx(expected, abs=1e-9)


TEMPLATES = r"""
a {red|blue} cat
{2$$__num__}
{2$$ and $$__num__}
{1-2$$__num__}
{2-$$__num__} {-2$$__num__}
{9$$__num__}
{2$$__num__|__num__}
{2$$__num__|x}
{__num__}
{2$$ __num__}x
{2$$__animals/*__}
{2$$__twice__}
{2-3$$ and $$a|b|c}
{3-1$$a|b|c}
{-2$$a|b|c} {2-$$a|b|c}
{1-9$$a|b|c}
{0$$a|b}
{0-1$$a|b}
{2$$|$$a|b}
{2$$, $$a|b|c}
{2$$:$$a|b}
{2$$a|b|}
{3$$a|b|}
{0.5::a|b}
{.5::a|3.::b|2::c}
{ 0.5::a | b }
{0.5 :: a|b} {a::b|c} {-1::a|b}
{0::a|b}
{# weights\n0.5::a|b}
{\n # first\n 0.5::a\n # second | third\n |2::b # {last\n}
a # {b|c}\n{d|e}
foo{ bar|baz}
{a|{b|{2$$c|d|e}}}
{{a|b}|{c|d}}
{2$${a|b}|c}
{}{|}{a||b}
${x={a|b}}${x} ${x}
${x=!{a|b}}${x} ${x}
${x=!__num__}${x} ${x} __num__
${x=__num__}${x} ${x}
${x=a}${x=b}${x}
${x} ${x=a}
${x?=c}${x} ${y=1}${y?=2}${y}
${x:c} ${x:{a|b}} [${ x : c }]
${ x = {a|b} }<${x}>
${x=${y}}${y={1|2}}${x}
${x={a|b}}{2$$${x}|c}
{a ${x:7}|b}
${animal=num}__${animal}__
__${x:num}__ __${num}__
__animals/{wild|tame}__
__animals/*__
__animals/**__ __*/deep__
__animals/[tw]*__ __nu?__
__deep__ __wild__
__nested__ __commented__ __twice__
__asks__ __asks(season=winter)__ ${season=fall}__asks__
__sets__ ${season=July}__sets__
__asks(season={a|b})__
__/animals/tame/__ __animals\wild__
__none__ {a|b} {__none__|a}
__NUM__ __ num __ ___num___ foo__num__bar a __b c__ d
{~a|b} {~2$$a|b|c} __~num__
(a:1.2) [b|c] {d|e}, <lora:x:1>
""".strip().splitlines()


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_template_gives_what_dynamicprompts_gives(template, manager):
    assert_same(template.replace("\\n", "\n"), manager)


def templates() -> st.SearchStrategy[str]:
    words = st.sampled_from(["a", "b", "c d", "(e:1.2)", "x,y"])
    names = st.sampled_from(["num", "twice", "nested", "animals/*", "deep", "asks", "sets", "none"])
    atoms = words | names.map("__{}__".format) | st.sampled_from(["${v}", "${w:z}", "${v:z}"])

    def braces(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        weights = st.sampled_from(["", "", "", "2::", "0.5::", " ", "# c | d\n"])
        bounds = st.sampled_from(["", "", "", "2$$", "1-2$$", "2-$$", "-2$$", "2$$ and $$", "1-2$$|$$", "~", "~2$$;$$"])
        option = st.tuples(weights, st.lists(inner, min_size=0, max_size=2)).map(lambda x: x[0] + " ".join(x[1]))
        options = st.tuples(bounds, st.lists(option, min_size=2, max_size=3))
        lists = st.tuples(bounds, names).map(lambda x: "{" + x[0] + "__" + x[1] + "__}")
        return options.filter(_even).map(lambda x: "{" + x[0] + "|".join(x[1]) + "}") | lists

    parts = st.recursive(atoms, braces, max_leaves=4)
    sets = st.tuples(st.sampled_from(["${v=", "${v=!", "${v?=", "${w="]), parts).map(lambda x: x[0] + x[1] + "}")
    return st.tuples(st.lists(sets, max_size=2).filter(_apart), st.lists(parts, min_size=1, max_size=3)).map(
        lambda x: "".join(x[0]) + " ".join(x[1])
    )


def _even(options: tuple[str, list[str]]) -> bool:
    """Where several are taken, dynamicprompts takes away the first weight that is equal, not the one of the option."""
    return "$$" not in options[0] or not any("::" in option for option in options[1])


def _apart(sets: list[str]) -> bool:
    """In a value that is drawn once, gesso knows what was set before it; dynamicprompts does not."""
    return len(sets) < 2 or not (sets[1][3:].startswith("=!") and f"${{{sets[0][2]}" in sets[1][3:])


def check(template: str, manager: WildcardManager) -> None:
    try:
        expected = oracle(template, manager)
    except (KeyError, RecursionError):
        with pytest.raises(PromptError):
            ours(template, LISTS)
        return
    except (RuntimeError, StopIteration):  # it has no line of an unknown list to take
        return
    found = ours(template, LISTS)
    assert set(found) == set(expected)
    assert found == pytest.approx(expected, abs=1e-9)


@settings(max_examples=12, deadline=None)
@given(templates())
def test_random_templates_give_what_dynamicprompts_gives(manager, template):
    check(template, manager)


@pytest.mark.slow
@settings(max_examples=500, deadline=None)
@given(templates())
def test_many_random_templates_give_what_dynamicprompts_gives(manager, template):
    check(template, manager)


# ---- files -----------------------------------------------------------------------------------------------------------

YAML = """
# a pack
clothing:
  - T-shirt
  - "2::Pants"
  - {text: Shoes, weight: 0.5}
  - {content: Hat}
  -
  - 12
  - {weight: 3}
artists:
  finnish: [Edelfelt, '{Gallen|Kallela}']
  dutch:
    modern: [Mondrian]
  1234: 5678
  flurp: 12345
  empty: []
greeting: hello
long:
  - |
    # Usage: __long(figure=elephant)__
    cute ${figure:bear} toy,
    soft light
"""


def both(folder: Path) -> tuple[WildcardFolder, dict[str, list[str]], WildcardManager]:
    manager = WildcardManager(folder)
    names = {
        name: [str(item) for item in manager.get_file(name).get_values()] for name in manager.get_collection_names()
    }
    return WildcardFolder(folder), names, manager


def assert_lists_agree(folder: Path) -> None:
    lists, names, manager = both(folder)
    assert sorted(lists) == sorted(name for name, lines in names.items() if lines or name in lists)
    for name in lists:
        assert_same(f"__{name}__", manager, lists)
    assert_same("__**__", manager, lists)


def test_yaml_is_read_as_dynamicprompts_reads_it(tmp_path):
    pytest.importorskip("yaml")
    (tmp_path / "pack.yaml").write_text(YAML)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "more.yaml").write_text("- one\n- two\n- 3\n")
    (tmp_path / "sub" / "other.yaml").write_text("a: {b: [x, y]}\n")
    write(tmp_path, {"plain": ("red", "blue"), "sub/plain": ("green",)})
    assert_lists_agree(tmp_path)
    lists = WildcardFolder(tmp_path)
    assert lists["sub/a/b"] == ("x", "y")
    assert {place for notice in lists.notices for place in notice.data["places"]} == {
        "clothing[5]",
        "clothing[6]",
        "artists/1234",
        "artists/flurp",
        "more[2]",
    }
    assert all(notice.code == "wildcard_skipped" for notice in lists.notices)


def test_json_is_read_as_dynamicprompts_reads_it(tmp_path):
    (tmp_path / "pack.json").write_text(json.dumps({"a": ["x", "3::y", {"text": "z", "weight": 2}], "b": {"c": "d"}}))
    (tmp_path / "flat.json").write_text(json.dumps(["one", "two"]))
    assert_lists_agree(tmp_path)


@pytest.mark.parametrize(
    ("weight", "line"),
    [(2, "2::a"), (0.5, "0.5::a"), (1e-7, "0.0000001::a"), ("3", "3::a"), (1e-30, None), (10**400, None), (-1, None)],
)
def test_a_weight_in_a_table_is_exact_or_told(tmp_path, weight, line):
    (tmp_path / "f.json").write_text(json.dumps({"x": [{"text": "a", "weight": weight}, "b"]}))
    lists = WildcardFolder(tmp_path)
    assert lists["x"] == (("b",) if line is None else (line, "b"))
    assert bool(lists.notices) == (line is None)


@settings(max_examples=25, deadline=None)
@given(
    st.recursive(
        st.lists(st.sampled_from(["a", "b", "2::c", "", 1, None, True, {"text": "t", "weight": 3}, {"x": 1}, ["l"]]))
        | st.sampled_from(["text", "", 5, None, False]),
        lambda inner: st.dictionaries(st.sampled_from(["k", "l", "m n"]), inner, max_size=3),
        max_leaves=5,
    ).filter(lambda value: isinstance(value, dict | list))
)
def test_any_table_is_read_as_dynamicprompts_reads_it(tmp_path_factory, table):
    if isinstance(table, list):  # of a single list, it takes texts as they are, without weights, and never ends at ""
        table = [entry for entry in table if not isinstance(entry, dict) and entry not in ("2::c", "")]
    folder = tmp_path_factory.mktemp("table")
    (folder / "f.json").write_text(json.dumps(table))
    lists, names, manager = both(folder)
    assert sorted(lists) == sorted(name for name, lines in names.items() if any(lines))
    for name in lists:
        assert_same(f"__{name}__", manager, lists)


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("a.json", "{", r"a\.json: is not valid JSON"),
        ("a.json", '{"x": ["a"], "x": ["b"]}', "duplicate key"),
        ("a.json", "[" * 100_000, "is too deep"),
        ("a.json", "5", "is int, expected a table of lists, or a list"),
        ("a.yaml", "a: [", r"not valid YAML \(line"),
        ("a.yaml", "a: &x [b]\nc: *x", "anchor or alias"),
        ("a.yml", "text", "is str, expected a table"),
        ("a.yaml", "[" * 40 + "]" * 40, "too deep"),
        ("a.yaml", "a: !!python/name:os.system x", "not valid YAML"),
        ("a.json", "\udcff", "not UTF-8"),
    ],
)
def test_a_table_that_is_none_is_named(tmp_path, name, content, match):
    if not name.endswith(".json"):
        pytest.importorskip("yaml")
    (tmp_path / name).write_bytes(content.encode("utf-8", "surrogateescape"))
    (tmp_path / "colour.txt").write_text("red\n")
    lists = WildcardFolder(tmp_path)
    assert lists["colour"] == ("red",)  # what needs no table is read
    with pytest.raises(GessoError, match=match):
        expand("__x__", lists, seed=0)


def test_a_name_in_both_is_that_of_the_text(tmp_path):
    (tmp_path / "a.json").write_text('{"c": ["of a table"], "d": ["e"]}')
    write(tmp_path, {"c": ("of a file",)})
    lists = WildcardFolder(tmp_path)
    assert {name: lists[name] for name in lists} == {"c": ("of a file",), "d": ("e",)}


def test_lists_are_counted_once_whether_they_were_read_or_not(tmp_path, monkeypatch):
    monkeypatch.setattr("gesso.frontends.front_end.MAX_LISTS", 4)
    (tmp_path / "t.json").write_text('{"c": ["of a table"], "d": ["e"]}')
    write(tmp_path, {"a": ("1",), "b": ("2",), "c": ("3",)})
    lists = WildcardFolder(tmp_path)
    assert [lists[name] for name in "abcd"] == [("1",), ("2",), ("3",), ("e",)]
    assert (len(lists), sorted(lists)) == (4, ["a", "b", "c", "d"])
    (tmp_path / "t.json").write_text('{"d": ["e"], "f": ["g"]}')
    with pytest.raises(GessoError, match="more than 4 wildcards"):
        len(WildcardFolder(tmp_path))


def test_links_to_folders_are_followed_once_and_hidden_ones_left_out(tmp_path):
    write(tmp_path / "elsewhere", {"x": ("1",)})
    write(tmp_path / "here", {"y": ("2",), ".git/z": ("3",)})
    (tmp_path / "here" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "here" / "loop").symlink_to(tmp_path / "here")
    assert sorted(WildcardFolder(tmp_path / "here")) == ["link/x", "y"]


# ---- where gesso does otherwise, and what it refuses -----------------------------------------------------------------


def texts(template: str, lists: Mapping[str, Sequence[str]]) -> Iterator[str]:
    return (expand(template, lists, seed=3, index=index).text for index in range(80))


@pytest.mark.parametrize(
    ("template", "lists", "expected"),
    [
        ("__w__", {"w": ("3::red", "blue")}, {"red", "blue"}),  # weights in lines of text
        ("{2$$__w__}", {"w": ("3::red", "blue")}, {"red,blue", "blue,red"}),  # never the same line twice
        ("{0-1$$a}", {}, {"", "a"}),
        ("{ 1 - 2 $$a|b}", {}, {"a", "b", "a,b", "b,a"}),
        (r"\{a|b\} \__w__ {c\|d|e}", {"w": ("x",)}, {r"\{a|b\} \__w__ c\|d", r"\{a|b\} \__w__ e"}),
        ("5 $ {a|b} 50% }", {}, {"5 $ a 50% }", "5 $ b 50% }"}),
        ("${a=1}${b=!${a}}${b}", {}, {"1"}),
        ("${a=1}${b=!${a:2}}${b}", {}, {"1"}),
        ("__r__", {"r": ("__r__ x",)}, {"__r__ x"}),  # has no end
        ("${x=a}", {}, {""}),
    ],
)
def test_what_gesso_reads_on_purpose(template, lists, expected):
    assert set(texts(template, lists)) == expected


def test_a_list_may_name_itself_where_that_can_end():
    found = set(texts("__r__", {"r": ("cat", "cat and __r__")}))
    assert {"cat", "cat and cat"} <= found
    assert all(re.fullmatch("cat( and cat)*", text) for text in found)


@pytest.mark.parametrize(
    ("template", "named"),
    [
        ("${x}", "'x' has no value"),
        ("a ${name:} b", "'name' has no value"),
        ("${x=${x}}${x}", "'x' refers to itself"),
        ("${x=${y}}${y=${x}}${x}", "refers to itself"),
        ("{a|${x=1}b}", "'x' is set inside braces"),
        ("%{a ... b$$c}", "is not supported"),
        ("{x|%{a$$c}}", "is not supported"),
    ],
)
def test_what_is_refused_is_named(template, named):
    with pytest.raises(PromptError, match=named) as raised:
        expand(template, LISTS, seed=0)
    assert raised.value.reason == "wildcard"


@pytest.mark.parametrize("template", ["{!a|b}", "{@a|b}", "__!num__", "{@2$$a|b|c}"])
def test_other_ways_of_choosing_are_random_and_told(template):
    found = [expand(template, LISTS, seed=1, index=index) for index in range(60)]
    plain = template.replace("!", "").replace("@", "")
    assert {each.text for each in found} == {expand(plain, LISTS, seed=1, index=index).text for index in range(60)}
    assert {notice.code for each in found for notice in each.notices} == {"wildcard_at_random"}


def test_large_lists_are_drawn_from_quickly():
    lines = tuple(f"{index}" for index in range(100_000))
    found = expand("{900$$__x__}", {"x": lines}, seed=0)
    assert len(set(found.text.split(","))) == 900
    assert parse_list("a\u2028b\n\x0cc\n") == ("a\u2028b", "c")
