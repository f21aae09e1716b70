"""Distillation to a few steps: the loss of the published training, a student that learns, a file that draws."""

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gesso.checkpoints.weight_file import open_weights
from gesso.cli.main import run
from gesso.diffusion.schedule import NoiseSchedule
from gesso.errors import GessoError
from gesso.tuning.distilling import HUBER, Distillation, DistilTask
from gesso.tuning.settings import TuningSettings
from tiny_models import save_tiny_mini
from tiny_sd import TINY_SD, TINY_SD21, save_tiny_folder
from tuning.made import double, found, made_task, save_folder
from tuning.test_parity import CAPTIONS, LIMIT, adapt, theirs


def their_loss(pipe: Any, task: DistilTask, latents: Tensor, eps: Tensor, index: Tensor, guidance: float) -> Tensor:
    """As in examples/consistency_distillation/train_lcm_distill_lora_sd_wds.py of diffusers, in float64.

    Its w is our guidance scale less one, and the factors that are on there are PEFT's.
    """
    ab, stride = task.objective.schedule.alphas_cumprod, task.objective.stride
    places = (torch.arange(1, task.objective.solver_steps + 1) * stride - 1)[index]
    before = (places - stride).clamp(min=0)
    is_v = pipe.scheduler.config.prediction_type == "v_prediction"
    context, empty = (pipe.encode_prompt(words, "cpu", 1, False)[0] for words in (CAPTIONS, [""] * len(CAPTIONS)))

    def column(values: Tensor) -> Tensor:
        return values[:, None, None, None]

    def parted(z: Tensor, output: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = column(ab[times].sqrt()), column((1 - ab[times]).sqrt())
        if is_v:
            return alpha * z - sigma * output, alpha * output + sigma * z
        return (z - sigma * output) / alpha, output

    def said(z: Tensor, times: Tensor) -> Tensor:
        scaled = column(times * 10.0)
        skip, out = 0.25 / (scaled**2 + 0.25), scaled / (scaled**2 + 0.25).sqrt()
        return skip * z + out * parted(z, pipe.unet(z, times, context).sample, times)[0]

    z = column(ab[places].sqrt()) * latents + column((1 - ab[places]).sqrt()) * eps
    student = said(z, places)
    with torch.no_grad():
        pipe.unet.disable_adapters()
        first = parted(z, pipe.unet(z, places, context).sample, places)
        second = parted(z, pipe.unet(z, places, empty).sample, places)
        pipe.unet.enable_adapters()
        w = guidance - 1
        x0, noise = (one + w * (one - other) for one, other in zip(first, second, strict=True))
        target = said(column(ab[before].sqrt()) * x0 + column((1 - ab[before]).sqrt()) * noise, before)
    return torch.mean(torch.sqrt((student - target) ** 2 + HUBER**2) - HUBER)


@pytest.mark.parametrize("family", [TINY_SD, pytest.param(TINY_SD21, marks=pytest.mark.slow)], ids=lambda one: one.name)
def test_loss_and_gradients_are_those_of_diffusers(family: Any, tmp_path: Path) -> None:
    settings = TuningSettings(
        kind="distil", rank=4, alpha=4.0, caption_dropout=0.0, teacher_guidance=6.0, teacher_steps=20
    )
    task = made_task(double(family), found(CAPTIONS, bucket=(128, 128)), settings)
    assert isinstance(task, DistilTask)
    pipe = theirs(family, save_tiny_folder(tmp_path / "model", family))
    pairs = adapt(pipe, task, settings)
    generator = torch.Generator().manual_seed(3)
    latents, eps = torch.randn(2, 3, 4, 16, 16, generator=generator, dtype=torch.float64)
    index = torch.tensor([0, 19, 7])
    times = (index + 1) * 50 - 1
    loss = task.objective.loss(task.errors([0, 1, 2], [False] * 3, CAPTIONS, latents, eps, times), times)
    expected = their_loss(pipe, task, latents, eps, index, 6.0)
    assert abs(loss.item() / expected.item() - 1) < LIMIT
    loss.backward()
    expected.backward()
    grads = [(one.grad, peer.grad) for both in pairs.values() for one, peer in both]
    whole = torch.cat([peer.flatten() for _, peer in grads]).norm()
    for ours, peer in grads:
        assert float((ours.reshape(peer.shape) - peer).norm()) < LIMIT * max(float(peer.norm()), 1e-6 * float(whole))
    assert whole > 0


def test_timesteps_are_the_ends_of_the_teachers_steps_and_scales_are_in_their_range() -> None:
    schedule: NoiseSchedule = TINY_SD.schedule.build()
    objective = Distillation(schedule=schedule, prediction="eps", solver_steps=20, guidance=(3.0, 5.0))
    generator = torch.Generator().manual_seed(1)
    times = objective.draw_times(2000, generator)
    assert sorted(set(times.tolist())) == list(range(49, 1000, 50))
    scales = objective.draw_guidance(2000, generator)
    assert 3 <= scales.min() < 3.1 and 4.9 < scales.max() <= 5
    assert objective.draw_guidance(2, None).tolist() == [4.0, 4.0]
    with pytest.raises(GessoError, match="`teacher_steps` 30: expected a divisor of 1000"):
        replace(objective, solver_steps=30)


def test_a_teacher_that_knows_the_picture_leads_to_it() -> None:
    """Its steps from any noise stay on the line between the picture and the noise."""
    schedule = TINY_SD.schedule.build()
    objective = Distillation(schedule=schedule, prediction="eps", solver_steps=20)
    generator = torch.Generator().manual_seed(2)
    latents, eps = torch.randn(2, 5, 4, 8, 8, generator=generator, dtype=torch.float64)
    times = torch.tensor([49, 99, 499, 949, 999])
    z = objective.noisy(latents, eps, times)
    after, later = objective.solve(z, eps, eps, torch.full((5,), 7.0), times)
    assert later.tolist() == [0, 49, 449, 899, 949]
    torch.testing.assert_close(after, objective.noisy(latents, eps, later))
    said = objective.consistency(after, eps, later)
    torch.testing.assert_close(said[1:], latents[1:], rtol=0, atol=1e-3)  # the weight of z is 1e-3 at the timestep 49
    torch.testing.assert_close(said[0], after[0])  # and 1 at 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"min_snr": 5.0}, "`min_snr` 5.0: expected 0.0: a distillation has timesteps of its own"),
        ({"timesteps": "sigmoid"}, "`timesteps` 'sigmoid': expected uniform"),
        ({"train_text": True}, "`train_text` True: expected false"),
        ({"teacher_guidance": 5.0, "teacher_guidance_to": 3.0}, "`teacher_guidance` 5.0: expected at most 3"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(GessoError, match=message):
        TuningSettings(kind="distil", **changes)


@pytest.mark.slow
def test_from_a_folder_to_a_file_that_draws_in_two_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    save_tiny_mini(tmp_path / "model.safetensors")
    save_folder(tmp_path / "photos", count=4)
    words = ["photos", "-m", "model.safetensors", "-o", "fast.safetensors", "--cache", "latents", "--rank", "2"]
    words += ["--train-steps", "4", "--batch-size", "2", "--precision", "float32", "--report-every", "4"]
    words += ["--teacher-guidance", "2", "--teacher-guidance-to", "4", "--teacher-steps", "20", "--sample", "a red cat"]
    words += ["--judge-samples", "2", "--copy-samples", "0"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run(["train", "distil", *words]) == 0
    assert capsys.readouterr().out.startswith("fast.safetensors rank=2 step=4 bytes=")
    assert len(list((tmp_path / "fast.training" / "samples").iterdir())) == 2
    metadata = open_weights(tmp_path / "fast.safetensors").metadata
    assert metadata["gesso.teacher_guidance"] == "2 to 4"
    drawn = ["generate", "a red cat", "-m", "model.safetensors", "--seed", "1", "--sampler", "lcm", "--guidance", "1"]
    for name, more in (("plain.png", []), ("fast.png", ["--lora", "fast.safetensors:3"])):
        assert run([*drawn, "--steps", "2", "-q", "-o", name, *more]) == 0
    assert (tmp_path / "plain.png").read_bytes() != (tmp_path / "fast.png").read_bytes()
    rows = [json.loads(line) for line in (tmp_path / "fast.training" / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "seen" in row] == [0, 4]
