"""ControlNets and distillations are judged on their way: by the hint that a picture follows, and by the teacher."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gesso.checkpoints.weight_file import open_weights
from gesso.tuning import control_measures, judging
from gesso.tuning.control_measures import ControlMeasurer, agreement, look_of
from gesso.tuning.judge_prompts import caption_prompts
from gesso.tuning.judging import best_step, kept_steps
from gesso.tuning.measures import drawing_of
from gesso.tuning.run import TuningRun
from gesso.tuning.settings import TuningSettings
from gesso.tuning.student_measures import StudentMeasurer
from gesso.tuning.verdict import read_measures, verdict_of
from tiny_models import save_tiny_mini
from tuning.made import save_folder

QUICK: dict[str, Any] = {"batch_size": 2, "precision": "float32", "steps": 2, "report_every": 1}
QUICK |= {"sample_steps": 2, "judge_samples": 6, "copy_samples": 2, "learning_rate": 1e-2, "teacher_steps": 20}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("judged_kinds")
    save_tiny_mini(folder / "model.safetensors")
    save_folder(folder / "photos")
    return folder


def made(root: Path, folder: Path, kind: str, **changes: Any) -> TuningRun:
    values = QUICK | {"kind": kind, "data": str(root / "photos"), "output": str(folder / "my.safetensors")} | changes
    return TuningRun(TuningSettings(**values), root / "model.safetensors", folder / "run")


@pytest.mark.slow
def test_a_controlnet(root: Path, tmp_path: Path) -> None:
    run = made(root, tmp_path, "controlnet", hint="invert", held_out=2)
    assert run.train()
    rows = read_measures(run.folder / "measures.jsonl")
    assert [row["step"] for row in rows] == [0, 1, 2] and kept_steps(run.folder) == [1, 2]
    for row in rows:
        assert all(len(row[name]) == 6 for name in ("likeness", "agreement", "shuffled", "fits", "nearest"))
        assert set(row["nearest_place"]) <= set(range(6)) - set(run.held)
    assert rows[0]["drift"] == [0.0] * 4  # before the first step the ControlNet says nothing
    assert any(rows[-1]["drift"])
    best = best_step(run.folder)
    assert run.write(tmp_path / "my.safetensors")["step"] == best
    metadata = open_weights(tmp_path / "my.safetensors").metadata
    said = json.loads(metadata["gesso.verdict"])
    assert {"score", "likeness", "prompts", "copies", "drift"} <= said.keys() and len(said["likeness"]) == 3
    assert metadata["gesso.copy_check_samples"] == "2"
    page = (run.folder / "report.html").read_text()
    assert "<h2>Verdict</h2>" in page and "how well the hint of a drawn picture agrees" in page


@pytest.mark.slow
def test_what_follows_its_hint_is_told_from_what_does_not(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pictures that are those of the hints themselves, and those of other hints."""
    shift = 0

    def drawn(self: ControlMeasurer, places: Any, seed: int) -> list[Tensor]:
        return [self.shown[(place + shift) % len(self.shown)].latents for place in places]

    monkeypatch.setattr(ControlMeasurer, "draw_yours", drawn)
    run = made(root, tmp_path, "controlnet", hint="invert", held_out=2, copy_samples=0)
    run.train(stop=lambda: True)
    shift = 1
    other = made(root, tmp_path / "other", "controlnet", hint="invert", held_out=2, copy_samples=0)
    other.train(stop=lambda: True)
    (same,), (shuffled,) = (read_measures(one.folder / "measures.jsonl") for one in (run, other))
    assert np.mean(same["likeness"]) == pytest.approx(1, abs=1e-3)
    assert same["likeness"] == pytest.approx(same["own_likeness"], abs=1e-3)
    assert abs(np.mean(shuffled["likeness"])) < 0.5 and np.mean(shuffled["agreement"]) < np.mean(same["agreement"])


def test_hints_that_cannot_be_made_again_leave_the_loss(root: Path, tmp_path: Path) -> None:
    run = made(root, tmp_path, "controlnet", hints=str(root / "photos"), held_out=2, samples=False)
    assert run.train()
    row = read_measures(run.folder / "measures.jsonl")[-1]
    assert row.keys() == {"step", "seen", "held"} and run.verdict.best in (1, 2)


