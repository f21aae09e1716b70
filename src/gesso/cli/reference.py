"""The page docs/cli.md, made from the commands themselves: `python -m gesso.cli.reference > docs/cli.md`."""

import sys
from collections.abc import Iterable, Iterator
from typing import Any

from typer.main import get_command

from gesso.cli.app import build_app
from gesso.cli.commands import COMMANDS
from gesso.terminal.help import Entry, argument_name, arguments, groups
from gesso.terminal.near import names_elsewhere

HEAD = """\
# The command line

<!-- Made by `python -m gesso.cli.reference > docs/cli.md`; a test keeps it fresh. -->

Results go to stdout, progress and notices to stderr. Exit codes: 0 success; 1 failure, or `replay` drew a different
picture; 2 wrong input, explained in one line on stderr; 130 stopped with Ctrl-C. `--debug` before or after a command,
or `GESSO_DEBUG=1`, shows tracebacks of errors. `-h` and `--help` work everywhere. A prompt in place of a command is
drawn: ``gesso "a red car"`` is short for `gesso generate "a red car"`. Defaults of your own, JSON for programs and
`gesso doctor`: [configuration.md](configuration.md).

`gesso --install-completion` lets bash, zsh or fish complete commands, options and their values with the Tab key:
samplers, schedules, presets, models and LoRA of your library, styles. `gesso --show-completion` prints the script
instead. Both take the shell from `$SHELL`, or its name behind them.

## Names of other tools

Options are also known by these names, and all of them with underscores in place of hyphens:

"""


def render() -> str:
    """The whole page, in Markdown."""
    parts = [HEAD + "\n".join(_table(("option", "also"), _elsewhere())) + "\n"]
    for row in COMMANDS:
        command = get_command(build_app(row.name)).commands[row.name]  # type: ignore[attr-defined]
        parts += _sections(f"gesso {row.name}", command)
    return "\n".join(parts)


def _elsewhere() -> Iterator[tuple[str, str]]:
    for option, names in names_elsewhere().items():
        yield f"`--{option}`", ", ".join(f"`--{name}`" for name in names)


def _sections(title: str, command: Any) -> Iterator[str]:
    """The section of a command, then those of the commands below it."""
    params = [param for param in command.params if param.param_type_name == "argument"]
    lines = [f"## `{' '.join([title, *map(argument_name, params)])}`", "", command.help or ""]
    if entries := arguments(command):
        lines += ["", *(f"- `{entry.left}`: {entry.right}" for entry in entries)]
    shown = groups(command)
    for name, entries in shown.items():
        lines += ["", f"**{name}**"] if len(shown) > 1 else []
        lines += ["", *_table(("option", "value", "default", "description"), map(_cells, entries))]
    if command.examples:
        lines += ["", "```text", *command.examples, "```"]
    yield "\n".join([*lines, ""])
    for name, below in getattr(command, "commands", {}).items():
        yield from _sections(f"{title} {name}", below)


def _cells(entry: Entry) -> tuple[str, ...]:
    names = ", ".join(f"`{name}`" for name in entry.names)
    plain = entry.default == "" or " " in entry.default or entry.default.endswith("'s")
    default = "required" if entry.required else entry.default if plain else f"`{entry.default}`"
    return names, entry.metavar, default.replace("<", "\\<"), entry.help


def _table(head: Iterable[str], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    names = list(head)
    yield f"| {' | '.join(names)} |"
    yield f"| {' | '.join('---' for _ in names)} |"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"


if __name__ == "__main__":
    sys.stdout.write(render())
