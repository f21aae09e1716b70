"""Help texts: options in groups, with what they take, their defaults and examples, for the terminal and docs/cli.md.

typer can group options in its rich mode alone, which takes braces in a text for markup and 0.2 s more to import; so the
classes here print the groups as plain text. A command of gesso is made by an `App`:

    app = App()

    @app.command("list")
    def list_models(paths: Annotated[bool, typer.Option("--paths", help="Show full paths.")] = False) -> None:
        \"\"\"List all models.

        Examples:
            gesso models list --paths
        \"\"\"
"""

import inspect
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, takewhile
from pathlib import Path
from types import MappingProxyType, NoneType
from typing import Annotated, Any, get_args, get_origin

import typer
from typer.core import TyperCommand, TyperGroup

from gesso.errors import GessoError, short
from gesso.terminal.near import (
    name_of,
    no_such_command,
    no_such_option,
    option_of,
    other_names,
    row_of,
    spellings,
    usage_error,
)

FEW = 10  # options that need no groups
TOGETHER = 30  # characters of a default that stays on one line
LEFT = 27  # columns of names that texts stand beside; longer names get a line of their own
LONGEST = 1_000_000  # a range beyond says nothing
HELP_OPTIONS = ("-h", "--help")
OPTIONS, OTHER = "Options", "Other options"

# Options that set no field of a request; the others are where the table of fields has them. `rich_help_panel`, typer's
# word for a group, has precedence. The order of groups is that of the help text; the first name of a group leads it.
_GROUPS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "Size": ("scale",),
        "Grid": ("x", "y", "z", "cell"),
        "Pictures and captions": (),
        "Network": (),
        "Training": (
            *("recipe", "stage", "folder", "minutes", "samples", "finish-in", "rank", "rehearsal", "settings"),
            "explain",
        ),
        "Loss": (),
        "Report": (),
        "Verdict": (),
        "Prompt": ("negative-prompt", "style", "styles", "wildcards", "dynamic-prompts", "force"),
        "Size and sampling": ("size",),
        "Variations": ("variation-seed", "seed-size"),
        "Image to image": ("image",),
        "Inpainting and outpainting": ("mask", "mask-invert"),
        "Hires fix and large pictures": ("hires", "upscaler"),
        "LoRA, embeddings and ControlNet": ("lora", "embedding", "hint", "encoder", "weight"),
        "Model": ("model", "offline", "refiner", "unet", "vae", "family", "prediction"),
        "Address": ("host", "port"),
        "Storage": ("home",),
        "Worker": ("workers",),
        "Limits": ("max-queue",),
        "Webhooks and logs": ("webhooks",),
        "Prompts and judge": ("prompts", "judge", "judge-pictures"),
        "Objects": ("objects", "font", "atlas"),
        "Settings of other tools": ("from", "set"),
        "Output": (
            *("output", "title", "quality", "overwrite", "sheet", "preview", "preview-model", "open", "absolute-paths"),
            *("author",),
            *("tolerance", "to", "list", "json", "quiet", "show-settings"),
        ),
        "Speed and memory": (
            *("device", "dtype", "threads", "batch", "processes", "compile", "memory", "explain-memory", "cache"),
        ),
    }
)
_NUMBERS: Mapping[Any, str] = MappingProxyType({int: "a whole number", float: "a number"})
_METAVARS: Mapping[Any, str] = MappingProxyType({int: "N", float: "NUMBER", str: "NAME", Path: "FILE"})


@dataclass(frozen=True)
class Entry:
    """One option or argument in a help text.

    names    as typed: ("-s", "--steps"); of an argument its placeholder: ("PROMPT...",)
    metavar  placeholder for the value; "" where none is taken
    help     one or more sentences, with the range of a number
    default  in words; "" where there is none to speak of
    """

    names: tuple[str, ...]
    metavar: str
    help: str
    default: str = ""
    required: bool = False

    @property
    def left(self) -> str:
        """ "-s, --steps N" """
        return f"{', '.join(self.names)} {self.metavar}".strip()

    @property
    def right(self) -> str:
        """The sentence, and what is known of the value in brackets."""
        known = f" [default: {self.default}]" if self.default else " [required]" if self.required else ""
        return f"{self.help}{known}"


