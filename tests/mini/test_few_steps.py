"""Training of a few-step LoRA at toy size: what is taught, that it is learned, and that a run goes on exactly."""

from dataclasses import replace

import pytest
import torch

from gesso.adapters.attaching import attach
from gesso.adapters.lora import read_lora
from gesso.adapters.names import Target
from gesso.checkpoints.weight_file import open_weights
from gesso.diffusion.denoiser import scale_input, to_x0
from gesso.diffusion.samplers.dpmpp import dpmpp_2m
from gesso.diffusion.samplers.euler import euler
from gesso.diffusion.samplers.running import sample
from gesso.mini.few_steps import CPU_FEW_STEPS, FewSteps
from gesso.request.embedded import FEW_STEPS
from gesso.training.loop import load_state
from toy_training import trained_model

STEPS = 60
RECIPE = replace(
    CPU_FEW_STEPS,
    rank=4,
    plan=replace(
        CPU_FEW_STEPS.plan,
        batch_size=8,
        total_samples=8 * STEPS,
        warmup_samples=8,
        learning_rate=1e-2,
        ema_decay=0.9,
    ),
    pool_size=16,
    passes=2,
    precision="float32",
    report_prompts=8,
)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return trained_model(tmp_path_factory.mktemp("base") / "toy.safetensors")


@pytest.fixture(scope="module")
def made(base, tmp_path_factory):
    """A LoRA that was trained, its file, and what it logged."""
    rows = []
    making = FewSteps(base, tmp_path_factory.mktemp("few"), RECIPE)
    assert making.train(on_log=rows.append)
    path = making.folder / "few.safetensors"
    making.export(path, {"title": "few"})
    return making, path, rows


def lessons(task, own):
    text = task.encode(task.captions.tokenizer.encode(["a thing", "", "a red thing"]))
    noise = torch.randn((3, *task.shape), generator=torch.Generator().manual_seed(0))
    return text, noise, task.teach(text, noise, torch.full((3,), own))


def test_the_answers_lead_where_the_teacher_goes(base, tmp_path):
    """First-order steps by the answers, from each state to the next, beside the teacher's own solver with guidance."""
    task = FewSteps(base, tmp_path, RECIPE).task()
    text, noise, taught = lessons(task, own=False)
    x = wanted = noise * float(task.levels[0])
    for i in range(RECIPE.steps):
        a, b = task.levels[i], task.levels[i + 1]
        torch.testing.assert_close(taught.z[i], scale_input(wanted, a), atol=1e-4, rtol=1e-4)
        x0 = to_x0(base.family.prediction, x, a, taught.answers[i])
        x = x0 + (x - x0) * float(b / a)
        fine = task.fine[i * RECIPE.substeps : (i + 1) * RECIPE.substeps + 1]
        assert (float(fine[0]), float(fine[-1])) == (float(a), float(b))
        with task.factors.off():
            wanted = sample(dpmpp_2m, task.teacher(text), wanted, fine)
        torch.testing.assert_close(x, wanted, atol=2e-3, rtol=1e-3)


def test_the_teacher_is_guided_and_without_factors(base, tmp_path):
    task = FewSteps(base, tmp_path, RECIPE).task()
    text, _, before = lessons(task, own=False)
    empty = task.encode(task.captions.tokenizer.encode([""] * 3))
    x, sigma = torch.randn(3, *task.shape), task.levels[1]
    cond, uncond = (task.student(each)(x, sigma) for each in (text, empty))
    scale = base.family.defaults.guidance_scale
    torch.testing.assert_close(task.teacher(text)(x, sigma), uncond + scale * (cond - uncond), atol=1e-4, rtol=1e-4)
    for parameter in task.factors.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    assert (task.student(text)(x, sigma) - cond).abs().max() > 0.01
    assert torch.equal(lessons(task, own=False)[2].answers, before.answers)


def test_own_states_are_where_the_sampler_of_the_request_goes(base, tmp_path):
    task = FewSteps(base, tmp_path, RECIPE).task()
    for parameter in task.factors.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    text, noise, taught = lessons(task, own=True)
    visited = [noise * float(task.levels[0])]
    drawn = sample(
        euler, task.student(text), visited[0], task.levels, on_step=lambda step, x, x0: visited.append(x.clone())
    )
    states = torch.stack([scale_input(x, sigma) for x, sigma in zip(visited[:-1], task.levels[:-1], strict=True)])
    torch.testing.assert_close(taught.z, states, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(task.draw(text, noise), drawn, atol=1e-3, rtol=1e-3)
    assert (taught.z - lessons(task, own=False)[2].z)[1:].abs().max() > 0.01


@pytest.mark.slow
def test_it_learns(made, base, tmp_path):
    untrained = FewSteps(base, tmp_path, RECIPE).task()
    with torch.no_grad():
        before = untrained.report(untrained.modules)
    after = [row for row in made[2] if "gap_student" in row][-1]
    assert after["gap_student"] < 0.7 * before["gap_student"]
    assert after["gap_teacher"] == pytest.approx(before["gap_teacher"], abs=1e-4)


def test_the_base_is_frozen(base, tmp_path):
    task = FewSteps(base, tmp_path, RECIPE).task()
    task.loss(0, 8, 0)[0].backward()
    assert all(p.grad is None for p in (*task.unet.parameters(), *task.text.parameters()))
    assert all(p.grad is not None for p in task.factors.parameters())


@pytest.mark.slow
def test_a_run_that_was_cut_off_goes_on_exactly(base, tmp_path):
    """In the middle of its second lessons, whose states the factors of then have gone to."""
    steady = replace(RECIPE, plan=replace(RECIPE.plan, decay_share=0.0))

    def trained(folder, *counts):
        for count in counts:
            plan = replace(steady.plan, total_samples=8 * count)
            assert FewSteps(base, tmp_path / folder, replace(steady, plan=plan)).train(on_log=lambda row: None)
        return load_state(tmp_path / folder / "last.pt")

    whole, parts = trained("whole", 26), trained("parts", 21, 26)
    for kind in ("modules", "average"):
        for name, value in whole[kind]["factors"].items():
            assert torch.equal(value, parts[kind]["factors"][name]), name
    assert any((value != 0).any() for name, value in whole["modules"]["snapshot"].items() if name.endswith("up"))


def test_the_file_draws_as_the_training_did(made, base):
    making, path, _ = made
    lora = read_lora(open_weights(path), Target(base.family.name, base.family.layout, {"unet": base.parts.unet}))
    assert lora.match.unmatched == ()
    assert lora.metadata["modelspec.architecture"] == "gesso-mini/lora"
    task = making.task()
    task.factors.load_state_dict(load_state(making.folder / "last.pt")["average"]["factors"])
    text, noise, _ = lessons(task, own=False)
    trained = task.draw(text, noise)
    fresh = FewSteps(base, making.folder, RECIPE).task()
    with attach({"unet": fresh.unet}, [(lora, 1.0, 1.0)]):
        attached = fresh.draw(text, noise)
    assert (trained - fresh.draw(text, noise)).abs().max() > 0.05
    torch.testing.assert_close(attached, trained, atol=5e-3, rtol=5e-3)  # half precision of the file


def test_the_settings_of_fast_are_those_of_the_training():
    values = FEW_STEPS["gesso-mini"].values
    assert (values["num_steps"], values["guidance_scale"]) == (CPU_FEW_STEPS.steps, 1.0)
    assert (values["sampler"], values["schedule"]) == ("euler", "sgm_uniform")
