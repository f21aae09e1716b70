"""The training loop: optimiser, learning-rate schedule, moving average, log and checkpoints that resume exactly.

Everything random in a step follows from (seed, step), so a run that was cut off goes on from its last checkpoint as if
nothing had happened. The learning rate rises, stays, and falls to zero over the last share of the samples
(warm-up-stable-decay: Hu et al. 2024, arXiv:2404.06395): until the fall begins, the length of the run can still change.
A plan by time uses that: it follows the speed that is measured until the fall begins, and then stays.

A run that may roll back keeps a second state, `good.pt`, every so many steps, and goes back to it at a lower rate when
a gradient is not finite. Where it goes back to follows from the steps alone, so this too is exact after a cut.
"""

import errno
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gesso.errors import GessoError
from gesso.files import atomic_file
from gesso.training.group import Group
from gesso.training.interrupting import interrupts_held
from gesso.training.muon import MuonAndAdamW
from gesso.training.precision import TrainingPrecision, context_of, faster_precision
from gesso.training.sharding import (
    PartedStates,
    Parting,
    Shards,
    clip_gradients,
    is_parted,
    local,
    read_average,
    read_facts,
)
from gesso.training.task import Figures, Task

OPEN_END = 2**62  # samples of a plan whose length is not known yet
ROLL_BACK_RATE = 0.5  # of the learning rate, each time
SPARE_DISK = 32 * 2**20  # bytes that a state leaves free


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How long and how fast to train; samples count pictures.

    minutes: by time instead of samples. total_samples then follows from the speed, so that the run, its fall included,
    has taken about so long at its end; an earlier part of the run that was cut off counts.
    """

    batch_size: int
    total_samples: int = OPEN_END
    minutes: float | None = None
    learning_rate: float
    warmup_samples: int
    decay_share: float  # of the total, at its end
    ema_decay: float  # of the moving average of the weights, per step; ramped up at the start
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    clip: float = 1.0  # largest norm of the gradient
    seed: int = 0
    accumulation: int = 1  # batches whose gradients make one step

    def factor(self, samples: int) -> float:
        """Share of the learning rate after so many samples."""
        rising = (samples + 1) / max(self.warmup_samples, 1)
        falling = (self.total_samples - samples) / max(self.decay_share * self.total_samples, 1)
        return min(1.0, rising, max(0.0, falling))

    def falls(self, samples: int) -> bool:
        """Whether the learning rate falls after so many samples."""
        return samples > (1 - self.decay_share) * self.total_samples


class MovingAverage:
    """Exponential moving average of the weights, with a ramp so that the start is forgotten soon."""

    def __init__(self, modules: Mapping[str, nn.Module], decay: float) -> None:
        self.decay = decay
        self.weights = {name: {k: v.detach().clone() for k, v in m.state_dict().items()} for name, m in modules.items()}

    @torch.no_grad()
    def update(self, modules: Mapping[str, nn.Module], step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, module in modules.items():
            ours, theirs = self.weights[name], module.state_dict()
            torch._foreach_lerp_(
                [local(value) for value in ours.values()], [local(theirs[key]) for key in ours], 1 - decay
            )

    def load(self, weights: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Take over saved weights, onto the devices of these."""
        for name, ours in self.weights.items():
            self.weights[name] = {key: weights[name][key].to(value.device) for key, value in ours.items()}


class NotFiniteError(GessoError):
    """A gradient that is NaN or infinite."""

    default_code = "not_finite"


def save_atomically(state: Mapping[str, Any], path: Path) -> None:
    """Write a training state so that a crash leaves the old file or the new one, never a part."""
    with atomic_file(path) as file:
        torch.save(dict(state), file)


