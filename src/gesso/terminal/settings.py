"""Defaults of options from the environment and from config files, below what is typed and above what is built in.

A setting is called like its option. One at the top of a file counts for the commands that draw, one in a table for the
command of that name; GESSO_STEPS and GESSO_GENERATE_STEPS are the same in the environment. docs/configuration.md says
what that means for users.
"""

import inspect
import os
import re
import tomllib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from gesso.errors import GessoError, short
from gesso.request.checks import RequestError, check_file_name, nearest, range_data, unknown_data
from gesso.request.fields import FLAG_WORDS, Row
from gesso.request.names import with_canonical_names
from gesso.request.request import NAMED, ROWS, TextToImageRequest, with_values
from gesso.studio.home import CONFIG_FILE, config_file
from gesso.terminal.help import span_of

PREFIX = "GESSO_"
FILE_VARIABLE = "GESSO_CONFIG"
NO_FILE = "none"  # its value for no file at all
MAX_BYTES = 1_000_000

# Variables that are no options. What they do, for `gesso config` and `gesso doctor`.
VARIABLES: Mapping[str, str] = {
    "GESSO_HOME": "folder of the library, the styles and the config file",
    FILE_VARIABLE: "another config file, or none",
    "GESSO_DEBUG": "1 shows tracebacks of errors",
    "GESSO_LOG": "shows log messages: debug, info, warning, error",
    "GESSO_PLUGINS": "0 switches plug-ins off",
}

# The commands that draw. They share the settings at the top of a file.
DRAWING = ("generate", "grid", "batch", "prompt")
_BY_SET = ("grid", "batch")  # these take fields of a request by --set
_PICTURES = ("source.image", "mask.image")  # typed as files
_NOT_BY_SET = (*_PICTURES, "num_images", "first_index")
# What a default would make no sense of, or would answer a question that is meant to be asked.
_NEVER = {"accept", "explain_memory", "from", "list", "update", "yes"}
# Commands that work whatever a config file says.
UNCONFIGURED = ("config", "doctor")
# What `gesso generate --from` still takes: nothing of it decides a picture that was drawn with other settings.
_BESIDE_A_PICTURE = {
    *("absolute_paths", "batch", "device", "dtype", "json", "memory", "offline", "open", "output", "overwrite"),
    *("preview", "preview_model", "quality", "quiet", "threads"),
}
# What a recipe does not say, so `gesso replay` may take it.
_REPLAY = {"absolute_paths", "json", "quiet"}
# Beside the fields of a request, what a config file in the current folder may set.
_PROJECT = {"cell", "hires", "outpaint", "seed_size", "set", "sigmas", "size", "style", "syntax"}
# Settings that exclude each other: a stronger one keeps out a weaker one.
_EITHER = (
    *(("size", "width"), ("size", "height"), ("sigmas", "steps"), ("sigmas", "schedule"), ("tile", "tiling")),
    *(("scale", "to"), ("rank", "energy"), ("copy", "link"), ("copy", "in_place"), ("link", "in_place")),
    *(("samples", "finish_in"), ("atlas", "font")),
)
# Settings that apply only beside one of these options.
_NEEDS: Mapping[str, tuple[str, ...]] = {
    "strength": ("image",),
    "resize_mode": ("image",),
    "mask_content": ("mask", "outpaint"),
    "mask_area": ("mask",),
    "mask_padding": ("mask_area",),
    "mask_blur": ("mask", "outpaint"),
    "mask_invert": ("mask",),
    "preview_model": ("preview",),
    "refiner_switch_at": ("refiner",),
    "seed_size": ("variation_seed", "variation_strength"),
    "styles": ("style",),
    "tile_overlap": ("tile",),
    "variation_seed": ("variation_strength",),
}

