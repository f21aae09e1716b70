"""`gesso generate --lora` and `gesso replay` of what it drew."""

import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from adapters.files import kohya, lora_parts, saved, target_of
from gesso.cli.adapter_options import parse_loras
from gesso.cli.main import run
from gesso.errors import GessoError
from gesso.pictures.picture_file import read_picture
from gesso.request.parts import LoraUse
from tiny_sd import TINY_SD, save_tiny_folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny_folder(tmp_path_factory.mktemp("models") / "sd", TINY_SD))


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a LoRA and an embedding."""
    base = tmp_path_factory.mktemp("adapters")
    torch.manual_seed(0)
    saved(base / "ink.safetensors", kohya(target_of(TINY_SD), lora_parts))
    saved(base / "mystyle.safetensors", {"emb_params": torch.randn(2, 32)})
    return base


@pytest.fixture(autouse=True)
def _here(adapters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GESSO_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("GESSO_DEBUG", raising=False)
    shutil.copytree(adapters, tmp_path, dirs_exist_ok=True)


def said(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = run(list(argv))
    out, err = capsys.readouterr()
    return code, out, err


def test_a_lora_and_a_learned_word_draw_and_replay(capsys: pytest.CaptureFixture[str], model: str):
    draw = ("generate", "a cat, mystyle", "-s", "2", "--size", "64", "--seed", "1", "-m", model, "-q")
    code, _, err = said(
        capsys, *draw, "--lora", "ink.safetensors:0.4:0.2", "--embedding", "mystyle.safetensors", "-o", "a.png"
    )
    assert (code, err) == (0, "")
    _, recipe = read_picture(Path("a.png"))
    assert recipe.request.loras == (LoraUse(name="ink", weight=0.4, text_weight=0.2),)
    assert [(extra.kind, extra.name) for extra in recipe.extras] == [("lora", "ink"), ("embedding", "mystyle")]
    with Image.open("a.png") as image:
        parameters = str(image.info["parameters"])
    assert "<lora:ink:0.2:0.4>" in parameters
    assert f'Lora hashes: "ink: {recipe.extras[0].autov3}"' in parameters
    assert f'TI hashes: "mystyle: {recipe.extras[1].sha256[:12]}"' in parameters

    # Neither file is in the library: both must be said.
    code, _, err = said(capsys, "replay", "a.png", "-m", model, "-q")
    assert code == 2
    assert "'ink'" in err and "--lora" in err
    given = ("--lora", "ink.safetensors", "--embedding", "mystyle.safetensors")
    assert said(capsys, "replay", "a.png", "-m", model, "-q", *given)[:2] == (0, "identical\n")

    saved(Path("ink.safetensors"), {name: 2 * t for name, t in kohya(target_of(TINY_SD), lora_parts).items()})
    code, out, _ = said(capsys, "replay", "a.png", "-m", model, "-q", *given)
    assert code == 1
    assert f"changed: lora ink: {recipe.extras[0].sha256[:10]} -> " in out


def test_the_library_knows_names(capsys: pytest.CaptureFixture[str], model: str, tmp_path: Path):
    folder = tmp_path / "home" / "models" / "loras"
    folder.mkdir(parents=True)
    (tmp_path / "ink.safetensors").rename(folder / "ink.safetensors")
    draw = ("generate", "a cat <lora:INK:0.4>", "-s", "2", "--size", "64", "--seed", "1", "-m", model, "-q")
    assert said(capsys, *draw, "-o", "a.png")[0] == 0
    assert said(capsys, "replay", "a.png", "-m", model, "-q")[:2] == (0, "identical\n")
    code, _, err = said(capsys, "generate", "a cat <lora:inc:1>", "-m", model, "-q")
    assert code == 2
    assert err == "error: no LoRA named 'inc'. Did you mean 'ink'?\n"


def test_strengths_are_read(tmp_path: Path):
    (tmp_path / "a:0.5.safetensors").write_bytes(b"")
    uses, files = parse_loras(["ink.safetensors", "style:0.8", "a:b:-1:.5", "style:1@0,0.2@0.6", "a:0.5.safetensors:2"])
    assert uses == (
        LoraUse(name="ink", weight=1.0, text_weight=1.0),
        LoraUse(name="style", weight=0.8, text_weight=0.8),
        LoraUse(name="a:b", weight=-1.0, text_weight=0.5),
        LoraUse(name="style", weight=1.0, text_weight=1.0, points=((0.0, 1.0), (0.6, 0.2))),
        LoraUse(name="a:0.5", weight=2.0, text_weight=2.0),
    )
    assert set(files) == {"ink", "a:0.5"}
    for wrong in ("style:1e999", "style:1@2", "style:0.5x", "style:1@0.5,2@0.1"):
        with pytest.raises(GessoError):
            parse_loras([wrong])
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "ink.safetensors").write_bytes(b"")
    with pytest.raises(GessoError, match="has the same name"):
        parse_loras(["ink.safetensors", "other/ink.safetensors"])


def test_flags_styles_and_wildcards(capsys: pytest.CaptureFixture[str], model: str, tmp_path: Path):
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "animal.txt").write_text("cat\ndog\nowl\n")
    (tmp_path / "styles.csv").write_text("name,prompt,negative_prompt\noil,oil painting of {prompt},photo\n")
    draw = ("generate", "-s", "1", "--size", "64", "-m", model)
    written = ("a __animal__ --repeat 3 --seed 4", "--syntax", "midjourney", "--style", "oil", "--styles", "styles.csv")
    code, _, err = said(capsys, *draw, *written, "--wildcards", "lists", "-o", "x{index}.png")
    assert code == 0
    assert "note: the prompt was generated from: oil painting of a __animal__" in err
    assert "3 pictures in" in err
    for index, name in enumerate(("x0.png", "x1.png", "x2.png")):
        _, recipe = read_picture(Path(name))
        asked = recipe.request
        assert asked.prompt in ("oil painting of a cat", "oil painting of a dog", "oil painting of a owl")
        assert (asked.negative_prompt, asked.seed, asked.first_index) == ("photo", 4, index)
        assert any("generated from" in notice for notice in recipe.notices)
    assert said(capsys, "replay", "x1.png", "-m", model, "-q")[:2] == (0, "identical\n")
    for wrong, message in (
        (("a cat", "--syntax", "nosuch"), "unknown syntax 'nosuch'"),
        (("a cat --ar", "--syntax", "midjourney"), "--ar is ''"),
        (("a cat", "--style", "oil"), "Give one with"),
        (("a cat", "--style", "ink", "--styles", "styles.csv"), "unknown style 'ink'"),
        (("a cat", "--styles", "styles.csv"), "choose styles"),
        (("a cat", "--wildcards", "nosuch"), "expected a folder of wildcards"),
    ):
        code, _, err = said(capsys, *draw, *wrong)
        assert code == 2
        assert message in err


@pytest.mark.parametrize("command", ["batch", pytest.param("grid", marks=pytest.mark.slow)])  # ten drawings each
@pytest.mark.slow
def test_many_pictures_take_what_generate_takes_beside_the_prompt(
    capsys: pytest.CaptureFixture[str], model: str, command: str
):
    """Each picture is that of `gesso generate` with the same options, and the run goes on with them."""
    Path("lists").mkdir()
    Path("lists/animal.txt").write_text("cat\ndog\nturtle\npizza\n")
    Path("styles.csv").write_text('name,prompt,negative_prompt\ncold,"{prompt}, mystyle",warm\n')
    beside = ["--lora", "ink.safetensors:0.4:0.2", "--embedding", "mystyle.safetensors", "--wildcards", "lists"]
    beside += ["--style", "cold", "--styles", "styles.csv"]
    settings = ["--set", "steps=2", "--set", "size=64", "--seed", "7", "-m", model, "-o", "out"]
    Path("lines.txt").write_text('{"prompt": "a __animal__", "num_images": 4}\n')
    whole = {
        "batch": ["batch", "lines.txt", *settings],
        "grid": ["grid", "a __animal__", "-x", "first_index=0-3", *settings],
    }[command]
    code, _, err = said(capsys, *whole, *beside)
    assert code == 0
    assert "the prompt was generated from: a __animal__, mystyle" in err
    drawn = sorted(path for path in Path("out").glob("*.png") if path.name != "grid.png")
    recipes = [read_picture(path)[1] for path in drawn]
    assert len({recipe.request.prompt for recipe in recipes}) > 1
    one = ["generate", "a __animal__", "-s", "2", "--size", "64", "--seed", "7", "--number", "4", "-m", model, "-q"]
    assert said(capsys, *one, *beside, "-o", "single.png")[0] == 0
    singles = sorted(Path().glob("single*.png"))
    assert [recipe.request for recipe in recipes] == [read_picture(path)[1].request for path in singles]
    assert [recipe.extras for recipe in recipes] == [read_picture(path)[1].extras for path in singles]

    drawn[1].unlink()
    code, _, err = said(capsys, *whole, *beside)
    assert (code, "4 pictures: 1 new, 3 already done" in err) == (0, True)
    code, _, err = said(capsys, *whole, *beside[2:])
    assert code == 2 and "another run (different lora)" in err


@pytest.mark.parametrize("command", [["batch", "lines.txt"], ["grid", "a cat", "-x", "steps=1"]])
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--style", "cold"], "no style file"),
        (["--styles", "styles.csv"], "choose styles with --style"),
        (["--wildcards", "nowhere"], "expected a folder of wildcards"),
        (["--embedding", "nothing.pt"], "no such file"),
    ],
)
def test_what_is_not_there_is_told_before_a_run_begins(
    capsys: pytest.CaptureFixture[str], model: str, command: list[str], options: list[str], words: str
):
    Path("lines.txt").write_text("a cat\n")
    code, _, err = said(capsys, *command, *options, "-m", model)
    assert code == 2 and words in err
    assert not Path("outputs").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-m", ""], "the model's name is empty"),
        (["--seed", "-2"], "seed is -2, expected 0 to 18446744073709551615; -1 is a random one"),
        (
            ["--hires", "2", "--hires-upscaler", "lanczo"],
            "no upscaler named 'lanczo' (did you mean 'lanczos'?). Known: ",
        ),
        (["--lora", "woodcut:x"], "the LoRA 'woodcut' has the weight 'x', expected a number"),
        (["--lora", "woodcut:0.5x"], "--lora: the LoRA 'woodcut' has the weight '0.5x', expected a number"),
        (["--lora", "ink.safetensors:x"], "--lora ink.safetensors:x: the weight is 'x', expected a number"),
        (["--lora", "woodcu"], "no LoRA named 'woodcu'. Did you mean 'woodcut'?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_cannot_be_is_an_error_that_says_so(
    capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    code, out, err = said(capsys, "generate", "a cat", "-q", *options)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert list(Path().glob("**/*.png")) == []


@pytest.mark.parametrize("text", ["", " ", "  :0.5"])
def test_a_lora_without_a_name_is_refused_by_its_option(text: str):
    with pytest.raises(GessoError) as caught:
        parse_loras([text])
    assert str(caught.value) == "--lora is empty, expected a name or a file"


def test_an_embedding_that_no_prompt_names_is_told(capsys: pytest.CaptureFixture[str], model: str):
    draw = (
        "generate",
        "--steps",
        "1",
        "--size",
        "64",
        "--seed",
        "1",
        "-m",
        model,
        "--embedding",
        "mystyle.safetensors",
    )
    said_of = "note: --embedding: 'mystyle' stands in no prompt, so it was not used"
    for prompt, is_told in (("a cat", True), ("a cat, MyStyle", False)):
        code, _, err = said(capsys, *draw, prompt)
        assert (code, said_of in err) == (0, is_told)
