"""Files that a request names, among those that are given and those that are built in."""

from pathlib import Path
from typing import Any

import pytest

from gesso.arguments import ArgumentError
from gesso.errors import GessoError
from gesso.request.finder import NamedFiles, embedded_files, find_file

INK = {"lora": {"ink": Path("ink.safetensors")}}


def test_given_names_and_those_that_are_built_in():
    built_in = set(embedded_files().names("lora"))
    assert built_in
    files = NamedFiles(INK)
    assert set(files.names("lora")) == {"ink"} | built_in
    assert files.find("lora", "ink") == Path("ink.safetensors")
    name = next(iter(built_in))
    assert files.find("lora", name).is_file()
    assert NamedFiles({"lora": {name: Path("own.safetensors")}}).find("lora", name) == Path("own.safetensors")
    alone = NamedFiles(INK, builtin=False)
    assert set(alone.names("lora")) == {"ink"} and not alone.names("control")


@pytest.mark.parametrize(
    ("files", "kind", "name", "words"),
    [
        (NamedFiles(INK, builtin=False), "lora", "inc", r"no LoRA named 'inc' \(did you mean 'ink'\?\)\. Known: ink"),
        (NamedFiles(builtin=False), "control", "x", r"no ControlNet named 'x'\. None is available"),
    ],
)
def test_a_name_that_is_not_there(files: NamedFiles, kind: Any, name: str, words: str):
    with pytest.raises(GessoError, match=words) as error:
        files.find(kind, name)
    assert error.value.code == "unknown_name"
    assert error.value.data["kind"] == kind and error.value.data["value"] == name


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (3, "`files` is 3"),
        ({"lroa": {}}, "did you mean 'lora'"),
        ({3: {}}, "^`files` has the kind 3, expected one of lora"),
        ({"lora": 3}, r"files\['lora'\]"),
        ({"lora": {3: "x"}}, "names that are texts"),
        ({"lora": {"x": 3}}, r"files\['lora'\]\['x'\]"),
    ],
)
def test_files_that_no_request_could_name(files: Any, words: str):
    with pytest.raises(ArgumentError, match=words):
        NamedFiles(files)


def test_a_kind_that_there_is_not():
    files: Any = NamedFiles()
    for call in (lambda: files.find("loras", "x"), lambda: files.names("loras")):
        with pytest.raises(ArgumentError, match=r"`kind` is 'loras'.*did you mean 'lora'"):
            call()


def test_a_file_at_the_terminal_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    name = next(iter(embedded_files().names("lora")))
    monkeypatch.chdir(tmp_path)
    assert find_file("lora", name) == embedded_files().find("lora", name)
    (tmp_path / name).write_bytes(b"")
    assert find_file("lora", name) == Path(name)
    with pytest.raises(GessoError, match="no LoRA named 'nothing'"):
        find_file("lora", "nothing")
