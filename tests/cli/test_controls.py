"""--control: what it says, and the way from it to a picture and back."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gesso.cli.control_options import parse_controls
from gesso.cli.main import run
from gesso.errors import GessoError
from gesso.families.control_network import control_unet
from gesso.families.native_control import save_control
from gesso.models.controlnet import ControlNet, ControlNetConfig
from gesso.studio.sources import control_files
from tiny_models import save_tiny_mini, tiny_family


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model, a network that steers it and two pictures."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GESSO_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("GESSO_DEBUG", raising=False)
    family = tiny_family()
    save_tiny_mini(tmp_path / "mini.safetensors")
    patch = family.vae.downscale * family.output_scale // 2
    config = ControlNetConfig(unet=control_unet(family), hint_channels=(8, 8), hint_patch=patch)
    torch.manual_seed(0)
    save_control(tmp_path / "edges.safetensors", ControlNet(config), family.name, "canny", {"title": "edges"})
    for name, seed in (("photo.png", 0), ("other.png", 1)):
        levels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(levels).save(tmp_path / name)
    return tmp_path


Said = tuple[int, str, str]


def said(capsys: pytest.CaptureFixture[str], *argv: str) -> Said:
    """Code, output and errors."""
    code = run(list(argv))
    return code, *capsys.readouterr()


def generate(capsys: pytest.CaptureFixture[str], *more: str) -> Said:
    return said(capsys, "generate", "a red cat", "-m", "mini.safetensors", "--seed", "1", "-s", "2", "-q", *more)


def test_what_it_says(there: Path) -> None:
    (plain,) = parse_controls(["canny,image=photo.png"])
    assert (plain.model, plain.file, plain.image, plain.fields) == ("canny", None, Path("photo.png"), {})
    (full,) = parse_controls(
        ["edges.safetensors, image=photo.png, weight=0.8, start=0.1, end=0.7, mode=control, preprocess=canny"]
    )
    assert (full.model, full.file) == ("edges", Path("edges.safetensors"))
    assert full.fields == {"weight": 0.8, "start": 0.1, "end": 0.7, "mode": "control", "preprocessor": "canny"}
    (set_up,) = parse_controls(["edges,image=photo.png,preprocess=canny,low=50,high=90"])
    assert set_up.fields == {"preprocessor": "canny", "parameters": (("low", 50.0), ("high", 90.0))}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("canny", "no control image is given"),
        (",image=a.png", "no model is given"),
        ("canny,image=a.png,wieght=1", "did you mean 'weight'"),
        ("canny,image=a.png,weight=much", "weight is 'much', expected a number"),
        ("canny,image=a.png,weight=1,strength=2", "weight is given twice"),
        ("canny,image=a.png,0.8", "unknown setting '0.8'"),
        ("canny,image=a.png,low=dark", "low is 'dark', expected a number"),
    ],
)
def test_what_it_cannot_say(text: str, message: str) -> None:
    with pytest.raises(GessoError, match=message):
        parse_controls([text])


def test_two_files_of_one_name(there: Path) -> None:
    (there / "more").mkdir()
    (there / "more" / "edges.safetensors").touch()
    given = parse_controls(["edges.safetensors,image=a.png", "more/edges.safetensors,image=a.png"])
    with pytest.raises(GessoError, match="has the same name"):
        control_files(given)


def test_a_picture_and_its_replay(there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    control = "edges.safetensors,image=photo.png,weight=0.9,preprocess=invert"
    assert generate(capsys, "-o", "plain.png")[0] == 0
    assert generate(capsys, "-o", "steered.png", "--control", control)[::2] == (0, "")
    pixels = [np.asarray(Image.open(name)) for name in ("plain.png", "steered.png")]
    assert not np.array_equal(*pixels)
    again = ["replay", "steered.png", "-q", "-m", "mini.safetensors", "--control", "edges.safetensors"]
    assert said(capsys, *again, "--hint", "photo.png")[:2] == (0, "identical\n")
    code, _, err = said(capsys, *again)
    assert code == 2
    assert "Give each with --hint" in err
    code, _, err = said(capsys, *again, "--hint", "other.png")
    assert code == 2
    assert "is not used by any of" in err


def test_memory_is_told_with_it(there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = generate(capsys, "--control", "edges.safetensors,image=photo.png", "--explain-memory")
    assert code == 0
    assert "unet" in out


def test_what_is_not_there(there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no ControlNet named 'edgse'" in generate(capsys, "--control", "edgse,image=photo.png")[2]
    assert "no such file" in generate(capsys, "--control", "edges.safetensors,image=nothing.png")[2]


def test_many_pictures_go_by_one_hint(capsys: pytest.CaptureFixture[str], there: Path) -> None:
    """The single pictures of a grid and of a batch are those of generate."""
    control = ("--control", "edges.safetensors,image=photo.png,weight=2")
    assert generate(capsys, *control, "-o", "one.png")[0] == 0
    many = ("-m", "mini.safetensors", "--seed", "1", "-q", *control)
    code, _, err = said(capsys, "grid", "a red cat", "-x", "steps=2,3", "-o", "grid", *many)
    assert code == 0, err
    (there / "lines.txt").write_text("a red cat\n", encoding="utf-8")
    code, _, err = said(capsys, "batch", "lines.txt", "--set", "steps=2", "-o", "batch", *many)
    assert code == 0, err
    one, plain = np.asarray(Image.open("one.png")), there / "plain.png"
    for same in ("grid/z01-y01-x01.png", "batch/0001-1.png"):
        np.testing.assert_array_equal(np.asarray(Image.open(same)), one)
    assert generate(capsys, "-o", str(plain))[0] == 0
    assert not np.array_equal(np.asarray(Image.open(plain)), one), "the network must matter"
