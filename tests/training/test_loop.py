import errno
import json
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from gesso.errors import GessoError
from gesso.training.group import Group, run_group
from gesso.training.loop import MovingAverage, Plan, eager, fit, load_average, load_state, optimizer_for
from gesso.training.task import generator_for


class Line:
    """Fits a line to points that follow from (seed, step)."""

    def __init__(self):
        torch.manual_seed(0)
        self.modules = {"line": nn.Linear(3, 1)}

    def parameter_groups(self, learning_rate):
        return [{"params": list(self.modules["line"].parameters()), "lr": learning_rate}]

    def loss(self, step, batch_size, seed):
        x = torch.randn((batch_size, 3), generator=generator_for(seed, step))
        loss = (self.modules["line"](x)[:, 0] - x @ torch.tensor([1.0, -2.0, 3.0])).square().mean()
        return loss, {"loss": float(loss.detach())}

    def report(self, modules):
        return {"weight": float(modules["line"].weight[0, 0])}


def plan(total):
    return Plan(
        batch_size=8,
        total_samples=total,
        learning_rate=0.05,
        warmup_samples=80,
        decay_share=0.25,
        ema_decay=0.9,
    )


def test_learning_rate_rises_stays_and_falls_to_zero():
    p = plan(1000)
    assert p.factor(0) == pytest.approx(1 / 80)
    assert p.factor(100) == p.factor(749) == 1.0
    assert p.factor(875) == pytest.approx(0.5)
    assert p.factor(1000) == p.factor(1001) == 0.0
    assert not p.falls(750) and p.falls(751)
    at_once = replace(p, warmup_samples=0, decay_share=0.0)
    assert [at_once.factor(samples) for samples in (0, 999, 1000)] == [1.0, 1.0, 0.0]


def test_the_optimiser_gets_the_numbers_of_the_plan(tmp_path):
    def group_of(name, **changes):
        fit(Line(), replace(plan(40), **changes), tmp_path / "new" / name)  # the folder above it is new, too
        (group,) = load_state(tmp_path / "new" / name / "last.pt")["optimizer"]["param_groups"]
        return group["betas"], group["weight_decay"], group["lr"]

    assert group_of("plain") == ((0.9, 0.99), 0.0, pytest.approx(0.05 * plan(40).factor(32)))
    assert group_of("other", betas=(0.8, 0.95), weight_decay=0.1)[:2] == ((0.8, 0.95), 0.1)
    assert (replace(plan(40)).clip, plan(40).seed, plan(40).accumulation) == (1.0, 0, 1)


@pytest.mark.parametrize("clip", [0.5, 1e6])
def test_gradients_are_clipped_to_a_norm(clip, tmp_path):
    norms, rows = [], []

    def seen(optimizer, *_):
        gradients = [p.grad.flatten() for group in optimizer.param_groups for p in group["params"]]
        norms.append(float(torch.cat(gradients).norm()))

    hook = register_optimizer_step_pre_hook(seen)
    try:
        fit(Line(), replace(plan(40), clip=clip), tmp_path, log_every=1, on_log=rows.append)
    finally:
        hook.remove()
    own = [row["norm"] for row in rows if "norm" in row]
    assert len(own) == 5 and min(own) > 0.5
    assert norms == pytest.approx([min(norm, clip) for norm in own], rel=1e-5)


def test_a_log_has_five_digits_and_the_task_is_in_training_but_for_reports(tmp_path):
    modes, rows = [], []

    class Watched(Line):
        def loss(self, step, batch_size, seed):
            modes.append((self.modules["line"].training, torch.is_grad_enabled()))
            return super().loss(step, batch_size, seed)

        def report(self, modules):
            modes.append((modules["line"].training, torch.is_grad_enabled()))
            return {"third": 1 / 3}

    task = Watched()
    fit(task, plan(16), tmp_path, log_every=1, on_log=rows.append)
    assert modes == [(True, True), (True, True), (False, False)] and task.modules["line"].training
    written = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert written == [{key: round(value, 5) for key, value in row.items()} for row in rows]
    assert written[-1] == {"step": 2, "samples": 16, "third": 0.33333}


