"""`gesso`: finds the command, runs it, and turns whatever happens into one line and an exit code.

Exit codes: 0 done; 1 the work failed, or replay found another picture; 2 wrong input, in one line on stderr; 130
stopped with Ctrl-C; 143 stopped with SIGTERM. Nothing but the table below is known here before a command is chosen, so
that `gesso --help` needs neither torch nor any command's module. What takes time to import is imported in `run`, where
Ctrl-C is an exit code.
"""

import gc
import os
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, NamedTuple, NoReturn

MAX_PATH = 200  # characters of a path in a message
EXIT_FAILED, EXIT_WRONG_INPUT, EXIT_INTERRUPTED, EXIT_TERMINATED = 1, 2, 130, 143
COMPLETE = "_GESSO_COMPLETE"  # in the environment: a shell asks for words


class Command(NamedTuple):
    """One row of the table. The module holds `command`, a function, or `app`, a gesso.cli.help.App with commands."""

    name: str
    module: str
    help: str  # one line


# A new command is one file and one row here.
COMMANDS = (
    Command("generate", "gesso.cli.generate", "Draw pictures from a prompt."),
    Command("grid", "gesso.cli.grid", "Draw a grid that varies up to three settings (X/Y/Z plot)."),
    Command("batch", "gesso.cli.batch", "Draw one picture per line of a file."),
    Command("prompt", "gesso.cli.prompt", "Show how a prompt is parsed, without drawing."),
    Command("replay", "gesso.cli.replay", "Redraw a picture from the recipe stored in it, and compare."),
    Command("upscale", "gesso.cli.upscale", "Enlarge pictures, without a prompt."),
    Command("preprocess", "gesso.cli.preprocess", "Make ControlNet hints (control images) from pictures."),
    Command("metadata", "gesso.cli.metadata", "Show, remove and copy the settings in pictures."),
    Command("samplers", "gesso.cli.samplers", "List samplers and schedules, with their names in other tools."),
    Command("presets", "gesso.cli.presets", "List what each preset sets, where tools differ."),
    Command("models", "gesso.cli.models", "List, import, convert and verify models."),
    Command("lora", "gesso.cli.lora", "Inspect, convert, merge, extract and resize LoRA files."),
    Command("train", "gesso.cli.train", "Train the default model and its LoRA and ControlNet."),
    Command("evaluate", "gesso.cli.evaluate", "Measure how well a model follows its prompts."),
)


def main() -> NoReturn:
    """The console script."""
    interrupts = Interrupts()
    try:
        interrupts.install()
        # Idle OpenMP threads sleep instead of spinning. Where other programs use the cores too, spinning threads keep
        # those that have work from running: two threads on two busy cores took 20 to 80 s for a picture that takes 2 s
        # like this.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        # Importing torch makes a million objects that stay. With its default threshold, 700, the garbage collector goes
        # through them again and again: a twentieth of the time of a short command.
        gc.set_threshold(10_000)
        code = run(sys.argv[1:], interrupts)
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    interrupts.end_at_once()
    sys.exit(code)


class Interrupts:
    """What Ctrl-C does: it raises KeyboardInterrupt, as ever; the second one ends the program at once.

    Libraries that are being imported turn it into errors of their own, or lose it in a callback, where Python prints a
    traceback and goes on. `happened` tells the first; the second is raised again a moment later.
    """

    def __init__(self) -> None:
        self.happened = False

    def install(self) -> None:
        """Take over from Python; where Ctrl-C is ignored, as in a shell's background, it stays so."""
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._stop)
            sys.unraisablehook = self._unraisable

    def end_at_once(self) -> None:
        """From now on nothing is left to clean up."""
        if signal.getsignal(signal.SIGINT) == self._stop:
            self.happened = True

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self.happened:
            if sys.stderr is not None and sys.stderr.isatty():
                sys.stderr.write("\x1b[?25h")  # the progress bar hides the cursor
                sys.stderr.flush()
            os._exit(EXIT_INTERRUPTED)
        self.happened = True
        raise KeyboardInterrupt

    def _unraisable(self, lost: Any) -> None:
        if not (self.happened and issubclass(lost.exc_type, KeyboardInterrupt)):
            sys.__unraisablehook__(lost)
            return
        import _thread
        from threading import Timer

        self.happened = False
        again = Timer(0.01, _thread.interrupt_main)
        again.daemon = True
        again.start()


