import errno
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from gesso.errors import GessoError
from gesso.training.group import Group, run_group
from gesso.training.loop import MovingAverage, Plan, fit, load_state
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
    assert p.factor(1000) == 0.0


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
    with pytest.raises(GessoError, match="not finite"):
        fit(task, plan(800), tmp_path)


def test_a_foreign_state_is_refused(tmp_path):
    (tmp_path / "last.pt").write_bytes(b"not a state")
    with pytest.raises(GessoError, match="not a training state"):
        fit(Line(), plan(800), tmp_path)


def test_a_state_of_another_training_is_refused(tmp_path):
    fit(Line(), plan(8), tmp_path, what="the style comic")
    with pytest.raises(GessoError, match=r"the state of the style comic, not of the style woodcut\. Use another"):
        fit(Line(), plan(8), tmp_path, what="the style woodcut")
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

    whole = fit(Same(), plan(16 * 8), tmp_path / "whole")
    parts = fit(Same(), replace(plan(16 * 8), batch_size=2, accumulation=4), tmp_path / "parts")
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
