"""`gesso config`: show and change the defaults of options."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from gesso.cli.app import command_named
from gesso.cli.commands import NAMES
from gesso.errors import GessoError, one_line
from gesso.files import atomic_file
from gesso.request.checks import nearest, nearest_name, unknown_data
from gesso.studio.home import CONFIG_FILE
from gesso.terminal.help import App
from gesso.terminal.json_lines import JsonOption, error_values, json_line
from gesso.terminal.settings import (
    DRAWING,
    FILE_VARIABLE,
    PREFIX,
    VARIABLES,
    ConfigFile,
    Level,
    Option,
    Place,
    Setting,
    all_settings,
    check_tables,
    checked,
    environment_settings,
    file_at,
    file_places,
    file_settings,
    leaf_of,
    leaves,
    may_be_in_a_project,
    options_of,
    project_file,
    read,
    read_file,
    shared_options,
    unknown_variables,
    user_file,
)
from gesso.terminal.words import line_of

app = App()

NameArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="Setting: an option such as steps, or of one command, such as grid.cell.")
]
ProjectOption = Annotated[
    bool, typer.Option("--project", help=f"Write to {CONFIG_FILE} in the current folder, not to your own config file.")
]


@app.callback(invoke_without_command=True)
def config(
    context: typer.Context,
    everything: Annotated[bool, typer.Option("--all", help="List all options, not only those that are set.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show and change the defaults of options.

    Without a command: show the settings in effect and where each comes from. What is typed wins over the environment
    (GESSO_STEPS=20), which wins over gesso.toml in the current folder, which wins over your own config file.
    Exits with 2 if a setting is wrong.

    Examples:
        gesso config
        gesso config set steps 20
        gesso config set grid.cell 384
        gesso config unset steps
    """
    if context.invoked_subcommand is not None:
        return
    found, problems = everything_set()
    strongest = _strongest(found)
    _, unknown = options_in_environment()
    rows = [(one, strongest[one.name] is one) for one in found]
    if as_json:
        values = {
            "files": {"user": _there(user_file()), "project": _there(project_file())},
            "settings": [_values(one) | {"active": active} for one, active in rows],
            "unknown_variables": unknown,
            "errors": [error_values(error) for error in problems],
        }
        print(json_line(values | ({"options": list(_all_options(strongest))} if everything else {})))
    else:
        print("\n".join(_lines(rows, everything, strongest)))
    for name in unknown:
        print(f"note: gesso knows no variable {one_line(name)}{_near_variable(name)}", file=sys.stderr)
    for error in problems:
        print(f"error: {line_of(error)}", file=sys.stderr)
    if problems:
        raise typer.Exit(2)


@app.command("path")
def path_of_file(
    project: Annotated[
        bool, typer.Option("--project", help=f"Print the path of {CONFIG_FILE} in the current folder.")
    ] = False,
) -> None:
    """Print the path of your config file, whether it exists or not.

    Examples:
        gesso config path
    """
    print(one_line(str(_file(project))))


@app.command("get")
def get(name: NameArgument, as_json: JsonOption = False) -> None:
    """Print the value of a setting.

    Exits with 1 if it is not set.

    Examples:
        gesso config get steps
        gesso config get grid.cell --json
    """
    table, option = _named(name)
    if table:
        found = [one for one in all_settings(command_named, table, NAMES) if one.option.key == option.key]
    else:
        found = [one for one in everything_set(strict=True)[0] if one.name == option.name]
    if not found:
        print(f"{name} is not set", file=sys.stderr)
        raise typer.Exit(1)
    print(json_line(_values(found[0])) if as_json else _text(found[0].value))


@app.command("set")
def set_value(
    name: NameArgument,
    values: Annotated[list[str], typer.Argument(metavar="VALUE", help="Value; several for an option that repeats.")],
    project: ProjectOption = False,
) -> None:
    """Write a setting into your config file.

    Comments and everything else in the file stay as they are.

    Examples:
        gesso config set steps 20
        gesso config set model sd15.safetensors
        gesso config set grid.cell 384
        gesso config set --project size 768x512
    """
    table, option = _named(name)
    if not table and option.name in NAMES:
        raise GessoError(
            f"{option.name} is a command, too, and so a table at the top of a file. Set it for one command: "
            f"generate.{option.name}",
            code="unsupported",
            field=option.name,
        )
    path, level = _file(project), _level(project)
    if level == "project" and not may_be_in_a_project(option):
        raise GessoError(
            f"{option.name} cannot be set for a folder, since a folder may come from someone else. Leave out --project",
            code="unsupported",
            field=option.name,
        )
    if len(values) > 1 and not option.is_list:
        raise GessoError(
            f"{option.name} takes one value, but {len(values)} are given. Put text with spaces in quotes",
            code="invalid_value",
            field=option.name,
        )
    value = checked(option, list(values), name) if option.is_list else read(option, values[0], name)
    kept = list(values) if option.is_list else values[0] if isinstance(value, str) else value  # ~ stays as it is
    _edit(path, level, table, option, kept)
    print(one_line(f"{name} = {_text(value)} in {path}"))


