"""Prompts from a file: three ways to write a line."""

import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from gesso.errors import GessoError
from gesso.request.groups import Source
from gesso.request.parts import LoraUse
from gesso.request.prompt_file import notices_of, read_prompts
from gesso.request.request import TextToImageRequest
from gesso.studio.many import line_jobs


def read(tmp_path: Path, text: str | bytes) -> list[dict[str, Any]]:
    path = tmp_path / "prompts.txt"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return [line.values for line in read_prompts(path)]


def test_lines(tmp_path: Path):
    text = (
        "\ufeffa red car, shiny -- really\r\n\n# not this\n"
        '--prompt "a \\"blue\\" car" --negative_prompt blurry --steps 20 --cfg_scale 6.5 --sampler_name "Euler a" '
        "--seed -1 --batch_size 2 --n_iter 3\n"
        '{"prompt": "x", "num_steps": 9, "loras": [{"name": "ink"}], "source": {"strength": 0.5}}\n'
    )
    assert read(tmp_path, text) == [
        {"prompt": "a red car, shiny -- really"},
        {
            "prompt": 'a "blue" car',
            "negative_prompt": "blurry",
            "num_steps": 20,
            "guidance_scale": 6.5,
            "sampler": "Euler a",
            "num_images": 6,
        },
        {"prompt": "x", "num_steps": 9, "loras": [{"name": "ink"}], "source.strength": 0.5},
    ]


def test_a_line_sets_of_a_group_what_it_names(tmp_path: Path):
    path = tmp_path / "p"
    path.write_text(
        '{"prompt": "b", "source": {"strength": 0.5}, "loras": [{"name": "ink"}]}\n--prompt c --denoise 0.25'
    )
    base = TextToImageRequest(prompt="", source=Source(resize="crop", strength=0.75))
    first, second = (line.request(base) for line in read_prompts(path))
    assert first.source == Source(resize="crop", strength=0.5)
    assert first.loras == (LoraUse(name="ink"),)
    assert second.source == Source(resize="crop", strength=0.25)
    json.dumps([line.values for line in read_prompts(path)])  # as a run remembers them


def test_a_line_wins_over_what_holds_for_all(tmp_path: Path):
    (tmp_path / "p").write_text('a\n{"prompt": "b", "num_steps": 3}')
    base = TextToImageRequest(prompt="", num_steps=8, seed=4)
    found = [line.request(base) for line in read_prompts(tmp_path / "p")]
    assert [(r.prompt, r.num_steps, r.seed) for r in found] == [("a", 8, 4), ("b", 3, 4)]


@pytest.mark.parametrize(
    ("line", "values"),
    [
        ("--prompt a dog on a hill --steps 2", {"prompt": "a dog on a hill", "num_steps": 2}),
        ("--negative_prompt red, blue --prompt a dog", {"negative_prompt": "red, blue", "prompt": "a dog"}),
        ("--prompt a dog's tail, 5\" long", {"prompt": "a dog's tail, 5\" long"}),
        ("--prompt 'tis a dog", {"prompt": "'tis a dog"}),
        ("--prompt 'a red car' on a hill", {"prompt": "a red car on a hill"}),
        (r"--prompt cat \(animal\) --steps 2", {"prompt": r"cat \(animal\)", "num_steps": 2}),
        (r'--prompt "say \"hi\" \\ \(x\)"', {"prompt": r'say "hi" \ \(x\)'}),
        ('--prompt="a b" --steps=3', {"prompt": "a b", "num_steps": 3}),
        ("--prompt a - b --seed -1 --subseed -1", {"prompt": "a - b"}),
        ("--prompt a --tiling true --seed_resize_from_w -1", {"prompt": "a", "tiling": "xy"}),
        ("--prompt a --tiling False --restore_faces false", {"prompt": "a"}),
        (
            '{"prompt": "a", "seed": -1, "variation": {"seed": -1}}',
            {"prompt": "a", "seed": None, "variation.seed": None},
        ),
    ],
)
def test_lines_as_a1111_reads_them(tmp_path: Path, line: str, values: dict[str, Any]):
    assert read(tmp_path, line) == [values]


def test_what_a_line_says_and_gesso_does_not_do_is_told_once(tmp_path: Path):
    path = tmp_path / "p"
    path.write_text(
        "--prompt a --restore_faces true --sd_model sd15.safetensors [6ce0161689]\na dog --steps 20\n"
        "--prompt b --restore_faces true --do_not_save_grid true"
    )
    lines = read_prompts(path)
    assert [line.model for line in lines] == ["sd15.safetensors", None, None]
    assert notices_of(lines) == [
        "line 1 and 1 more: not supported, ignored: --restore_faces true",
        "line 2: --steps is read as words of the prompt; begin the line with --prompt to set it",
        "line 3: not supported, ignored: --do_not_save_grid true",
    ]


