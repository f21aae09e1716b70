"""`gesso preprocess` as people use it."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gesso.cli.main import run
from gesso.hints.registry import PREPROCESSORS, preprocess

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    levels = np.zeros((48, 64, 3), dtype=np.uint8)
    levels[12:36, 16:48] = (200, 30, 90)
    Image.fromarray(levels).save("x.png")
    return tmp_path / "x.png"


def test_the_hint_lies_beside_under_a_name_of_its_own(capsys: Capture, picture: Path):
    assert run(["preprocess", "canny", "x.png"]) == 0
    assert capsys.readouterr() == ("x-canny.png\n", "")
    with Image.open("x-canny.png") as hint, Image.open(picture) as image:
        assert hint.tobytes() == preprocess("canny", image).tobytes()
    assert run(["preprocess", "canny", "x.png"]) == 2
    assert "is there already" in capsys.readouterr().err
    assert run(["preprocess", "canny", "x.png", "--overwrite"]) == 0


def test_size_and_parameters(capsys: Capture):
    argv = ["preprocess", "softedge", "x.png", "-o", "out/y.png", "--size", "32x24", "--set", "sigma=2"]
    assert run([*argv, "--set", "steps=2"]) == 0
    with Image.open("out/y.png") as hint:
        assert hint.size == (32, 24)
        assert len(hint.getcolors()) <= 3


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["canny"], "NAME and FILE are missing"),
        (["canny", "nothing.png"], "no such file"),
        (["cany", "x.png"], "did you mean 'canny'"),
        (["canny", "x.png", "-o", "y.jpg"], "written as PNG"),
        (["canny", "x.png", "--set", "low"], "expected NAME=NUMBER"),
        (["canny", "x.png", "--set", "low=nan"], "expected a number"),
        (["canny", "x.png", "--size", "99999x1"], "sides are 1 to"),
        (["canny", "x.png", "--size", "big"], "expected WIDTHxHEIGHT"),
    ],
)
def test_wrong_input_is_one_line(capsys: Capture, argv: list[str], said: str):
    assert run(["preprocess", *argv]) == 2
    out, err = capsys.readouterr()
    assert out == "" and said in err and err.count("\n") == 1
    assert not Path("y.jpg").exists()


def test_the_list_names_everything(capsys: Capture):
    assert run(["preprocess", "--list"]) == 0
    out = capsys.readouterr().out
    assert all(name in out and row.help in out for name, row in PREPROCESSORS.items())
