"""The page docs/cli.md, made from the commands themselves: `python -m gesso.cli.reference > docs/cli.md`."""

import inspect
import sys
from collections.abc import Iterator
from typing import Any

from typer.main import get_command

from gesso.cli.main import COMMANDS, build_app

HEAD = """\
# The command line

<!-- Made by `python -m gesso.cli.reference > docs/cli.md`; a test keeps it fresh. -->

Results go to stdout, progress and notices to stderr. Exit codes: 0 success; 1 failure, or `replay` drew a different
picture; 2 wrong input, explained in one line on stderr; 130 stopped with Ctrl-C. `--debug` before or after a command,
or `GESSO_DEBUG=1`, shows tracebacks of errors. `-h` and `--help` work everywhere. Defaults of your own, JSON for
programs and `gesso doctor`: [configuration.md](configuration.md).
"""


def render() -> str:
    """The whole page, in Markdown."""
    parts = [HEAD]
    for row in COMMANDS:
        command = get_command(build_app(row.name)).commands[row.name]  # type: ignore[attr-defined]
        parts += _sections(f"gesso {row.name}", command)
    return "\n".join(parts)


def _sections(title: str, command: Any) -> Iterator[str]:
    """The section of a command, then those of the commands below it."""
    lines = [
        f"## `{' '.join([title, *map(_argument, _arguments(command))])}`",
        "",
        inspect.cleandoc(command.help or ""),
    ]
    if arguments := _arguments(command):
        lines += ["", *(f"- `{_argument(param)}`: {param.help}" for param in arguments)]
    if options := [param for param in command.params if param.param_type_name == "option" and param.name != "help"]:
        lines += ["", "| option | default | description |", "| --- | --- | --- |", *map(_row, options)]
    yield "\n".join([*lines, ""])
    for name, below in getattr(command, "commands", {}).items():
        yield from _sections(f"{title} {name}", below)


def _arguments(command: Any) -> list[Any]:
    return [param for param in command.params if param.param_type_name == "argument"]


def _argument(param: Any) -> str:
    name = str(param.metavar or param.name.upper()) + ("..." if param.nargs == -1 else "")
    return name if param.required else f"[{name}]"


def _row(param: Any) -> str:
    names = ", ".join(f"`{name}`" for name in (*param.opts, *param.secondary_opts))
    default = param.default() if callable(param.default) else param.default
    shown = "" if default is None or default is False or default == "" else f"`{default}`"
    return f"| {names} | {shown} | {(param.help or '').replace('|', chr(92) + '|')} |"


if __name__ == "__main__":
    sys.stdout.write(render())