@pytest.mark.skipif(not hasattr(torch.compiler, "set_stance"), reason="torch 2.6 and newer can switch the compiler off")
def test_what_is_called_now_and_then_is_not_compiled():
    def never(graph, inputs):
        raise AssertionError("compiled")

    with eager():
        assert torch.compile(lambda x: x + 1, backend=never)(torch.ones(1)) == 2


def test_networks_are_compiled_for_one_size(tmp_path):
    task, asked = Line(), []
    task.networks = lambda: [SimpleNamespace(compile=lambda **given: asked.append(given))]
    fit(task, plan(8), tmp_path)
    assert asked == []
    fit(task, plan(16), tmp_path, compiled=True)
    assert asked == [{"dynamic": False}]


def test_the_average_of_a_stage(tmp_path):
    with pytest.raises(GessoError, match=r"last\.pt is missing\. Train the stage 'first' first"):
        load_average(tmp_path / "first")
    average = fit(Line(), plan(16), tmp_path / "first")
    assert torch.equal(load_average(tmp_path / "first")["line"]["weight"], average["line"]["weight"])


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(GessoError, match=r"file/run: cannot make the folder \(Not a directory\)"):
        fit(Line(), plan(16), tmp_path / "file" / "run")


def test_a_line_is_learned(tmp_path):
    average = fit(Line(), plan(3200), tmp_path)
    torch.testing.assert_close(average["line"]["weight"][0], torch.tensor([1.0, -2.0, 3.0]), atol=1e-2, rtol=0)


def test_a_run_that_was_cut_off_ends_with_the_same_bits(tmp_path):
    whole = fit(Line(), plan(1600), tmp_path / "whole")
    fit(Line(), replace(plan(1600), total_samples=520, decay_share=0.001), tmp_path / "cut")  # the same rates so far
    assert load_state(tmp_path / "cut" / "last.pt")["samples"] == 520
    resumed = fit(Line(), plan(1600), tmp_path / "cut")
    for name, value in whole["line"].items():
        assert torch.equal(resumed["line"][name], value)


def test_average_follows_its_formula():
    line = nn.Linear(1, 1)
    average = MovingAverage({"line": line}, decay=0.5)
    before = line.weight.detach().clone()
    with torch.no_grad():
        line.weight += 1.0
    average.update({"line": line}, step=100)
    assert average.weights["line"]["weight"].item() == pytest.approx(before.item() + 0.5, abs=1e-6)


def test_the_start_of_a_training_is_forgotten_soon():
    """The decay is (1 + step) / (10 + step) until it reaches its own: from 0 to 1, ten steps at 0.99 alone give 0.1."""
    line = nn.Linear(1, 1)
    with torch.no_grad():
        line.weight.zero_()
    average = MovingAverage({"line": line}, decay=0.99)
    with torch.no_grad():
        line.weight.fill_(1.0)
    left = 1.0  # what the average still holds of the start
    for step in range(10):
        average.update({"line": line}, step=step)
        left *= (1 + step) / (10 + step)
        assert average.weights["line"]["weight"].item() == pytest.approx(1 - left, abs=1e-6)
    for step in (889, 890, 891, 5000):  # 890 / 899 < 0.99 <= 891 / 900
        before = average.weights["line"]["weight"].fill_(0.0)
        average.update({"line": line}, step=step)
        rate = 9 / 899 if step == 889 else 0.01
        assert before.item() == pytest.approx(rate, rel=1e-5)  # float32


def test_reports_show_the_average_and_leave_the_weights(tmp_path):
    task, rows = Line(), []
    average = fit(task, plan(800), tmp_path, on_log=rows.append)
    assert rows[-1]["weight"] == pytest.approx(float(average["line"]["weight"][0, 0]))
    assert not torch.equal(task.modules["line"].weight, average["line"]["weight"])


