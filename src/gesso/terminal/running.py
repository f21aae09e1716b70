"""Runs a command line with the defaults from the environment and the config files, and tells errors in JSON."""

from collections.abc import Callable, Sequence
from typing import Any

from gesso.errors import GessoError
from gesso.terminal.command_line import CommandLine
from gesso.terminal.json_lines import error_values, json_line


def run_command(
    root: Any,
    argv: Sequence[str],
    chosen: str | None,
    *,
    find: Callable[[str], Any],
    names: Sequence[str],
    as_error: Callable[[Exception], GessoError],
) -> object:
    """What a command returns. Raises what it raises; an error about a default says where that is set.

    root      the click command of the whole command line
    chosen    the word that names the command
    find      gives the click command of a name
    names     of all commands
    as_error  gives a code to any error, for --json
    """
    line = CommandLine(argv=argv)
    try:
        if chosen in names:
            from gesso.terminal.settings import configured

            line = configured(root, line, line.argv.index(chosen), find, names)
        return root(args=list(line.argv), prog_name="gesso", standalone_mode=False, default_map=line.default_map)
    except Exception as error:
        if isinstance(error, GessoError):
            error.message += line.origin(error.field)
        if line.as_json and type(error).__name__ not in ("Abort", "Exit"):  # typer's for Ctrl-C and for an exit code
            print(json_line({"error": error_values(as_error(error))}), flush=True)
        raise
