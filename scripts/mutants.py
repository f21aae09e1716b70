"""Whether the tests fail when they should: one-line mutants of gesso's core, and the tests that run their lines.

  python scripts/mutants.py                                      60 mutants, spread over the rooms of the core
  python scripts/mutants.py --seed 2 --count 100                 others, and more
  python scripts/mutants.py --files 'src/gesso/diffusion/*.py'   of these files alone
  python scripts/mutants.py --near                               without tests of rooms that do not use the module
  python scripts/mutants.py --jobs 4                             four mutants at a time
  python scripts/mutants.py --untested                           no mutants, but the lines of the core that no test runs

Prints each mutant that no test catches with its file, line and change, then the share that was caught; exits with 1
below 95 %. The checkout is not touched: mutants are made in a copy in the system's temporary folder. What was found
out is kept in build/mutants: a run that was broken off goes on, and after a change of tests only those mutants are
asked again about which these have a say.

For each mutant, tests are asked from the nearest on: the test file of its module, then those that import the module,
those of its room, and the others. Of a file run those tests that touch the line (coverage.py tells, when the file is
first needed), the cheapest file first, up to the first failure. Where all of them pass, the near files run whole: tests
may rest on what another one computed. So do those that import a module of which no test runs a line (constants). A test
that fails is asked once more without the mutant: one that fails there, too, is no witness. A test that takes 20 times
as long as without the mutant, and a minute, is stopped; where it does so twice, the mutant counts as caught, and so
where the process ends twice. Tests run in forks of a process that has imported torch; each imports gesso anew.

scripts/mutants_equivalent.toml lists changes that no test can see, each with its reason. They are not drawn.
"""

import argparse
import compileall
import fcntl
import fnmatch
import hashlib
import json
import multiprocessing
import os
import py_compile
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from forked_tests import Outcome, Touched, import_heavy, run_tests
from mutation import Equivalent, Mutant, drawn, mutants_of

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("adapters", "checkpoints", "diffusion", "families", "pictures", "pipelines", "request", "runtime", "text")
CORE = (*(f"src/gesso/{room}/*.py" for room in ROOMS), "src/gesso/training/loop.py")
LEAST = 95.0  # per cent
# Modules that run in a child process, which coverage.py does not see -> who starts it, with a call that reads so.
CHILDREN = dict.fromkeys(
    (
        f"src/gesso/checkpoints/{name}.py"
        for name in ("pickle_reader", "sandbox", "torch_child", "torch_file", "torch_zip")
    ),
    ("src/gesso/checkpoints/pickle_file.py", "subprocess.Popen("),
)


