"""A training from a folder to a file at toy size: exact when killed, what it refuses, what the file says."""

import json
import math
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gesso.checkpoints.weight_file import open_weights
from gesso.errors import GessoError
from gesso.training.loop import load_state
from gesso.tuning import run as tuning_run
from gesso.tuning.page import read_log
from gesso.tuning.run import TuningRun
from gesso.tuning.settings import TuningSettings, read_settings
from tiny_models import save_tiny_mini
from tiny_sd import TINY_INPAINT, TINY_REFINER, TINY_SD, TINY_SDXL, save_tiny_folder
from tuning.made import save_folder, save_picture

QUICK = {"rank": 2, "batch_size": 2, "precision": "float32", "report_every": 100, "samples": False, "steps": 8}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A tiny model and six pictures."""
    folder = tmp_path_factory.mktemp("tune")
    save_tiny_mini(folder / "model.safetensors")
    save_folder(folder / "pictures")
    return folder


def made(root: Path, folder: Path, **changes) -> TuningRun:
    model = changes.pop("file", root / "model.safetensors")
    values = QUICK | {"data": str(root / "pictures"), "output": str(folder / "my.safetensors")} | changes
    return TuningRun(TuningSettings(**values), model, folder / "run")


def tensors(value, prefix=""):
    if isinstance(value, torch.Tensor):
        yield prefix, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from tensors(inner, f"{prefix}.{key}")


# ---- exact resume ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills processes that were forked")
@pytest.mark.parametrize("kills", [1, pytest.param(50, marks=pytest.mark.slow)])
def test_a_run_that_was_killed_ends_with_the_same_bits(kills, root, tmp_path):
    for name in ("model.safetensors", "pictures"):
        (tmp_path / name).symlink_to(root / name)
    paths = os.pathsep.join(path for path in sys.path if path)
    command = [sys.executable, "-m", "tuning.killed", str(tmp_path), str(kills), "5"]
    limit = 300 + 60 * kills  # on a machine that does other things, too
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, timeout=limit, check=False
    )
    assert done.returncode == 0, done.stderr
    whole, killed = (load_state(tmp_path / name / "last.pt") for name in ("whole", "killed"))
    assert whole["step"] == killed["step"] == 12
    for part in ("modules", "optimizer", "average"):
        ours, theirs = dict(tensors(whole[part])), dict(tensors(killed[part]))
        assert ours.keys() == theirs.keys()
        for name, tensor in ours.items():
            assert torch.equal(tensor, theirs[name]), name
    first, second = (open_weights(tmp_path / f"{name}.safetensors") for name in ("whole", "killed"))
    assert first.metadata["modelspec.hash_sha256"] == second.metadata["modelspec.hash_sha256"]
    logs = [[row for row in read_log(tmp_path / name / "log.jsonl") if "seen" in row] for name in ("whole", "killed")]
    assert [row["seen"] for row in logs[0]] == [row["seen"] for row in logs[1]]
    assert not list(tmp_path.glob("killed/.*.part")) or kills  # what a kill leaves is hidden and never read


def test_a_run_that_is_asked_to_stop_goes_on(root, tmp_path):
    whole = made(root, tmp_path / "whole")
    assert whole.train()
    parts = made(root, tmp_path / "parts")
    calls = iter([False] * 3 + [True] * 9)
    assert not parts.train(stop=lambda: next(calls))
    assert load_state(tmp_path / "parts" / "run" / "last.pt")["step"] == 3
    assert made(root, tmp_path / "parts").train()
    ours, theirs = (load_state(tmp_path / name / "run" / "last.pt") for name in ("whole", "parts"))
    for name, tensor in tensors(ours["modules"]):
        assert torch.equal(tensor, dict(tensors(theirs["modules"]))[name])


@pytest.mark.slow
def test_a_finished_run_can_be_made_longer_and_written_again(root, tmp_path):
    run = made(root, tmp_path, steps=3)
    assert run.train() and run.is_done
    longer = made(root, tmp_path, steps=5)
    assert not longer.is_done
    assert longer.train() and load_state(tmp_path / "run" / "last.pt")["step"] == 5
    assert read_settings(tmp_path / "run" / "settings.toml")["steps"] == 5  # what a later file of it is written by


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rate": 0.5}, "has `learning_rate` 0.001, not 0.5"),
        ({"trigger": "cats"}, "was begun with other pictures or captions"),
        ({"file": "other.safetensors"}, "was begun with another model"),
    ],
)
@pytest.mark.sampled(3)
def test_the_state_of_another_training_is_refused(changes, message, root, tmp_path):
    run = made(root, tmp_path)
    run.train(stop=lambda: True)
    if "file" in changes:
        changes = {"file": save_tiny_mini(tmp_path / "other.safetensors", seed=3)}
    with pytest.raises(GessoError, match=message) as error:
        made(root, tmp_path, **changes).train()
    assert error.value.code == "other_training"


def test_a_gradient_that_is_not_finite_rolls_back_at_half_the_rate(root, tmp_path, monkeypatch):
    """At the first visit of step 6 alone; the run then ends as if its rate had been halved after step 4."""
    monkeypatch.setattr(tuning_run, "KEEP_EVERY", 4)
    run, failed = made(root, tmp_path), []
    real = tuning_run.TuningTask.loss

    def loss(self, step, batch_size, seed):
        found, figures = real(self, step, batch_size, seed)
        if step == 6 and not failed:
            failed.append(step)
            return found * math.nan, figures
        return found, figures

    monkeypatch.setattr(tuning_run.TuningTask, "loss", loss)
    rows = []
    assert run.train(on_log=rows.append)
    (told,) = [row for row in rows if "not_finite_at" in row]
    assert (told["step"], told["not_finite_at"], told["rate"]) == (4, 6, 0.5)
    state = load_state(tmp_path / "run" / "last.pt")
    assert (state["step"], state["rate"], state["rolled_back"]) == (8, 0.5, [6])
    assert "back to step 4, at 0.5 of the learning rate" in (tmp_path / "run" / "report.html").read_text()

    monkeypatch.setattr(
        tuning_run.TuningTask, "loss", lambda *args: (lambda pair: (pair[0] * math.nan, pair[1]))(real(*args))
    )
    with pytest.raises(GessoError, match=r"step 0: the gradient is not finite\. Lower the learning rate") as error:
        made(root, tmp_path / "always").train()
    assert error.value.code == "not_finite"


@pytest.mark.slow
def test_a_full_disk_leaves_the_last_state(root, tmp_path, monkeypatch):
    run = made(root, tmp_path)
    run.train(stop=iter([False, False, True]).__next__)
    before = (tmp_path / "run" / "last.pt").read_bytes()
    full = type("Usage", (), {"free": 1000})
    real = shutil.disk_usage
    monkeypatch.setattr(
        "gesso.training.loop.shutil.disk_usage", lambda path: full if path.name == "run" else real(path)
    )
    with pytest.raises(GessoError, match=r"no room for a state of .* MiB at step 8; the last state stays") as error:
        made(root, tmp_path).train()
    assert error.value.code == "disk_full"
    assert (tmp_path / "run" / "last.pt").read_bytes() == before
    monkeypatch.undo()
    assert made(root, tmp_path).train()


# ---- what is learned -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_it_learns_its_pictures(root, tmp_path):
    rows = []
    made(root, tmp_path, steps=20, learning_rate=2e-2).train(on_log=rows.append)
    first, last = [row["seen"] for row in rows if "seen" in row]
    assert last < 0.9 * first


def test_pictures_that_are_held_out_are_never_seen(root, tmp_path):
    run = made(root, tmp_path, held_out=2, steps=4)
    names = run.explain()["held_out"]
    assert len(names) == 2
    run.train()
    parts = run._parts()
    task = run._task(parts, {})
    seen = {task.found[place].example.path.name for step in range(40) for place in task.batches(step)}
    assert seen == {f"{number:02}.png" for number in range(6)} - set(names)
    rows = read_log(tmp_path / "run" / "log.jsonl")
    assert [row["step"] for row in rows if "held" in row] == [0, 4]
    assert all(math.isfinite(row[f"held_{time}"]) for row in rows if "held" in row for time in (62, 937))


def test_a_picture_with_a_twin_is_not_held_out(tmp_path):
    save_tiny_mini(tmp_path / "model.safetensors")
    save_folder(tmp_path / "pictures", count=3)
    for name in ("00", "01"):
        (tmp_path / "pictures" / f"{name}b.png").write_bytes((tmp_path / "pictures" / f"{name}.png").read_bytes())
    assert made(tmp_path, tmp_path, held_out=1).explain()["held_out"] == ["02.png"]


@pytest.mark.slow
def test_the_same_settings_give_the_same_file(root, tmp_path):
    first = made(root, tmp_path / "a", steps=3)
    first.train()
    first.write(tmp_path / "a" / "my.safetensors")
    settings = TuningSettings(**read_settings(tmp_path / "a" / "my.toml"))
    (tmp_path / "b").mkdir()
    again = TuningRun(settings, root / "model.safetensors", tmp_path / "b" / "run")
    assert again.settings == first.settings
    again.train()
    again.write(tmp_path / "b" / "my.safetensors")
    assert (tmp_path / "a" / "my.safetensors").read_bytes() == (tmp_path / "b" / "my.safetensors").read_bytes()


@pytest.mark.parametrize("family", [TINY_SD, TINY_SDXL], ids=["SD 1.5", "SDXL"])
@pytest.mark.slow
def test_stable_diffusion_from_a_file(family, tmp_path):
    """All that a run has beside gesso-mini: other text encoders, sizes, checkpoints of the blocks."""
    model = save_tiny_folder(tmp_path / "model", family)
    save_folder(tmp_path / "pictures", count=3, size=(96, 64))
    run = made(
        tmp_path, tmp_path, file=model, resolution=128, bucket_step=64, min_bucket=64, steps=2, train_text=True,
        checkpointing=True, min_snr=5.0, accumulation=2,
    )  # fmt: skip
    assert run.train()
    run.write(tmp_path / "my.safetensors")
    file = open_weights(tmp_path / "my.safetensors")
    start = "lora_unet_input_blocks" if family.text_2 else "lora_unet_down_blocks"
    assert any(name.startswith(start) for name in file.tensors)
    assert any(name.startswith("lora_te1_" if family.text_2 else "lora_te_") for name in file.tensors)
    assert file.metadata["modelspec.architecture"].endswith("/lora")
    assert file.metadata["ss_base_model_version"] == ("sdxl_base_v1-0" if family.text_2 else "sd_v1")


# ---- what the file says ----------------------------------------------------------------------------------------------


def test_metadata(root, tmp_path):
    run = made(root, tmp_path, trigger="cats", steps=2, min_snr=5.0)
    run.train()
    run.write(tmp_path / "my.safetensors", author="me")
    said = open_weights(tmp_path / "my.safetensors").metadata
    assert said["modelspec.title"] == "my" and said["modelspec.author"] == "me"
    assert said["modelspec.trigger_phrase"] == "cats"
    assert said["modelspec.architecture"] == "gesso-mini/lora"
    assert (said["ss_network_dim"], said["ss_steps"], said["ss_num_train_images"]) == ("2", "2", "6")
    assert (said["ss_min_snr_gamma"], said["ss_seed"]) == ("5.0", "0")
    frequency = json.loads(said["ss_tag_frequency"])["pictures"]
    assert frequency["cats"] == 5 and frequency["a turtle"] == 1  # one caption has the word
    assert json.loads(said["ss_bucket_info"])["buckets"]["0"] == {"resolution": [64, 64], "count": 6}
    assert len(said["ss_new_sd_model_hash"]) == 64
    assert not any(str(tmp_path) in value for value in said.values())  # nothing of the machine


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "family", [TINY_REFINER, pytest.param(TINY_INPAINT, marks=pytest.mark.slow)], ids=lambda family: family.name
)
def test_models_that_a_lora_is_not_trained_for(family, root, tmp_path):
    model = save_tiny_folder(tmp_path / "model", family)
    with pytest.raises(GessoError, match="train for the"):
        made(root, tmp_path, file=model)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bucket_step": 12}, "`bucket_step` 12: expected a multiple of 8"),
        ({"resolution": 20, "buckets": False}, "`resolution` 20: expected a multiple of 8"),
        ({"held_out": 6}, "`held_out` 6: of 6 pictures, none would be left"),
        ({"data": "nowhere"}, "nowhere: no such folder"),
        ({"device": "cuda:99"}, "CUDA"),
    ],
)
def test_what_cannot_be_is_told(changes, message, root, tmp_path):
    with pytest.raises(GessoError) as error:
        made(root, tmp_path, **changes)
    assert message in str(error.value)


def test_pictures_of_the_class_may_look_the_same(root, tmp_path):
    (tmp_path / "pictures").mkdir()
    for number, seed in enumerate((1, 2, 2)):
        save_picture(tmp_path / "pictures" / f"{number}.png", seed)
        save_picture(tmp_path / "class" / f"{number}.png", 3)
    run = made(tmp_path, tmp_path, file=root / "model.safetensors", caption="a cat", reg=str(tmp_path / "class"))
    facts = run.explain()
    assert (facts["pictures"], facts["class_pictures"]) == (3, 3)
    assert (facts["duplicates"], facts["alike"]) == ([["1.png", "2.png"]], [])  # the same file is named once


def test_explain_says_what_was_found_and_changes_nothing(root, tmp_path):
    (tmp_path / "pictures").mkdir()
    for path in (root / "pictures").iterdir():
        (tmp_path / "pictures" / path.name).write_bytes(path.read_bytes())
    save_picture(tmp_path / "pictures" / "small.png", 9, (30, 30))
    (tmp_path / "pictures" / "broken.png").write_bytes(b"no picture")
    (tmp_path / "pictures" / "small.txt").write_text("a zorp", encoding="utf-8")
    save_picture(tmp_path / "pictures" / "wide.png", 10, (200, 100))
    run = made(tmp_path, tmp_path, file=root / "model.safetensors", rank=4)
    facts = run.explain()
    json.dumps(facts)
    assert (facts["pictures"], facts["captions"], facts["layout"]) == (8, 7, "folder")
    assert [one["picture"] for one in facts["enlarged"]] == ["small.png"]
    assert [one["picture"] for one in facts["unreadable"]] == ["broken.png"]
    assert facts["unknown_words"] == ["zorp"]
    assert {(one["width"], one["height"]): one["pictures"] for one in facts["buckets"]} == {(64, 64): 7, (80, 48): 1}
    trained = run._task(run._parts(), {}).learner.factors
    assert facts["trained_parameters"] == sum(p.numel() for p in trained.parameters())
    assert facts["memory_bytes"] > 4 * facts["trained_parameters"] and facts["seconds"] > 0
    assert facts["report_seconds"] > 0  # six pictures at eight timesteps; none are drawn
    assert not (tmp_path / "run").exists()


def test_settings_say_nothing_of_what_follows_from_the_model(root, tmp_path):
    run = made(root, tmp_path)
    assert run.settings.resolution == 64 and run.settings.bucket_step == 16
    assert replace(run.settings, steps=9) != run.settings


@pytest.mark.parametrize("train_text", [False, True])
@pytest.mark.slow
def test_the_preset_of_a_card_on_a_cpu(train_text, root, tmp_path):
    """Weights and products in bfloat16, factors in float32, checkpointed blocks, samples in between."""
    rows = []
    run = made(
        root, tmp_path, preset="8gb", precision=None, batch_size=None, steps=3, samples=True, report_every=2,
        train_text=train_text, learning_rate=1e-2, text_rate=1e-2,
    )  # fmt: skip
    assert run.train(on_log=rows.append)
    dtypes = {name: next(network.parameters()).dtype for name, network in run._parts().networks.items()}
    assert dtypes["unet"] == torch.bfloat16 and dtypes["vae"] == torch.float32
    assert dtypes["text"] == (torch.float32 if train_text else torch.bfloat16)
    state = load_state(tmp_path / "run" / "last.pt")
    assert state["precision"] == "bfloat16"
    factors = state["modules"]["factors"]
    assert {tensor.dtype for tensor in factors.values()} == {torch.float32}
    assert all(tensor.isfinite().all() for tensor in factors.values())
    assert all(
        tensor.any() for name, tensor in factors.items() if name.startswith("layers.unet") and name.endswith("up")
    )
    assert [row["samples_drawn"] for row in rows if "samples_drawn" in row] == [2.0, 2.0, 2.0]
    assert ">a blue cat on a yellow background<" in (tmp_path / "run" / "report.html").read_text().replace("\n", "<")
