"""`gesso grid`: pictures on sheets, and going on after a stop."""

from pathlib import Path

import pytest
from PIL import Image

from gesso.cli.main import run
from gesso.pictures.picture_file import read_picture
from tiny_models import save_tiny_mini

ARGUMENTS = ["grid", "a cat", "--x", "steps=1,2", "--y", "prompt=cat,dog", "--set", "guidance=3", "--cell", "32", "-q"]


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    return str(save_tiny_mini(tmp_path / "tiny.safetensors"))


def test_a_grid_and_its_pictures(capsys: pytest.CaptureFixture[str], model: str):
    assert run([*ARGUMENTS, "-m", model, "--seed", "5"]) == 0
    assert capsys.readouterr().out.splitlines() == ["outputs/grid/grid.png"]
    requests = {
        (x, y): read_picture(Path(f"outputs/grid/z01-y{y:02}-x{x:02}.png"))[1].request for x in (1, 2) for y in (1, 2)
    }
    assert {at: (r.num_steps, r.prompt, r.guidance_scale, r.seed) for at, r in requests.items()} == {
        (x, y): (x, ("a cat", "a dog")[y - 1], 3.0, 5) for x in (1, 2) for y in (1, 2)
    }
    with Image.open("outputs/grid/grid.png") as sheet:
        assert sheet.width > 2 * 32


def test_a_grid_that_was_cut_off_goes_on(capsys: pytest.CaptureFixture[str], model: str):
    """The random seed of the first part holds; what is there is neither drawn nor written again."""
    assert run([*ARGUMENTS, "-m", model]) == 0
    folder = Path("outputs/grid")
    (folder / "z01-y02-x01.png").unlink()
    (folder / "grid.png").unlink()
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("z*.png")}
    capsys.readouterr()
    assert run([*ARGUMENTS[:-1], "-m", model]) == 0
    assert "1 new, 3 already done" in capsys.readouterr().err
    assert (folder / "grid.png").exists()
    assert before.items() <= {path.name: path.stat().st_mtime_ns for path in folder.glob("z*.png")}.items()
    seeds = {read_picture(path)[1].request.seed for path in folder.glob("z*.png")}
    assert len(seeds) == 1


def test_models_are_an_axis_and_loaded_once_each(capsys: pytest.CaptureFixture[str], model: str, tmp_path: Path):
    save_tiny_mini(tmp_path / "other.safetensors", seed=1)
    axes = ["--x", "steps=1,2", "--z", "model=tiny.safetensors,other.safetensors"]
    assert run(["grid", "a cat", *axes, "-o", "g", "--seed", "1", "-q"]) == 0
    assert capsys.readouterr().out.splitlines() == ["g/grid-01.png", "g/grid-02.png"]
    names = [read_picture(Path(f"g/z0{z}-y01-x01.png"))[1].model for z in (1, 2)]
    assert names == ["tiny.safetensors", "other.safetensors"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["grid", "a cat"], "the grid has no axis"),
        (["grid", "a cat", "--x", "stepz=1"], "did you mean 'steps'"),
        (["grid", "a cat", "--x", "sampler=magic"], "unknown sampler"),
        (["grid", "a cat", "--x", "prompt=dog,fox"], "is in neither prompt"),
        (["grid", "a cat", "--x", "steps=1", "--set", "steps=1,2"], "expected one field"),
        (["grid", "a cat", "--x", "seed=1-200", "--y", "steps=1-200"], "at most 10000"),
    ],
)
@pytest.mark.sampled(3)
def test_wrong_input_is_told_before_a_model_is_loaded(
    capsys: pytest.CaptureFixture[str], model: str, arguments: list[str], words: str
):
    assert run([*arguments, "-m", model]) == 2
    err = capsys.readouterr().err
    assert words in err
    assert err.count("\n") == 1
    assert not Path("outputs").exists()