def load_state(path: Path, *, mapped: bool = False) -> dict[str, Any]:
    """Read a training state. Only tensors and plain values are unpickled. Raises GessoError for anything else.

    mapped: tensors are read from the file when they are looked at
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # the unpickler raises many kinds
        reason = str(error).partition(".")[0][:120]
        raise GessoError(
            f"{path}: not a training state of gesso ({reason}). Remove it to start again",
            code="damaged",
            data={"path": str(path)},
        ) from error
    return state


PARTED = "last.json"  # names the last state of a training whose weights are parted
TENSORS = ("modules", "optimizer", "average")  # of a state


def state_facts(path: Path) -> dict[str, Any]:
    """What a training state says beside its tensors, of which none is read. Raises GessoError as `load_state`."""
    return {name: value for name, value in load_state(path, mapped=True).items() if name not in TENSORS}


def last_facts(folder: Path) -> dict[str, Any] | None:
    """What the last state of a training says beside its tensors; None: there is none yet. Raises GessoError."""
    if (folder / PARTED).exists():
        return read_facts(folder / PARTED)
    return state_facts(folder / "last.pt") if (folder / "last.pt").exists() else None


def load_average(folder: Path) -> dict[str, dict[str, Tensor]]:
    """The averaged weights of a training, by module and name. Raises GessoError where there is none yet."""
    if (folder / PARTED).exists():
        return read_average(folder / PARTED)
    path = folder / "last.pt"
    if not path.exists():
        raise GessoError(
            f"{path} is missing. Train the stage {folder.name!r} first", code="missing", data={"path": str(path)}
        )
    average: dict[str, dict[str, Tensor]] = load_state(path, mapped=True)["average"]
    return {
        name: {key: value.clone() for key, value in weights.items()} for name, weights in average.items()
    }  # no longer in the file, which may change


def fit(
    task: Task,
    plan: Plan,
    folder: Path,
    *,
    device: str | torch.device = "cpu",
    precision: TrainingPrecision | Literal["auto"] = "float32",
    compiled: bool = False,
    save_every: float = 120.0,
    log_every: int = 50,
    report_every: float = 300.0,
    measure_after: float = 30.0,
    stop_after: float = float("inf"),
    what: str | None = None,
    on_log: Callable[[dict[str, float]], None] = lambda row: None,
    stop: Callable[[], bool] | None = None,
    report_at: Callable[[int], bool] | None = None,
    while_averaged: Callable[[int], Mapping[str, float]] = lambda step: {},
    keep_every: int | None = None,
    roll_backs: int = 0,
    shared_batches: bool = False,
    make_optimizer: "MakeOptimizer | None" = None,
    parting: Parting | None = None,
) -> dict[str, dict[str, Tensor]]:
    """Train until the plan's samples are used up, or stop_after seconds, or `stop` says so between two steps.

    folder gets `last.pt` (everything needed to go on, on any device) and `log.jsonl`; where `last.pt` exists, the run
    goes on from it. device: where the task's modules are. precision: of a new run, "auto" times both; a run that goes
    on keeps its own. compiled: with torch.compile. measure_after: from when on a plan by time trusts its speed. what:
    is trained, if sizes do not show it. Times are in seconds. -> the moving average of the weights by module and name.

    report_at       after which steps to report, in place of report_every; the last step always; 0 is before the first
    while_averaged  is called with the step during a report, the averaged weights in place; its figures are logged too
    keep_every      steps between the states to which a gradient that is not finite takes the run back
    roll_backs      how often that may happen, each time at half the rate; 0: such a gradient ends the run
    shared_batches  several processes share each batch, which the task parts among them: the run is that of one
                    process, and goes on with any number of them. Without, each has batches of its own
    make_optimizer  from parameter groups and the plan; None: `optimizer_for`
    parting         networks whose weights, gradients and moments are parted over the processes, which all have rows of
                    every batch; states are in parts then, and any number of processes goes on from them
    Raises GessoError where the folder cannot be made, for a state of another training in it, for a disk without room
    for a state (the last one stays), and for a gradient that is not finite. Without `stop`, Ctrl-C waits for the end of
    the step and for the state to be saved, and is KeyboardInterrupt then.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise GessoError(
            f"{folder}: cannot make the folder ({error.strerror}). Choose another place",
            code="unwritable",
            data={"path": str(folder)},
        ) from error
    run = _Run(
        task,
        plan,
        folder,
        torch.device(device),
        what,
        on_log,
        shared_batches=shared_batches,
        make_optimizer=make_optimizer,
        parting=parting,
    )
    run.while_averaged, run.roll_backs = while_averaged, roll_backs
    if compiled:
        for network in task.networks():
            network.compile(dynamic=False)
    run.choose_precision(precision)
    saved = reported = time.monotonic()
    if keep_every is not None and run.step == 0 and not run.last.exists():
        run.save(run.good)
        run.save()  # the precision that was chosen, too
    if report_at is not None and run.step == 0 and report_at(0):
        run.report()
    run.open_window()
    with interrupts_held() if stop is None else nullcontext(stop) as stopped:
        while not run.finished and run.group.agree(run.running < stop_after and not stopped()):
            try:
                run.take_step()
            except NotFiniteError as error:
                run.roll_back(error)
                continue
            if run.step % log_every == 0:
                run.log(measure_after)
            # Reports come before states: a run that is cut off between the two reports twice, and leaves none out.
            if report_at is None and time.monotonic() - reported > report_every and not stopped():
                run.report()
                reported = time.monotonic()
            elif report_at is not None and report_at(run.step) and not run.finished:
                run.report()
            if keep_every is not None and run.step % keep_every == 0:
                run.save(run.good)
            if time.monotonic() - saved > save_every and not run.finished:
                run.save()
                saved = time.monotonic()
        if run.finished:  # before the state that says so: a run that is cut off in between reports again
            run.report()
        run.save()
        is_interrupted = stop is None and stopped()
    if is_interrupted:
        raise KeyboardInterrupt
    if report_at is None and not run.finished:
        run.report()
    if run.shards is not None:
        run.shards.close()
    return run.average.weights


