"""Tests in forks of this process, which has imported what takes long: one after the other, watched while they run.

A fork imports gesso anew, so it sees the files as they are then.
"""

import contextlib
import importlib
import importlib.util
import json
import os
import re
import resource
import select
import signal
import sys
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Collection, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import pytest

# What takes long to import and is none of the code under test: imported once where a file of the checkout asks for it.
HEAVY = ("torch", "numpy", "PIL.Image", "safetensors.torch", "tokenizers", "hypothesis", "typer", "rich")
HEAVY_ORACLES = ("transformers", "diffusers", "peft", "torchsde")
SLACK, STRETCH = 60.0, 20.0  # seconds beyond what a test is known to take, and times that
START = 600.0  # seconds for what comes before the first test
MEMORY = 16 * 2**30  # bytes of addresses; who asks for more gets an error

# By file: groups of tests, by number, and the lines that all of a group run. No test: the import alone runs them.
Touched = dict[str, list[tuple[list[int], list[int]]]]


@dataclass
class Outcome:
    """What became of a run.

    seconds  how long each test took that ended
    failed   those of them that failed
    problem  the first thing that went wrong, in words; None where all tests passed
    test     the test in which it did; None where it was none
    file     and its file
    touched  what the tests ran, where it was recorded
    log      the end of what was written
    """

    seconds: dict[str, float] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    problem: str | None = None
    test: str | None = None
    file: str | None = None
    touched: Touched = field(default_factory=dict)
    log: str = ""

    def blame(self, words: str, test: str) -> None:
        """Notes what went wrong, unless something did before. test: a test, or a file."""
        if self.problem is None:
            self.problem, self.file = words, test.partition("::")[0]
            self.test = test if "::" in test else None