Level = Literal["environment", "project", "user"]


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a setting comes from.  name: the variable or the file; line: of a file, from 1, where it is known"""

    level: Level
    name: str
    line: int | None = None

    def __str__(self) -> str:
        return self.name if self.line is None else f"{self.name}, line {self.line}"


@dataclass(frozen=True, kw_only=True)
class Option:
    """An option that may have a default.

    name       as typed, without dashes before it: negative-prompt
    parameter  of the command; "" of a field that the command takes by --set
    kind       int, float, bool, str or Path, also of the values of a list
    row        of the request's field that it sets, if any
    """

    name: str
    parameter: str
    kind: type
    is_list: bool = False
    low: float | None = None
    high: float | None = None
    row: Row | None = None

    @property
    def key(self) -> str:
        """The name with underscores."""
        return self.name.replace("-", "_")

    @property
    def expected(self) -> str:
        """Its values, for messages."""
        words = {int: "a whole number", float: "a number", bool: "true or false"}.get(self.kind, "text or a number")
        return f"a list, such as {self.name} = [...]" if self.is_list else words


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One default.  table: words of the command; () for one at the top"""

    table: tuple[str, ...]
    option: Option
    value: Any
    place: Place

    @property
    def name(self) -> str:
        """As `gesso config` calls it: steps, generate.steps."""
        return ".".join((*self.table, self.option.name))


@dataclass(frozen=True, kw_only=True)
class ConfigFile:
    """A config file that was read.  lines: of "table.key", as far as they were found"""

    path: Path
    level: Level
    values: Mapping[str, Any]
    lines: Mapping[str, int]

    def place(self, *words: str) -> Place:
        """Of a key, with its tables before it."""
        return Place(level=self.level, name=str(self.path), line=self.lines.get(".".join(words)))


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """What a command line takes from the environment and the files.

    is_read   whether the command is to run, and not to show its help
    before    words to put before what is typed
    settings  by parameters of the command
    note      about settings that come from the current folder; "" without such
    """

    is_read: bool = False
    before: tuple[str, ...] = ()
    settings: Mapping[str, Setting] = field(default_factory=dict)
    note: str = ""

    @property
    def values(self) -> dict[str, Any]:
        """By parameters of the command."""
        return {name: one.value for name, one in self.settings.items()}

    @property
    def origins(self) -> dict[str, str]:
        """Where each comes from, by the name of the option and by the field of a request that it sets."""
        found: dict[str, str] = {}
        for one in self.settings.values():
            told = f"--{one.option.name} comes from {one.place}"
            found[one.option.key] = told
            if one.option.row is not None:
                found[one.option.row.path] = told
        return found


# ---- options of a command --------------------------------------------------------------------------------------------


def options_of(command: Any, table: Sequence[str]) -> dict[str, Option]:
    """The options of a click command that may have defaults, by each of their names, with underscores."""
    found: dict[str, Option] = {}
    typed = inspect.signature(command.callback).parameters
    for param in command.params:
        names = [name.removeprefix("--") for name in param.opts if name.startswith("--")]
        if param.param_type_name != "option" or param.hidden or not names or param.name not in typed:
            continue
        option = _option(names[0], param.name, typed[param.name].annotation)
        if option.key in _NEVER or (table[0] == "replay" and option.key not in _REPLAY):
            continue
        found |= {name.replace("-", "_"): option for name in names}
    if table[0] in _BY_SET:
        for row in ROWS.values():
            fits = row.is_single and row.path not in _NOT_BY_SET and not row.path.startswith("hires.")
            if fits and row.field.options:
                option = Option(name=row.field.options[0], parameter="", kind=_KINDS[row.kind], row=row)
                found = {name.replace("-", "_"): option for name in row.field.options} | found
        found.setdefault("size", Option(name="size", parameter="", kind=str))
    return found


_KINDS: Mapping[str, type] = {"whole": int, "real": float, "flag": bool, "text": str, "choice": str}


def _option(name: str, parameter: str, annotation: Any) -> Option:
    kind, *about = get_args(annotation) if get_origin(annotation) is Annotated else (annotation,)
    info = about[0] if about else None
    if get_origin(kind) in (Union, UnionType):
        (kind,) = (one for one in get_args(kind) if one is not NoneType)
    is_list = get_origin(kind) is list
    row = ROWS.get(parameter.replace("__", "."))
    return Option(
        name=name,
        parameter=parameter,
        kind=get_args(kind)[0] if is_list else kind,
        is_list=is_list,
        low=getattr(info, "min", None),
        high=getattr(info, "max", None),
        row=row if row is not None and row.is_single else None,
    )


# ---- files -----------------------------------------------------------------------------------------------------------


