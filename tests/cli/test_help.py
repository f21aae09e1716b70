"""Help texts: groups, defaults, placeholders, examples, on lines that fit a terminal."""

import io
import re
import shlex
from collections.abc import Iterator
from contextlib import redirect_stdout
from functools import cache
from itertools import chain
from typing import Any

import pytest
import typer

from gesso.cli.app import build_app
from gesso.cli.commands import NAMES
from gesso.cli.main import run
from gesso.request.fields import PRESET_NAMES
from gesso.request.groups import Mask, Source
from gesso.request.presets import PRESETS
from gesso.request.request import ROWS, TextToImageRequest
from gesso.request.resolving import Defaults, resolve
from gesso.terminal import help as helping
from gesso.terminal.field_options import default_of
from gesso.terminal.first_word import understood
from gesso.terminal.help import arguments, groups, split_examples, with_range


@cache
def whole(name: str) -> Any:
    """The command line with that command imported."""
    return typer.main.get_command(build_app(name))


def walk() -> Iterator[tuple[tuple[str, ...], Any]]:
    """All commands with their paths, those with commands below them too."""
    yield (), whole(NAMES[0])

    def below(path: tuple[str, ...], command: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
        yield path, command
        for name, inner in getattr(command, "commands", {}).items():
            yield from below((*path, name), inner)

    for name in NAMES:
        yield from below((name,), whole(name).commands[name])


ALL = dict(walk())
LEAVES = {path: command for path, command in ALL.items() if path and not hasattr(command, "commands")}
each = pytest.mark.parametrize("path", ALL, ids=lambda path: " ".join(path) or "gesso")


@each
def test_help_fits_80_columns_and_says_words(path: tuple[str, ...], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "200")
    out = io.StringIO()
    with redirect_stdout(out):
        assert run([*path, "--help"]) == 0
    lines = out.getvalue().splitlines()
    assert [line for line in lines if len(line) > 80] == []
    assert lines[0].startswith(" ".join(["Usage: gesso", *path]))
    assert not re.search(r"<(int|str|float|path|list)|\[x|None", out.getvalue())
    assert "Examples:" in lines


@each
def test_examples_can_be_typed(path: tuple[str, ...]):
    """Every word and every option of them exists, and each value is one that the option takes."""
    examples = ALL[path].examples
    assert (4 if len(ALL[path].params) > 3 else 1) <= len(examples) <= 7
    for line in examples:
        name, *words = shlex.split(line, comments=True)
        assert name == "gesso"
        words = words if words[0] in NAMES else understood(words, NAMES)
        words = [word for word in words if word != "--help"]
        command, context, rest = whole(words[0]), None, words
        while True:
            context = command.make_context("gesso", list(rest), parent=context)
            if not hasattr(command, "commands"):
                break
            rest = [*context._protected_args, *context.args]
            if not rest and command.invoke_without_command:
                break
            _, command, rest = command.resolve_command(context, rest)
    assert any(shlex.split(line)[1 : 1 + len(path)] == list(path) for line in examples)


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_many_options_are_in_groups(path: tuple[str, ...]):
    options = [param for param in LEAVES[path].params if param.param_type_name == "option" and not param.hidden]
    shown = groups(LEAVES[path])
    assert sum(map(len, shown.values())) == len(options)
    assert helping.OTHER not in shown  # an option that is in no group: gesso.terminal.help._GROUPS
    if len(options) <= helping.FEW:
        assert set(shown) <= {helping.OPTIONS}
    else:
        assert helping.OPTIONS not in shown


def test_a_field_is_in_the_same_group_everywhere():
    for path, command in LEAVES.items():
        for title, entries in groups(command).items():
            for entry in entries:
                name = next(name for name in entry.names if name.startswith("--")).lstrip("-")
                row = next((row for row in ROWS.values() if row.field.options[:1] == (name,)), None)
                ours = "panel" if path[0] == "upscale" else title  # whose --tile is that of a network
                assert row is None or ours in (row.group, helping.OPTIONS, "panel"), (path, name)


def test_every_field_with_an_option_has_a_group():
    assert [row.path for row in ROWS.values() if row.field.options and row.group is None] == []


def test_letters_and_placeholders_are_the_same_everywhere():
    """-s is --steps in every command that has either, and a number is N everywhere."""
    letters: dict[str, set[str]] = {}
    for command in LEAVES.values():
        for entry in chain.from_iterable(groups(command).values()):
            assert entry.metavar == entry.metavar.strip() and "<" not in entry.metavar
            long = next(name for name in entry.names if name.startswith("--"))
            for name in entry.names:
                if not name.startswith("--"):
                    letters.setdefault(name, set()).add(long)
                    letters.setdefault(long, set()).add(name)
    assert {name: found for name, found in letters.items() if len(found) > 1} == {"-y": {"--y", "--yes"}}
    for path, command in LEAVES.items():  # nor does a command lack the letter that others have
        for entry in chain.from_iterable(groups(command).values()):
            long = next(name for name in entry.names if name.startswith("--"))
            assert letters.get(long, set()) <= set(entry.names), (path, long)


# ---- defaults --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_defaults_are_those_of_the_command(path: tuple[str, ...]):
    command = LEAVES[path]
    entries = {entry.names: entry for entry in chain.from_iterable(groups(command).values())}
    for param in command.params:
        if param.param_type_name != "option" or param.hidden or param.required:
            continue
        entry = next(entry for names, entry in entries.items() if set(names) & set(param.opts))
        if param.default not in (None, False, "") and not param.is_flag:
            assert entry.default == str(param.default), (path, entry.names)
        elif entry.default and " " not in entry.default:  # one value, which stands in words beside `None`
            assert entry.default in WORDS or (path, entry.names[-1], entry.default) in LITERALS, (path, entry)


WORDS = {"gesso-mini", "stretch", "original", "whole", "32", "0", "unchanged", "FILE-WIDTHxHEIGHT.png", "FILE-NAME.png"}
WORDS |= {"--text", "--browser", "gesso", "~/.cache/gesso/STYLE", "the"}
LITERALS = {(("upscale",), "--tile", "192"), (("upscale",), "--rim", "16")}


def test_defaults_of_tiles_are_those_of_the_network():
    from gesso.pipelines.upscaling import UpscalerTiles

    tiles = UpscalerTiles()
    shown = {entry.names: entry.default for entry in chain.from_iterable(groups(LEAVES[("upscale",)]).values())}
    assert (shown[("--tile",)], shown[("--rim",)]) == (str(tiles.side), str(tiles.rim))


@pytest.mark.parametrize("path", [path for path, row in ROWS.items() if row.field.options and row.field.presets])
def test_defaults_of_presets_are_theirs(path: str):
    shown = default_of(ROWS[path])
    first, *others = shown.split("; ")
    values = {name: PRESETS[name][path] for name in PRESET_NAMES}
    assert first == f"{values['gesso']:g}" if isinstance(values["gesso"], float) else first == str(values["gesso"])
    for name in ("a1111", "diffusers"):
        told = next((words.removeprefix(f"preset {name}: ") for words in others if f"preset {name}" in words), first)
        assert told == (f"{values[name]:g}" if isinstance(values[name], float) else str(values[name]))


def test_defaults_in_one_word_are_what_a_request_gets():
    model = Defaults(
        width=64,
        height=64,
        num_steps=20,
        guidance_scale=4.0,
        sampler="euler",
        schedule="karras",
        multiple=16,
        max_clip_skip=2,
        samplers=("euler",),
        schedules=("karras",),
        noises=("philox",),
        etas={},
    )
    picture = "a" * 64
    request = TextToImageRequest(prompt="", source=Source(image=picture), mask=Mask(image=picture, area="masked"))
    resolved = resolve(request, model)
    assert default_of(ROWS["guidance_rescale"]) == f"{resolved.guidance_rescale:g}"
    assert default_of(ROWS["mask.content"]) == resolved.mask.content
    assert default_of(ROWS["mask.padding"]) == str(resolved.mask.padding)
    assert default_of(ROWS["preset"]) == resolved.preset


# ---- parts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sentence", "low", "high", "expected"),
    [
        ("Sampling steps.", 1, 1000, "Sampling steps (1 to 1000)."),
        ("Batch size. Above 1, bits differ.", 1, 256, "Batch size (1 to 256). Above 1, bits differ."),
        ("How much, 0 to 1.", 0, 1, "How much, 0 to 1."),
        ("Seed.", 0, 2**64, "Seed."),
        ("Minutes.", 0, None, "Minutes."),
        ("Prompts.", 7, None, "Prompts (7 or more)."),
        ("Model.", None, None, "Model."),
    ],
)
def test_a_range_stands_behind_the_first_sentence(sentence: str, low: float, high: float, expected: str):
    assert with_range(sentence, low, high) == expected


def test_examples_are_the_end_of_a_docstring():
    assert split_examples("Draw.\n\nMore.\n\nExamples:\n    gesso a\n    gesso b\n") == (
        "Draw.\n\nMore.",
        ["gesso a", "gesso b"],
    )
    assert split_examples("Draw.") == ("Draw.", [])
    assert split_examples(None) == ("", [])


def test_arguments_are_named_as_they_are_typed():
    assert [entry.names for entry in arguments(LEAVES[("metadata", "copy")])] == [("FROM",), ("TO",)]
    assert [entry.names for entry in arguments(LEAVES[("generate",)])] == [("[PROMPT...]",)]


@pytest.mark.parametrize(
    "path",
    [
        path
        for path, command in ALL.items()
        if path and hasattr(command, "commands") and not command.invoke_without_command
    ],
    ids=" ".join,
)
def test_a_group_alone_shows_its_help(path: tuple[str, ...], capsys: pytest.CaptureFixture[str]):
    assert run([*path]) == 0
    alone = capsys.readouterr()
    assert run([*path, "--help"]) == 0
    assert alone == capsys.readouterr()
    assert alone.err == ""