def test_agreement_of_hints() -> None:
    generator = torch.Generator().manual_seed(0)
    hint = torch.nn.functional.interpolate(torch.rand(1, 3, 8, 8, generator=generator), (64, 64), mode="nearest")[0]
    other = torch.nn.functional.interpolate(torch.rand(1, 3, 8, 8, generator=generator), (64, 64), mode="nearest")[0]
    one, two, flat = look_of(hint), look_of(other), look_of(torch.zeros(3, 64, 64))
    assert one.shape == (3, control_measures.LOOK, control_measures.LOOK)
    assert agreement(one, one) == pytest.approx(1) and abs(agreement(one, two)) < 0.3
    assert agreement(one, look_of(hint.roll(1, dims=2))) > 0.8  # a little aside
    assert (agreement(flat, flat), agreement(flat, one)) == (1.0, 0.0)


@pytest.mark.slow
def test_a_student(root: Path, tmp_path: Path) -> None:
    run = made(root, tmp_path, "distil", judge_samples=3)
    assert run.train()
    rows = read_measures(run.folder / "measures.jsonl")
    assert [row["step"] for row in rows] == [0, 1, 2] and kept_steps(run.folder) == [1, 2]
    assert np.mean(rows[0]["likeness"]) == pytest.approx(0, abs=1e-3)  # as it drew before
    assert np.mean(rows[0]["own_likeness"]) == pytest.approx(1, abs=1e-3)  # the teacher in half of its steps
    assert rows[1]["teacher_fits"] == rows[0]["teacher_fits"] and rows[1]["agreement"] != rows[0]["agreement"]
    assert run.write(tmp_path / "my.safetensors")["step"] == best_step(run.folder)
    said = json.loads(open_weights(tmp_path / "my.safetensors").metadata["gesso.verdict"])
    value, low, high = said["gap"]
    assert -1 <= low <= value <= high <= 1
    assert "teacher's of the same prompt and noise" in (run.folder / "report.html").read_text()


@pytest.mark.slow
def test_a_student_that_draws_as_its_teacher_has_all_of_its_likeness(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_by: list[StudentMeasurer] = []
    real = StudentMeasurer.__init__

    def started(self: StudentMeasurer, *args: Any, **more: Any) -> None:
        made_by.append(self)
        real(self, *args, **more)

    monkeypatch.setattr(StudentMeasurer, "__init__", started)
    monkeypatch.setattr(judging.Judge, "__call__", lambda self, step: {})
    made(root, tmp_path, "distil", judge_samples=3).train(stop=lambda: True)
    (measurer,) = made_by
    family = measurer.task.parts.family
    with torch.no_grad():
        texts, how = [one.text for one in measurer.prompts.yours], drawing_of(family, family.defaults.num_steps)
        alike = measurer._teacher.agreements(measurer.draw(texts, 2000, how))
    assert alike.diagonal() == pytest.approx(np.ones(3))
    assert (alike - 2 * np.eye(3)).max() < 0.999  # none of another seed


def test_the_gap_is_paired() -> None:
    """Of the same prompts, so that its interval is narrower than those of both."""
    fits = [1.0, 0.0] * 20
    rows: list[dict[str, Any]] = [{"step": 0, "seen": [1.0]}]
    rows.append({"step": 1, "seen": [0.5], "likeness": [0.5] * 40, "fits": fits, "teacher_fits": fits})
    (step,) = verdict_of(rows).steps
    assert step.gap is not None and (step.gap.low, step.gap.value, step.gap.high) == (0, 0, 0)
    assert step.prompts is not None and step.prompts.high > step.prompts.low


def test_prompts_are_captions_then_other_things() -> None:
    found = [one.text for one in caption_prompts(["a red cat", "", "a red cat", "a dog"], 5).yours]
    assert found[:2] == ["a red cat", "a dog"] and len(set(found)) == 5
    assert [one.text for one in caption_prompts(["a"], 3, given=["b"]).yours] == ["b"] * 3
