"""A path that leads nowhere is told as a missing file, whatever option or command it was given to."""

import json
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from gesso.cli.main import run
from gesso.errors import GessoError
from gesso.request.finder import NamedFiles
from gesso.terminal.missing_files import near_file, with_near_file
from tiny_models import save_tiny_mini


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny_mini(tmp_path_factory.mktemp("model") / "tiny.safetensors"))


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GESSO_HOME", str(tmp_path / "home"))
    Image.new("RGB", (16, 16), "red").save("photo.png")
    Path("watercolour.safetensors").write_bytes(b"")
    Path("settings.toml").write_text("")


def refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert run(argv) == 2
    out, err = capsys.readouterr()
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert (out, len(errors)) == ("", 1)
    return errors[0][7:]


@pytest.mark.parametrize(
    "option",
    [
        "--lora watercolor.safetensors",
        "--lora watercolor.safetensors:0.8",
        "--lora ./watercolor",
        "--lora watercolor.ckpt",
        "--vae watercolor.safetensors",
        "--unet watercolor.sft",
        "--control watercolor.safetensors,image=photo.png",
        "--embedding watercolor.pt",
        "--model watercolor.safetensors",
        "--refiner watercolor.safetensors",
        "--hires 2 --hires-upscaler watercolor.pth",
        "--preview a.png --preview-model watercolor.pth",
    ],
)
@pytest.mark.sampled(3)
def test_every_option_for_a_file_of_weights(option: str, capsys: pytest.CaptureFixture[str], model: str):
    at = [] if option.startswith("--model") else ["-m", model]
    message = refused(["generate", "a cat", *option.split(), *at], capsys)
    assert ": no such file" in message
    assert "(did you mean watercolour.safetensors?)" in message
    assert json.loads(_out(["generate", "a cat", *option.split(), *at, "--json"], capsys))["error"]["code"] == "missing"


def _out(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    run(argv)
    return capsys.readouterr().out.splitlines()[-1]


@pytest.mark.parametrize(
    "argv",
    [
        ["generate", "a cat", "--image", "foto.png"],
        ["upscale", "phto.jpg"],
        ["preprocess", "invert", "pohto.png"],
        ["replay", "photos.png"],
    ],
)
def test_pictures(argv: list[str], capsys: pytest.CaptureFixture[str], model: str):
    at = ["-m", model] if argv[0] == "generate" else []
    assert "no such file (did you mean photo.png?), expected a picture" in refused([*argv, *at], capsys)


def test_one_of_several_pictures(capsys: pytest.CaptureFixture[str]):
    assert run(["metadata", "show", "photo.png", "phto.png"]) == 2  # the worst of them; no settings alone are 1
    assert "no such file (did you mean photo.png?)" in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv",
    [
        ["lora", "info", "watercolor.safetensors"],
        ["models", "info", "watercolor.safetensors"],
        ["models", "import", "watercolor.safetensors"],
        ["models", "convert", "watercolor.ckpt", "x.safetensors"],
        ["upscale", "photo.png", "--model", "watercolor.pth"],
    ],
)
def test_commands_for_files_of_weights(argv: list[str], capsys: pytest.CaptureFixture[str]):
    message = refused(argv, capsys)
    assert "no such file" in message
    assert "watercolour.safetensors?)" in message


def test_a_folder_that_is_missing_is_told(capsys: pytest.CaptureFixture[str], model: str):
    message = refused(["generate", "a cat", "--lora", "styles/ink.safetensors", "-m", model], capsys)
    assert message.startswith("styles/ink.safetensors: no such file (there is no folder styles), and no LoRA named")


def test_a_name_that_is_no_path_stays_a_name(capsys: pytest.CaptureFixture[str], model: str):
    message = refused(["generate", "a cat", "--lora", "watercolor", "-m", model], capsys)
    assert message.startswith("no LoRA named 'watercolor'")


def test_what_is_near():
    assert near_file(Path("phot.txt")) is None  # a picture is no list of prompts
    assert near_file(Path("setings.toml")) == Path("settings.toml")
    assert near_file(Path("photo")) == Path("photo.png")
    assert near_file(Path("quite/other.png")) is None
    assert near_file(Path("lighthouse.png")) is None


def test_a_finder_looks_into_no_folder():
    """The names that it gets may come from strangers."""
    with pytest.raises(GessoError, match=r"^no LoRA named './watercolor.safetensors'\. Known") as caught:
        NamedFiles().find("lora", "./watercolor.safetensors")
    assert "watercolour" in with_near_file(caught.value).message


def test_a_file_that_is_there_is_not_called_missing():
    """As a tag of the prompt, which takes names alone, may name it."""
    with pytest.raises(GessoError) as caught:
        NamedFiles().find("lora", "watercolour.safetensors")
    assert with_near_file(caught.value) is caught.value


@pytest.mark.parametrize("name", [".", "..", "/", "./."])
@pytest.mark.parametrize("argv", [["metadata", "strip"], ["metadata", "copy", "lighthouse.png"], ["upscale"]])
def test_a_folder_is_no_picture(argv: list[str], name: str, capsys: pytest.CaptureFixture[str]):
    info = PngInfo()
    info.add_text("parameters", "a cat\nSteps: 2, Seed: 1")
    with Image.open("photo.png") as image:
        image.save("lighthouse.png", pnginfo=info)
    assert "a folder, expected a picture" in refused([*argv, name], capsys)


@pytest.mark.parametrize(("name", "right"), [("a.gif", ".png"), ("a.jpg", ".png"), ("a.webp", ".png")])
def test_a_stripped_picture_keeps_its_format(name: str, right: str, capsys: pytest.CaptureFixture[str]):
    message = refused(["metadata", "strip", "photo.png", "-o", name], capsys)
    assert f"stays a PNG; give a name ending in {right}" in message and not Path(name).exists()
    assert run(["metadata", "strip", "photo.png", "-o", "b.PNG"]) == 0