def import_heavy(root: Path) -> None:
    """Imports what tests need, in the surroundings that the tests' own conftest.py makes."""
    surroundings = root / "tests" / "conftest.py"
    if surroundings.exists():
        spec = importlib.util.spec_from_file_location("_surroundings", surroundings)
        assert spec is not None and spec.loader is not None
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    texts = [path.read_text(encoding="utf-8") for path in (root / "src", root / "tests") for path in path.rglob("*.py")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in ("coverage", *HEAVY, *HEAVY_ORACLES):
            asked = re.compile(rf"^ *(from|import) {name.partition('.')[0]}\b", re.MULTILINE)
            if name == "coverage" or any(asked.search(text) for text in texts):
                with contextlib.suppress(ImportError):
                    importlib.import_module(name)


def run_tests(
    tree: Path,
    files: Sequence[str],
    wanted: Collection[str] | None = None,
    *,
    known: Mapping[str, float] | None = None,
    record: bool = False,
) -> Outcome:
    """Runs tests of a checkout in a fork, as its files are now.

    files   test files, from the root of the checkout, in their order
    wanted  the tests that are to run, up to the first that fails; None: all, to the end
    known   seconds that they take; one that takes far longer is stopped. None: no limit
    record  whether to note which lines of src they run
    """
    reader, writer = os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        child = os.fork()
        if child == 0:
            os.close(reader)
            _Child(tree, Path(folder), writer, wanted, record=record).run(files)
        os.close(writer)
        outcome, running = Outcome(), files[0]
        try:
            with os.fdopen(reader, "rb", buffering=0) as pipe:
                for event in _events(pipe, known):
                    match event:
                        case {"start": test}:
                            running = test
                        case {"end": test, "seconds": seconds, "failed": failed}:
                            outcome.seconds[test] = seconds
                            if failed:
                                outcome.failed.append(test)
                                outcome.blame(test, test)
                        case {"broken": file}:
                            outcome.blame(f"the collection of {file}", file)
                        case {"touched": touched}:
                            outcome.touched = touched
                        case {"late": True}:
                            outcome.blame(f"the time limit of {running}", running)
                        case {"over": True}:
                            running = ""
                            break
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
        if running:  # it never came to its end
            outcome.blame(f"the end of the process (status {status}) in {running}", running)
        log = Path(folder) / "log"
        outcome.log = log.read_text(encoding="utf-8", errors="replace")[-4000:] if log.exists() else ""
    return outcome


def _events(pipe: Any, known: Mapping[str, float] | None) -> Iterable[dict[str, Any]]:
    """What a child says, line by line; {"late": True}, and no more, where a test takes too long."""
    rest, limit = b"", START
    since = time.monotonic()
    while True:
        left = None if known is None else max(0.0, since + limit - time.monotonic())
        if not select.select([pipe], [], [], left)[0]:
            yield {"late": True}
            return
        if not (content := pipe.read(2**16)):
            return
        *lines, rest = (rest + content).split(b"\n")
        for line in lines:
            event = json.loads(line)
            since, limit = time.monotonic(), START
            if known is not None and "start" in event:
                limit = SLACK + STRETCH * known.get(event["start"], 0.0)
            yield event


class _Child:
    """The fork: a plugin of pytest that says through a pipe what happens."""

    def __init__(self, tree: Path, folder: Path, writer: int, wanted: Collection[str] | None, *, record: bool) -> None:
        self.tree, self.folder, self.writer, self.wanted = tree, folder, writer, wanted
        self.context, self.fixtures = "", dict[str, list[str]]()
        self.began, self.has_failed = 0.0, False
        self.coverage = self._coverage() if record else None

    def run(self, files: Sequence[str]) -> NoReturn:
        """Runs the files and ends the process."""
        try:
            self._settle()
            arguments = ["-q", "-m", "not slow", "-p", "no:cacheprovider", "--hypothesis-seed=0"]
            arguments += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # plugins that were imported before
            arguments += [f"--basetemp={self.folder / 'pytest'}", f"--rootdir={self.tree}"]
            if self.coverage is not None:
                self.coverage.start()
            code = pytest.main([*arguments, *(["-x"] if self.wanted is not None else []), *files], plugins=[self])
            if self.coverage is not None:
                self.coverage.stop()
                self._say({"touched": self._touched()})
            if code in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED):
                self._say({"over": True})  # not where a KeyboardInterrupt ended it
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(0)

    def _settle(self) -> None:
        """Surroundings of its own: a group of processes, a home, limits, and the tree's gesso before any other."""
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.chdir(self.tree)
        log = os.open(self.folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        source = str(self.tree / "src")
        hypothesis = str(self.folder / "hypothesis")
        os.environ.update(PYTHONPATH=source, HOME=str(self.folder), HYPOTHESIS_STORAGE_DIRECTORY=hypothesis)
        sys.path.insert(0, source)

    def _coverage(self) -> Any:
        import coverage

        return coverage.Coverage(data_file=None, config_file=False, include=[f"{self.tree / 'src'}/*"])

    def _say(self, event: dict[str, Any]) -> None:
        content = json.dumps(event).encode() + b"\n"
        while content:
            content = content[os.write(self.writer, content) :]

    def _touched(self) -> Touched:
        """What the tests ran, also through fixtures that the first of them made for all."""
        assert self.coverage is not None
        tests = list(self.fixtures)
        users: dict[str, set[int]] = defaultdict(set)
        for number, test in enumerate(tests):
            for context in (test, *(f"fixture {name}" for name in self.fixtures[test])):
                users[context].add(number)
        data, touched = self.coverage.get_data(), Touched()
        for file in data.measured_files():
            groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
            for line, contexts in data.contexts_by_lineno(file).items():
                groups[tuple(sorted(set().union(*(users[context] for context in contexts))))].append(line)
            name = Path(file).relative_to(self.tree).as_posix()
            touched[name] = [(list(group), sorted(lines)) for group, lines in groups.items()]
        return touched

    def _enter(self, context: str) -> str:
        before, self.context = self.context, context
        if self.coverage is not None:
            self.coverage.switch_context(context)
        return before

    # ---- hooks of pytest ----

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        if self.wanted is not None:
            items[:] = [item for item in items if item.nodeid in self.wanted]

    def pytest_collection_finish(self, session: pytest.Session) -> None:  # once slow ones are left out
        self.fixtures = {item.nodeid: list(getattr(item, "fixturenames", ())) for item in session.items}

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._say({"broken": report.nodeid})

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        self._say({"start": item.nodeid})
        self.began, self.has_failed = time.monotonic(), False
        before = self._enter(item.nodeid)
        try:
            return (yield)
        finally:
            self._enter(before)
            taken = round(time.monotonic() - self.began, 3)
            self._say({"end": item.nodeid, "seconds": taken, "failed": self.has_failed})

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any, request: pytest.FixtureRequest) -> Generator[None, object, object]:
        if fixturedef.scope == "function":
            return (yield)
        before = self._enter(f"fixture {fixturedef.argname}")
        try:
            return (yield)
        finally:
            self._enter(before)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.has_failed = self.has_failed or report.failed
