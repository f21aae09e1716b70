"""`gesso train`: from an atlas to a file, to pictures made with it, and what it refuses."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from gesso.cli.main import run as main
from gesso.cli.train import app
from gesso.errors import GessoError
from gesso.families.loading import load_parts
from gesso.mini import controlnet, few_steps, style_lora
from gesso.mini.controlnet import CPU_CONTROL
from gesso.mini.few_steps import CPU_FEW_STEPS
from gesso.mini.recipes import RECIPES, STAGES
from gesso.mini.style_lora import CPU_LORA
from gesso.scenes.glyphs import save_atlas
from gesso.scenes.vocabulary import things
from toy_training import SMALL, glyphs


def run(*arguments):
    """stdout of the command. Raises what it raises."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def atlas(tmp_path, monkeypatch):
    """An atlas of the default table in toy shapes, and a recipe named toy to use it with."""
    monkeypatch.setitem(RECIPES, "toy", SMALL)
    objects = things()
    path = tmp_path / "atlas.png"
    save_atlas(path, np.resize(glyphs(), (len(objects), 128, 128, 4)), objects)
    return path


def test_a_rehearsal_passes_all_stages_and_leaves_the_folder_alone(atlas, tmp_path):
    rows = run(
        "default-model", "--recipe", "toy", "--atlas", atlas, "--folder", tmp_path / "run", "--rehearsal"
    ).splitlines()
    assert {stage.name for stage in (tmp_path / "run" / "rehearsal").iterdir()} == set(STAGES)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["rehearsal"]
    assert json.loads(rows[-1])["samples"] == 12
    told = run(
        "export",
        tmp_path / "model.safetensors",
        *("--recipe", "toy", "--atlas", atlas, "--folder", tmp_path / "run" / "rehearsal"),
    )
    assert told.strip() == f"{tmp_path / 'model.safetensors'} objects={len(things())} size=128"
    assert len(load_parts(tmp_path / "model.safetensors").family.objects) == len(things())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--stage", "painting"), "--stage painting: expected one of autoencoder, "),
        (("--recipe", "tpu"), "--recipe tpu: expected one of cpu, gpu"),
        (("--samples", "5"), "--samples applies to one stage"),
        (("--finish-in", "5"), "--finish-in applies to one stage"),
        (("--stage", "denoising", "--samples", "5", "--finish-in", "5"), "give only one"),
        (("--recipe", "gpu", "--processes", "2"), "--processes 2: only a CPU can use several; leave it out for 'cuda'"),
        (("--font", "a.ttf", "--atlas", "b.png"), "--atlas and --font both supply the glyphs"),
        (("--atlas", "nowhere.png"), "nowhere.png: the atlas cannot be read"),
    ],
)
def test_what_cannot_be_is_told(arguments, message, tmp_path):
    with pytest.raises(GessoError) as error:
        run("default-model", "--folder", tmp_path, *arguments)
    assert message in str(error.value)


def test_an_atlas_of_another_recipe_is_told(atlas, tmp_path):
    with pytest.raises(GessoError, match=rf"an atlas of 114 objects.*expected {len(things('full'))} objects"):
        run("default-model", "--recipe", "gpu", "--device", "cpu", "--atlas", atlas, "--folder", tmp_path)


def said(capsys, *argv):
    """stdout of a whole command line that is to end well."""
    code = main(list(map(str, argv)))
    out, err = capsys.readouterr()
    assert code == 0, err
    return out, err


def levels(path):
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def quick(plan):
    return replace(plan, batch_size=4, warmup_samples=1, learning_rate=1e-2, ema_decay=0.5)


def steps(folder):
    """The step of every row of the log."""
    return [json.loads(row)["step"] for row in (folder / "log.jsonl").read_text().splitlines()]


@pytest.fixture
def drawn(tmp_path, capsys):
    """A picture of gesso-mini as it is, and the command that made it."""
    command = ("generate", "a red car", "--seed", "1", "--steps", "2", "-q")
    said(capsys, *command, "-o", tmp_path / "plain.png")
    return command


@pytest.mark.slow
def test_a_lora_is_trained_in_parts_and_draws(atlas, drawn, tmp_path, monkeypatch, capsys):
    recipe = replace(
        CPU_LORA, pool_size=16, precision="float32", report_pictures=4, denoising=quick(CPU_LORA.denoising)
    )
    recipe = replace(recipe, encoding=replace(quick(recipe.encoding), total_samples=8))
    monkeypatch.setattr(style_lora, "CPU_LORA", recipe)
    path, folder = tmp_path / "lines.safetensors", tmp_path / "run"
    command = ("train", "style", "line-art", path, "--folder", folder, "--atlas", atlas, "--rank", 2, "--overwrite")

    _, err = said(capsys, *command, "--minutes", 0)
    assert err == f"stopped early; run again to continue from {folder}\n"
    assert not path.exists()
    said(capsys, *command, "--samples", 12)
    out, _ = said(capsys, *command, "--samples", 24)  # goes on after three steps
    assert out.splitlines()[-1] == f"{path} rank=2 bytes={path.stat().st_size}"
    assert steps(folder / "encoding") == [0, 2, 2]
    assert steps(folder / "denoising") == [3, 6]

    for other in (("line-art", path, "--rank", 3), ("comic", path, "--rank", 2)):
        words = ["train", "style", *other, "--folder", folder, "--atlas", atlas, "--overwrite"]
        assert main([*map(str, words)]) == 2
        assert "Use another folder" in capsys.readouterr().err

    said(capsys, *drawn, "--lora", path, "-o", tmp_path / "lines.png")
    assert np.abs(levels(tmp_path / "lines.png") - levels(tmp_path / "plain.png")).mean() > 1
    assert "lines" in said(capsys, "lora", "info", path)[0]


