"""`gesso` alone, with a prompt in place of a command, and with a command that does not exist."""

import shlex
from pathlib import Path

import pytest

from gesso.cli.commands import NAMES
from gesso.cli.main import run
from gesso.errors import GessoError
from gesso.pictures.picture_file import read_picture
from gesso.terminal.first_word import GREETING, understood
from tiny_models import save_tiny_mini


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("argv", [[], ["--"], ["--debug"]])
def test_gesso_alone_says_what_to_try(argv: list[str], capsys: pytest.CaptureFixture[str]):
    assert run(argv) == 0
    out, err = capsys.readouterr()
    assert (out, err) == (f"{GREETING}\n", "")
    assert len(out.splitlines()) <= 10 and max(map(len, out.splitlines())) <= 80
    tried = [line for line in out.splitlines() if line.startswith("  gesso ")]
    assert 3 <= len(tried) <= 4


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ('"a red car"', 'generate "a red car"'),
        ('"a red car" --seed 3', 'generate "a red car" --seed 3'),
        ("a red car --steps 4 -n 2", "generate a red car --steps 4 -n 2"),
        ('"train in the snow"', 'generate "train in the snow"'),  # in quotes, though a command is called so
        ("un chat noir", "generate un chat noir"),
        ('""', 'generate ""'),  # which says that the prompt is empty
        ('"  "', 'generate "  "'),
        ("help", "--help"),
        ("help models", "models --help"),
        ("help models list", "models list --help"),
        ("help me out", "generate help me out"),
        ("version", "--version"),
    ],
)
def test_a_prompt_is_drawn(line: str, meant: str):
    assert understood(shlex.split(line), NAMES) == shlex.split(meant)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("genrate", "Did you mean `gesso generate`?"),
        ('genrate "a cat"', 'Did you mean `gesso generate "a cat"`?'),
        ("genrate a cat --seed 3", 'Did you mean `gesso generate "a cat" --seed 3`?'),
        ("gen", "`gesso generate`"),
        ("Generate", "`gesso generate`"),
        ("txt2img 'a car'", '`gesso generate "a car"`'),
        ("model", 'Did you mean `gesso models`? To draw it: `gesso generate "model"`'),
        ("model list", "`gesso models list`"),
        ("upscaler a.png", "`gesso upscale a.png`"),
        ("metdata show x.png", "`gesso metadata show x.png`"),
        ("list", "`gesso models list`"),
        ("cat", 'To draw it: `gesso generate "cat"`'),
        ("cat --seed 3", 'To draw it: `gesso generate "cat" --seed 3`'),
        ("cat$", "To draw it: `gesso generate 'cat$'`"),
        ("photo.png", "`gesso metadata show photo.png` shows the settings"),
        ("photo.png", "--image photo.png` draws from it"),
    ],
)
def test_one_word_is_answered_with_what_to_type(line: str, words: str, capsys: pytest.CaptureFixture[str]):
    Path("photo.png").write_bytes(b"")
    assert run(shlex.split(line)) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"error: no command {shlex.split(line)[0]!r}")
    assert words in err


@pytest.mark.parametrize("first", ["x" * 5000, "a\0b", "\x1b[31m", "ü", "-", "\udcff"])
def test_odd_words_are_one_line(first: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(GessoError) as caught:
        understood([first], NAMES)
    assert len(caught.value.one_line) < 400
    assert "\x1b" not in caught.value.one_line


def test_a_prompt_alone_draws_with_its_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    model = str(save_tiny_mini(tmp_path / "tiny.safetensors"))
    assert run(["a red cat", "--seed", "3", "--steps", "1", "-o", "x.png", "-m", model, "-q"]) == 0
    request = read_picture(Path("x.png"))[1].request
    assert (request.prompt, request.seed, request.num_steps) == ("a red cat", 3, 1)
