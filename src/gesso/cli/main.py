"""`gesso`: finds the command, runs it, and turns whatever happens into one line and an exit code.

Exit codes: 0 done; 1 the work failed, or replay found another picture; 2 wrong input, in one line on stderr; 130
stopped with Ctrl-C; 143 stopped with SIGTERM. Nothing but the table below is known here before a command is chosen, so
that `gesso --help` needs neither torch nor any command's module.
"""

import gc
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer
from typer.main import get_command

from gesso import __version__
from gesso.cli.logs import logged_to_stderr
from gesso.cli.running import run_command
from gesso.cli.words import line_of
from gesso.errors import GessoError, message_line, one_line, short, shorten

EXIT_FAILED, EXIT_WRONG_INPUT, EXIT_INTERRUPTED, EXIT_TERMINATED = 1, 2, 130, 143


@dataclass(frozen=True)
class Command:
    """One row of the table. The module holds `command`, a function, or `app`, a typer.Typer with commands below it."""

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
    Command("models", "gesso.cli.models", "List, import, convert and verify models."),
    Command("lora", "gesso.cli.lora", "Inspect, convert, merge, extract and resize LoRA files."),
    Command("train", "gesso.cli.train", "Train the default model and its LoRA and ControlNet."),
    Command("evaluate", "gesso.cli.evaluate", "Measure how well a model follows its prompts."),
    Command("config", "gesso.cli.config", "Show and change the defaults of options."),
    Command("doctor", "gesso.cli.doctor", "Check that gesso works on this machine."),
)


def main() -> NoReturn:
    """Run the command line of this process, and end it."""
    # Idle OpenMP threads sleep instead of spinning. Where other programs use the cores too, spinning threads keep those
    # that have work from running: two threads on two busy cores took 20 to 80 s for a picture that takes 2 s like this.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Importing torch makes a million objects that stay. With its default threshold, 700, the garbage collector goes
    # through them again and again: a twentieth of the time of a short command.
    gc.set_threshold(10_000)
    try:
        code = run(sys.argv[1:])
    except KeyboardInterrupt:  # while the last was put away
        code = EXIT_INTERRUPTED
    with suppress(ValueError):  # the work is done, or undone: an interrupt at the very end changes nothing any more
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    code = _flushed(code)
    if code == EXIT_INTERRUPTED:
        os._exit(code)  # where an interrupt met Python's own `exec`, `sys.exit` ends by the signal, without a code
    sys.exit(code)


def run(argv: Sequence[str]) -> int:
    """Run one command line and return its exit code. Prints; installs a handler for SIGTERM while it runs."""
    for stream in (sys.stdout, sys.stderr):  # a name that the terminal cannot show must not end the program
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    debug = "--debug" in argv or os.environ.get("GESSO_DEBUG", "") not in ("", "0")
    argv = [word for word in argv if word != "--debug"] or ["--help"]  # it may stand before or after the command
    previous, chosen = _on_sigterm(_terminate), _chosen(argv)
    try:
        with logged_to_stderr():
            root, names = get_command(build_app(chosen)), [row.name for row in COMMANDS]
            code = run_command(root, argv, chosen, find=command_named, names=names, as_error=lambda one: _known(one)[0])
        if code == EXIT_INTERRUPTED:  # typer's own answer to Ctrl-C
            raise KeyboardInterrupt
        return code if isinstance(code, int) else 0
    except (KeyboardInterrupt, typer.Abort):
        with suppress(OSError):
            print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED  # what is finished stays, what is not was never under its name
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else EXIT_FAILED
    except BrokenPipeError:
        return EXIT_FAILED  # whoever read the results, such as `head`, has enough
    except Exception as error:
        if debug:
            raise
        return _explain(error)
    finally:
        _on_sigterm(previous)