@app.command("unset")
def unset(name: NameArgument, project: ProjectOption = False) -> None:
    """Remove a setting from your config file.

    Examples:
        gesso config unset steps
        gesso config unset grid.cell
    """
    table, option = _named(name)
    path = _file(project)
    if not path.exists() or not _edit(path, _level(project), table, option, None):
        print(f"{name} is not set in {one_line(str(path))}", file=sys.stderr)
        raise typer.Exit(1)
    print(one_line(f"{name} is removed from {path}"))


# ---- reading ---------------------------------------------------------------------------------------------------------


def everything_set(*, strict: bool = False) -> tuple[list[Setting], list[GessoError]]:
    """Every setting of every command, the strongest first, and what is wrong with the others. Raises no GessoError.

    strict: unless it is strict, where what is wrong is raised
    """
    found: list[Setting] = []
    problems: list[GessoError] = []

    @contextmanager
    def told() -> Iterator[None]:
        try:
            yield
        except GessoError as error:
            if strict:
                raise
            problems.append(error)

    tables = leaves(command_named, NAMES)
    options = {table: options_of(leaf_of(command_named, table), table) for table in tables}
    shared = shared_options(command_named)
    for table in tables:
        with told():
            found.extend(environment_settings(table, options[table], os.environ))
    with told():
        found.extend(environment_settings((), shared, os.environ))
    for place in file_places():
        file: ConfigFile | None = None
        with told():
            file = file_at(*place)
        if file is None:
            continue
        with told():
            check_tables(file, NAMES)
        for table in tables:
            with told():
                found.extend(file_settings(file, table, options[table], {}))
        reported = [name for name, value in file.values.items() if isinstance(value, dict)]  # as far as unknown
        with told():
            found.extend(file_settings(file, (), shared, (*NAMES, *reported)))
    return found, problems


def _strongest(found: Sequence[Setting]) -> dict[str, Setting]:
    """By name, the first of each."""
    return {one.name: one for one in reversed(found)}


def _named(name: str) -> tuple[tuple[str, ...], Option]:
    """ "grid.cell" -> the words of the command, () for the top, and the option. Raises GessoError."""
    *words, key = name.strip().split(".")
    table = tuple(words)
    tables = leaves(command_named, NAMES)
    if table and table not in tables:
        known = [".".join(one) for one in tables]
        raise GessoError(
            f"{name}: no command {' '.join(table)!r} that has settings{nearest('.'.join(table), known)}",
            code="unknown_name",
            field="name",
            data=unknown_data(".".join(table), known),
        )
    options = _options(table)
    option = options.get(key.removeprefix("--").replace("-", "_"))
    if option is None:
        known = sorted({one.name for one in options.values()})
        where = f"`gesso {' '.join(table)}`" if table else "the commands that draw"
        more = "" if table or key not in NAMES else f". For `gesso {key}`, name an option too: {key}.OPTION"
        raise GessoError(
            f"{name}: no option --{key} of {where} can have a default{nearest(key, known)}{more}",
            code="unknown_name",
            field="name",
            data=unknown_data(key, known),
        )
    return table, option


def _all_options(strongest: dict[str, Setting]) -> Iterator[dict[str, Any]]:
    """Every option that can have a default, with its value."""
    for table in leaves(command_named, NAMES):
        leaf = leaf_of(command_named, table)
        built_in = {param.name: param.default for param in leaf.params}
        for option in {one.name: one for one in options_of(leaf, table).values()}.values():
            name = ".".join((*table, option.name))
            one = strongest.get(name) or (strongest.get(option.name) if table[0] in DRAWING else None)
            default = built_in.get(option.parameter)
            value = one.value if one is not None else None if callable(default) else default
            value = str(value) if isinstance(value, Path) else value
            yield {"name": name, "value": value, "from": str(one.place) if one is not None else "default"}


