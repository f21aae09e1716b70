"""scripts/mutants.py: the faults that it makes, which of them it draws, and what it says of a small package."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import mutants
import mutation

SCRIPTS = Path(__file__).parents[1] / "scripts"


def changed(line: str, kind: str) -> list[str]:
    """What a line of a function, and a line of a module, may become."""
    source = f"def function(x, y):\n    for _ in x:\n        {line}\n"
    found = mutation.mutants_of("x.py", source)
    return [one.lines(source)[1] for one in found if one.kind == kind and one.line == 3 and one.changes(source)]


@pytest.mark.parametrize(
    ("line", "kind", "after"),
    [
        ("x = x < y", "comparison", ["x = x <= y"]),
        ("x = (x) is not (y)", "comparison", ["x = (x) is (y)"]),
        ("x = x + y * 2", "arithmetic", ["x = x - y * 2", "x = x + y / 2"]),
        ("x = -y", "arithmetic", ["x = y"]),
        ("x -= y", "arithmetic", ["x += y"]),
        ("x = x + 'ä' + y", "arithmetic", ["x = x + 'ä' - y"]),  # text is joined by + alone
        ("x = x and y and 3", "and, or", ["x = x or y and 3", "x = x and y or 3"]),
        ("x = not (x or y)", "not", ["x = bool(x or y)"]),
        ("x = 3", "number", ["x = 2", "x = 4"]),
        ("x = 0, 0.5", "number", ["x = 1, 0.5", "x = 2, 0.5", "x = 0, 0.625"]),
        ("x = y(True)", "flag", ["x = y(False)"]),
        ("x = min(x, 1), x.max()", "min, max", ["x = max(x, 1), x.max()", "x = min(x, 1), x.min()"]),
        ("y('ä', x, 3)", "swapped arguments", ["y(x, 'ä', 3)", "y('ä', 3, x)"]),
        ("y(max(x, 3), *x)", "swapped arguments", []),
        ("y(x, a=1, b=2)", "dropped argument", ["y(x, b=2)", "y(x, a=1)"]),
        ("y(a=1, encoding='utf-8')", "dropped argument", ["y( encoding='utf-8')"]),
        ("y(x)", "statement left out", ["pass"]),
        ("raise ValueError(3)", "statement left out", ["pass"]),
        ("continue", "statement left out", ["pass"]),
        ("y(x)", "early return", ["return"]),
        ("return x", "early return", ["return None"]),
        ("x = 1 if y else 2", "condition", ["x = 1 if (not y) else 2"]),
    ],
)
def test_a_line_is_changed_in_one_place(line: str, kind: str, after: list[str]):
    assert sorted(changed(line, kind)) == sorted(after)


@pytest.mark.parametrize(
    "line",
    [
        "assert x > 3",
        "raise ValueError(f'{x + 3}')",
        "x: tuple[int, 3]",
        "y('three', strict=True)",
        "'only text'",
        "import y",
    ],
)
def test_what_no_test_could_see_is_left_alone(line: str):
    kinds = {"comparison", "arithmetic", "number", "flag", "dropped argument"}
    assert [after for kind in kinds for after in changed(line, kind)] == []


SOURCES = {
    f"src/toy/{room}/{name}.py": "\n".join(f"{name}{i} = min({i}, 3) + {i}" for i in range(20))
    for room in ("one", "two")
    for name in ("a", "b")
}


def test_the_draw_is_the_same_for_a_seed_and_spread_over_rooms_and_kinds():
    def room_of(file: str) -> str:
        return file.split("/")[2]

    first, again, other = (mutation.drawn(SOURCES, 30, seed, room_of=room_of) for seed in (1, 1, 2))
    assert first == again != other
    assert len({(one.file, one.line) for one in first}) == len(first) == 30
    assert {room: sum(room_of(one.file) == room for one in first) for room in ("one", "two")} == {"one": 15, "two": 15}
    kinds = [sum(one.kind == kind for one in first) for kind in ("arithmetic", "number", "min, max")]
    assert min(kinds) >= 8
    few = mutation.drawn(SOURCES, 1000, 1, room_of=room_of, wanted=lambda mutant: mutant.kind == "arithmetic")
    assert len(few) == 80  # a line each


def test_an_equivalent_change_is_known_by_its_lines_wherever_they_stand():
    source = "\n\n    # margin\nx = max(1, 2)\n"
    (mutant,) = [one for one in mutation.mutants_of("x.py", source) if one.kind == "min, max"]
    entry = mutation.Equivalent("x.py", "x = max(1, 2)", "x = min(1, 2)", "")
    assert entry.is_of(mutant, source)
    assert not mutation.Equivalent("y.py", entry.was, entry.now, "").is_of(mutant, source)
    assert not mutation.Equivalent("x.py", entry.was, "x = max(2, 1)", "").is_of(mutant, source)


def test_every_entry_of_the_list_of_equivalents_has_its_line_and_a_reason():
    for entry in mutants.read_equivalents(SCRIPTS / "mutants_equivalent.toml"):
        assert not mutants.is_stale(entry, SCRIPTS.parent), entry
        assert entry.why


TOY = """
def larger(x, y):
    return max(x, y)