def test_a_gradient_that_is_not_finite_stops_the_run(tmp_path):
    task = Line()
    task.loss = lambda step, batch_size, seed: (task.modules["line"].weight.sum() * math.nan, {})
    with pytest.raises(GessoError, match="step 0: the gradient is not finite"):
        fit(task, plan(800), tmp_path)
    assert task.modules["line"].weight.isfinite().all()  # the optimiser never saw it


def test_a_foreign_state_is_refused(tmp_path):
    (tmp_path / "last.pt").write_bytes(b"not a state")
    with pytest.raises(GessoError, match="not a training state") as error:
        fit(Line(), plan(800), tmp_path)
    assert f"({str(error.value.__cause__).partition('.')[0][:120]}). Remove it" in str(error.value)
    torch.save({"step": 3, "object": SimpleNamespace()}, tmp_path / "last.pt")  # would run code of the file's choice
    with pytest.raises(GessoError, match="not a training state"):
        fit(Line(), plan(800), tmp_path)


def test_a_state_of_a_gpu_is_read_without_one(tmp_path, monkeypatch):
    fit(Line(), plan(16), tmp_path)
    state = load_state(tmp_path / "last.pt")
    monkeypatch.setattr("torch.serialization.location_tag", lambda storage: "cuda:0")
    torch.save(state, tmp_path / "last.pt")
    monkeypatch.undo()
    assert fit(Line(), plan(32), tmp_path)["line"]["weight"].device.type == "cpu"


def test_a_state_of_another_training_is_refused(tmp_path):
    fit(Line(), plan(8), tmp_path, what="the style comic")
    with pytest.raises(GessoError, match=r"the state of the style comic, not of the style woodcut\. Use another"):
        fit(Line(), plan(8), tmp_path, what="the style woodcut")
    fit(Line(), plan(16), tmp_path)  # of nothing in particular: goes on, and so does what follows
    assert load_state(tmp_path / "last.pt")["step"] == 2
    fit(Line(), plan(24), tmp_path, what="the style comic")
    other = Line()
    other.modules = {"line": nn.Linear(4, 1)}
    with pytest.raises(GessoError, match="the state of another training or of other sizes"):
        fit(other, plan(8), tmp_path, what="the style comic")
    other.modules = {"line": nn.Linear(3, 1), "curve": nn.Linear(3, 1)}
    with pytest.raises(GessoError, match="the state of another training or of other sizes"):
        fit(other, plan(8), tmp_path, what="the style comic")


def _sum_of_ranks(folder):
    group = Group()
    value = torch.tensor([float(group.rank)])
    group.average([value, other := torch.tensor([[2.0 * group.rank, 1.0]])])
    (folder / str(group.rank)).write_text(f"{value.item()} {other.tolist()}")


def test_processes_average_their_tensors(tmp_path):
    run_group(2, _sum_of_ranks, tmp_path)
    assert (tmp_path / "0").read_text() == (tmp_path / "1").read_text() == "0.5 [[1.0, 1.0]]"


def test_batches_that_are_accumulated_make_the_gradient_of_one(tmp_path):
    """Four batches of two and one of eight, with the same points."""

    class Same(Line):
        def loss(self, step, batch_size, seed):
            points = torch.randn((16 * 8, 3), generator=generator_for(seed, 0))
            x = points[step * batch_size : (step + 1) * batch_size]
            loss = (self.modules["line"](x)[:, 0] - x @ torch.tensor([1.0, -2.0, 3.0])).square().mean()
            return loss, {"loss": loss.detach()}

    options = {"log_every": 1, "on_log": (rows := []).append}
    whole = fit(Same(), plan(16 * 8), tmp_path / "whole", **options)
    parts = fit(Same(), replace(plan(16 * 8), batch_size=2, accumulation=4), tmp_path / "parts", **options)
    losses = [row["loss"] for row in rows if "loss" in row]
    assert losses[16:] == pytest.approx(losses[:16], rel=1e-3)
    assert load_state(tmp_path / "parts" / "last.pt")["step"] == 16
    for name, value in whole["line"].items():
        torch.testing.assert_close(parts["line"][name], value, rtol=1e-4, atol=1e-6)


