"""`gesso upscale` as people use it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin
from safetensors.torch import save_file

from gesso.cli.main import run
from gesso.pipelines.upscaling import UPSCALERS
from gesso.request.hires import LATENT_UPSCALERS
from tiny_models import save_tiny_mini
from upscaler_files import compact_shapes, rrdb_shapes, weights

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GESSO_HOME", str(tmp_path / "home"))
    random = np.random.default_rng(0)
    for name in ("x.png", "y.png"):
        Image.fromarray(random.integers(0, 256, (24, 32, 3), dtype=np.uint8)).save(name)
    return tmp_path


def size_of(path: str) -> tuple[int, int]:
    with Image.open(path) as image:
        assert image.mode == "RGB"
        return image.size


def test_without_a_network(capsys: Capture):
    assert run(["upscale", "x.png"]) == 0
    out, _ = capsys.readouterr()
    assert out.startswith("x-64x48.png size=64x48 time=")
    with Image.open("x.png") as image, Image.open("x-64x48.png") as larger:
        assert larger.tobytes() == image.resize((64, 48), Image.Resampling.LANCZOS).tobytes()
    assert run(["upscale", "x.png", "-m", "Nearest", "--scale", "1.5", "-o", "z.png", "-q"]) == 0
    assert capsys.readouterr().err == "" and size_of("z.png") == (48, 36)


def test_transparency_stays_and_avif_is_read(capsys: Capture):
    image = Image.new("RGBA", (8, 8), (10, 20, 30, 255))
    image.paste((10, 20, 30, 0), (0, 0, 4, 8))
    image.save("t.png")
    assert run(["upscale", "t.png", "-m", "nearest", "-o", "large.png"]) == 0
    with Image.open("large.png") as larger:
        assert (larger.mode, larger.getpixel((0, 0)), larger.getpixel((9, 0))) == (
            "RGBA",
            (10, 20, 30, 0),
            (10, 20, 30, 255),
        )
    image.convert("RGB").save("a.avif")
    assert run(["upscale", "a.avif", "-o", "b.png"]) == 0
    assert size_of("b.png") == (16, 16)
    capsys.readouterr()


def test_with_a_network_in_a_file_of_pytorch(capsys: Capture):
    torch.save({"params": weights(compact_shapes(4))}, "realesr.pth")
    assert run(["upscale", "x.png", "y.png", "-m", "realesr.pth", "-o", "large", "--tile", "16", "--rim", "5"]) == 0
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == ["size=128x96"] * 2
    assert size_of("large/x-128x96.png") == size_of("large/y-128x96.png") == (128, 96)
    assert run(["upscale", "x.png", "-m", "realesr.pth", "-o", "whole.png"]) == 0
    with Image.open("large/x-128x96.png") as tiled, Image.open("whole.png") as whole:
        gap = np.abs(np.asarray(tiled, dtype=int) - np.asarray(whole, dtype=int))
    assert gap.max() <= 1  # the rim is what the network sees


def test_a_network_by_its_name_in_the_folder_of_another_tool(capsys: Capture, folder: Path):
    comfy = folder / "ComfyUI" / "models"
    for name in ("checkpoints", "upscale_models"):
        (comfy / name).mkdir(parents=True)
    save_file(weights(rrdb_shapes("numbered", enlargements=1)), comfy / "upscale_models" / "2x_Sharp.safetensors")
    assert run(["models", "add-folder", "ComfyUI"]) == 0
    capsys.readouterr()
    assert run(["upscale", "x.png", "-m", "2x_sharp"]) == 0
    assert size_of("x-64x48.png") == (64, 48)
    assert run(["upscale", "x.png", "-m", "2x_sharp", "--to", "100x75"]) == 0
    assert size_of("x-100x75.png") == (100, 75)
    assert run(["upscale", "x.png", "-m", "2x_shrp"]) == 2
    err = capsys.readouterr().err
    assert "2x_Sharp" in err and "Built in: nearest" in err
    assert "diffusers folder" not in err and err.count("\n") == 1


@pytest.mark.parametrize(("typed", "meant"), [("lanczs", "lanczos"), ("bicubc", "bicubic"), ("neerest", "nearest")])
def test_a_misspelt_built_in_upscaler_names_the_one_that_is_meant(capsys: Capture, typed: str, meant: str):
    assert run(["upscale", "x.png", "-m", typed]) == 2
    assert f"(did you mean '{meant}'?)" in capsys.readouterr().err


def test_settings_of_a_picture_go_along(capsys: Capture):
    texts = PngImagePlugin.PngInfo()
    texts.add_text("parameters", "a cat\nSteps: 20, Sampler: Euler, Seed: 1")
    texts.add_text("gesso", "{}")
    with Image.open("x.png") as image:
        image.save("made.png", pnginfo=texts)
    assert run(["upscale", "made.png", "--scale", "3"]) == 0
    with Image.open("made-96x72.png") as image:
        assert image.text == {
            "parameters": "a cat\nSteps: 20, Sampler: Euler, Seed: 1",
            "postprocessing": "Postprocess upscale by: 3, Postprocess upscaler: lanczos",
        }
    assert run(["upscale", "x.png"]) == 0
    with Image.open("x-64x48.png") as image:
        assert image.text == {}


def test_stretching_is_told(capsys: Capture):
    assert run(["upscale", "x.png", "--to", "64x64"]) == 0
    assert "x.png: stretched from 32x24 to 64x64" in capsys.readouterr().err
    assert size_of("x-64x64.png") == (64, 64)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--scale", "2", "--to", "64"], "give either --scale or --to"),
        (["--scale", "0"], "expected more than 0"),
        (["--scale", "nan"], "expected more than 0"),
        (["--scale", "1000"], "at most 64"),
        (["--to", "70000x10"], "expected sides of 1 to 65536"),
        (["--to", "60000x60000"], "at most 1073741824 pixels"),
        (["--to", "0x4"], "expected sides of 1 to"),
        (["--to", "large"], "expected WIDTHxHEIGHT"),
        (["-o", "z.jpg"], "expected a name ending in .png"),
        (["-o", "x.png"], "already exists"),
        (["--tile", "8"], "--tile"),
        (["-m", "Latent (nearest-exact)"], "enlarges latents"),
        (["-m", "R-ESRGAN 4x+"], "RealESRGAN_x4plus: not found"),
        (["-m", "x.png"], "looks like a PNG picture"),
        (["nothing.png"], "no such file"),
    ],
)
def test_wrong_input_is_one_line(capsys: Capture, argv: list[str], said: str):
    before = sorted(Path().iterdir())
    assert run(["upscale", "x.png", *argv, "-q"]) == 2 or "nothing.png" in argv
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1
    if "nothing.png" not in argv:
        assert sorted(Path().iterdir()) == before


def test_a_second_pass_through_a_network_and_its_replay(capsys: Capture):
    save_tiny_mini(Path("mini.safetensors"))
    torch.save({"params": weights(compact_shapes(4))}, "realesr.pth")
    model = ["-m", "mini.safetensors", "-q"]
    hires = ["--hires", "2", "--hires-upscaler", "realesr.pth", "--hires-steps", "2"]
    assert run(["generate", "a red cat", *model, "--seed", "1", "-s", "2", *hires, "-o", "large.png"]) == 0
    capsys.readouterr()
    assert run(["replay", "large.png", *model]) == 2
    err = capsys.readouterr().err
    assert "the upscaler 'realesr'" in err and "with --upscaler" in err
    assert run(["replay", "large.png", *model, "--upscaler", "realesr.pth"]) == 0
    assert capsys.readouterr().out == "identical\n"


def test_the_list_tells_every_upscaler(capsys: Capture):
    assert run(["upscale", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = [line.split()[0] for line in lines[1:]]
    assert names[: len(UPSCALERS)] == list(UPSCALERS)
    assert set(names) >= set(LATENT_UPSCALERS)
    assert "Latent (nearest-exact)" in next(line for line in lines if line.startswith("latent_nearest_exact"))
    assert run(["upscale", "--list", "--json"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == names
    assert run(["upscale"]) == 2
    assert "FILE is missing" in capsys.readouterr().err