def dropped(x):
    return None if x > 10 else x


def untested(x):
    return x.size
"""
TOY_TESTS = """
from toy.sums import dropped, larger


def test_larger():
    assert larger(1, 2) == 2


def test_dropped():
    assert (dropped(12), dropped(5)) == (None, 5)


def test_that_fails_anyhow():
    assert larger(1, 2) == 7
"""


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """A checkout of a small package."""
    root = tmp_path / "toy"
    files = {
        "src/toy/__init__.py": "",
        "src/toy/sums.py": TOY,
        "tests/test_sums.py": TOY_TESTS,
        ".gitignore": "build/\n__pycache__/\n",
        "pyproject.toml": "[tool.pytest.ini_options]\nmarkers = ['slow']\n",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    return root


def ask(root: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """All mutants of the package."""
    command = [sys.executable, str(SCRIPTS / "mutants.py"), "--root", str(root), "--files", "src/toy/*.py"]
    return subprocess.run([*command, "--count", "100", *more], capture_output=True, text=True, check=False)


FORKS = pytest.mark.skipif(not hasattr(os, "fork"), reason="tests of mutants run in forks")


@FORKS
@pytest.mark.slow
def test_a_small_package_is_asked(toy: Path):
    """Which mutants survive, and why; that the checkout is left as it is; that what is known is not asked again."""
    pytest.importorskip("coverage")

    def content() -> dict[str, bytes]:
        paths = (path.relative_to(toy) for path in toy.rglob("*") if path.is_file())
        return {str(path): (toy / path).read_bytes() for path in paths if path.parts[0] not in (".git", "build")}

    before = content()
    first = ask(toy)
    assert (first.returncode, content()) == (1, before), first.stderr
    assert first.stdout.splitlines() == [
        "src/toy/sums.py:7 (comparison)",
        "  - return None if x > 10 else x",
        "  + return None if x >= 10 else x",
        "  SURVIVED 2 tests",
        "src/toy/sums.py:11 (early return)",
        "  - return x.size",
        "  + return None",
        "  SURVIVED: no test runs this line",
        "1 of 3 mutants caught: 33.3 % (seed 1)",
    ]
    assert "left aside, since it fails without a mutant: tests/test_sums.py::test_that_fails_anyhow" in first.stderr
    assert "caught by tests/test_sums.py::test_larger" in first.stderr
    again = ask(toy)
    assert (again.returncode, again.stdout) == (1, first.stdout)
    assert "asking" not in again.stderr
    (toy / "tests" / "test_sums.py").write_text(
        TOY_TESTS.replace("(12), dropped(5)) == (None, 5)", "(12), dropped(10)) == (None, 10)")
    )
    better = ask(toy, "--jobs", "2")
    assert better.stdout.splitlines()[-1] == "2 of 3 mutants caught: 66.7 % (seed 1)"
    assert "caught by tests/test_sums.py::test_dropped" in better.stderr
    untested = ask(toy, "--untested")
    assert (untested.returncode, untested.stdout) == (0, "src/toy/sums.py:11: return x.size\n")


@FORKS
@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("import time; time.sleep(60)", "the time limit of tests/test_x.py::test_x"),
        ("import os; os.abort()", "the end of the process (status 6) in tests/test_x.py::test_x"),
        ("bytearray(2**45)", "tests/test_x.py::test_x"),
        ("raise KeyboardInterrupt", "the end of the process (status 0) in tests/test_x.py::test_x"),
        ("pass", "None"),
    ],
)
@pytest.mark.sampled(5)
def test_a_test_that_hangs_or_dies_is_noticed(tmp_path: Path, body: str, problem: str):
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_x.py").write_text(f"def test_x():\n    {body}\n")
    (tmp_path / "pyproject.toml").write_text("[tool.pytest.ini_options]\nmarkers = ['slow']\n")
    code = (
        "import sys, forked_tests; from pathlib import Path; forked_tests.SLACK = 1.0; file = 'tests/test_x.py'; "
        "print(forked_tests.run_tests(Path(sys.argv[1]), [file], {f'{file}::test_x'}, known={}).problem)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=50,
        cwd=SCRIPTS,
    )
    assert done.stdout.strip() == problem