def optimizer_for(groups: list[dict[str, Any]], plan: Plan) -> torch.optim.Optimizer:
    """AdamW, with Muon for the groups that say `muon`."""
    if any(group.get("muon") for group in groups):
        return MuonAndAdamW(groups, plan.betas, plan.weight_decay)
    return torch.optim.AdamW(groups, betas=plan.betas, weight_decay=plan.weight_decay, fused=True)


MakeOptimizer = Callable[[list[dict[str, Any]], Plan], torch.optim.Optimizer]


@contextmanager
def averaged(optimizer: Any) -> Iterator[None]:
    """Within, the weights of a schedule-free optimiser are their average, which is its result; of others they stay."""
    if not (hasattr(optimizer, "eval") and hasattr(optimizer, "train")):
        yield
        return
    optimizer.eval()
    try:
        yield
    finally:
        optimizer.train()


class _Run:
    """A training between its first step and its last: what `last.pt` keeps, and the figures since the last log row."""

    def __init__(
        self,
        task: Task,
        plan: Plan,
        folder: Path,
        device: torch.device,
        what: str | None,
        on_log: Callable[[dict[str, float]], None],
        *,
        shared_batches: bool = False,
        make_optimizer: "MakeOptimizer | None" = None,
        parting: Parting | None = None,
    ) -> None:
        self.shared_batches = shared_batches
        self.task, self.plan, self.device, self.what, self.on_log = task, plan, device, what, on_log
        self.group = Group()
        end = ".pt" if parting is None else ".json"
        self.last, self.good, self.log_file = folder / f"last{end}", folder / f"good{end}", folder / "log.jsonl"
        self.shards: Shards | None = None
        if parting is not None and self.group.size > 1:
            assert isinstance(task.modules, dict)
            self.shards = Shards(task.modules, parting)
        self.while_averaged: Callable[[int], Mapping[str, float]] = lambda step: {}
        self.roll_backs = 0
        self.rate = 1.0  # of the plan's learning rate: what roll-backs left of it
        self.rolled_back: list[int] = []  # at which steps
        self.optimizer = (make_optimizer or optimizer_for)(task.parameter_groups(plan.learning_rate), plan)
        self.bases = [rates["lr"] for rates in self.optimizer.param_groups]
        self.parameters = [p for rates in self.optimizer.param_groups for p in rates["params"]]
        self.average = MovingAverage(task.modules, plan.ema_decay)
        self.states = None if parting is None else PartedStates(task.modules, self.optimizer, self.average.weights)
        # Every process sees pictures of its own, or its part of everyone's.
        self.seed = plan.seed + (0 if shared_batches else 1_000_003 * self.group.rank)
        self.step = self.samples = 0
        self.seconds_before = 0.0  # that earlier parts of the run took
        self.precision: TrainingPrecision | None = None
        self.fixed = plan.minutes is None  # the length of the run
        if self.last.exists():
            self._go_on(self.last)
        self.started = time.monotonic()
        self.first_done: tuple[float, int] | None = None  # when, and after how many samples: before it is preparation
        self.waiting: list[tuple[int, Figures]] = []
        self.sums: dict[str, float] = {}
        self.summed = 0  # steps in the sums

    def _go_on(self, path: Path) -> None:
        state = load_state(path) if self.states is None else read_facts(path)
        was = state.get("what")
        if was is not None and self.what is not None and was != self.what:
            raise GessoError(
                f"{self.last}: is the state of {was}, not of {self.what}. Use another folder",
                code="other_training",
                data={"path": str(self.last)},
            )
        try:
            if self.states is not None:
                self.states.load(path)
            else:
                for name, module in self.task.modules.items():
                    module.load_state_dict(state["modules"][name])
                self.optimizer.load_state_dict(state["optimizer"])
                self.average.load(state["average"])
        except (KeyError, RuntimeError, ValueError):
            raise GessoError(
                f"{self.last}: is the state of another training or of other sizes. Use another folder, or the "
                "options of that training",
                code="other_training",
                data={"path": str(self.last)},
            ) from None
        self.step, self.samples, self.seconds_before = state["step"], state["samples"], state["seconds"]
        self.rate, self.rolled_back = state.get("rate", 1.0), list(state.get("rolled_back", ()))
        self.precision = state.get("precision", "float32")  # states from before there was a choice
        if not self.fixed:
            self.plan = replace(self.plan, total_samples=state.get("total_samples", OPEN_END))
            self.fixed = self.plan.falls(self.samples)

    @property
    def running(self) -> float:
        """Seconds since this part of the run began."""
        return time.monotonic() - self.started

    @property
    def seconds(self) -> float:
        """Seconds that the run has taken, earlier parts included."""
        return self.seconds_before + self.running

    @property
    def finished(self) -> bool:
        return self.samples >= self.plan.total_samples

    def choose_precision(self, precision: TrainingPrecision | Literal["auto"]) -> None:
        """A run that goes on keeps its own."""
        if self.precision is None and precision == "auto":
            with eager():
                faster, timings = faster_precision(self.task, self.plan.batch_size, self.seed, self.device)
            self.precision = "bfloat16" if self.group.agree(faster == "bfloat16") else "float32"
            self._write({"step": 0, "samples": 0, "bfloat16": float(self.precision == "bfloat16")} | timings)
        elif self.precision is None and precision != "auto":
            self.precision = precision
        assert self.precision is not None
        self.task.precision = context_of(self.precision, self.device)

    def take_step(self) -> None:
        """One batch: gradients, clipped, into the weights and their average."""
        for rates, base in zip(self.optimizer.param_groups, self.bases, strict=True):
            rates["lr"] = base * self.plan.factor(self.samples) * self.rate
        figures = self._gradients()
        if self.shared_batches:
            self.group.average_gradients([p for p in self.parameters if not is_parted(p)])
            figures = self.group.mean(figures)
        else:
            self.group.average([p.grad for p in self.parameters if p.grad is not None])
        clip = nn.utils.clip_grad_norm_ if self.shards is None else clip_gradients
        norm = clip(self.parameters, self.plan.clip)
        self.waiting.append((self.step, {**figures, "norm": norm}))
        if self.device.type == "cpu" or self.roll_backs:
            self._settle()  # before the step that a gradient which is not finite would spoil
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        taken = self.plan.batch_size * self.plan.accumulation * (1 if self.shared_batches else self.group.size)
        self.step, self.samples = self.step + 1, self.samples + taken
        with averaged(self.optimizer):
            self.average.update(self.task.modules, self.step)
        if self.first_done is None:
            self._settle()
            self.first_done = time.monotonic(), self.samples

    def _gradients(self) -> Figures:
        """Backward passes of one step; the mean of their figures."""
        parts = self.plan.accumulation
        sums: dict[str, Tensor | float] = {}
        for part in range(parts):
            loss, figures = self.task.loss(self.step * parts + part, self.plan.batch_size, self.seed)
            if loss.requires_grad or not self.shared_batches:  # a short batch may have no row for this process
                (loss if parts == 1 else loss / parts).backward()
            for key, value in figures.items():
                sums[key] = sums.get(key, 0.0) + value / parts
        return sums

    def roll_back(self, error: NotFiniteError) -> None:
        """Back to the last good state at a lower rate. Raises the error where that happened too often."""
        if len(self.rolled_back) >= self.roll_backs or not self.good.exists():
            raise error
        self.optimizer.zero_grad(set_to_none=True)
        self.waiting.clear()
        self.sums.clear()
        self.summed = 0
        failed, rate, before = self.step, self.rate * ROLL_BACK_RATE, [*self.rolled_back, self.step]
        spent = self.seconds_before
        self._go_on(self.good)
        self.rate, self.rolled_back, self.seconds_before = rate, before, spent
        # Both, so that a run that is cut off now goes on at the lower rate.
        self.save()
        self.save(self.good)
        row = {"step": self.step, "samples": self.samples, "not_finite_at": failed, "rate": self.rate}
        self._write(row)
        self.open_window()

    def open_window(self) -> None:
        """Pictures a second are counted from here."""
        self.window_started, self.window_samples = time.monotonic(), self.samples

    def log(self, measure_after: float) -> None:
        """A row of mean figures since the last one; a plan by time gets its length from the speed."""
        self._settle()
        now = time.monotonic()
        self.fixed = self.fixed or self.plan.falls(self.samples)
        if not self.fixed:
            assert self.first_done is not None
            self.plan = by_time(self.plan, self.samples, self.first_done, now, self.seconds, measure_after, self.group)
        row = {"step": self.step, "samples": self.samples, "seconds": self.seconds}
        row["samples_per_second"] = (self.samples - self.window_samples) / (now - self.window_started)
        row["factor"] = self.plan.factor(self.samples)
        if self.plan.minutes is not None and self.plan.total_samples < OPEN_END:
            row["total_samples"] = self.plan.total_samples
        self._write(row | {key: value / self.summed for key, value in self.sums.items()})
        self.sums.clear()
        self.summed = 0
        self.open_window()

    def report(self) -> None:
        """The task's slower figures."""
        self._settle()
        weights: Mapping[str, Mapping[str, Tensor]] = self.average.weights
        if self.shards is not None:
            weights = self.shards.gathered(weights)
        if self.group.rank == 0:
            with nullcontext() if self.shards is None else self.shards.whole():
                report_now(self.task, weights, self._write, self.step, self.samples, self.while_averaged)
        self.open_window()

    def save(self, path: Path | None = None) -> None:
        """Write the state to `last.pt`, or to another file beside it."""
        path = path or self.last
        self._settle()
        if self.group.rank > 0 and self.states is None:
            return
        facts = {
            "step": self.step,
            "samples": self.samples,
            "seconds": self.seconds,
            "precision": self.precision,
            "what": self.what,
            "rate": self.rate,
            "rolled_back": self.rolled_back,
        }
        if self.plan.minutes is not None:
            facts["total_samples"] = self.plan.total_samples
        tensors = {
            "modules": {name: module.state_dict() for name, module in self.task.modules.items()},
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.weights,
        }
        nbytes = _nbytes(tensors)
        is_full = shutil.disk_usage(path.parent).free < nbytes + SPARE_DISK
        if is_full if self.states is None else self.group.agree(is_full):
            raise self._disk_full(nbytes)
        try:
            if self.states is not None:
                self.states.save(path, facts)
            else:
                save_atomically(tensors | facts, path)
        except (OSError, RuntimeError) as error:  # torch's own writer raises the second
            is_full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "StreamWriter" in str(error)
            if not is_full:
                raise
            raise self._disk_full(nbytes) from error

    def _disk_full(self, nbytes: int) -> GessoError:
        kept = "the last state stays as it was" if self.last.exists() else "nothing was saved"
        return GessoError(
            f"{self.last.parent}: no room for a state of {nbytes / 2**20:.0f} MiB at step {self.step}; {kept}. Free "
            "some space, then run the same command again",
            code="disk_full",
            data={"path": str(self.last.parent), "step": self.step},
        )

    def _settle(self) -> None:
        """Read the figures of the steps since the last time. A GPU is waited for here and nowhere else."""
        for at, figures in self.waiting:
            for key, value in figures.items():
                self.sums[key] = self.sums.get(key, 0.0) + float(value)
            if not math.isfinite(float(figures["norm"])):
                raise NotFiniteError(
                    f"step {at}: the gradient is not finite. Lower the learning rate, or resume from {self.last}"
                )
        self.summed += len(self.waiting)
        self.waiting.clear()

    def _write(self, row: dict[str, float]) -> None:
        if self.group.rank > 0:
            return
        self.on_log(row)
        with self.log_file.open("a") as file:
            file.write(json.dumps({key: round(value, 5) for key, value in row.items()}) + "\n")


