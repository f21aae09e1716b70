"""Plans by time, the choice of the precision, and what a state keeps of both."""

import itertools
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from torch import nn

from gesso.errors import GessoError
from gesso.training import loop
from gesso.training.group import Group
from gesso.training.loop import OPEN_END, Plan, by_time, fit, load_state
from gesso.training.precision import context_of, faster_precision
from gesso.training.task import generator_for


class Line:
    """Fits a line; counts what it is asked, and in which precision."""

    def __init__(self):
        torch.manual_seed(0)
        self.modules = {"line": nn.Linear(3, 1)}
        self.precision = nullcontext
        self.seen = []

    def networks(self):
        return [self.modules["line"]]

    def parameter_groups(self, learning_rate):
        return [{"params": list(self.modules["line"].parameters()), "lr": learning_rate}]

    def loss(self, step, batch_size, seed):
        self.seen.append(step)
        x = torch.randn((batch_size, 3), generator=generator_for(seed, step))
        with self.precision():
            out = self.modules["line"](x)
        self.dtype = out.dtype
        loss = (out.float()[:, 0] - x @ torch.tensor([1.0, -2.0, 3.0])).square().mean()
        return loss, {"loss": loss.detach()}

    def report(self, modules):
        return {}


PLAN = Plan(batch_size=8, total_samples=400, learning_rate=0.05, warmup_samples=80, decay_share=0.25, ema_decay=0.9)
TIMED = Plan(batch_size=8, minutes=1, learning_rate=0.05, warmup_samples=80, decay_share=0.25, ema_decay=0.9)

SHORT = replace(PLAN, total_samples=80)


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes on by 20 ms a reading."""
    ticks = itertools.count()
    monkeypatch.setattr(loop.time, "monotonic", lambda: next(ticks) / 50)


class Resting(Line):
    """A line with an offset that only the first step's loss depends on."""

    def __init__(self):
        super().__init__()
        self.offset = nn.Parameter(torch.ones(()))
        self.modules["rest"] = nn.Module()
        self.modules["rest"].offset = self.offset
        self.offsets = []

    def networks(self):
        return list(self.modules.values())

    def parameter_groups(self, learning_rate):
        return [*super().parameter_groups(learning_rate), {"params": [self.offset], "lr": learning_rate}]

    def loss(self, step, batch_size, seed):
        loss, figures = super().loss(step, batch_size, seed)
        self.offsets.append(self.offset.item())
        return (loss + self.offset.square() if step == 0 else loss), figures


def test_what_rests_rests_after_a_roll_back_too(tmp_path):
    """Gradients of zero in place of none would let the moments of the optimiser move it."""

    class Breaking(Resting):
        def loss(self, step, batch_size, seed):
            loss, figures = super().loss(step, batch_size, seed)
            return (loss * float("nan") + self.offset if len(self.offsets) == 6 else loss), figures

    task = Breaking()
    fit(task, SHORT, tmp_path, keep_every=4, roll_backs=1)
    assert len(task.offsets) == 12 and len(set(task.offsets[1:])) == 1


def test_what_a_step_does_not_depend_on_rests(tmp_path):
    """Neither weight decay nor the moments of the optimiser move a parameter that got no gradient."""
    task = Resting()
    fit(task, replace(SHORT, weight_decay=0.1), tmp_path)
    assert task.offsets[0] == 1 != task.offsets[1]
    assert len(set(task.offsets[1:])) == 1 < len(task.offsets[1:])


def test_a_plan_by_time_ends_on_time_with_its_fall(tmp_path, clock):
    rows = []
    fit(Line(), TIMED, tmp_path, measure_after=4, save_every=1e9, report_every=1e9, on_log=rows.append)
    logged = [row for row in rows if "factor" in row]
    total = load_state(tmp_path / "last.pt")["total_samples"]
    assert logged[-1]["seconds"] == pytest.approx(60, rel=0.05)
    assert logged[-1]["samples"] == pytest.approx(total, abs=50 * 8)
    assert logged[-1]["factor"] <= 50 * 8 / (0.25 * total) + 0.01  # less than a window of the log from the end
    assert "total_samples" not in logged[0]
    falling = [row["total_samples"] for row in logged if row["factor"] < 1 and row["samples"] > 80]
    assert len(falling) > 3
    assert len(set(falling)) == 1, "the length stays once the learning rate falls"


def test_the_length_of_a_plan_by_time_follows_from_its_speed():
    """80 samples in 10 seconds since the first step; 30 of the 60 seconds are left."""
    facts = {"first_done": (10.0, 80), "seconds": 30.0, "measure_after": 4.0, "group": Group()}
    assert by_time(TIMED, 160, now=20.0, **facts).total_samples == 160 + 8 * 30
    assert by_time(TIMED, 160, now=13.9, **facts) is TIMED, "too early to tell"
    assert by_time(TIMED, 160, now=14.0, **facts).total_samples == 160 + 20 * 30
    late = by_time(TIMED, 160, now=20.0, **facts | {"seconds": 59.0})
    assert late.total_samples == int(160 / 0.75), "the fall of the learning rate begins now at the earliest"


