"""How a request's texts are read, told without drawing."""

import json
from pathlib import Path

import pytest
import torch

from adapters.files import kohya, lora_parts, saved, target_of
from asking import changed
from gesso.cli.main import run
from gesso.pipelines.defaults import defaults_for
from gesso.pipelines.prompt_reading import MAX_TEXTS, ReadRequest, read_request
from gesso.request.finder import NamedFiles
from gesso.request.request import TextToImageRequest
from gesso.request.resolving import resolve
from gesso.runtime.adapter_cache import AdapterCache
from gesso.runtime.engine import Engine, LoadedModel
from tiny_models import save_tiny_mini
from tiny_sd import TINY_SD, save_tiny_folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return Engine("cpu").load(save_tiny_folder(tmp_path_factory.mktemp("models") / "sd", TINY_SD))


@pytest.fixture(scope="module")
def finder(tmp_path_factory: pytest.TempPathFactory) -> NamedFiles:
    base = tmp_path_factory.mktemp("files")
    torch.manual_seed(0)
    ink = saved(base / "ink.safetensors", kohya(target_of(TINY_SD), lora_parts))
    word = saved(base / "mystyle.safetensors", {"emb_params": torch.randn(3, 32)})
    return NamedFiles({"lora": {"ink": ink}, "embedding": {"mystyle": word}})


def read(model: LoadedModel, finder: NamedFiles, prompt: str, **values: object) -> ReadRequest:
    request = changed(TextToImageRequest(prompt=prompt, num_steps=10), **values)
    return read_request(resolve(request, defaults_for(request, model.family)), model, finder, AdapterCache())


def test_pieces_steps_chunks(model: LoadedModel, finder: NamedFiles):
    (field,) = read(model, finder, "(a:1.3) [cat|dog] BREAK b AND c :0.5").fields
    assert field.joined == "guidance"
    odd, even, other = field.texts
    assert (odd.steps, even.steps, other.steps) == ("1, 3, 5, 7, 9", "2, 4, 6, 8, 10", "1-10")
    assert odd.pieces == (("a", 1.3), (" cat", 1.0), (None, 1.0), ("b", 1.0))
    assert (odd.tokens, odd.room, other.weight) == ((2, 1), 75, 0.5)
    (field,) = read(model, finder, "a [cat:dog:0.3]").fields
    assert [text.steps for text in field.texts] == ["1-3", "4-10"]


def test_what_found_no_room_and_weights_that_were_changed(model: LoadedModel, finder: NamedFiles):
    (field,) = read(model, finder, "cat " * 80 + "(x:50)", chunks="first").fields
    (text,) = field.texts
    assert text.tokens == (75,)
    assert text.cut.startswith("cat cat")
    assert text.clamped == (("x", 50.0, 10.0),)
    assert any("cut off" in line for line in text.lines)


def test_adapters_and_words_take_their_tokens(model: LoadedModel, finder: NamedFiles):
    found = read(model, finder, "a mystyle <lora:ink:0.5@0,1@1>")
    assert found.fields[0].texts[0].tokens == (4,)  # a, and three vectors
    (lora,) = found.loras
    assert (lora["name"], lora["points"], lora["text_weight"]) == ("ink", ((0.0, 0.5), (1.0, 1.0)), 0.5)
    assert "modules matched" in lora["fit"]
    assert found.words[0]["vectors"] == 3
    assert json.loads(json.dumps(found.to_dict()))["words"][0]["name"] == "mystyle"


def test_the_words_that_wake_a_lora(model: LoadedModel, finder: NamedFiles):
    notes = finder.find("lora", "ink").with_suffix(".json")
    for content, expected in (
        ('{"activation text": "ink wash", "preferred weight": 0.7}', "ink wash"),
        ('{"activation text": 5}', ""),
        ("[1]", ""),
        ("{" * 100_000, ""),
        ('{"activation text": "' + "x" * 5000 + '"}', "x" * 500),
    ):
        notes.write_text(content)
        assert read(model, finder, "a <lora:ink:1>").loras[0]["trigger"] == expected
    notes.unlink()


def test_no_more_texts_than_anyone_reads(model: LoadedModel, finder: NamedFiles):
    many = " ".join("[" + "|".join(f"w{i}" for i in range(count)) + "]" for count in (7, 11, 13))
    (field,) = read(model, finder, many, num_steps=1000).fields
    assert len(field.texts) == MAX_TEXTS
    assert field.notices == (f"{1000 - MAX_TEXTS} more texts",)


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("GESSO_HOME", str(tmp_path / "home"))
    path = str(save_tiny_mini(tmp_path / "tiny.safetensors"))
    asked = ("prompt", "a (red:1.2) {zzz|zzz}\x1b[31m", "--negative-prompt", "dog", "--dynamic-prompts", "-m", path)
    assert run(list(asked)) == 0
    out = capsys.readouterr().out
    assert "1.2 'red'" in out
    assert "unknown words: 'zzz'" in out
    assert "generated from: a (red:1.2) {zzz|zzz}" in out
    assert "\x1b" not in out
    assert run([*asked, "--json", "-n", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert json.loads(lines[0])["fields"][1]["field"] == "negative_prompt"
    assert run(["prompt", "two turtels", "-m", path]) == 0
    assert "unknown words: 'turtels' (did you mean 'turtle'?)" in capsys.readouterr().out
    assert run(["prompt", "a <lora:nosuch:1>", "-m", path]) == 2
    assert "no LoRA named 'nosuch'" in capsys.readouterr().err