def user_file(environ: Mapping[str, str] = os.environ) -> Path | None:
    """The user's config file, there or not; None where GESSO_CONFIG switches config files off."""
    named = environ.get(FILE_VARIABLE, "")
    if named.lower() == NO_FILE:
        return None
    return Path(named).expanduser() if named else config_file(environ)


def project_file(environ: Mapping[str, str] = os.environ) -> Path | None:
    """The config file of the current folder, there or not; None where that is the user's, or files are off."""
    user = user_file(environ)
    here = Path(CONFIG_FILE)
    return None if user is None or os.path.abspath(user) == os.path.abspath(here) else here


def file_places(environ: Mapping[str, str] = os.environ) -> tuple[tuple[Path | None, Level], ...]:
    """Where config files may be, the strongest first; None for one that is switched off."""
    return (project_file(environ), "project"), (user_file(environ), "user")


def file_at(path: Path | None, level: Level, environ: Mapping[str, str] = os.environ) -> ConfigFile | None:
    """The config file of a place; None where there is none. Raises GessoError.

    It is an error that it cannot be read, and that the one which GESSO_CONFIG names is not there.
    """
    if path is not None and os.path.lexists(path):
        return read_file(path, level)
    if path is not None and level == "user" and environ.get(FILE_VARIABLE):
        try:
            os.lstat(path)
            problem = "no such file"
        except OSError as error:  # `lexists` says no where a folder above it may not be looked into, too
            is_absent = isinstance(error, FileNotFoundError | NotADirectoryError)
            problem = "no such file" if is_absent else f"cannot be read ({error.strerror})"
        raise GessoError(
            f"{path}: {problem}. Correct {FILE_VARIABLE}, or unset it",
            code="missing" if problem == "no such file" else "unreadable",
            field=FILE_VARIABLE,
            data={"path": str(path)},
        )
    return None


def read_file(path: Path, level: Level) -> ConfigFile:
    """Raises GessoError where the file cannot be read or is not TOML."""
    try:
        data = path.read_bytes()
        if len(data) > MAX_BYTES:
            raise GessoError(f"{path}: {len(data)} bytes, expected at most {MAX_BYTES}", code="too_large")
        text = data.decode("utf-8-sig")
        values = tomllib.loads(text)
    except OSError as error:
        raise GessoError(f"{path}: cannot be read ({error.strerror})", code="unreadable") from error
    except UnicodeDecodeError as error:
        raise GessoError(f"{path}: not UTF-8 text. Save it as UTF-8", code="damaged") from error
    except tomllib.TOMLDecodeError as error:
        hint = _hint(text, str(error))
        raise GessoError(f"{path}: not valid TOML: {_lowered(str(error))}{hint}", code="damaged") from error
    except RecursionError as error:
        raise GessoError(f"{path}: nested too deeply", code="damaged") from error
    return ConfigFile(path=path, level=level, values=values, lines=_lines(text))


def _lowered(text: str) -> str:
    return text[:1].lower() + text[1:]


def _hint(text: str, problem: str) -> str:
    """The most common slip: text without quotes."""
    match = re.search(r"at line (\d+)", problem)
    if match is None or "Invalid value" not in problem:
        return ""
    line = text.splitlines()[int(match[1]) - 1 :][:1]
    return '. Put text in quotes: sampler = "euler"' if line and "=" in line[0] and '"' not in line[0] else ""


def _lines(text: str) -> dict[str, int]:
    """The line of each key, for messages; a text over several lines may mislead it."""
    found: dict[str, int] = {}
    table = ""
    for number, line in enumerate(text.splitlines(), 1):
        if head := re.match(r"\s*\[\s*([\w.\s\"'-]+?)\s*\]", line):
            table = ".".join(part.strip(" \"'") for part in head[1].split(".")) + "."
            found.setdefault(table.removesuffix("."), number)
        elif key := re.match(r"\s*([\w\s.\"'-]+?)\s*=", line):
            name = ".".join(part.strip(" \"'") for part in key[1].split("."))
            found.setdefault(table + name, number)
    return found


# ---- what a command takes --------------------------------------------------------------------------------------------

FindCommand = Callable[[str], Any]  # the click command of a row in the table of commands


def shared_options(find: FindCommand) -> dict[str, Option]:
    """The options at the top of a file: those of the commands that draw."""
    found: dict[str, Option] = {}
    for name in reversed(DRAWING):  # generate has the last word
        found |= {key: one for key, one in options_of(find(name), (name,)).items() if one.parameter}
    return found