def by_time(
    plan: Plan,
    samples: int,
    first_done: tuple[float, int],
    now: float,
    seconds: float,
    measure_after: float,
    group: Group,
) -> Plan:
    """A plan by time with the length that its speed since the first step suggests.

    seconds: that the run has taken so far, its preparation included. The length is never so short that the fall would
    have begun before now.
    """
    assert plan.minutes is not None
    since, before = first_done
    if not group.agree(now - since >= measure_after):
        return plan
    speed = (samples - before) / (now - since)
    total = max(samples + speed * (60 * plan.minutes - seconds), samples / (1 - plan.decay_share))
    return replace(plan, total_samples=int(group.broadcast(total)))


def eager() -> AbstractContextManager[object]:
    """Within, compiled networks run as they are written: for what is called now and then, at other sizes."""
    set_stance = getattr(torch.compiler, "set_stance", None)  # torch 2.6
    return nullcontext() if set_stance is None else set_stance("force_eager")


def _nbytes(value: Any) -> int:
    """Bytes of all tensors in nested containers."""
    if isinstance(value, Tensor):
        return value.nbytes
    if isinstance(value, Mapping):
        return sum(map(_nbytes, value.values()))
    return sum(map(_nbytes, value)) if isinstance(value, list | tuple) else 0


def report_now(
    task: Task,
    weights: Mapping[str, Mapping[str, Tensor]],
    write: Callable[[dict[str, float]], None],
    step: int,
    samples: int,
    while_averaged: Callable[[int], Mapping[str, float]] = lambda step: {},
) -> None:
    """Log the task's slower figures, taken with averaged weights in place; puts the trained ones back."""
    trained = {
        name: {k: v.detach().clone() for k, v in module.state_dict().items()} for name, module in task.modules.items()
    }
    for name, module in task.modules.items():
        module.load_state_dict(weights[name])
        module.eval()
    with torch.no_grad(), eager():
        figures = {**task.report(task.modules), **while_averaged(step)}
    for name, module in task.modules.items():
        module.load_state_dict(trained[name])
        module.train()
    write({"step": step, "samples": samples} | figures)
