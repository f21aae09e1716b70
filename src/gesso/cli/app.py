"""The command line as typer knows it, of which only the chosen command is imported."""

from collections.abc import Sequence
from functools import cache
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.main import get_command

from gesso import __version__
from gesso.cli.commands import COMMANDS, NAMES
from gesso.terminal.exit_codes import EXIT_INTERRUPTED
from gesso.terminal.explaining import as_known
from gesso.terminal.help import App
from gesso.terminal.running import run_command


def build_app(chosen: str | None) -> typer.Typer:
    """The whole command line, of which only the chosen command is imported; the others have their help line alone."""
    app = App()
    app.callback()(_root)
    for name, where, line in COMMANDS:
        if name != chosen:
            app.command(name, help=line)(_stub)
            continue
        module = import_module(where)
        if hasattr(module, "app"):
            app.add_typer(module.app, name=name, short_help=line)
        else:
            app.command(name)(module.command)
    return app


def _root(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=lambda on: _version(on)),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors; same as GESSO_DEBUG=1.")] = False,
    install_completion: Annotated[
        bool,
        typer.Option(
            "--install-completion",
            help="Set up completion with the Tab key for your shell, or the one behind it: bash, zsh or fish.",
        ),
    ] = False,
    show_completion: Annotated[
        bool, typer.Option("--show-completion", help="Print the script for that instead.")
    ] = False,
) -> None:
    """Draw pictures from text prompts.

    Examples:
        gesso generate "a red car and a blue bird"
        gesso "a red car"                           # the same, in short
        gesso generate "a red car" --seed 7 -n 4    # four pictures
        gesso generate --help                       # the options of a command
        gesso models list                           # the models you have
        gesso metadata show picture.png             # the settings in a picture
    """


def _version(on: bool) -> None:
    if on:
        print(f"gesso {__version__}")
        raise typer.Exit


def _stub() -> None:
    raise AssertionError("the stub of an unchosen command was called")


@cache  # `gesso config` asks for all of them again and again
def command_named(name: str) -> Any:
    """The click command of a row of the table, or the group of its commands."""
    return get_command(build_app(name)).commands[name]  # type: ignore[attr-defined]


def run_app(argv: Sequence[str], chosen: str | None) -> int:
    """Run a command line. Returns its exit code; raises what went wrong, KeyboardInterrupt where the user ended it."""
    root: Any = get_command(build_app(chosen))
    try:
        code = run_command(
            root,
            argv,
            chosen,
            find=lambda name: root.commands[name] if name == chosen else command_named(name),
            names=NAMES,
            as_error=lambda error: as_known(error)[0],
        )
    except typer.Abort:  # Ctrl-C, or "no" as the answer to a question
        raise KeyboardInterrupt from None
    if code == EXIT_INTERRUPTED:  # typer's own answer to Ctrl-C
        raise KeyboardInterrupt
    return code if isinstance(code, int) else 0