def file_settings(
    file: ConfigFile, table: tuple[str, ...], options: Mapping[str, Option], commands: Collection[str]
) -> Iterator[Setting]:
    """The settings of one table, () for the top. Raises GessoError for unknown keys and values of another kind.

    commands  names of the tables that may stand in it
    """
    held: Any = file.values
    for word in table:
        held = held.get(word, {})
        if not isinstance(held, dict):
            raise GessoError(
                f"{file.place(*table)}: {'.'.join(table)} is {short(held)}, expected a table [{'.'.join(table)}]",
                code="invalid_value",
                field=".".join(table),
            )
    seen: dict[str, str] = {}
    for key, value in held.items():
        name, words = key.replace("-", "_"), (*table, key)
        place = file.place(*words)
        if isinstance(value, dict) or key in commands:
            if key not in commands:
                if name in options:
                    raise _wrong(".".join(words), "a table", options[name].expected, place, value)
                raise _unknown(key, commands, place, f"no command {key!r} that has settings")
            if not isinstance(value, dict):
                hint = f"; as an option of one command, set it there: [generate] {key} = ..." if name in options else ""
                raise _wrong(".".join(words), short(value), f"a table [{'.'.join(words)}]{hint}", place, "")
            continue
        if name not in options:
            where = f"`gesso {' '.join(table)}` has no option" if table else "the commands that draw have no option"
            raise _unknown(key, {one.name for one in options.values()} | set(commands), place, f"{where} --{key}")
        option = options[name]
        if option.name in seen:
            raise GessoError(
                f"{place}: {key} and {seen[option.name]} are the same option; leave one out", code="invalid_value"
            )
        seen[option.name] = key
        if file.level == "project" and not may_be_in_a_project(option):
            raise GessoError(
                f"{place}: {key} is not taken from the current folder, since a folder may come from someone else. "
                f"Set it in your own config file: gesso config set {'.'.join((*table, option.name))} VALUE",
                code="unsupported",
                field=option.name,
            )
        yield Setting(table=table, option=option, value=checked(option, value, str(place)), place=place)


def may_be_in_a_project(option: Option) -> bool:
    """Whether a stranger may set it: what describes a picture, but no file, place, model, device or download."""
    row = option.row or NAMED.get(option.key)
    if option.key in _PROJECT:
        return True
    return row is not None and row.is_single and row.path not in _PICTURES and row.field.rule is not check_file_name


def environment_settings(
    table: tuple[str, ...], options: Mapping[str, Option], environ: Mapping[str, str]
) -> Iterator[Setting]:
    """The settings of a command in the environment; of () those of the commands that draw.

    Raises GessoError for values of another kind.
    """
    start = "_".join((PREFIX.rstrip("_"), *table)).upper().replace("-", "_") + "_"
    for variable, text in environ.items():
        key = variable.removeprefix(start).lower()
        if not variable.startswith(start) or variable in VARIABLES or not text or key not in options:
            continue
        option, place = options[key], Place(level="environment", name=variable)
        yield Setting(table=table, option=option, value=read(option, text, variable), place=place)


def unknown_variables(find: FindCommand, tables: Sequence[tuple[str, ...]], environ: Mapping[str, str]) -> list[str]:
    """Variables that begin with GESSO_ and are neither an option nor anything else of gesso's."""
    known = {PREFIX + key.upper() for key in shared_options(find)} | VARIABLES.keys()
    for table in tables:
        for key in options_of(leaf_of(find, table), table):
            known.add(PREFIX + "_".join((*table, key)).upper().replace("-", "_"))
    return sorted(name for name in environ if name.startswith(PREFIX) and name not in known)


def leaf_of(find: FindCommand, table: Sequence[str]) -> Any:
    """The click command of these words."""
    command = find(table[0])
    for word in table[1:]:
        command = command.commands[word]
    return command


def leaves(find: FindCommand, names: Sequence[str]) -> list[tuple[str, ...]]:
    """The words of every command that may have settings."""
    found: list[tuple[str, ...]] = []

    def walk(command: Any, words: tuple[str, ...]) -> None:
        below = getattr(command, "commands", None)
        if below is None:
            found.append(words)
        for name, one in (below or {}).items():
            walk(one, (*words, name))

    for name in names:
        if name not in UNCONFIGURED:
            walk(find(name), (name,))
    return found