def main(argv: Sequence[str] | None = None) -> int:
    """The command. -> 0, or 1 where too many survive, 2 where the list of equivalents is stale"""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=1, help="of the draw (default 1)")
    parser.add_argument("--count", type=int, default=60, help="mutants that are made (default 60)")
    parser.add_argument("--files", nargs="+", default=CORE, metavar="PATTERN", help="of files, from the root")
    parser.add_argument("--near", action="store_true", help="leave out tests of other rooms that do not use the module")
    parser.add_argument("--jobs", type=int, default=1, help="mutants that are asked at a time (default 1)")
    parser.add_argument("--list", action="store_true", help="show the mutants and run nothing")
    parser.add_argument("--untested", action="store_true", help="show the lines that no test runs, and make no mutants")
    parser.add_argument("--root", type=Path, default=ROOT, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    root: Path = arguments.root.resolve()
    files = [file for file in listed(root) if any(fnmatch.fnmatch(file, pattern) for pattern in arguments.files)]
    sources = {file: (root / file).read_text(encoding="utf-8") for file in files if file.endswith(".py")}
    equivalents = read_equivalents(root / "scripts" / "mutants_equivalent.toml")
    if stale := [one for one in equivalents if is_stale(one, root)]:
        for one in stale:
            print(f"mutants_equivalent.toml: {one.file} has no line {one.was!r} to be changed so any more")
        return 2
    mutants = drawn(
        sources,
        arguments.count,
        arguments.seed,
        room_of=lambda file: "/".join(file.split("/")[:3]),
        wanted=lambda mutant: not any(one.is_of(mutant, sources[mutant.file]) for one in equivalents),
    )
    if arguments.list:
        for mutant in mutants:
            print(shown(mutant, sources[mutant.file]))
        return 0
    survivors = []
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the copy goes, and the tests that run
    with Laboratory.of(root) as laboratory:
        if arguments.untested:
            show_untested(laboratory, sources)
            return 0
        verdicts = laboratory.verdicts(mutants, near=arguments.near, jobs=arguments.jobs)
        for number, (mutant, verdict) in enumerate(zip(mutants, verdicts, strict=True), 1):
            print(
                f"{number}/{len(mutants)} {shown(mutant, sources[mutant.file])}\n  {verdict}",
                file=sys.stderr,
                flush=True,
            )
            if verdict.by is None:
                survivors.append((mutant, verdict))
    for mutant, verdict in survivors:
        print(f"{shown(mutant, sources[mutant.file])}\n  {verdict}")
    caught = len(mutants) - len(survivors)
    share = 100 * caught / len(mutants) if mutants else 100.0
    print(f"{caught} of {len(mutants)} mutants caught: {share:.1f} % (seed {arguments.seed})")
    return 0 if share >= LEAST else 1


def show_untested(laboratory: "Laboratory", sources: Mapping[str, str]) -> None:
    """Prints the lines that could hold a mutant and that no test runs."""
    records = [laboratory.record(file) for file in sorted(laboratory.test_files)]
    for file, source in sources.items():
        ran = {line for record in records for _, lines in record.touched.get(file, []) for line in lines}
        for line in sorted({mutant.line for mutant in mutants_of(file, source)} - ran):
            print(f"{file}:{line}: {source.splitlines()[line - 1].strip()}")


def shown(mutant: Mutant, source: str) -> str:
    """File, line, kind, and the line before and after."""
    before, after = mutant.lines(source)
    return f"{mutant.file}:{mutant.line} ({mutant.kind})\n  - {before}\n  + {after}"


def read_equivalents(path: Path) -> list[Equivalent]:
    """The list of changes that no test can see; none where there is no file."""
    if not path.exists():
        return []
    return [Equivalent(**entry) for entry in tomllib.loads(path.read_text(encoding="utf-8"))["equivalent"]]


def is_stale(one: Equivalent, root: Path) -> bool:
    """Whether an entry speaks of a mutant that is no more."""
    if not (root / one.file).exists():
        return True
    source = (root / one.file).read_text(encoding="utf-8")
    return not any(one.is_of(mutant, source) for mutant in mutants_of(one.file, source))


def listed(root: Path) -> list[str]:
    """The files of a checkout: those that git knows, and new ones that it does not ignore."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout.split("\0")
    return sorted({name for name in names if name and (root / name).is_file()})


# ---- what tests there are, and what they touch -----------------------------------------------------------------------


@dataclass
class Record:
    """A test file without a mutant.

    seconds  by test: how long it took
    failed   tests that do not pass; they are never asked
    touched  see `forked_tests`; tests are numbered in the order of `seconds`
    """

    seconds: dict[str, float]
    failed: list[str] = field(default_factory=list)
    touched: Touched = field(default_factory=dict)

    @property
    def tests(self) -> list[str]:
        """Those that pass."""
        return [test for test in self.seconds if test not in self.failed]

    def tests_of(self, file: str, line: int) -> list[str]:
        """Tests that run a line; of a line that the import alone runs those that run any of its file."""
        groups = self.touched.get(file, [])
        found = {number for numbers, lines in groups if line in lines for number in numbers}
        if not found and any(line in lines for _, lines in groups):
            found = {number for numbers, _ in groups for number in numbers}
        return [test for number, test in enumerate(self.seconds) if number in found and test not in self.failed]


@dataclass(frozen=True)
class Verdict:
    """What became of a mutant.

    by     the test that failed, or what else did; None where nothing did
    tests  how many were run
    file   the test file in which it failed
    """

    by: str | None
    tests: int
    file: str = ""

    def __str__(self) -> str:
        if self.by is not None:
            return f"caught by {self.by}"
        return f"SURVIVED {self.tests} tests" if self.tests else "SURVIVED: no test runs this line"


class CannotRunError(Exception):
    """A test file that does not run without a mutant either."""


class Laboratory:
    """A copy of a checkout in which mutants are made, and what was found out about them before."""

    def __init__(self, tree: Path, state: Path) -> None:
        self.tree, self.state = tree, state
        self._records: dict[str, Record] = {}
        self._passing: dict[str, bool] = {}  # tests that failed under a mutant -> whether they pass without one

    @classmethod
    @contextmanager
    def of(cls, root: Path) -> "Iterator[Laboratory]":
        """Within the block there is a copy of `root`."""
        import_heavy(root)
        with tempfile.TemporaryDirectory(prefix="gesso-mutants-") as folder:
            tree = Path(folder) / "tree"
            for name in listed(root):
                (tree / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(root / name, tree / name)
            # By hash: a mutant often has the size, and the second of its change, of the file that it replaces.
            mode = py_compile.PycInvalidationMode.CHECKED_HASH
            compileall.compile_dir(tree / "src", quiet=1, invalidation_mode=mode)
            yield cls(tree, root / "build" / "mutants")

    @cached_property
    def test_files(self) -> dict[str, str]:
        """Every test file and its text."""
        return self._texts("tests", "test_*.py")

    @cached_property
    def _sources(self) -> dict[str, str]:
        return self._texts("src", "*.py")

    @cached_property
    def _shared(self) -> str:
        """A digest of what tests share."""
        helpers = self._texts("tests", "*.py")
        return digest(part for name in helpers if name not in self.test_files for part in (name, helpers[name]))

    def _texts(self, folder: str, pattern: str) -> dict[str, str]:
        paths = sorted((self.tree / folder).rglob(pattern))
        return {path.relative_to(self.tree).as_posix(): path.read_text(encoding="utf-8") for path in paths}

    def record(self, file: str) -> Record:
        """What a test file touches: known already, or found out now."""
        if (known := self._known(file)) is not None:
            return known
        with self._only_here(file):
            if (known := self._known(file)) is not None:  # another process has just asked
                return known
            print(f"  asking {file} what it touches", file=sys.stderr, flush=True)
            outcome = run_tests(self.tree, [file], record=True)
            record = self._records[file] = Record(outcome.seconds, outcome.failed, outcome.touched)
            if not outcome.seconds and outcome.problem is not None:
                raise CannotRunError(f"{file} cannot be run without a mutant: {outcome.problem}\n{outcome.log}")
            if outcome.problem is not None:
                failed = ", ".join(outcome.failed) or outcome.problem
                print(f"  left aside, since it fails without a mutant: {failed}", file=sys.stderr, flush=True)
            write(self._kept(file), asdict(record) | {"of": self._state_of(file, record)})
            return record

    @contextmanager
    def _only_here(self, file: str) -> Iterator[None]:
        """Within the block no other process asks the same test file."""
        lock = self._kept(file).with_suffix(".lock")
        lock.parent.mkdir(parents=True, exist_ok=True)
        with lock.open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    def _known(self, file: str) -> Record | None:
        if file not in self._records and (kept := self._kept(file)).exists():
            found = json.loads(kept.read_text(encoding="utf-8"))
            record = Record(found["seconds"], found["failed"], found["touched"])
            if found["of"] == self._state_of(file, record):
                self._records[file] = record
        return self._records.get(file)

    def _kept(self, file: str) -> Path:
        return self.state / "records" / f"{digest((file,))}.json"

    def _state_of(self, file: str, record: Record) -> str:
        """A digest of all that decides what a test file does: itself, what it touches, what tests share."""
        touched = (part for name in sorted(record.touched) for part in (name, self._sources.get(name, "")))
        return digest((self._shared, file, self.test_files.get(file, ""), *touched))

    def verdicts(self, mutants: Sequence[Mutant], *, near: bool, jobs: int) -> Iterator[Verdict]:
        """What becomes of each. jobs: processes that ask, each in a copy of its own."""
        if jobs == 1:
            yield from (self.verdict(mutant, near=near) for mutant in mutants)
            return
        with multiprocessing.get_context("fork").Pool(jobs) as pool:
            tasks = [(self.tree, self.state, mutant, near) for mutant in mutants]
            yield from pool.imap(verdict_of_worker, tasks)

    def verdict(self, mutant: Mutant, *, near: bool) -> Verdict:
        """What becomes of a mutant: known already, or found out now."""
        kept = self.state / "verdicts" / f"{digest((repr(mutant), self._sources[mutant.file]))}.json"
        if kept.exists():
            found = json.loads(kept.read_text(encoding="utf-8"))
            verdict = Verdict(found["by"], found["tests"], found["file"])
            if found["of"] == self._basis(verdict, near=near):
                return verdict
        stages = self._stages(mutant)
        verdict = self._ask(mutant, stages[: 3 if near else 4])
        write(kept, asdict(verdict) | {"of": self._basis(verdict, near=near)})
        return verdict

    def _basis(self, verdict: Verdict, *, near: bool) -> str:
        """A digest of what could change a verdict: of who survives, everything."""
        if verdict.file in self.test_files:
            return self._state_of(verdict.file, self.record(verdict.file))
        every = (part for texts in (self._sources, self.test_files) for name in texts for part in (name, texts[name]))
        return digest((self._shared, repr(near), *every))

    def _stages(self, mutant: Mutant) -> list[list[str]]:
        """All test files by nearness: of the module, of its users, of its room, of other rooms."""
        *rooms, module = mutant.file.removeprefix("src/").removesuffix(".py").split("/")
        user = re.compile(rf"^(from|import) {re.escape('.'.join((*rooms, module)))}\b", re.MULTILINE)
        own = {f"test_{part}" for part in (module, *rooms[2:])}
        stages: list[list[str]] = [[], [], [], []]
        for file, text in self.test_files.items():
            same = file.split("/")[1:2] == rooms[1:2]
            stages[0 if same and Path(file).stem in own else 1 if user.search(text) else 2 if same else 3].append(file)
        return stages

    def _tests_of(self, record: Record, mutant: Mutant) -> set[str]:
        """Tests that run the mutant's line, in this process or in a child."""
        tests = set(record.tests_of(mutant.file, mutant.line))
        if mutant.file in CHILDREN:
            starter, call = CHILDREN[mutant.file]
            lines = self._sources.get(starter, "").splitlines()
            tests |= {
                test for line, text in enumerate(lines, 1) if call in text for test in record.tests_of(starter, line)
            }
        return tests

    def _ask(self, mutant: Mutant, stages: Sequence[Sequence[str]]) -> Verdict:
        """Those that touch the line, the nearest first; then all of the near files that have such a test."""
        tests, near, asked = 0, dict[str, Record](), list[Record]()
        for place, files in enumerate(stages):
            known = [file for file in files if self._known(file) is not None]
            unknown = sorted(set(files) - set(known), key=lambda file: len(self.test_files[file]))
            for some in (known, *([file] for file in unknown)):  # a mutant that is caught early needs no more records
                records = {file: self.record(file) for file in some}
                asked += records.values()
                touching = {file: record for file, record in records.items() if self._tests_of(record, mutant)}
                wanted = {test for record in touching.values() for test in self._tests_of(record, mutant)}
                verdict = self._try(mutant, touching, wanted)
                tests += verdict.tests
                if verdict.by is not None:
                    return verdict
                near |= touching if place < 3 else {}
        if not near and not any(numbers for record in asked for numbers, _ in record.touched.get(mutant.file, [])):
            # Nothing but its import runs the module, as one of constants: those that import it run whole.
            near = {file: self.record(file) for file in [*stages[0], *stages[1]] or stages[2]}
        verdict = self._try(mutant, near, {test for record in near.values() for test in record.tests})
        return verdict if verdict.by is not None else Verdict(None, max(tests, verdict.tests))

    def _try(self, mutant: Mutant, records: Mapping[str, Record], tests: Iterable[str]) -> Verdict:
        """The first of these tests that fails, cheapest file first."""
        left, ran = set(tests), 0
        cost = {
            file: sum(record.seconds[test] for test in record.tests if test in left) for file, record in records.items()
        }
        seconds = {test: taken for record in records.values() for test, taken in record.seconds.items()}
        while left:
            with self._made(mutant):
                outcome = run_tests(self.tree, sorted(cost, key=lambda file: (cost[file], file)), left, known=seconds)
            ran += len(outcome.seconds)
            if outcome.problem is None:
                break
            file = outcome.file or ""
            if self._passes(outcome.test or records[file].tests[0], again=outcome.test is None) and self._stays(
                mutant, outcome, left, seconds
            ):
                return Verdict(outcome.problem, ran, file)
            left -= {outcome.test, *outcome.seconds} if outcome.test else set(records[file].tests)
        return Verdict(None, ran)

    def _stays(self, mutant: Mutant, outcome: Outcome, tests: set[str], known: Mapping[str, float]) -> bool:
        """Whether what went wrong is a failure, or goes wrong once more: a busy machine stops tests, too."""
        if outcome.test in outcome.failed:
            return True
        with self._made(mutant):
            again = run_tests(self.tree, [outcome.file or ""], tests, known=known)
        return again.problem is not None

    def _passes(self, test: str, *, again: bool) -> bool:
        """Whether a test passes alone and without a mutant: others may have disturbed it, or the machine.

        again: also where it was asked before
        """
        if again or test not in self._passing:
            self._passing[test] = run_tests(self.tree, [test.partition("::")[0]], {test}).problem is None
        return self._passing[test]

    @contextmanager
    def _made(self, mutant: Mutant) -> Iterator[None]:
        """Within the block the copy holds the mutant."""
        path = self.tree / mutant.file
        source = path.read_text(encoding="utf-8")
        path.write_text(mutant.applied(source), encoding="utf-8")
        try:
            yield
        finally:
            path.write_text(source, encoding="utf-8")


@cache
def laboratory_of_process(tree: Path, state: Path, process: int) -> Laboratory:
    """A copy of the tree for one process."""
    own = tree.with_name(f"tree-{process}")
    shutil.copytree(tree, own)
    return Laboratory(own, state)


def verdict_of_worker(task: tuple[Path, Path, Mutant, bool]) -> Verdict:
    """`Laboratory.verdict` in a process of its own."""
    tree, state, mutant, near = task
    return laboratory_of_process(tree, state, os.getpid()).verdict(mutant, near=near)


def digest(parts: Iterable[str]) -> str:
    """A name for texts in their order."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def write(path: Path, value: Any) -> None:
    """JSON that is there completely or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}")
    part.write_text(json.dumps(value), encoding="utf-8")
    part.replace(path)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except CannotRunError as error:
        sys.exit(str(error))