def _flushed(code: int) -> int:
    """The exit code, after all that was printed has gone out; a full disk behind a stream is told, not ignored."""
    for number, stream in ((2, sys.stderr), (1, sys.stdout)):
        try:
            stream.flush()
        except (OSError, ValueError) as error:
            if code == 0 and not isinstance(error, BrokenPipeError):
                with suppress(OSError):
                    print(f"error: standard output: {getattr(error, 'strerror', error)}", file=sys.stderr, flush=True)
            code = code or EXIT_FAILED
            with suppress(OSError), open(os.devnull, "wb") as nowhere:  # what is left must not fail again at the end
                os.dup2(nowhere.fileno(), number)
    return code


def build_app(chosen: str | None) -> typer.Typer:
    """The whole command line, of which only the chosen command is imported; the others have their help line alone."""
    app = typer.Typer(
        help="Draw pictures from text prompts.",
        add_completion=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        pretty_exceptions_enable=False,
        rich_markup_mode=None,  # plain help: it fits 80 columns, and braces and brackets in it mean themselves
    )
    app.callback()(_root)
    for row in COMMANDS:
        if row.name != chosen:
            app.command(row.name, help=row.help)(_stub)
            continue
        module = import_module(row.module)
        if hasattr(module, "app"):
            group: dict[str, Any] = {} if module.app.registered_callback else {"help": row.help}
            app.add_typer(module.app, name=row.name, **group)  # the docstring of a group's callback may say more
        else:
            app.command(row.name)(module.command)
    return app


def _root(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=lambda on: _version(on)),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors; same as GESSO_DEBUG=1.")] = False,
) -> None:
    """Draw pictures from text prompts."""


def _version(on: bool) -> None:
    if on:
        print(f"gesso {__version__}")
        raise typer.Exit


def _stub() -> None:
    raise AssertionError("the stub of an unchosen command was called")


def command_named(name: str) -> Any:
    """The click command of a row of the table, or the group of its commands."""
    return get_command(build_app(name)).commands[name]  # type: ignore[attr-defined]


def _chosen(argv: Sequence[str]) -> str | None:
    """The first word that is no option; the options before a command take no values."""
    return next((word for word in argv if not word.startswith("-")), None)


def _explain(error: Exception) -> int:
    """One line on stderr for what went wrong, and the exit code."""
    known, code = _known(error)
    with suppress(OSError):  # nobody reads it: the exit code says it all the same
        print(f"error: {line_of(known)}", file=sys.stderr)
    return code


def _known(error: Exception) -> tuple[GessoError, int]:
    """Whatever happened as an error with a code, and the exit code."""
    if isinstance(error, GessoError):
        return error, EXIT_WRONG_INPUT
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):  # typer's error for a wrong option
        name = getattr(error, "option_name", None) or getattr(getattr(error, "param", None), "name", None)
        field = None if name is None else str(name).lstrip("-")
        return GessoError(message_line(error.format_message()), code="usage", field=field), EXIT_WRONG_INPUT
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        advice = "out of memory. Try --memory auto, --dtype bfloat16, or a smaller --size or --batch"
        return GessoError(advice, code="out_of_memory"), EXIT_FAILED
    if isinstance(error, OSError) and error.errno is not None:  # a disk, a permission, a name that is too long
        path = f"{shorten(_decoded(error.filename))}: " if error.filename else ""
        return GessoError(f"{path}{error.strerror}", code="system"), EXIT_WRONG_INPUT
    if isinstance(error, UnicodeEncodeError):  # half of a surrogate pair, as Python reads bytes that are no UTF-8
        message = f"{short(str(error.object))}: is not UTF-8 text. Type it again"
        return GessoError(message, code="not_text"), EXIT_WRONG_INPUT
    text = one_line(f"{type(error).__name__}: {error}")[:500]
    return GessoError(f"{text} (a bug in gesso; add --debug for the traceback)", code="internal"), EXIT_FAILED


def _decoded(path: object) -> str:
    return os.fsdecode(path) if isinstance(path, bytes | str | os.PathLike) else str(path)


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(EXIT_TERMINATED)


def _on_sigterm(handler: Callable[[int, FrameType | None], Any] | int | None) -> Any:
    """Set what SIGTERM does and return what it did; nothing where the program is not in its main thread."""
    try:
        return signal.signal(signal.SIGTERM, handler if handler is not None else signal.SIG_DFL)
    except ValueError:
        return None
