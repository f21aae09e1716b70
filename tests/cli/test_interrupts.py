"""Ctrl-C at any moment is exit code 130, without a traceback."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gesso.cli.main import Interrupts, run
from gesso.terminal.exit_codes import EXIT_INTERRUPTED

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")

# The console script, which says when it has begun: before, Python itself starts, and answers Ctrl-C in its own way.
SCRIPT = """
import sys
from gesso.cli.main import main
class Begun:
    def __init__(self, out): self.out = out
    def __getattr__(self, name): return getattr(self.out, name)
print("begun", file=sys.stderr, flush=True)
sys.exit(main())
"""
# Where Ctrl-C gets lost: in a callback, where a library makes another error of it, and where one swallows it.
SWALLOWED = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests may ignore it
import gesso.cli.main as cli
class Lost:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)
def lose(argv):
    lost = Lost()
    del lost
    while True:
        time.sleep(0.01)
def wrap(argv):
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt as error:
        raise ImportError("numpy failed to import") from error
def swallow(argv):
    open("swallowing.py", "w").write(
        "import signal\\n"
        "try: signal.raise_signal(signal.SIGINT)\\n"
        "except BaseException: pass\\n"
        "done = True\\n"
    )
    sys.path.insert(0, "")
    import swallowing
    assert swallowing.done
    while True:
        time.sleep(0.01)
def import_failing(argv):
    cli.take_over()
    write = type(sys.stderr.buffer.raw).write
    def slowly(self, data):
        count = write(self, data)
        time.sleep(0.1)  # where the repetition of what the import lost arrives
        return count
    type(sys.stderr.buffer.raw).write = slowly
    open("failing.py", "w").write(
        "import signal\\n"
        "signal.raise_signal(signal.SIGINT)\\n"
        "raise ImportError('cannot load')\\n"
    )
    sys.path.insert(0, "")
    import failing
commands = {"lose": lose, "wrap": wrap, "swallow": swallow, "an import fails": import_failing}
cli._run = commands[sys.argv[1]]
cli.main()
"""


def interrupted(seconds: float, *argv: str) -> tuple[int, str]:
    """Exit code and stderr of a command that gets Ctrl-C so long after it began."""
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *argv],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as running:
        assert running.stderr is not None
        running.stderr.readline()
        time.sleep(0.005 + seconds)  # the line is written just before `main` takes over
        running.send_signal(signal.SIGINT)
        errors = running.stderr.read()
        return running.wait(60), errors


MOMENTS = [0.0, 0.4]
EVERY = [pytest.param(n / 50, marks=pytest.mark.slow) for n in range(100) if n / 50 not in MOMENTS]


@pytest.mark.parametrize("seconds", [*MOMENTS, *EVERY])
@pytest.mark.sampled(2)
def test_ctrl_c_while_it_starts(seconds: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    code, errors = interrupted(seconds, "generate", "cat", "--steps", "2", "-q")
    assert "Traceback" not in errors and "ignored" not in errors, errors
    assert code in (0, EXIT_INTERRUPTED)  # 0: it was done
    assert code == EXIT_INTERRUPTED or seconds > 0.5


@pytest.mark.parametrize("how", ["lose", "wrap", "swallow", "an import fails"])
def test_ctrl_c_that_a_library_loses_wraps_or_swallows(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", SWALLOWED, how], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (EXIT_INTERRUPTED, "", "interrupted\n")


def test_where_ctrl_c_is_ignored_it_stays_so():
    before = signal.getsignal(signal.SIGINT), sys.unraisablehook
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        interrupts = Interrupts()
        interrupts.install()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        assert sys.unraisablehook is before[1]
    finally:
        signal.signal(signal.SIGINT, before[0])


def test_a_question_that_is_answered_with_ctrl_c(monkeypatch: pytest.MonkeyPatch):
    import typer

    def ask(*args: object, **more: object) -> None:
        raise typer.Abort

    monkeypatch.setattr("gesso.cli.app.run_command", ask)
    assert run(["models", "list"]) == EXIT_INTERRUPTED


def test_main_is_quick_to_import():
    """Before it Ctrl-C is Python's own."""
    heavy = ("typer", "rich", "torch", "msgspec", "dataclasses", "inspect")
    probe = f"import sys, gesso.cli.main; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [1.5, 2.5, 3.5, 6.0])
def test_ctrl_c_while_processes_of_a_training_start(seconds: float, tmp_path: Path):
    """A terminal sends it to all of them."""
    command = [sys.executable, "-m", "gesso", "train", "default-model", "--rehearsal", "--processes", "2"]
    with subprocess.Popen(
        [*command, "--folder", str(tmp_path)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as running:
        assert running.stderr is not None
        time.sleep(seconds)
        os.killpg(running.pid, signal.SIGINT)
        assert "Traceback" not in running.stderr.read()
        assert running.wait(60) == EXIT_INTERRUPTED


TAKEN_DOWN = """
import atexit, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
import gesso.cli.main as cli
run = cli.run
def running(argv, interrupts):
    code = run(argv, interrupts)
    atexit.register(lambda: signal.raise_signal(signal.SIGINT))  # called when Python is taken down
    if sys.argv.pop() == "early":
        interrupts.end_at_once()
        signal.raise_signal(signal.SIGINT)  # what was printed has not gone out yet
    return code
cli.run = running
cli.main()
"""


@pytest.mark.parametrize("when", ["early", "late"])
def test_ctrl_c_after_the_end_of_a_command_takes_nothing_from_it(when: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", TAKEN_DOWN, "--version", when], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith("gesso ")
