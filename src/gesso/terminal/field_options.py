"""Options for fields of a request, generated from the table of fields: names, type, range, help and default."""

import functools
import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from gesso.request.checks import RequestError
from gesso.request.fields import Row
from gesso.request.request import ROWS
from gesso.request.typed import OR_RANDOM
from gesso.terminal.help import with_range

_TYPES: Mapping[str, type] = {"whole": int, "real": float, "text": str, "choice": str}
_LISTED = {"samplers": "`gesso samplers` lists them.", "schedules": "`gesso samplers` lists them."}
_PATH = re.compile(r"\b[a-z]+(?:[._][a-z]+)+\b")  # a field whose name is not that of its option: num_steps, mask.blur


def with_fields(places: Mapping[str, Sequence[str]]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command options for fields of a request.

    places  parameter of the command -> paths of the fields whose options follow it in the help
    The command gets what was typed as its argument `fields`: path -> value; fields that were left out are not in it.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        paths = {_parameter(path): path for some in places.values() for path in some}
        own = [one for one in inspect.signature(command).parameters.values() if one.name != "fields"]
        assert places.keys() <= {one.name for one in own}

        @functools.wraps(command)
        def run(**values: Any) -> None:
            typed = {path: _value(ROWS[path], values.pop(name)) for name, path in paths.items()}
            fields = {path: value for path, value in typed.items() if value != ROWS[path].default}
            with field_names_as_options():
                command(**values, fields=fields)

        parameters = []
        for one in own:
            parameters.append(one.replace(kind=inspect.Parameter.KEYWORD_ONLY))
            parameters += [_option(ROWS[path]) for path in places.get(one.name, ())]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return run

    return decorate


def help_of(row: Row) -> str:
    """The help of an option: the sentence of the table, with the range, the choices, or the command that lists them."""
    about, sentence = row.field, row.field.help.removesuffix(".")
    if about.minus_one:
        return f"{sentence} or if -1."
    if about.registry in _LISTED:
        return f"{about.help} {_LISTED[about.registry]}"
    if words := row.choices or tuple(about.means):
        return f"{sentence} ({', '.join(words)})."
    return with_range(about.help, about.low, about.high)


def default_of(row: Row) -> str:
    """The default of an option in words: that of the preset gesso, and of the others where theirs differ; else what
    decides it, such as the model. "" where nothing is set, and where the sentence says it or the value itself does."""
    about = row.field
    if about.minus_one or row.default not in (None, "", ()):
        return ""
    if about.presets:
        own = about.presets["gesso"]
        others = [(name, value) for name, value in about.presets.items() if value != own]
        also = [about.open] if about.open else []
        return "; ".join([_shown(own), *(f"preset {name}: {_shown(value)}" for name, value in others), *also])
    return about.open.replace("'s default", "'s")


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


@contextmanager
def field_names_as_options() -> Iterator[None]:
    """Errors about fields name the options that set them: "mask.padding needs" becomes "--mask-padding needs"."""
    try:
        yield
    except RequestError as error:
        random = "; -1 is a random one"
        error.message = _PATH.sub(lambda match: _named(match[0]), error.message.replace(OR_RANDOM, random))
        if error.message.startswith(f"{error.field} is "):  # a name without a mark is a word elsewhere: seed, width
            error.message = _named(error.field) + error.message.removeprefix(error.field)
        raise


def _named(path: str) -> str:
    """How users type a field: its option, or as --set takes it."""
    row = ROWS.get(path)
    if row is None:
        return path
    return f"--{row.field.options[0]}" if row.field.options else row.names[0]


def _parameter(path: str) -> str:
    return path.replace(".", "__")


def _option(row: Row) -> inspect.Parameter:
    about = row.field
    names = [f"--{name}" for name in about.options] + ([f"-{about.letter}"] if about.letter else [])
    # Ranges are the request's to check: its message says both ends.
    option = typer.Option(
        *names, help=help_of(row), metavar=about.metavar or None, show_default=default_of(row) or False
    )
    kind: Any = _TYPES[row.kind]
    return inspect.Parameter(
        _parameter(row.path),
        inspect.Parameter.KEYWORD_ONLY,
        default=row.default,
        annotation=Annotated[kind if row.default is not None else kind | None, option],
    )


def _value(row: Row, value: Any) -> Any:
    """What was typed; -1 leaves a seed open, as other tools ask for a random one."""
    return row.default if row.field.minus_one and value == -1 else value
