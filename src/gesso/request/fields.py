"""The declaration of each request field: bounds, help, and its names in other tools.

A field is an annotated attribute of a frozen dataclass:

    num_steps: Annotated[int | None, whole(1, 1000, label="Steps", help="Sampling steps.", infotext="Steps")] = None

`whole`, `real`, `flag`, `choice`, `named`, `text`, `file_name`, `digest` and `listed` say what its values are; the type
says the same to whoever reads the code, and to mypy. `rows` gives the table of a class. From it come the checks, JSON
Schema, options of the command line, axes of grids, flags of batch files, keys of infotext, and tables in docs/.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from functools import cache
from types import MappingProxyType, NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from msgspec import Meta

from gesso.diffusion.sampler_table import SAMPLERS
from gesso.diffusion.schedule_table import SCHEDULES
from gesso.errors import short
from gesso.request.checks import (
    HEX_64,
    MAX_FILE_NAME,
    MAX_NAME,
    MAX_PROMPT_CHARS,
    RequestError,
    as_json,
    check_file_name,
    check_text,
    range_data,
)
from gesso.request.typed import OR_RANDOM, check, hints_of
from gesso.text.dialects import DIALECTS

# What a picture is drawn from: text alone, a picture, a part of a picture, more than a picture; models that edit by
# instruction, and models that enlarge.
Job = Literal["text", "image", "inpaint", "outpaint", "edit", "upscale"]
JOBS: tuple[Job, ...] = get_args(Job)
WITH_PICTURE: tuple[Job, ...] = ("image", "inpaint", "outpaint", "edit", "upscale")

Preset = Literal["gesso", "a1111", "diffusers"]
PRESET_NAMES: tuple[Preset, ...] = get_args(Preset)

Tool = Literal["a1111", "comfyui", "diffusers", "invokeai", "novelai"]
TOOLS: Mapping[Tool, str] = MappingProxyType(
    {"a1111": "A1111", "comfyui": "ComfyUI", "diffusers": "diffusers", "invokeai": "InvokeAI", "novelai": "NovelAI"}
)
NOISE_NAMES = ("philox", "cpu", "nv")  # of `diffusion.noise`, which needs torch: ours, and those of other tools
# Names that can grow by a plug-in, so that no type lists them.
REGISTRIES: Mapping[str, Callable[[], tuple[str, ...]]] = MappingProxyType(
    {
        "samplers": lambda: tuple(SAMPLERS),
        "schedules": lambda: tuple(SCHEDULES),
        "noises": lambda: NOISE_NAMES,
        "dialects": lambda: tuple(DIALECTS),
    }
)
Kind = Literal["whole", "real", "flag", "text", "choice", "list", "part", "parts"]
# What a form or a help text shows together.
Group = Literal[
    "Prompt",
    "Size and sampling",
    "Variations",
    "Image to image",
    "Inpainting and outpainting",
    "Hires fix and large pictures",
    "LoRA, embeddings and ControlNet",
    "Model",
    "Settings of other tools",
]
_INT64 = 2**63 - 1
FLAG_WORDS: Mapping[str, bool] = MappingProxyType(
    dict.fromkeys(("true", "yes", "on", "1"), True) | dict.fromkeys(("false", "no", "off", "0"), False)
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Field:
    """The declaration of a field, besides its type.

    label     name in a form
    group     what it is shown with; of a part: that of its fields, too, unless they have their own
    help      one sentence: what it does
    unit      unit of a number: pixels, share, ...
    low, high     range of a number
    least, most   number of characters of a text, or of values of a list
    pattern   regular expression of a text
    open      description of the default if it is not set; fields that presets decide need none
    optional  a resolved request may leave it unset
    presets   value in each preset
    means     meaning of each choice
    registry  registry of its names: samplers, schedules, noises, dialects
    jobs      jobs that it applies to; all by default
    options   names where people type; the first is the option of the command line
    letter    one-letter option
    also      further names in grids and batch files
    tools     names in other tools
    infotext  key in A1111's infotext
    words     A1111's names for its values there
    minus_one where people type, -1 means unset, as other tools ask for a random seed; a request itself refuses it
    metavar   placeholder for the value in a help text
    expected  description of its values for errors, if the type does not give a good one
    rule      a check beyond type and bounds: (path, value); raises RequestError
    """

    label: str
    help: str
    group: Group | None = None
    unit: str = ""
    low: float | None = None
    high: float | None = None
    least: int | None = None
    most: int | None = None
    pattern: str | None = None
    open: str = ""
    optional: bool = False
    presets: Mapping[Preset, Any] = field(default_factory=dict)
    means: Mapping[str, str] = field(default_factory=dict)
    registry: str = ""
    jobs: tuple[Job, ...] = JOBS
    options: tuple[str, ...] = ()
    letter: str = ""
    also: tuple[str, ...] = ()
    tools: Mapping[Tool, tuple[str, ...]] = field(default_factory=dict)
    infotext: str = ""
    words: Mapping[Any, str] = field(default_factory=dict)
    minus_one: bool = False
    metavar: str = ""
    expected: str = ""
    rule: Callable[[str, Any], None] | None = None

    @property
    def meta(self) -> Meta:
        """The bounds, for msgspec, which holds those of whole numbers in 64 bits with a sign."""
        high = self.high if self.high is None or self.high <= _INT64 else None
        bounds: dict[str, Any] = {"ge": self.low, "le": high}  # None sets none
        bounds |= {"min_length": self.least, "max_length": self.most, "pattern": self.pattern}
        return Meta(**bounds, extra={"field": self})


def whole(low: int, high: int, **about: Any) -> Field:
    """A whole number from low to high."""
    return _field(about, low=low, high=high)


def real(low: float, high: float, **about: Any) -> Field:
    """A finite number from low to high."""
    return _field(about, low=low, high=high)


def text(**about: Any) -> Field:
    """Text of the length of a prompt."""
    return _field(about, most=MAX_PROMPT_CHARS, rule=check_text)


def named(**about: Any) -> Field:
    """A short name."""
    return _field(about, least=1, most=MAX_NAME, expected="a short name", rule=check_text)


def file_name(**about: Any) -> Field:
    """The name of a file that a `Finder` looks up."""
    expected = "a file name"
    return _field(about, least=1, most=MAX_FILE_NAME, expected=expected, rule=check_file_name)


def digest(**about: Any) -> Field:
    """The SHA-256 of a picture, as 64 hexadecimal digits."""
    return _field(about, most=64, pattern=f"^{HEX_64}$")


def listed(least: int | None = None, most: int | None = None, **about: Any) -> Field:
    """A list of so many values."""
    return _field(about, least=least, most=most)


def plain(**about: Any) -> Field:
    """What its type says in full: true or false, one of several words, a part, values in fixed places."""
    return _field(about)


flag = choice = part = plain


def by_preset(gesso: Any, a1111: Any, diffusers: Any) -> Mapping[Preset, Any]:
    """The value of each preset."""
    return MappingProxyType({"gesso": gesso, "a1111": a1111, "diffusers": diffusers})


def _field(about: Mapping[str, Any], **more: Any) -> Field:
    """A field; names of tools may be given as arguments, one alone without a tuple."""
    named = {tool: about[tool] for tool in TOOLS if tool in about}
    rest = {key: value for key, value in about.items() if key not in TOOLS}
    names = {tool: (value,) if isinstance(value, str) else value for tool, value in named.items()}
    return Field(**(more | rest), tools=MappingProxyType(names))


@dataclass(frozen=True, kw_only=True)
class Row:
    """One field, with all that is known about it.

    path     as a request has it: num_steps, hires.strength
    kind     of its values
    group    what it is shown with
    part     the dataclass of a kind "part" or "parts"
    default  MISSING where it must be given
    choices  of a kind "choice"
    """

    path: str
    kind: Kind
    field: Field
    group: Group | None = None
    part: type | None = None
    default: Any = MISSING
    choices: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition(".")[2]

    @property
    def is_number(self) -> bool:
        """Whether its values are single numbers."""
        return self.kind in ("whole", "real")

    @property
    def is_single(self) -> bool:
        """Whether its values are single words or numbers, such as a line of text holds."""
        return self.kind in ("whole", "real", "flag", "text", "choice")

    @property
    def values(self) -> tuple[str, ...]:
        """The choices or registered names; empty if there are too many to list."""
        return self.choices or (REGISTRIES[self.field.registry]() if self.field.registry else ())

    @property
    def names(self) -> tuple[str, ...]:
        """All names that users may type for it, with underscores; its own name first.

        A1111's name is among them if its values are the same as ours.
        """
        theirs = self.field.tools.get("a1111", ()) if self.kind not in ("choice", "flag") else ()
        own = (self.path.removeprefix("conventions."), self.path)
        names = (*own, *self.field.options, *self.field.also, *theirs)
        return tuple(dict.fromkeys(one.replace("-", "_") for one in names))

    def read(self, words: str, called: str = "") -> Any:
        """Parse a value from text. Raises RequestError if it is not a number, or not true or false.

        called: the name that was typed, for the message
        """
        try:
            if self.kind == "whole":
                return int(words)
            if self.kind == "real":
                return float(words)
            if self.kind == "flag":
                return FLAG_WORDS[words.strip().lower()]
        except (ValueError, KeyError):
            expected = {"whole": "a whole number", "real": "a number"}.get(self.kind, "true or false")
            raise RequestError(
                self.path,
                f"{called or self.path} is {short(words)}, expected {expected}",
                data={"value": as_json(words)},
            ) from None
        return words

    def write(self, value: Any) -> str:
        """A value as written in infotext."""
        if value in self.field.words:
            return self.field.words[value]
        return f"{value:g}" if self.kind == "real" else str(value)


@cache
def rows(cls: type, prefix: str = "") -> Mapping[str, Row]:
    """The table of a class: name -> row, in the order of its declaration."""
    hints = hints_of(cls)
    return MappingProxyType(
        {one.name: _row(f"{prefix}{one.name}", hints[one.name], one.default) for one in fields(cls)}
    )


def all_rows(cls: type, prefix: str = "") -> Iterator[Row]:
    """The rows of a class and of the single parts that it holds: hires.strength after hires."""
    for row in rows(cls, prefix).values():
        yield row
        if row.kind == "part" and row.part is not None:
            for inner in all_rows(row.part, f"{row.path}."):
                yield inner if inner.group is not None else replace(inner, group=row.group)


def _row(path: str, hint: Any, default: Any) -> Row:
    kind, *metadata = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    about = next((one for one in metadata if isinstance(one, Field)), None)
    assert about is not None, f"{path}: nothing is declared"
    if get_origin(kind) in (Union, UnionType):
        (kind,) = (one for one in get_args(kind) if one is not NoneType)
    named, held, choices = _kind(kind)
    return Row(path=path, kind=named, field=about, group=about.group, part=held, default=default, choices=choices)


def _kind(hint: Any) -> tuple[Kind, type | None, tuple[str, ...]]:
    if get_origin(hint) is Literal:
        return "choice", None, get_args(hint)
    if is_dataclass(hint) and isinstance(hint, type):
        return "part", hint, ()
    if get_origin(hint) is tuple:
        first = get_args(hint)[0]
        if is_dataclass(first) and isinstance(first, type):
            return "parts", first, ()
        return "list", None, ()
    kinds: dict[Any, Kind] = {int: "whole", float: "real", bool: "flag", str: "text"}
    return kinds[hint], None, ()


def validate(one: Any, declared: type, prefix: str = "") -> None:
    """Validate every field of a frozen dataclass as declared, and convert lists to tuples and the like.

    declared: the class whose types count; bounds and rules are those of the class that declares the field. Raises
    RequestError.
    """
    names, parts, checked = _plan(declared)
    before = {key: getattr(one, key) for key in names}
    values = before | {key: _as_object(before[key], part) for key, part in parts}
    after = check(declared, values, prefix=prefix)
    for key, high, about in checked:
        value = after[key]
        if value is None:
            continue
        if high is not None and value > high:
            random = OR_RANDOM if about.minus_one else ""
            raise RequestError(
                f"{prefix}{key}",
                f"{prefix}{key} is {short(value)}, expected {about.low} to {high}{random}",
                data=range_data(value, about.low, high),
            )
        if about.rule is not None:
            about.rule(f"{prefix}{key}", value)
    for key, value in after.items():
        if value is not before[key]:
            object.__setattr__(one, key, value)


@cache
def _plan(declared: type) -> tuple[tuple[str, ...], tuple[tuple[str, type], ...], tuple[tuple[str, Any, Field], ...]]:
    """The names of a class's fields, those that hold parts, and those of which more is checked than msgspec can: a
    bound beyond 64 bits, or a rule."""
    table, checked = rows(declared), list[tuple[str, Any, Field]]()
    for key, row in table.items():
        high = row.field.high if row.field.high is not None and row.field.high > _INT64 else None
        if high is not None or row.field.rule is not None:
            checked.append((key, high, row.field))
    parts = tuple((key, row.part) for key, row in table.items() if row.part is not None)
    return tuple(table), parts, tuple(checked)


def _as_object(value: Any, part: type | None) -> Any:
    """A part that is a resolved one, where an open one is declared, or the other way round, by its values."""
    if value is None or part is None or type(value) in (part, dict, tuple, list):
        return value
    if not is_dataclass(value) or isinstance(value, type):
        return value
    related = issubclass(part, type(value)) or issubclass(type(value), part)
    return {one.name: getattr(value, one.name) for one in fields(value)} if related else value
