"""`gesso preprocess` as people use it."""

import json
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
    assert "already exists" in capsys.readouterr().err
    assert run(["preprocess", "canny", "x.png", "--overwrite"]) == 0


def test_several_go_into_a_folder(capsys: Capture):
    Image.new("RGB", (8, 8)).save("y.png")
    assert run(["preprocess", "canny", "x.png", "y.png", "-o", "hints"]) == 0
    assert capsys.readouterr().out == "hints/x-canny.png\nhints/y-canny.png\n"
    assert run(["preprocess", "invert", "x.png", "y.png"]) == 0
    assert Path("x-invert.png").is_file() and Path("y-invert.png").is_file()


def test_size_and_parameters(capsys: Capture):
    argv = ["preprocess", "softedge", "x.png", "-o", "out/y.png", "--size", "32x24", "--set", "sigma=2"]
    assert run([*argv, "--set", "steps=2"]) == 0
    with Image.open("out/y.png") as hint:
        assert hint.size == (32, 24)
        assert len(hint.getcolors()) <= 3


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["canny"], "NAME and FILE are required"),
        (["canny", "nothing.png"], "no such file"),
        (["canny", "x.png", "nothing.png", "-o", "y.jpg"], "one file name for 2 pictures"),
        (["cany", "x.png"], "did you mean 'canny'"),
        (["canny", "x.png", "-o", "y.jpg"], "expected a name ending in .png"),
        (["canny", "x.png", "--set", "low"], "expected NAME=NUMBER"),
        (["canny", "x.png", "--set", "low=nan"], "expected a number"),
        (["canny", "x.png", "--size", "99999x1"], "sides are 1 to"),
        (["canny", "x.png", "--size", "big"], "expected WIDTHxHEIGHT"),
        (["canny", "x.png", "--mask", "x.png"], "given, but not used"),
        (["inpaint", "x.png"], "a mask is missing"),
        (["openpose", "x.png", "--set", "a=1"], "takes neither"),
        (["openpose", "p.json"], "no such file"),
    ],
)
def test_wrong_input_is_one_line(capsys: Capture, argv: list[str], said: str):
    assert run(["preprocess", *argv]) == 2
    out, err = capsys.readouterr()
    assert out == "" and said in err and err.count("\n") == 1
    assert not Path("y.jpg").exists()


def test_a_mask_makes_a_hole(capsys: Capture):
    Image.new("L", (64, 48), 255).save("m.png")
    assert run(["preprocess", "inpaint", "x.png", "--mask", "m.png"]) == 0
    with Image.open("x-inpaint.png") as hint:
        assert hint.getextrema() == ((0, 0),) * 4


def test_depth_of_sixteen_bits_is_read_whole(capsys: Capture):
    Image.fromarray((1000 + np.arange(256, dtype=np.uint16)).reshape(16, 16)).save("d.png")
    assert run(["preprocess", "depth", "d.png", "--set", "stretch=1"]) == 0
    with Image.open("d-depth.png") as hint:
        assert np.array(hint)[..., 0].flatten().tolist() == list(range(256))


def test_a_pose_is_drawn_and_written(capsys: Capture):
    points = [number for index in range(25) for number in (0.1 + index / 40, 0.5, 1)]
    Path("p.json").write_text(json.dumps({"version": 1.3, "people": [{"pose_keypoints_2d": points}]}))
    assert run(["preprocess", "openpose", "p.json"]) == 2
    assert "p.json: the keypoints do not state their canvas" in capsys.readouterr().err
    assert run(["preprocess", "openpose", "p.json", "--size", "96x64"]) == 0
    with Image.open("p-openpose.png") as hint:
        assert hint.size == (96, 64) and hint.getbbox() is not None
    assert run(["preprocess", "openpose", "p.json", "--size", "96x64", "-o", "q.json"]) == 0
    written = json.loads(Path("q.json").read_text())
    assert (written["canvas_width"], len(written["people"][0]["pose_keypoints_2d"])) == (96, 54)
    assert run(["preprocess", "openpose", "q.json", "-o", "q.png"]) == 0
    assert Path("q.png").read_bytes() == Path("p-openpose.png").read_bytes()
    assert run(["preprocess", "openpose", "x.png", "--size", "8"]) == 2
    assert "x.png: cannot be read" in capsys.readouterr().err


def test_the_list_names_everything(capsys: Capture):
    assert run(["preprocess", "--list"]) == 0
    out = capsys.readouterr().out
    assert all(name in out and row.help in out for name, row in PREPROCESSORS.items())