def arguments(command: Any) -> list[Entry]:
    """The arguments of a command, in their order."""
    kinds = _declared(command)
    return [
        Entry((argument_name(param),), "", param.help or "", _default(param, kinds))
        for param in command.params
        if param.param_type_name == "argument"
    ]


def argument_name(param: Any) -> str:
    """ "[PROMPT...]" """
    name = str(param.metavar or param.name.upper()) + ("..." if param.nargs == -1 else "")
    return name if param.required else f"[{name}]"


def groups(command: Any) -> dict[str, list[Entry]]:
    """The options of a command by their groups; in one where they are few."""
    kinds = _declared(command)
    params = [
        param for param in command.params if param.param_type_name == "option" and not getattr(param, "hidden", False)
    ]
    found: dict[str, list[Entry]] = {title: [] for title in (*_GROUPS, OPTIONS, OTHER)}
    for param in params:
        title = _group(param) if len(params) > FEW else OPTIONS
        leads = title in _GROUPS and _GROUPS[title][:1] == (option_of(param),)
        found[title].insert(0 if leads else len(found[title]), _entry(param, kinds))
    return {title: entries for title, entries in found.items() if entries}


def _group(param: Any) -> str:
    name = option_of(param)
    if param.rich_help_panel:
        return str(param.rich_help_panel)
    row = row_of(name)
    if row is not None and row.group is not None:
        return row.group
    return next((title for title, names in _GROUPS.items() if name in names), OTHER)


def _entry(param: Any, kinds: Mapping[str, tuple[Any, Any]]) -> Entry:
    names = sorted(getattr(param, "shown", param.opts), key=lambda name: len(name) > 2)
    kind, info = kinds.get(param.name, (str, None))
    return Entry(
        names=(*names, *param.secondary_opts),
        metavar="" if param.is_flag else param.metavar or _METAVARS.get(kind, "VALUE"),
        help=with_range(param.help or "", getattr(info, "min", None), getattr(info, "max", None)),
        default=_default(param, kinds),
        required=param.required,
    )


def with_range(sentence: str, low: float | None, high: float | None) -> str:
    """A help text with the range of a number behind its first sentence: "Sampling steps (1 to 1000)." """
    if low is None or (high or 0) > LONGEST or (high is None and low <= 1):
        return sentence
    first, dot, rest = sentence.partition(". ")
    span = span_of(low, high)
    return sentence if span in sentence else f"{first.removesuffix('.')} ({span}).{dot[1:]}{rest}"


def span_of(low: float | None, high: float | None) -> str:
    """ "1 to 1000", "7 or more"; "" without a lower end."""
    return "" if low is None else f"{low:g} or more" if high is None else f"{low:g} to {high:g}"


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[-+]?\d+", text) is not None


def _typed(param: Any, args: Sequence[str]) -> list[str]:
    """What was typed for an option, as often as it was: of "--steps 4", "--steps=4" and "-s4" the 4."""
    found = []
    for word, after in pairwise([*takewhile(lambda word: word != "--", args), ""]):
        name, sign, value = word.partition("=")
        if name in param.opts:
            found.append(value if sign else after)
        elif word[:2] in param.opts and word[:2] != "--":
            found.append(word[2:])
    return found


def _listed(value: Any) -> Sequence[Any]:
    return value if isinstance(value, (list, tuple)) else (value,)


def _default(param: Any, kinds: Mapping[str, tuple[Any, Any]]) -> str:
    """The default in words: those declared as `show_default`, or the value itself."""
    _, info = kinds.get(param.name, (str, None))
    if isinstance(words := getattr(info, "show_default", None), str):
        return words
    value = param.default
    if value is None or value is False or value in ("", (), []) or param.required:
        return ""
    if value is True:
        return str(param.opts[0]) if param.secondary_opts else ""
    return str(value)