@pytest.mark.slow
def test_few_steps_are_trained_in_parts_and_draw(atlas, drawn, tmp_path, monkeypatch, capsys):
    recipe = replace(CPU_FEW_STEPS, pool_size=8, precision="float32", report_prompts=2, plan=quick(CPU_FEW_STEPS.plan))
    monkeypatch.setattr(few_steps, "CPU_FEW_STEPS", recipe)
    path, folder = tmp_path / "few-steps.safetensors", tmp_path / "run"
    command = ("train", "few-steps", path, "--folder", folder, "--atlas", atlas, "--rank", 2, "--overwrite")

    _, err = said(capsys, *command, "--minutes", 0)
    assert err == f"stopped early; run again to continue from {folder}\n"
    assert not path.exists()
    said(capsys, *command, "--samples", 12)
    out, _ = said(capsys, *command, "--samples", 24)
    assert out.splitlines()[-1] == f"{path} rank=2 bytes={path.stat().st_size}"
    assert steps(folder) == [0, 3, 6]

    fast = ("generate", "a red car", "--seed", "1", "-q", "--fast")
    said(capsys, *fast, "--lora", path, "-o", tmp_path / "own.png")
    said(capsys, *fast, "-o", tmp_path / "fast.png")
    assert np.abs(levels(tmp_path / "own.png") - levels(tmp_path / "fast.png")).mean() > 1


@pytest.mark.slow  # the same command as for a LoRA, above; tests/mini/test_controlnet.py trains one
def test_a_controlnet_is_trained_in_parts_and_steers(atlas, drawn, tmp_path, monkeypatch, capsys):
    pytest.importorskip("cv2")
    recipe = replace(CPU_CONTROL, pool_size=16, precision="float32", report_pictures=4, plan=quick(CPU_CONTROL.plan))
    monkeypatch.setattr(controlnet, "CPU_CONTROL", recipe)
    path, folder = tmp_path / "edges.safetensors", tmp_path / "run"
    command = ("train", "edges", path, "--folder", folder, "--atlas", atlas, "--overwrite")

    _, err = said(capsys, *command, "--minutes", 0)
    assert err == f"stopped early; run again to continue from {folder}\n"
    assert not path.exists()
    said(capsys, *command, "--samples", 12)
    out, _ = said(capsys, *command, "--samples", 24)
    assert out.splitlines()[-1] == f"{path} bytes={path.stat().st_size}"
    assert steps(folder) == [0, 3, 6]

    control = f"{path},image={tmp_path / 'plain.png'},preprocess=canny"
    said(capsys, *drawn, "--control", control, "-o", tmp_path / "steered.png")
    assert np.abs(levels(tmp_path / "steered.png") - levels(tmp_path / "plain.png")).mean() > 1


@pytest.mark.parametrize("command", [("style", "comic"), ("edges",), ("few-steps",), ("export",)])
def test_a_place_that_is_not_there_is_told_before_the_work(command, tmp_path):
    with pytest.raises(GessoError, match=r"the folder .*nowhere does not exist\. Create it"):
        run(*command, tmp_path / "nowhere" / "made.safetensors", "--folder", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", [("style", "comic"), ("edges",), ("few-steps",), ("export",), ("atlas",)])
def test_an_existing_file_and_a_wrong_ending_are_refused_before_the_work(command, tmp_path):
    ending = ".png" if command == ("atlas",) else ".safetensors"
    place = () if command == ("atlas",) else ("--folder", tmp_path / "run")
    kept = tmp_path / f"kept{ending}"
    kept.write_bytes(b"mine")
    with pytest.raises(GessoError, match=r"already exists; left unchanged\. .* add --overwrite"):
        run(*command, kept, *place)
    with pytest.raises(GessoError, match=rf"expected a file name ending in {ending}"):
        run(*command, tmp_path / "out.jpg", *place)
    assert kept.read_bytes() == b"mine"
    assert [path.name for path in tmp_path.iterdir()] == [kept.name]


def test_a_folder_that_cannot_be_made_is_told(atlas, tmp_path):
    (tmp_path / "taken").touch()
    with pytest.raises(GessoError, match="cannot make the folder"):
        run("style", "comic", tmp_path / "made.safetensors", "--folder", tmp_path / "taken", "--atlas", atlas)