def test_a_plan_by_time_goes_on_with_its_length(tmp_path, clock):
    """A run that was cut off while its learning rate fell ends where it was to end."""
    options = {"measure_after": 2, "save_every": 1e9, "report_every": 1e9}
    fit(Line(), TIMED, tmp_path, stop_after=55, **options)
    cut = load_state(tmp_path / "last.pt")
    assert cut["samples"] < cut["total_samples"] < OPEN_END
    fit(Line(), TIMED, tmp_path, **options)
    end = load_state(tmp_path / "last.pt")
    assert end["total_samples"] == cut["total_samples"]
    assert end["samples"] == pytest.approx(end["total_samples"], abs=8)


def test_a_plan_by_samples_overrides_the_length_of_a_state(tmp_path, clock):
    fit(Line(), TIMED, tmp_path, measure_after=2, stop_after=20, save_every=1e9, report_every=1e9)
    fit(Line(), PLAN, tmp_path, save_every=1e9, report_every=1e9)
    assert load_state(tmp_path / "last.pt")["samples"] >= 400
    assert "total_samples" not in load_state(tmp_path / "last.pt")


def test_the_precision_of_a_run_stays(tmp_path):
    task = Line()
    fit(task, SHORT, tmp_path, precision="bfloat16")
    assert task.dtype == torch.bfloat16
    assert load_state(tmp_path / "last.pt")["precision"] == "bfloat16"
    again = Line()
    fit(again, PLAN, tmp_path, precision="float32")
    assert again.dtype == torch.bfloat16


def test_a_state_without_a_precision_is_of_float32(tmp_path):
    """Such states are older than the choice."""
    fit(Line(), SHORT, tmp_path)
    state = load_state(tmp_path / "last.pt")
    for name in ("precision", "rate", "rolled_back"):  # as old as the first
        del state[name]
    torch.save(state, tmp_path / "last.pt")
    task = Line()
    fit(task, PLAN, tmp_path, precision="auto")
    assert task.dtype == torch.float32
    state = load_state(tmp_path / "last.pt")
    assert (state["precision"], state["rate"], state["rolled_back"]) == ("float32", 1.0, [])


class Timed(Line):
    """A step takes ten seconds of a clock that stands still otherwise; what the folder held at each step."""

    def __init__(self, folder, monkeypatch):
        super().__init__()
        self.now, self.path, self.saved = 0.0, folder / "last.pt", []
        monkeypatch.setattr(loop.time, "monotonic", lambda: self.now)

    def loss(self, step, batch_size, seed):
        self.saved.append(load_state(self.path)["step"] if self.path.exists() else 0)
        self.now += 10.0
        return super().loss(step, batch_size, seed)

    def report(self, modules):
        return {"reported": self.now}


LONG = replace(PLAN, total_samples=8 * 66)


