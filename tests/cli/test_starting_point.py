"""`gesso generate --from PICTURE`."""

import json
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin

from gesso.cli.main import run
from gesso.pictures.picture_file import read_picture
from tiny_models import save_tiny_mini


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    return save_tiny_mini(tmp_path / "tiny.safetensors").name


def foreign(text: str, name: str = "parameters") -> str:
    info = PngImagePlugin.PngInfo()
    info.add_text(name, text)
    Image.new("RGB", (8, 8)).save("foreign.png", pnginfo=info)
    return "foreign.png"


def test_the_same_picture_again_and_with_one_thing_changed(capsys: pytest.CaptureFixture[str], model: str):
    assert run(["generate", "a cat", "-m", model, "--steps", "3", "--seed", "4", "-o", "a.png", "-q"]) == 0
    assert run(["generate", "--from", "a.png", "-o", "b.png", "-q"]) == 0
    assert run(["generate", "a dog", "--from", "a.png", "--steps", "2", "-o", "c.png", "-q"]) == 0
    (first, recipe), (again, same), (_, changed) = (read_picture(Path(name)) for name in ("a.png", "b.png", "c.png"))
    assert first.tobytes() == again.tobytes()
    assert same.request == recipe.request
    assert (changed.request.prompt, changed.request.num_steps, changed.request.seed) == ("a dog", 2, 4)
    assert changed.model == "tiny.safetensors"


@pytest.mark.parametrize("ending", ["jpg", "webp", "avif"])
@pytest.mark.sampled(2)
def test_other_formats_replay(capsys: pytest.CaptureFixture[str], model: str, ending: str):
    assert run(["generate", "a cat", "-m", model, "--steps", "2", "-o", f"a.{ending}", "--quality", "60", "-q"]) == 0
    capsys.readouterr()
    assert run(["replay", f"a.{ending}", "-q"]) == 0
    assert capsys.readouterr().out.startswith("identical as drawn (the lossy file format changed up to")


def test_settings_of_another_tool(capsys: pytest.CaptureFixture[str], model: str):
    picture = foreign(
        "a cat\nNegative prompt: dog\nSteps: 2, Sampler: Euler a, CFG scale: 3, Seed: 9, Size: 64x64, Model: tiny, "
        "Face restoration: GFPGAN, Denoising strength: 0.5, Version: v1.9.4"
    )
    assert run(["generate", "--from", picture, "-o", "x.png"]) == 0
    assert "not supported, ignored: Face restoration: GFPGAN" in capsys.readouterr().err
    request = read_picture(Path("x.png"))[1].request
    assert (request.prompt, request.negative_prompt, request.num_steps) == ("a cat", "dog", 2)
    assert (request.sampler, request.guidance_scale, request.seed) == ("euler_ancestral", 3.0, 9)
    assert (request.preset, request.noise, request.source.strength) == ("a1111", "nv", None)


@pytest.mark.parametrize(
    ("text", "name", "words"),
    [
        ("a\nSteps: 2, Seed: 9, Model: other, Model hash: 0123456789", "parameters", "'other' (sha256 0123456789...)"),
        ("\nSteps: 2, Seed: 9, Size: 64x64", "parameters", "no prompt"),
        (json.dumps({"1": {}}), "prompt", "no sampler"),
        ("x", "Comment", "no settings that gesso reads"),
    ],
)
def test_what_cannot_be_started_from_is_told(
    capsys: pytest.CaptureFixture[str], model: str, text: str, name: str, words: str
):
    assert run(["generate", "--from", foreign(text, name)]) == 2
    assert words in capsys.readouterr().err
