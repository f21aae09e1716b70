"""Every JSON file of a model's folder with each of its values another: it is read, or the file is named."""

import copy
import json
import random
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from gesso.errors import GessoError
from gesso.families.diffusers_folder import read_family
from gesso.library.examine import examine
from gesso.text.tokenizer import Tokenizer
from tiny_sd import TINY_SD, TINY_SDXL, save_tiny_folder

DEEP: Any = "DEEP"  # written as lists in lists
HUGE: Any = "HUGE"  # written as a number of 5,000 digits
ODD = (
    *(None, True, False, 0, -1, 1, 1.5, 1e308, -1e308, 2**70, HUGE, float("nan"), float("-inf")),
    *("", "x", "\udcff", "a" * 9999, "../../etc/passwd", "/dev/zero", "\0"),
    *([], {}, [None], [[]], [1, "a"], ["diffusers", "os"], {"a": None}, DEEP),
)


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The place of each value in a JSON value, of the whole first."""
    yield at
    if isinstance(value, dict | list) and len(value) < 200:  # not each word of a vocabulary
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*at, key))


def changed(value: Any, at: tuple[Any, ...], odd: Any) -> str:
    whole = copy.deepcopy({"": value})
    holder: Any = whole
    for key in ("", *at)[:-1]:
        holder = holder[key]
    holder[("", *at)[-1]] = odd
    text = json.dumps(whole[""])
    return text.replace('"DEEP"', "[" * 50_000 + "]" * 50_000).replace('"HUGE"', "9" * 5000)


def all_changes(folder: Path) -> list[tuple[Path, Callable[[], str]]]:
    """Files of the folder, and what makes a text that could stand in them: thousands, most of them long."""
    found: list[tuple[Path, Callable[[], str]]] = []
    for path in sorted(folder.rglob("*.json")):
        text = path.read_text()
        value = json.loads(text)
        found += [(path, partial(changed, value, at, odd)) for at in places(value) for odd in ODD]
        found += [
            (path, partial(str, broken))
            for broken in ("", "{", "null", "[]", text[: len(text) // 2], "\ufeff" + text, text * 2)
        ]
        if isinstance(value, dict) and value:
            key = next(iter(value))
            twice = text.rstrip()[:-1] + f", {json.dumps(key)}: {json.dumps(value[key])}}}"
            found.append((path, partial(str, twice)))
            for gone in list(value)[:40]:
                found.append((path, partial(json.dumps, {k: v for k, v in value.items() if k != gone})))
    return found


def check(folder: Path, path: Path, text: str) -> None:
    before = path.read_bytes()
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    try:
        examine(folder, None)  # as a listing looks at it: never an error
        refused = refusal(folder, path)
        if refused is not None:
            assert folder.name in str(refused), "names no place"
            assert len(refused.one_line) < 4000
    finally:
        path.write_bytes(before)


def refusal(folder: Path, path: Path) -> GessoError | None:
    """What is told by who reads the file: the tokenizer's, or the configuration of the networks."""
    try:
        if path.parent.name.startswith("tokenizer"):
            Tokenizer.from_folder(path.parent)
        else:
            read_family(folder)
    except GessoError as error:
        return error
    return None


@pytest.fixture(
    scope="module",
    params=[TINY_SD, pytest.param(TINY_SDXL, marks=pytest.mark.slow)],  # twice the files, loaded 40 times
    ids=["sd15", "sdxl"],
)
def folder(request, tmp_path_factory) -> Path:
    return save_tiny_folder(tmp_path_factory.mktemp("model") / "tiny", request.param)


def test_odd_values_in_a_folder_are_refused_by_name(folder):
    changes = [(path, make) for path, make in all_changes(folder) if path.name != "vocab.json"]
    for path, make in random.Random(0).sample(changes, 40):
        check(folder, path, make())


def test_the_kind_of_a_scheduler_is_a_name(folder):
    path = folder / "scheduler" / "scheduler_config.json"
    for odd in (None, 3, [], {"a": None}, ["DDIMScheduler"]):
        check(folder, path, json.dumps(json.loads(path.read_text()) | {"_class_name": odd}))


@pytest.mark.slow
def test_all_odd_values_in_a_folder_are_refused_by_name(folder):
    for path, make in all_changes(folder):
        check(folder, path, make())