def all_settings(
    find: FindCommand, table: tuple[str, ...], names: Sequence[str], environ: Mapping[str, str] = os.environ
) -> list[Setting]:
    """Everything that is set for a command, the strongest first. Raises GessoError.

    table  words of the command
    names  of all commands
    """
    files = [file for place in file_places(environ) if (file := file_at(*place, environ)) is not None]
    own = options_of(leaf_of(find, table), table)
    found = list(environment_settings(table, own, environ))
    drawing = table[0] in DRAWING
    shared = shared_options(find) if drawing and (files or _any(environ)) else {}

    def fitting(settings: Iterator[Setting]) -> Iterator[Setting]:
        for one in settings:
            own_place = one.option.key == "output" and table[0] in _BY_SET  # a run has a folder of its own
            if one.option.key in own and not own_place:
                yield Setting(table=(), option=own[one.option.key], value=one.value, place=one.place)

    found += fitting(environment_settings((), shared, environ))
    for file in files:
        check_tables(file, names)
        for depth in range(1, len(table)):  # `models = 1`, or a setting beside the tables of its commands
            words = table[:depth]
            list(file_settings(file, words, {}, leaf_of(find, words).commands))
        found += file_settings(file, table, own, {})
        if drawing:
            found += fitting(file_settings(file, (), shared, names))
    return found


def _any(environ: Mapping[str, str]) -> bool:
    return any(name.startswith(PREFIX) and name not in VARIABLES for name in environ)


def check_tables(file: ConfigFile, names: Collection[str]) -> None:
    """Every table is that of a command. Raises GessoError."""
    for key, value in file.values.items():
        if isinstance(value, dict) and key not in names:
            raise _unknown(key, names, file.place(key), f"no command {key!r}")
        if isinstance(value, dict) and key in UNCONFIGURED:
            raise GessoError(f"{file.place(key)}: `gesso {key}` takes no settings", code="unknown_name", field=key)


def defaults_for(
    command: Any,
    typed: Collection[str],
    table: tuple[str, ...],
    find: FindCommand,
    names: Sequence[str],
    environ: Mapping[str, str] = os.environ,
    *,
    quiet: bool = False,
) -> Defaults:
    """What a command line takes from the environment and the files. Raises GessoError.

    command  the click command
    typed    its parameters that stand in the command line
    quiet    no note is wanted
    """
    present = {name for param in command.params if param.name in typed for name in _names(param)}
    settings = all_settings(find, table, names, environ)
    chosen: dict[str, Setting] = {}
    blocked = _rivals(present)
    strengths = [(level, shared) for level in ("environment", "project", "user") for shared in (False, True)]
    for strength in strengths:  # a table of the command is stronger than the top of the same file
        mine = [one for one in settings if (one.place.level, not one.table) == strength]
        mine = [one for one in mine if one.option.key not in blocked]
        for one in mine:
            key = one.option.key
            if key not in chosen and (key not in present or key == "set"):
                chosen[key] = one
        blocked |= _rivals({one.option.key for one in mine})
    if table[0] == "generate" and "from" in present:
        chosen = {key: one for key, one in chosen.items() if key in _BESIDE_A_PICTURE}
    while useless := {key for key in chosen if not _applies(key, present | chosen.keys())}:
        chosen = {key: one for key, one in chosen.items() if key not in useless}
    before = [word for one in chosen.values() for word in _set_words(one)]
    here = [one.name for one in chosen.values() if one.place.level == "project"]
    quiet = quiet or ("quiet" in chosen and chosen["quiet"].value is True)
    return Defaults(
        is_read=True,
        before=tuple(before),
        settings={one.option.parameter: one for one in chosen.values() if not _by_set(one.option)},
        note=f"{CONFIG_FILE} in this folder sets {', '.join(here)}" if here and not quiet else "",
    )


def _names(param: Any) -> set[str]:
    return {name.removeprefix("--").replace("-", "_") for name in param.opts if name.startswith("--")}


def _rivals(keys: set[str]) -> set[str]:
    """What these keep out."""
    return {b for a, b in _EITHER if a in keys} | {a for a, b in _EITHER if b in keys}