def test_lines_of_one_model_are_drawn_together(tmp_path: Path):
    path = tmp_path / "p"
    path.write_text("a\n--prompt b --sd_model other\nc")
    jobs = line_jobs(read_prompts(path), TextToImageRequest(prompt=""), "mini")
    assert [(job.file, job.model) for job in jobs] == [
        ("0001-1.png", "mini"),
        ("0003-1.png", "mini"),
        ("0002-1.png", "other"),
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("--prompt a --steps 2 3", "--steps has 2 values, '2 3'; put it in quotes"),
        ("", "has no prompts"),
        ("# a\n\n", "has no prompts"),
        (b"\xff\xfe\x00", "UTF-8"),
        ("a\n--steps 20", "line 2: the line has no prompt"),
        ("--prompt a --stepz 2", "line 1: '--stepz': unknown flag .did you mean 'steps'"),
        ("--prompt a --steps", "needs a value"),
        ("--prompt a --steps x", "--steps is 'x', expected a whole number"),
        ('--prompt "a', "cannot be parsed"),
        ("--prompt a --steps 0", "1 to 1000"),
        ('{"prompt": "a", "stepz": 1}', "unknown field 'stepz'"),
        ('{"prompt": "a", "strength": 1}', "line 1: request: strength is now source.strength"),
        ('{"prompt": "a", "source": {"strenth": 1}}', "did you mean 'strength'"),
        ('{"prompt": "a"', "not valid JSON"),
        ('{"prompt": "a", "num_steps": 1e9}', "line 1: num_steps"),
        ("a\0b", "NUL"),
        ("a\n" * 10_001, "at most 10000"),
    ],
)
def test_what_cannot_be_read_names_its_line(tmp_path: Path, text: str | bytes, words: str):
    with pytest.raises(GessoError, match=words):
        read(tmp_path, text)


@pytest.mark.parametrize(
    ("name", "text", "form"),
    [
        ("a.json", '[{"prompt": "a red car"}, {"prompt": "a cat"}]', "a JSON array"),
        ("a.txt", '\n[\n  {"prompt": "a red car"}\n]\n', "a JSON array"),
        ("a.csv", "prompt,seed\na red car,3\n", "a CSV table"),
        ("a.TSV", "prompt\tseed\na red car\t3\n", "a table"),
        ("a.yaml", "- prompt: a red car\n", "YAML"),
        ("a.yml", "- prompt: a red car\n", "YAML"),
        ("a.toml", 'prompt = "a red car"\n', "TOML"),
    ],
)
def test_files_of_other_forms_are_not_drawn_as_words(tmp_path: Path, name: str, text: str, form: str):
    (tmp_path / name).write_text(text)
    with pytest.raises(
        GessoError, match=f"is {form}, expected a prompt, flags or a JSON object on each line"
    ) as caught:
        read_prompts(tmp_path / name)
    assert caught.value.code == "wrong_kind"


@pytest.mark.parametrize("text", ["[a cat:a dog:0.5]", "[cat|dog] on a hill", "[[faint]] car", '["a"]'])
def test_prompts_may_begin_with_a_bracket(tmp_path: Path, text: str):
    assert read(tmp_path, text) == [{"prompt": text}]


@pytest.mark.skipif(sys.platform == "win32", reason="no devices and pipes that are files")
def test_devices_and_pipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("gesso.request.prompt_file.MAX_BYTES", 1000)
    with pytest.raises(GessoError, match="/dev/zero: more than 1000 bytes"):
        read_prompts(Path("/dev/zero"))
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=("a red car\na cat\n",))
    writer.start()
    assert [line.values["prompt"] for line in read_prompts(pipe)] == ["a red car", "a cat"]
    writer.join()


def test_a_file_that_is_not_there(tmp_path: Path):
    with pytest.raises(GessoError, match="missing: no such file, expected a text file") as caught:
        read_prompts(tmp_path / "missing")
    assert caught.value.code == "missing"
    with pytest.raises(GessoError, match="a folder, expected a text file") as caught:
        read_prompts(tmp_path)
    assert caught.value.code == "wrong_kind"
    with pytest.raises(GessoError, match="cannot be read"):
        read_prompts(Path("a\0b"))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--prompt cat --steps 0", "line 1: --steps is 0, expected 1 to 1000"),
        ("--prompt cat --cfg 200", "line 1: --cfg is 200.0, expected 0 to 100"),
        ("--prompt cat --hr-second-pass-steps 0", "line 1: --hr-second-pass-steps is 0"),
        ('{"prompt": "cat", "num_steps": 0}', "line 1: num_steps is 0"),
        ('--prompt cat --sampler "eu\0ler"', "line 1: --sampler contains a NUL character"),
        ('{"prompt": "cat", "sampler": "eu\\u0000ler"}', "line 1: sampler contains a NUL character"),
        ('{"prompt": "cat", "hires": {"schedule": "a\\u0000"}}', "line 1: hires.schedule contains a NUL character"),
    ],
)
def test_errors_call_fields_as_the_line_does(tmp_path: Path, line: str, words: str):
    with pytest.raises(GessoError, match=words):
        read(tmp_path, line)
