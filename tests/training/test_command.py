"""`gesso train`: from an atlas to a file, and what it refuses."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from gesso.cli.train import app
from gesso.errors import GessoError
from gesso.families.loading import load_parts
from gesso.scenes.glyphs import save_atlas
from gesso.scenes.vocabulary import things
from gesso.training.recipes import RECIPES, STAGES
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
        (("--samples", "5"), "--samples is about one stage"),
        (("--finish-in", "5"), "--finish-in is about one stage"),
        (("--stage", "denoising", "--samples", "5", "--finish-in", "5"), "give one of them"),
        (("--recipe", "gpu", "--processes", "2"), "--processes 2 train together on a CPU; 'cuda'"),
        (("--font", "a.ttf", "--atlas", "b.png"), "--atlas and --font both name the glyphs"),
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