def _declared(command: Any) -> dict[str, tuple[Any, Any]]:
    """Type of the values and typer's declaration of each parameter, by name, from the signature of its function."""
    if command.callback is None:
        return {}
    found = {}
    for one in inspect.signature(command.callback).parameters.values():
        kind, *more = get_args(one.annotation) if get_origin(one.annotation) is Annotated else (one.annotation,)
        kinds = [kind for kind in get_args(kind) if kind is not NoneType] or [kind]  # of `int | None`, or of a list
        kind = get_args(kinds[0])[0] if get_args(kinds[0]) else kinds[0]
        found[one.name] = (kind, more[0] if more else None)
    return found


def split_examples(text: str | None) -> tuple[str, list[str]]:
    """The text of a docstring, and the lines of its section "Examples:", which is the last."""
    body, mark, rest = inspect.cleandoc(text or "").partition("\nExamples:\n")
    return body.strip(), textwrap.dedent(rest).strip().splitlines() if mark else []


class _Plain:
    """What commands and groups of commands share: their help text, and errors for options that they lack."""

    params: list[Any]
    examples: list[str]

    def __init__(self, *args: Any, help: str | None = None, **more: Any) -> None:
        text, self.examples = split_examples(help)
        more |= {"help": text, "rich_markup_mode": None}
        super().__init__(*args, **more)
        names_of = spellings if isinstance(self, Group) else other_names  # options of a group set no field
        taken = {name for param in self.params for name in (*param.opts, *param.secondary_opts)}
        for param in self.params:
            if param.param_type_name == "option":
                param.shown = tuple(param.opts)
                param.opts += [name for name in names_of(param) if name not in taken]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As click does; an option that does not exist is an error with the option that is meant."""
        if not args and isinstance(self, Group) and not (self.invoke_without_command or ctx.resilient_parsing):
            print(ctx.get_help())
            raise typer.Exit
        typed = list(args)  # click takes words out of it
        try:
            left: list[str] = super().parse_args(ctx, args)  # type: ignore[misc]
        except Exception as error:  # the classes of click are private in typer
            if (words := self._in_words(ctx, typed, error)) is None:
                raise
            raise words from None
        if not ctx.resilient_parsing:
            self._refuse_empty_paths(ctx.params, typed)
        return left

    def _refuse_empty_paths(self, values: Mapping[str, Any], args: Sequence[str]) -> None:
        """An empty path, such as that of a shell's variable that is not set, would be the current folder."""
        kinds = _declared(self)
        for param in self.params:
            if kinds.get(param.name, (str, None))[0] is not Path or Path() not in _listed(values.get(param.name)):
                continue
            if param.param_type_name == "option":
                typed, name = _typed(param, args), name_of(param)
                is_empty = "" in (typed if param.multiple else typed[-1:])  # the last counts, unless all do
            else:
                name = argument_name(param).strip("[]")
                is_empty = "" in args and not {".", "./"} & set(args)
            if is_empty:
                raise usage_error(f"{name} is empty, expected a path", param.name)

    def _in_words(self, ctx: Any, args: Sequence[str], error: Exception) -> GessoError | None:
        """An error of click about a command line, as gesso words it; None for others."""
        option, param = getattr(error, "option_name", None), getattr(error, "param", None)
        if option is not None and hasattr(error, "possibilities"):
            return no_such_option(ctx.command_path, option, self.params)
        kinds = _declared(self)
        if option is not None:  # without a value, or with one that it does not take
            entry = next(
                _entry(param, kinds) for param in self.params if option in (*param.opts, *param.secondary_opts)
            )
            takes = f"needs a value: {option} {entry.metavar}" if entry.metavar else "takes no value"
            return usage_error(f"{option} {takes}", option)
        if param is None:
            extra = re.search(r"unexpected extra argument\S* \((.*)\)", getattr(error, "message", ""), re.DOTALL)
            told = extra and f"unexpected argument {short(extra[1])}. `{ctx.command_path} --help` shows what it takes"
            return usage_error(told) if told else None
        is_option = param.param_type_name == "option"
        name = name_of(param) if is_option else argument_name(param)
        if type(error).__name__ == "MissingParameter":
            example = f". For example: {self.examples[0]}" if self.examples else ""
            return usage_error(f"{name} is missing{example}", param.name)
        kind, info = kinds.get(param.name, (str, None))
        if kind in _NUMBERS and (typed := _typed(param, args)):
            value = typed[-1]  # which counts
            span = span_of(getattr(info, "min", None), getattr(info, "max", None))
            expected = span if span and _is_number(value) else _NUMBERS[kind] + (f", {span}" if span else "")
            found = value[:60] if _is_number(value) else short(value)
            return usage_error(f"{name} is {found}, expected {expected}", param.name)
        return usage_error(f"{name}: {getattr(error, 'message', error)}".rstrip("."), param.name)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Arguments, then options in their groups."""
        sections = {"Arguments": arguments(self)} if arguments(self) else {}
        sections |= groups(self)
        shown = Entry(HELP_OPTIONS, "", "Show this help.")
        grouped = sections.keys() & _GROUPS.keys()
        sections.setdefault(OTHER if grouped else OPTIONS, []).append(shown)
        left = min(LEFT, max((len(entry.left) for entries in sections.values() for entry in entries), default=0))
        for title, entries in sections.items():
            with formatter.section(title):
                for entry in entries:
                    formatter.write("\n".join(_lines(entry, left, formatter.width)) + "\n")

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """The examples."""
        if self.examples:
            with formatter.section("Examples"):
                formatter.write("".join(f"  {line}".rstrip() + "\n" for line in self.examples))


def _lines(entry: Entry, left: int, width: int) -> Iterator[str]:
    """An entry in two columns."""
    column, default = left + 4, f"default: {entry.default}"
    right = entry.right.replace(default, default.replace(" ", "\0")) if len(default) < TOGETHER else entry.right
    texts = textwrap.wrap(right, max(width - column, 20), break_long_words=False, break_on_hyphens=False)
    texts = [text.replace("\0", " ") for text in texts]
    first = f"  {entry.left}"
    if len(first) > column - 2 or not texts:
        yield first
    else:
        yield f"{first:{column}}{texts.pop(0)}"
    for text in texts:
        yield f"{'':{column}}{text}"


class Command(_Plain, TyperCommand):
    """A command."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """What stands behind its name: "[OPTIONS] [PROMPT...]"."""
        names = [argument_name(param) for param in self.params if param.param_type_name == "argument"]
        return [self.options_metavar or "", *names]


class Group(_Plain, TyperGroup):
    """A command with commands below it."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """The options, then the commands."""
        self.format_commands(ctx, formatter)
        _Plain.format_options(self, ctx, formatter)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """As click does; a command that does not exist is an error with the command that is meant."""
        if args and not ctx.resilient_parsing and args[0] not in self.commands:
            raise no_such_command(ctx.command_path, args[0], list(self.commands))
        return super().resolve_command(ctx, args)


class App(typer.Typer):
    """A `typer.Typer` whose commands have these help texts; without a command it shows its help."""

    def __init__(self, **settings: Any) -> None:
        defaults: dict[str, Any] = {
            "cls": Group,
            "add_completion": False,
            "pretty_exceptions_enable": False,
            "rich_markup_mode": None,
            "context_settings": {"help_option_names": list(HELP_OPTIONS)},
        }
        super().__init__(**(defaults | settings))

    def command(self, name: str | None = None, **settings: Any) -> Callable[[Any], Any]:
        """As typer's."""
        return super().command(name, **({"cls": Command} | settings))
