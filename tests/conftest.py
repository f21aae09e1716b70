"""What holds for every test: no network, no surprise from the machine."""

import gc
import os
import socket
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# Before any test imports the libraries: oracles are built from local files, and nothing is reported to anyone.
os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", DO_NOT_TRACK="1")

# No test may see the models of the user who runs it. The folder is not there; tests that need a library make their own.
os.environ["GESSO_HOME"] = os.path.join(tempfile.gettempdir(), "gesso-tests-have-no-library-here")
os.environ.pop("GESSO_CONFIG", None)  # nor the user's defaults of options

# The networks of the quick tests are tiny: a second thread costs more than it brings, and on a busy machine threads
# that wait for each other slow a test down many times. scripts/check --slow gives the slow tests all cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# On a busy machine any example may take a second; tests of speed count what is done.
settings.register_profile("gesso", deadline=None)
settings.load_profile("gesso")

# Of its examples, a property has one in so many in the quick run, and all of them with the slow tests.
EXAMPLES_APART, LEAST_EXAMPLES = 4, 20


def is_local(address: object) -> bool:
    """True for a unix socket's path and for the loopback addresses of IPv4 and IPv6."""
    if not isinstance(address, tuple):
        return True
    host = str(address[0])
    return host in {"localhost", "::1", ""} or host.startswith("127.")


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that reaches beyond this machine fails, also where the code under test swallows every `Exception`."""

    def guard(owner: Any, name: str, address_in: Callable[..., object]) -> None:
        original = getattr(owner, name)

        def guarded(*args: Any, **kwargs: Any) -> Any:
            address = address_in(*args)
            if not is_local(address):
                pytest.fail(f"a test reached for the network: {name} to {address!r}")  # derives from BaseException
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, guarded)

    guard(socket.socket, "connect", lambda _socket, address: address)
    guard(socket.socket, "connect_ex", lambda _socket, address: address)
    guard(socket.socket, "sendto", lambda _socket, _data, *flags_and_address: flags_and_address[-1])
    guard(socket, "getaddrinfo", lambda host, *_rest: (host or "",))


# Files that one worker of pytest-xdist takes one after the other, since they share what is dear to start: the server
# and the browser of tests/page. That worker waits for much, so that the others have its share of the processors.
TOGETHER = (
    (
        *("page/test_draw.py", "page/test_know.py", "page/test_safety.py"),
        *("page/test_change.py", "page/test_access.py", "page/test_library.py", "page/test_speed.py"),
    ),
)

# Files that take long for how few tests they have: they draw and train much, or start processes, browsers or databases.
# Workers of pytest-xdist take whole files, and begin with these, so that none of them is left to one worker while
# others are done.
LONG = (
    *(file for files in TOGETHER for file in files),
    *("pipelines/test_adapters.py", "serving/test_worker.py", "serving/test_command.py", "pipelines/test_controls.py"),
    *("tuning/test_judging.py", "tuning/test_run.py", "pipelines/test_changing_prompts.py", "tuning/test_task.py"),
    *("pipelines/test_threads.py", "cli/test_generate_pictures.py", "serving/test_store.py", "library/test_hub.py"),
    *("test_examples.py", "tuning/test_keeping.py", "tuning/test_diffusers_reads.py", "cli/test_tune.py"),
    *("cli/test_surroundings.py", "tuning/test_kinds.py", "serving/test_objects.py", "pipelines/test_second_pass.py"),
    *("serving/test_page_routes.py", "runtime/test_plan_figures.py", "mini/test_few_steps.py", "mini/test_tasks.py"),
    *("test_plugins.py", "test_packaging.py", "runtime/test_plan.py", "studio/test_studio.py", "tuning/test_parity.py"),
    *("serving/test_watching.py", "serving/test_faults.py", "serving/test_upgrade.py", "training/test_interrupting.py"),
    *("training/test_loop.py", "test_setup.py", "test_site.py", "test_systems.py", "pipelines/test_refiner.py"),
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    leave_samples(items)
    if config.option.markexpr == "not slow":
        fewer_examples(items)
    if hasattr(config, "workerinput"):
        long_ones_first(items)


def leave_samples(items: list[pytest.Item]) -> None:
    """Of the cases of a test that is marked `sampled(n)`, the first of every n stays quick; the others are slow."""
    cases: Counter[str] = Counter()
    for item in items:
        sampled = item.get_closest_marker("sampled")
        if sampled is None or item.get_closest_marker("slow"):
            continue
        test = item.nodeid.split("[")[0]
        (every,) = sampled.args
        if cases[test] % every:
            item.add_marker(pytest.mark.slow)
        cases[test] += 1


def fewer_examples(items: list[pytest.Item]) -> None:
    """For the quick run: fewer examples of each property that Hypothesis draws them for."""
    for test in {item.function for item in items if isinstance(item, pytest.Function)}:
        if getattr(test, "is_hypothesis_test", False):
            own: settings = test._hypothesis_internal_use_settings  # type: ignore[attr-defined]  # there is no other way
            count = max(own.max_examples // EXAMPLES_APART, min(own.max_examples, LEAST_EXAMPLES))
            test._hypothesis_internal_use_settings = settings(own, max_examples=count)  # type: ignore[attr-defined]


def long_ones_first(items: list[pytest.Item]) -> None:
    """For the workers: long files first, then those with the most tests; within a file nothing changes."""
    tests = Path(__file__).parent
    places = {name: place for place, name in enumerate(LONG)}
    if missing := [name for name in places if not (tests / name).exists()]:
        raise pytest.UsageError(f"tests/conftest.py: LONG names {', '.join(missing)}, which is not there")
    if alone := {path.name for path in (tests / "page").glob("test_*.py")} - {Path(name).name for name in places}:
        raise pytest.UsageError(f"tests/conftest.py: TOGETHER lacks {', '.join(sorted(alone))} of tests/page")
    counts = Counter(item.path for item in items)

    def order(item: pytest.Item) -> tuple[int, int, str]:
        path = item.path.relative_to(tests)
        return places.get(path.as_posix(), len(places)), -counts[item.path], str(path)

    items.sort(key=order)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """What gives out files to the workers; files of one group of TOGETHER count as one."""
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    tests = Path(__file__).parent.relative_to(config.rootpath).as_posix()
    group_of = {f"{tests}/{file}": files[0] for files in TOGETHER for file in files}

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return group_of.get(file, file)

    return Scheduling(config, log)


# Importing torch, diffusers and the files of tests makes millions of objects that stay. The garbage collector goes
# through none of them, neither while they come nor during the tests.
gc.disable()

# Networks and their graphs are many objects that live for a test. Looked through as often as Python does by itself,
# they take a sixth of a processor's time. In the quick run, all that a file leaves is looked through once, at its end,
# and what stays then, such as a library that its tests imported, never again. Slow tests have models of gigabytes:
# there it is as Python does it.
THRESHOLDS = 20_000, 20, 100


def pytest_collection_finish(session: pytest.Session) -> None:
    """The garbage collector begins its work, with what came until now left aside."""
    if session.config.option.markexpr == "not slow":
        gc.set_threshold(*THRESHOLDS)
    gc.freeze()
    gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> Any:
    done = yield
    if gc.get_threshold() == THRESHOLDS and nextitem is not None and nextitem.path != item.path:
        gc.collect()
        gc.freeze()
    return done