def options_in_environment() -> tuple[dict[str, str], list[str]]:
    """The variables of the environment that are options, with what they set, and those that gesso does not know."""
    tables = leaves(command_named, NAMES)
    unknown = unknown_variables(command_named, tables, os.environ)
    known = {
        name: "default of an option"
        for name in sorted(os.environ)
        if name.startswith(PREFIX) and name not in unknown and name not in VARIABLES
    }
    return known, unknown


def _near_variable(name: str) -> str:
    known = [*VARIABLES, *(f"{PREFIX}{key.upper()}" for key in shared_options(command_named))]
    near = nearest_name(name, [one.lower() for one in known])
    return f" (did you mean {near.upper()}?)" if near is not None else ""


# ---- showing ---------------------------------------------------------------------------------------------------------


def _lines(rows: Sequence[tuple[Setting, bool]], everything: bool, strongest: dict[str, Setting]) -> Iterator[str]:
    user, project = user_file(), project_file()
    if user is None:
        yield f"config files are switched off ({FILE_VARIABLE}=none)"
    else:
        yield f"your config file: {one_line(str(user))}{'' if os.path.lexists(user) else ' (does not exist yet)'}"
    if project is not None and os.path.lexists(project):
        yield f"in this folder:   {one_line(str(project))}"
    cells = [
        (one.name, _text(one.value), f"{one.place}{'' if active else ' (overridden)'}")
        for one, active in rows
        if not everything
    ]
    if everything:
        cells = [(one["name"], _text(one["value"]), one["from"]) for one in _all_options(strongest)]
    if not cells:
        yield "nothing is set. For example: gesso config set steps 20"
        return
    yield ""
    table = [("SETTING", "VALUE", "FROM"), *(tuple(one_line(cell) for cell in row) for row in cells)]
    widths = [min(40, max(len(row[column]) for row in table)) for column in range(2)]
    for name, value, place in table:
        yield f"{name:<{widths[0]}}  {value:<{widths[1]}}  {place}".rstrip()


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)


def _values(one: Setting) -> dict[str, Any]:
    place: Place = one.place
    return {"name": one.name, "value": one.value, "from": place.name, "line": place.line, "level": place.level}


def _there(path: Path | None) -> str | None:
    return None if path is None or not os.path.lexists(path) else os.path.abspath(path)


# ---- writing ---------------------------------------------------------------------------------------------------------


def _file(project: bool) -> Path:
    if project:
        return Path(CONFIG_FILE)
    path = user_file()
    if path is None:
        raise GessoError(f"config files are switched off by {FILE_VARIABLE}=none; unset it first", code="unsupported")
    return path


def _level(project: bool) -> Level:
    return "project" if project else "user"


def _edit(path: Path, level: Level, table: tuple[str, ...], option: Option, value: Any) -> bool:
    """Set a key of a file, or remove it for None; everything else stays. Gives whether there was anything to do.

    Raises GessoError for a file that is no TOML, and where it cannot be written.
    """
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    if os.path.lexists(path):
        read_file(path, level)  # says in our words what is wrong with it
    try:
        document = tomlkit.parse(path.read_bytes().decode("utf-8-sig") if path.exists() else "")
        held: Any = document
        for word in table:
            if word not in held:
                if value is None:
                    return False
                held[word] = tomlkit.table(is_super_table=word != table[-1])
            held = held[word]
        if not hasattr(held, "keys"):
            raise GessoError(f"{path}: {'.'.join(table)} is not a table", code="damaged")
        names = {key for key, one in _options(table).items() if one.name == option.name}
        key = next((key for key in held if str(key).replace("-", "_") in names), None)
        if value is None:
            if key is None:
                return False
            del held[key]
        else:
            held[option.name if key is None else key] = value
        text = tomlkit.dumps(document)
    except TOMLKitError as error:
        raise GessoError(f"{path}: cannot be changed ({error})", code="damaged") from error
    target = Path(os.path.realpath(path))  # a link of a folder of dotfiles stays one
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(target) as handle:
            handle.write((text if text.endswith("\n") else f"{text}\n").encode())
    except OSError as error:
        raise GessoError(f"{path}: cannot be written ({error.strerror})", code="unwritable") from error
    return True


def _options(table: tuple[str, ...]) -> dict[str, Option]:
    return options_of(leaf_of(command_named, table), table) if table else shared_options(command_named)
