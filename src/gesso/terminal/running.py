"""Runs a command line with the defaults from the environment and the config files, and tells errors in JSON."""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from gesso.errors import GessoError
from gesso.terminal.help import HELP_OPTIONS
from gesso.terminal.json_lines import error_values, json_line

if TYPE_CHECKING:
    from gesso.terminal.settings import Defaults


@dataclass(frozen=True, kw_only=True)
class CommandLine:
    """What click gets.

    argv         words after `gesso`
    default_map  defaults by commands and parameters
    origins      where defaults come from, for errors, by fields of a request and names of options
    json_default  whether --json is a default
    """

    argv: Sequence[str]
    default_map: Mapping[str, Any] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict)
    json_default: bool = False

    @property
    def as_json(self) -> bool:
        """Whether results are JSON."""
        words = list(self.argv)
        options = words[: words.index("--")] if "--" in words else words
        return self.json_default or "--json" in options

    def origin(self, field: str | None) -> str:
        """What to add to an error about a field whose value nobody typed: where it is set."""
        return f" ({self.origins[field]})" if field is not None and field in self.origins else ""


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
            line = configured(root, line, line.argv.index(chosen), find, names)
        return root(args=list(line.argv), prog_name="gesso", standalone_mode=False, default_map=line.default_map)
    except Exception as error:
        if isinstance(error, GessoError):
            error.message += line.origin(error.field)
        if line.as_json and type(error).__name__ not in ("Abort", "Exit"):  # typer's for Ctrl-C and for an exit code
            print(json_line({"error": error_values(as_error(error))}), flush=True)
        raise


def configured(
    root: Any,
    line: CommandLine,
    at: int,
    find: Callable[[str], Any],
    names: Sequence[str],
    environ: Mapping[str, str] = os.environ,
) -> CommandLine:
    """A command line with its defaults. Raises GessoError.

    root  the click command of the whole command line, whose flags also get a --no-FLAG, since they may be on by default
    at    where the command stands in the words
    """
    command, end = root.commands[line.argv[at]], at + 1
    table: tuple[str, ...] = (line.argv[at],)
    while below := getattr(command, "commands", None):
        place = next((n for n in range(end, len(line.argv)) if not line.argv[n].startswith("-")), None)
        if place is None or line.argv[place] not in below:
            return line
        command, end, table = below[line.argv[place]], place + 1, (*table, line.argv[place])
    argv = line.argv[end:]
    defaults = defaults_of(command, argv, table, find, names, environ)
    for param in command.params:
        if _is_flag(param) and defaults.is_read:
            param.secondary_opts = [_negative(param)]
    if defaults.note:
        print(f"note: {defaults.note}", file=sys.stderr)
    values: dict[str, Any] = defaults.values
    for word in reversed(table):
        values = {word: values}
    return replace(
        line,
        argv=[*line.argv[:end], *defaults.before, *argv],
        default_map=values,
        origins=defaults.origins,
        json_default=defaults.values.get("as_json") is True,
    )


def defaults_of(
    command: Any,
    argv: Sequence[str],
    table: tuple[str, ...],
    find: Callable[[str], Any],
    names: Sequence[str],
    environ: Mapping[str, str] = os.environ,
) -> "Defaults":
    """What a command line takes from the environment and the files. Raises GessoError.

    command  the click command
    argv     the words after it
    table    the words that name it
    """
    from gesso.terminal.settings import UNCONFIGURED, Defaults, defaults_for

    typed = _typed(command, argv)
    if table[0] in UNCONFIGURED or "help" in typed:
        return Defaults()
    quiet = bool({"-q", "--quiet"} & set(argv))
    return defaults_for(command, typed, table, find, names, environ, quiet=quiet)


def _typed(command: Any, argv: Sequence[str]) -> set[str]:
    """The parameters that stand in the words; mistakes are the command's own to report."""
    context = command.context_class(
        command, info_name=command.name, resilient_parsing=True, help_option_names=list(HELP_OPTIONS)
    )
    flags = [param for param in command.params if _is_flag(param)]
    for param in flags:  # whether one is on by default, and so can be switched off, is found out below
        param.secondary_opts = [_negative(param)]
    try:
        _, _, order = command.make_parser(context).parse_args(args=list(argv))
    except Exception:
        return set()
    finally:
        for param in flags:
            param.secondary_opts = []
    return {str(param.name) for param in order if param.param_type_name == "option"}


def _is_flag(param: Any) -> bool:
    """Whether it is an option that is on or off and has no name yet that switches it off."""
    flag = getattr(param, "is_flag", False) and not param.secondary_opts and param.name != "help"
    return flag and any(name.startswith("--") for name in param.opts)


def _negative(param: Any) -> str:
    return f"--no-{next(name for name in param.opts if name.startswith('--')).removeprefix('--')}"