def test_reports_at_steps(tmp_path):
    rows, seen = [], []

    def shown(step):
        seen.append(step)
        return {"shown": 1.0}

    options = {"report_at": lambda step: step % 4 == 0, "while_averaged": shown, "on_log": rows.append}
    fit(Line(), plan(8 * 10), tmp_path, **options)
    assert seen == [0, 4, 8, 10]
    assert [row["step"] for row in rows if "shown" in row] == seen
    fit(Line(), plan(8 * 14), tmp_path, **options)  # goes on
    assert seen == [0, 4, 8, 10, 12, 14]
    fit(Line(), plan(8 * 16), tmp_path, **options)  # its last step is one of these steps
    assert seen == [0, 4, 8, 10, 12, 14, 16]


def test_a_run_that_is_stopped_saves_a_state_and_reports_nothing(tmp_path):
    rows, calls = [], iter([False, False, True])
    fit(Line(), plan(80), tmp_path, stop=lambda: next(calls), report_at=lambda step: step > 5, on_log=rows.append)
    assert load_state(tmp_path / "last.pt")["step"] == 2 and rows == []


class Breaking(Line):
    """NaN at the first visits of some steps."""

    def __init__(self, *steps):
        super().__init__()
        self.left = list(steps)

    def loss(self, step, batch_size, seed):
        loss, figures = super().loss(step, batch_size, seed)
        if step in self.left:
            self.left.remove(step)
            loss = loss * math.nan
        return loss, figures


def test_gradients_that_are_not_finite_roll_back_to_half_the_rate(tmp_path):
    rows = []
    fit(Breaking(7, 9), plan(8 * 12), tmp_path, keep_every=4, roll_backs=2, on_log=rows.append)
    told = [(row["not_finite_at"], row["step"], row["rate"]) for row in rows if "not_finite_at" in row]
    assert told == [(7, 4, 0.5), (9, 8, 0.25)]
    state = load_state(tmp_path / "last.pt")
    assert (state["step"], state["rate"], state["rolled_back"]) == (12, 0.25, [7, 9])
    assert state["optimizer"]["param_groups"][0]["lr"] == pytest.approx(0.05 * plan(8 * 12).factor(8 * 11) / 4)


def test_a_roll_back_to_the_start_is_kept_at_once(tmp_path):
    """A run that is cut off after it goes on at the lower rate, whichever state it begins from."""
    states = []

    class Watched(Breaking):
        def loss(self, step, batch_size, seed):
            states.append([load_state(tmp_path / name)["rate"] for name in ("last.pt", "good.pt")])
            return super().loss(step, batch_size, seed)

    fit(Watched(1), plan(8 * 3), tmp_path, keep_every=4, roll_backs=1)
    assert states == [[1.0, 1.0]] * 2 + [[0.5, 0.5]] * 3


def test_a_row_after_a_roll_back_has_the_steps_since_it(tmp_path):
    rows, losses = [], {}

    class Kept(Breaking):
        def loss(self, step, batch_size, seed):
            loss, figures = super().loss(step, batch_size, seed)
            losses[step] = figures["loss"]  # the last time counts
            return loss, figures

    fit(Kept(7), plan(8 * 8), tmp_path, keep_every=4, roll_backs=1, log_every=4, on_log=rows.append)
    means = [row["loss"] for row in rows if "loss" in row]
    assert means == pytest.approx([sum(losses[step] for step in range(at, at + 4)) / 4 for at in (0, 4)])


def test_without_a_state_to_go_back_to_the_gradient_ends_the_run(tmp_path):
    with pytest.raises(GessoError, match="step 2: the gradient is not finite"):
        fit(Breaking(2), plan(8 * 4), tmp_path, roll_backs=1)


