"""`gesso batch`: a picture for every line, and going on after a stop."""

from pathlib import Path

import pytest

from gesso.cli.main import run
from gesso.pictures.picture_file import read_picture
from tiny_models import save_tiny_mini


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    lines = ("a cat", "", '--prompt "a dog" --seed 9 --batch_size 2', '{"prompt": "cat", "num_steps": 2}')
    Path("prompts.txt").write_text("\n".join(lines))
    return str(save_tiny_mini(tmp_path / "tiny.safetensors"))


def test_every_line_becomes_its_pictures(capsys: pytest.CaptureFixture[str], model: str):
    arguments = ["batch", "prompts.txt", "-m", model, "--set", "steps=1"]
    assert run([*arguments, "-q", "--seed", "5"]) == 0
    paths = capsys.readouterr().out.split()
    assert paths == [f"outputs/batch/{name}.png" for name in ("0001-1", "0003-1", "0003-2", "0004-1")]
    requests = [read_picture(Path(path))[1].request for path in paths]
    assert [(r.prompt, r.seed, r.first_index, r.num_steps) for r in requests] == [
        ("a cat", 5, 0, 1),
        ("a dog", 9, 0, 1),
        ("a dog", 9, 1, 1),
        ("cat", 5, 0, 2),
    ]
    Path(paths[2]).unlink()
    before = Path(paths[0]).stat().st_mtime_ns
    assert run(arguments) == 0
    out, err = capsys.readouterr()
    assert out.split() == paths
    assert "4 pictures: 1 new, 3 already done; seed 5" in err
    assert Path(paths[0]).stat().st_mtime_ns == before
    assert read_picture(Path(paths[2]))[1].request == requests[2]


def test_another_run_gets_another_folder_and_a_named_one_is_refused(capsys: pytest.CaptureFixture[str], model: str):
    arguments = ["batch", "prompts.txt", "-m", model, "-q"]
    assert run([*arguments, "--set", "steps=1", "-o", "x"]) == 0
    assert run([*arguments, "--set", "steps=2", "-o", "x"]) == 2
    assert "holds another run (different set)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "words"), [("--prompt a --steps x", "line 1"), ('{"prompt": "a", "sampler": "magic"}', "unknown sampler")]
)
def test_wrong_lines_are_told_before_anything_is_drawn(
    capsys: pytest.CaptureFixture[str], model: str, text: str, words: str
):
    Path("prompts.txt").write_text(text)
    assert run(["batch", "prompts.txt", "-m", model]) == 2
    assert words in capsys.readouterr().err
    assert not Path("outputs").exists()