def run(argv: Sequence[str], interrupts: Interrupts | None = None) -> int:
    """Run one command line and return its exit code. Prints; installs a handler for SIGTERM while it runs."""
    previous = _on_sigterm(_terminate)
    try:
        return _run(argv)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED  # what is finished stays, what is not was never under its name
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else EXIT_FAILED
    except BrokenPipeError:  # `gesso ... | head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the end of the program writes nothing
        return EXIT_FAILED
    except Exception as error:
        if interrupts is not None and interrupts.happened:
            return EXIT_INTERRUPTED
        if _debugged(argv):
            raise
        return _explain(error)
    finally:
        _on_sigterm(previous)


def _debugged(argv: Sequence[str]) -> bool:
    return "--debug" in argv or os.environ.get("GESSO_DEBUG", "") not in ("", "0")


def _run(argv: Sequence[str]) -> int:
    for stream in (sys.stdout, sys.stderr):  # a name that the terminal cannot show must not end the program
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    if COMPLETE in os.environ:
        from gesso.cli.completion import answer

        return answer(os.environ[COMPLETE], argv, COMMANDS)
    argv = [word for word in argv if word != "--debug"]  # it may stand before or after the command
    argv = argv[1:] if argv[:1] == ["--"] else argv
    from gesso.cli.first_word import GREETING, understood

    if not argv:
        print(GREETING)
        return 0
    names = [row.name for row in COMMANDS]
    if argv[0] not in names and not argv[0].startswith("-"):
        argv = understood(argv, names)
    if argv[0] in ("--install-completion", "--show-completion"):
        from gesso.cli.completion import set_up

        return set_up(install=argv[0] == "--install-completion", shell=argv[1] if len(argv) > 1 else None)
    from gesso.cli.app import run_app
    from gesso.cli.logs import logged_to_stderr

    with logged_to_stderr():
        return run_app(COMMANDS, argv, _chosen(argv))


def _chosen(argv: Sequence[str]) -> str | None:
    """The first word that is no option; the options before a command take no values."""
    return next((word for word in argv if not word.startswith("-")), None)


def _explain(error: Exception) -> int:
    """One line on stderr for what went wrong, and the exit code."""
    from gesso.cli.words import line_of
    from gesso.errors import GessoError, one_line

    if isinstance(error, GessoError):
        line, code = line_of(error), EXIT_WRONG_INPUT
    elif hasattr(error, "format_message") and hasattr(error, "exit_code"):  # typer's error for a wrong option
        line, code = one_line(error.format_message()), EXIT_WRONG_INPUT
    elif isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        line, code = "out of memory. Try --memory auto, --dtype bfloat16, or a smaller --size or --batch", EXIT_FAILED
    elif isinstance(error, OSError) and error.errno is not None:  # a disk, a permission, a name that is too long
        path = f"{shortened(error.filename)}: " if error.filename else ""
        line, code = f"{path}{error.strerror}", EXIT_WRONG_INPUT
    else:
        text = one_line(f"{type(error).__name__}: {error}")
        line, code = f"{text[:500]} (a bug in gesso; add --debug for the traceback)", EXIT_FAILED
    print(f"error: {line}", file=sys.stderr)
    return code


def shortened(path: object) -> str:
    """A path that fits on a line."""
    from gesso.errors import one_line

    text = os.fsdecode(path) if isinstance(path, bytes | str | os.PathLike) else str(path)
    return one_line(text if len(text) <= MAX_PATH else f"{text[:40]}...{text[-40:]}")


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(EXIT_TERMINATED)


def _on_sigterm(handler: Callable[[int, FrameType | None], Any] | int | None) -> Any:
    """Set what SIGTERM does and return what it did; nothing where the program is not in its main thread."""
    try:
        return signal.signal(signal.SIGTERM, handler if handler is not None else signal.SIG_DFL)
    except ValueError:
        return None