def test_a_roll_back_ends_like_a_run_at_that_rate(tmp_path):
    rolled = fit(Breaking(7), plan(8 * 12), tmp_path / "rolled", keep_every=4, roll_backs=1)
    fit(Line(), plan(8 * 12), tmp_path / "halved", stop=iter([False] * 4 + [True]).__next__)
    state = load_state(tmp_path / "halved" / "last.pt")
    torch.save(state | {"rate": 0.5}, tmp_path / "halved" / "last.pt")
    halved = fit(Line(), plan(8 * 12), tmp_path / "halved")
    assert all(torch.equal(halved["line"][name], value) for name, value in rolled["line"].items())


def test_too_many_roll_backs_end_the_run(tmp_path):
    with pytest.raises(GessoError, match="step 5: the gradient is not finite") as error:
        fit(Breaking(5, 5, 5), plan(8 * 12), tmp_path, keep_every=4, roll_backs=2)
    assert error.value.code == "not_finite"
    assert load_state(tmp_path / "last.pt")["rate"] == 0.25


def test_muon_for_everything(tmp_path):
    task = Line()
    task.parameter_groups = lambda rate: [{"params": [task.modules["line"].weight], "lr": rate, "muon": True}]
    fit(task, plan(80), tmp_path)
    assert fit(task, plan(160), tmp_path)["line"]["weight"].isfinite().all()


def test_a_state_leaves_room_on_the_disk(tmp_path, monkeypatch):
    """32 MiB beside the bytes of its tensors: weights, their average, both moments and the optimiser's counters."""
    line = 4 * (3 + 1)
    nbytes = 4 * line + 2 * 4
    free = SimpleNamespace(free=nbytes + 32 * 2**20 - 1)
    monkeypatch.setattr("gesso.training.loop.shutil.disk_usage", lambda path: free)
    with pytest.raises(
        GessoError, match=r"no room for a state of 0 MiB at step 1; nothing was saved\. Free some space"
    ):
        fit(Line(), plan(8), tmp_path)
    free.free += 1
    fit(Line(), plan(8), tmp_path)
    assert load_state(tmp_path / "last.pt")["step"] == 1


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (OSError(errno.EDQUOT, "Disk quota exceeded"), GessoError),
        (RuntimeError("[enforce fail at inline_container.cc] PytorchStreamWriter failed writing file"), GessoError),
        (RuntimeError("something else"), RuntimeError),
        (PermissionError(errno.EACCES, "Permission denied"), PermissionError),
    ],
)
def test_errors_of_writing_that_mean_a_full_disk(error, raised, tmp_path, monkeypatch):
    def failing(state, path):
        raise error

    monkeypatch.setattr("gesso.training.loop.save_atomically", failing)
    with pytest.raises(raised) as caught:
        fit(Line(), plan(8), tmp_path)
    assert (caught.value is error) == (raised is not GessoError)


@pytest.mark.parametrize("how", ["no room", "ENOSPC"])
def test_a_full_disk_leaves_the_last_state(how, tmp_path, monkeypatch):
    fit(Line(), plan(80), tmp_path)
    before = (tmp_path / "last.pt").read_bytes()
    if how == "no room":
        monkeypatch.setattr("gesso.training.loop.shutil.disk_usage", lambda path: SimpleNamespace(free=0))
    else:

        def full(state, path):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("gesso.training.loop.save_atomically", full)
    with pytest.raises(
        GessoError, match=r"no room for a state.*at step 20; the last state stays as it was\. Free"
    ) as error:
        fit(Line(), plan(160), tmp_path)
    assert error.value.code == "disk_full" and (tmp_path / "last.pt").read_bytes() == before


@pytest.mark.parametrize(
    ("says", "kind"), [((None, None), "AdamW"), ((True, None), "MuonAndAdamW"), ((False, True), "MuonAndAdamW")]
)
def test_muon_where_a_group_asks_for_it(says, kind):
    groups = [
        {"params": [nn.Parameter(torch.ones(2, 3))], "lr": 0.1} | ({} if muon is None else {"muon": muon})
        for muon in says
    ]
    assert type(optimizer_for(groups, plan(80))).__name__ == kind