def _applies(key: str, present: set[str]) -> bool:
    if key.startswith("hires_"):
        return "hires" in present
    return key not in _NEEDS or any(one in present for one in _NEEDS[key])


def _by_set(option: Option) -> bool:
    return not option.parameter or option.key == "set"


def _set_words(one: Setting) -> list[str]:
    """As options that are typed before the others."""
    if not _by_set(one.option):
        return []
    texts = one.value if one.option.key == "set" else [f"{one.option.name}={_as_axis(one.value)}"]
    return [word for text in texts for word in ("--set", text)]


def _as_axis(value: Any) -> str:
    """A value as --set of grid and batch reads it: quoted where a comma would part it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    text = str(value)
    return '"' + text.replace('"', '""') + '"' if any(mark in text for mark in ',"') else text


# ---- values ----------------------------------------------------------------------------------------------------------


def read(option: Option, text: str, where: str) -> Any:
    """The value of an option from text: a variable, a word of `gesso config set`. Raises GessoError.

    where  whose value it is, for messages
    """
    value: Any = text
    try:
        if option.is_list:
            value = [part.strip() for part in text.split(";") if part.strip()]
        elif option.kind is bool:
            value = FLAG_WORDS[text.strip().lower()]
        elif option.kind in (int, float):
            value = option.kind(text)
    except (ValueError, KeyError):
        raise GessoError(
            f"{where} is {short(text)}, expected {option.expected}", code="invalid_value", field=option.name
        ) from None
    return checked(option, value, where)


def checked(option: Option, value: Any, where: str) -> Any:
    """The value as the option takes it. Raises GessoError for one of another kind, or out of range.

    where  whose value it is, for messages
    """
    if option.is_list:
        values = value if isinstance(value, list) else [value]
        if any(isinstance(one, bool | dict | list) for one in values):
            raise _wrong(option.name, short(value), option.expected, where, value)
        return [_path_or_text(option, str(one)) for one in values]
    right: tuple[type, ...] = {int: (int,), float: (int, float), bool: (bool,)}.get(option.kind, (str, int, float))
    if not isinstance(value, right) or (isinstance(value, bool) and option.kind is not bool):
        raise _wrong(option.name, short(value), option.expected, where, value)
    if option.kind in (int, float):
        low, high, number = option.low, option.high, float(str(value))
        if (low is not None and number < low) or (high is not None and number > high):
            raise GessoError(
                f"{where}: {option.name} is {short(value)}, expected {span_of(low, high)}",
                code="invalid_value",
                field=option.name,
                data=range_data(value, low, high),
            )
    elif option.kind is not bool:
        value = _path_or_text(option, str(value))
    if option.row is not None and not (option.row.field.minus_one and value == -1):
        _check_field(option, value, where)
    return value


def _path_or_text(option: Option, text: str) -> str:
    """A leading ~ is the user's folder, as in a shell; in a prompt it is a character."""
    return os.path.expanduser(text) if option.row is None and text.startswith(("~/", "~\\")) else text


def _check_field(option: Option, value: Any, where: str) -> None:
    assert option.row is not None
    path = option.row.path
    try:
        request = with_values(TextToImageRequest(prompt="-"), {} if path.startswith("hires.") else {path: value})
        with_canonical_names(request)
    except RequestError as error:
        message = error.message.replace(path, option.name).removeprefix(f"{option.name} is ")
        message = f"{option.name} is {message}" if message != error.message.replace(path, option.name) else message
        raise GessoError(f"{where}: {message}", code=error.code, field=option.name, data=error.data) from None


def _wrong(name: str, found: str, expected: str, place: Place | str, value: Any) -> GessoError:
    quotes = f", such as {name} = {value}" if isinstance(value, str) and _is_number(value) else ""
    return GessoError(f"{place}: {name} is {found}, expected {expected}{quotes}", code="invalid_value", field=name)


def _is_number(text: str) -> bool:
    return bool(re.fullmatch(r"-?\d{1,18}(\.\d{1,9})?", text))


def _unknown(key: str, known: Any, place: Place, what: str) -> GessoError:
    return GessoError(
        f"{place}: {what}{nearest(key.replace('_', '-'), known)}",
        code="unknown_name",
        field=key,
        data=unknown_data(key, known),
    )