def test_when_states_rows_and_reports_are_written(tmp_path, monkeypatch):
    """A state every two minutes, a row every 50 steps, a report every five minutes and at the end."""
    task, rows = Timed(tmp_path, monkeypatch), []
    fit(task, LONG, tmp_path, on_log=rows.append)
    assert task.saved == [at // 13 * 13 for at in range(66)]  # 120 seconds are not over after the twelfth
    assert [row["reported"] for row in rows if "reported" in row] == [310.0, 620.0, 660.0]
    (row,) = [row for row in rows if "factor" in row]
    assert (row["step"], row["samples"], row["seconds"]) == (50, 400, 500.0)
    assert row["samples_per_second"] == pytest.approx(19 * 8 / 190.0)  # since the report at the 31st step
    assert row["factor"] == pytest.approx(LONG.factor(400)) and "total_samples" not in row


def test_the_speed_of_a_run_is_counted_anew_after_a_roll_back(tmp_path, monkeypatch):
    class Breaking(Timed):
        def loss(self, step, batch_size, seed):
            loss, figures = super().loss(step, batch_size, seed)
            return (loss * float("nan") if self.now == 80.0 else loss), figures

    rows = []
    options = {"keep_every": 4, "roll_backs": 1, "log_every": 3, "on_log": rows.append}
    fit(Breaking(tmp_path, monkeypatch), replace(LONG, total_samples=72), tmp_path, **options)
    speeds = [(row["step"], row["samples_per_second"]) for row in rows if "factor" in row]
    assert speeds == [(3, 0.8), (6, 0.8), (6, 0.8), (9, 0.8)]  # the second time from the fifth step on


def test_a_run_goes_on_with_its_seconds_and_stops_after_some(tmp_path, monkeypatch):
    rows = []
    fit(Timed(tmp_path, monkeypatch), LONG, tmp_path, stop_after=30, log_every=1, on_log=rows.append)
    assert [row["seconds"] for row in rows if "factor" in row] == [10.0, 20.0, 30.0]
    assert rows[-1]["reported"] == 30.0
    fit(Timed(tmp_path, monkeypatch), LONG, tmp_path, stop_after=11, log_every=1, on_log=rows.append)
    assert [row["seconds"] for row in rows if "factor" in row][3:] == [40.0, 50.0]


def test_a_plan_by_time_trusts_its_speed_after_half_a_minute(tmp_path, monkeypatch):
    task, rows = Timed(tmp_path, monkeypatch), []
    fit(task, replace(TIMED, minutes=20), tmp_path, log_every=1, stop_after=60, on_log=rows.append)
    assert ["total_samples" in row for row in rows if "factor" in row] == [False] * 3 + [True] * 3
    assert rows[3]["total_samples"] == 4 * 8 + int(0.8 * (1200 - 40))


@pytest.mark.parametrize("slow", ["float32", "bfloat16"])
def test_the_faster_precision_is_taken(tmp_path, monkeypatch, slow):
    task, now = Line(), [0.0]
    monkeypatch.setattr("gesso.training.precision.time.perf_counter", lambda: now[0])
    loss = task.loss

    def timed(step, batch_size, seed):
        result = loss(step, batch_size, seed)
        now[0] += 2.0 if str(task.dtype).endswith(slow) else 1.0
        return result

    task.loss = timed
    chosen, seconds = faster_precision(task, 8, 0, torch.device("cpu"))
    assert chosen != slow
    assert seconds[f"seconds_{slow}"] == 2 * seconds[f"seconds_{chosen}"]
    assert all(p.grad is None for p in task.modules["line"].parameters())


def test_choosing_changes_nothing_else(tmp_path):
    """A run whose precision was tried out is the run that was told it."""
    rows = []
    chosen = fit(Line(), PLAN, tmp_path / "auto", precision="auto", on_log=rows.append)
    assert rows[0]["bfloat16"] in (0.0, 1.0)
    assert {"seconds_float32", "seconds_bfloat16"} <= rows[0].keys()
    told = fit(Line(), PLAN, tmp_path / "told", precision="bfloat16" if rows[0]["bfloat16"] else "float32")
    for name, value in told["line"].items():
        assert torch.equal(chosen["line"][name], value)


def test_bfloat16_is_autocast():
    with context_of("bfloat16", torch.device("cpu"))():
        assert torch.is_autocast_enabled("cpu")
    assert context_of("float32", torch.device("cpu")) is nullcontext


def test_a_gradient_that_is_not_finite_is_not_saved(tmp_path):
    """The check comes before the step on a CPU, and before every state everywhere."""
    fit(Line(), SHORT, tmp_path)
    before = load_state(tmp_path / "last.pt")
    task = Line()
    loss = task.loss
    task.loss = lambda step, *rest: (loss(step, *rest)[0] * (float("inf") if step == 13 else 1.0), {})
    with pytest.raises(GessoError, match="step 13: the gradient is not finite"):
        fit(task, PLAN, tmp_path)
    assert load_state(tmp_path / "last.pt")["step"] == before["step"]


def test_a_finished_run_is_only_reported(tmp_path):
    fit(Line(), PLAN, tmp_path)
    task = Line()
    fit(task, PLAN, tmp_path)
    assert task.seen == []


@pytest.mark.parametrize("faster", ["float32", "bfloat16"])
def test_a_run_takes_the_faster_precision(faster, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "faster_precision", lambda *given: (faster, {"seconds_float32": 1.0}))
    task, rows = Line(), []
    fit(task, replace(SHORT, total_samples=8), tmp_path, precision="auto", on_log=rows.append)
    assert load_state(tmp_path / "last.pt")["precision"] == faster
    assert rows[0] == {"step": 0, "samples": 0, "bfloat16": float(faster == "bfloat16"), "seconds_float32": 1.0}
    assert task.dtype == getattr(torch, faster)


def test_a_row_of_the_log_has_the_mean_of_its_steps(tmp_path):
    losses, rows = [], []

    class Kept(Line):
        def loss(self, step, batch_size, seed):
            loss, figures = super().loss(step, batch_size, seed)
            losses.append(float(loss.detach()))
            return loss, figures

    fit(Kept(), SHORT, tmp_path, log_every=5, on_log=rows.append)
    means = [row["loss"] for row in rows if "loss" in row]
    assert means == pytest.approx([sum(losses[:5]) / 5, sum(losses[5:]) / 5])
