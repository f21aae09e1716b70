"""The training loop: optimiser, learning-rate schedule, moving average, log and checkpoints that resume exactly.

Everything random in a step follows from (seed, step), so a run that was cut off goes on from its last checkpoint as if
nothing had happened. The learning rate rises, stays, and falls to zero over the last share of the samples
(warm-up-stable-decay: Hu et al. 2024, arXiv:2404.06395): until the fall begins, the length of the run can still change.
A plan by time uses that: it follows the speed that is measured until the fall begins, and then stays.
"""

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from gesso.errors import GessoError
from gesso.training.group import Group
from gesso.training.precision import Enter, Precision, context_of, faster_precision

Figures = Mapping[str, Tensor | float]
OPEN_END = 2**62  # samples of a plan whose length is not known yet


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

    def factor(self, samples: int) -> float:
        """Share of the learning rate after so many samples."""
        rising = min(1.0, (samples + 1) / max(self.warmup_samples, 1))
        falling = min(1.0, max(0.0, (self.total_samples - samples) / max(self.decay_share * self.total_samples, 1)))
        return min(rising, falling)

    def falls(self, samples: int) -> bool:
        """Whether the learning rate falls after so many samples."""
        return samples > (1 - self.decay_share) * self.total_samples


class Task(Protocol):
    """What the loop needs to know of a network in training."""

    modules: Mapping[str, nn.Module]  # every trained module by name
    precision: Enter  # entered around the networks' forward passes: autocast, or nothing

    def parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]: ...

    def networks(self) -> list[nn.Module]:
        """The modules to compile: all that a step calls."""
        ...

    def loss(self, step: int, batch_size: int, seed: int) -> tuple[Tensor, Figures]:
        """Loss of one batch and figures worth logging. Everything random follows from (seed, step)."""
        ...

    def report(self, modules: Mapping[str, nn.Module]) -> dict[str, float]:
        """Slower figures about the moving average, taken now and then."""
        ...


def generator_for(seed: int, *key: int, device: str | torch.device = "cpu") -> torch.Generator:
    """A generator that belongs to one place in the run and no other; devices draw different numbers from a seed."""
    mixed = seed
    for part in key:
        mixed = (mixed * 6364136223846793005 + part * 1442695040888963407 + 1) % 2**63
    return torch.Generator(device).manual_seed(mixed)


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
            torch._foreach_lerp_(list(ours.values()), [theirs[key] for key in ours], 1 - decay)

    def load(self, weights: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Take over saved weights, onto the devices of these."""
        for name, ours in self.weights.items():
            self.weights[name] = {key: weights[name][key].to(value.device) for key, value in ours.items()}


def save_atomically(state: Mapping[str, Any], path: Path) -> None:
    """Write a training state so that a crash leaves the old file or the new one, never a part."""
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        torch.save(dict(state), file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def load_state(path: Path) -> dict[str, Any]:
    """Read a training state. Only tensors and plain values are unpickled. Raises GessoError for anything else."""
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler raises many kinds
        raise GessoError(f"{path}: not a training state of gesso ({error}). Remove it to start anew.") from error
    return state


def fit(
    task: Task,
    plan: Plan,
    folder: Path,
    *,
    device: str | torch.device = "cpu",
    precision: Precision | Literal["auto"] = "float32",
    compiled: bool = False,
    save_every: float = 120.0,
    log_every: int = 50,
    report_every: float = 300.0,
    measure_after: float = 30.0,
    stop_after: float = float("inf"),
    on_log: Callable[[dict[str, float]], None] = lambda row: None,
) -> dict[str, dict[str, Tensor]]:
    """Train until the plan's samples are used up, or stop_after seconds.

    folder gets `last.pt` (everything needed to go on, on any device) and `log.jsonl`; where `last.pt` exists, the run
    goes on from it. device: where the task's modules are. precision: of a new run, "auto" times both; a run that goes
    on keeps its own. compiled: with torch.compile. measure_after: from when on a plan by time trusts its speed. Times
    are in seconds. -> the moving average of the weights by module and name.
    """
    group, device = Group(), torch.device(device)
    folder.mkdir(parents=True, exist_ok=True)
    last, log = folder / "last.pt", folder / "log.jsonl"
    optimizer = torch.optim.AdamW(
        task.parameter_groups(plan.learning_rate), betas=plan.betas, weight_decay=plan.weight_decay, fused=True
    )
    average = MovingAverage(task.modules, plan.ema_decay)
    bases = [rates["lr"] for rates in optimizer.param_groups]
    step = samples = 0
    seconds_before = 0.0
    fixed = plan.minutes is None  # the length of the run
    state: dict[str, Any] | None = load_state(last) if last.exists() else None
    if state is not None:
        for name, module in task.modules.items():
            module.load_state_dict(state["modules"][name])
        optimizer.load_state_dict(state["optimizer"])
        average.load(state["average"])
        step, samples, seconds_before = state["step"], state["samples"], state["seconds"]
        if not fixed:
            plan = replace(plan, total_samples=state.get("total_samples", OPEN_END))
            fixed = plan.falls(samples)
    parameters = [p for rates in optimizer.param_groups for p in rates["params"]]
    seed = plan.seed + 1_000_003 * group.rank  # every process sees pictures of its own
    started = time.monotonic()

    def write(row: dict[str, float]) -> None:
        if group.rank > 0:
            return
        on_log(row)
        with log.open("a") as file:
            file.write(json.dumps({key: round(value, 5) for key, value in row.items()}) + "\n")

    if compiled:
        for network in task.networks():
            network.compile(dynamic=False)
    if state is not None:
        chosen: Precision = state.get("precision", "float32")  # states from before there was a choice
    elif precision == "auto":
        with eager():
            chosen, timings = faster_precision(task, plan.batch_size, seed, device)
        chosen = "bfloat16" if group.agree(chosen == "bfloat16") else "float32"
        write({"step": 0, "samples": 0, "bfloat16": float(chosen == "bfloat16")} | timings)
    else:
        chosen = precision
    task.precision = context_of(chosen, device)

    def save() -> None:
        settle()
        if group.rank > 0:
            return
        save_atomically(
            {
                "modules": {name: module.state_dict() for name, module in task.modules.items()},
                "optimizer": optimizer.state_dict(),
                "average": average.weights,
                "step": step,
                "samples": samples,
                "seconds": seconds_before + time.monotonic() - started,
                "precision": chosen,
            }
            | ({} if plan.minutes is None else {"total_samples": plan.total_samples}),
            last,
        )

    sums: dict[str, float] = {}
    waiting: list[tuple[int, Figures]] = []

    def settle() -> None:
        """Read the figures of the steps since the last time. A GPU is waited for here and nowhere else."""
        for at, figures in waiting:
            for key, value in figures.items():
                sums[key] = sums.get(key, 0.0) + float(value)
            if not math.isfinite(float(figures["norm"])):
                raise GessoError(
                    f"step {at}: the gradient is not finite. Lower the learning rate, or go on from {last}."
                )
        waiting.clear()

    saved = reported = window_started = time.monotonic()
    window_samples = samples
    first_done: tuple[float, int] | None = None  # when, and after how many samples: what comes before is preparation
    while samples < plan.total_samples and group.agree(time.monotonic() - started < stop_after):
        for rates, base in zip(optimizer.param_groups, bases, strict=True):
            rates["lr"] = base * plan.factor(samples)
        loss, figures = task.loss(step, plan.batch_size, seed)
        loss.backward()
        group.average([p.grad for p in parameters if p.grad is not None])
        norm = nn.utils.clip_grad_norm_(parameters, plan.clip)
        waiting.append((step, {**figures, "norm": norm}))
        if device.type == "cpu":
            settle()  # before the step that a gradient which is not finite would spoil
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step, samples = step + 1, samples + plan.batch_size * group.size
        average.update(task.modules, step)
        if first_done is None:
            settle()
            first_done = time.monotonic(), samples
        if step % log_every == 0:
            settle()
            now = time.monotonic()
            fixed = fixed or plan.falls(samples)
            if not fixed:
                plan = by_time(plan, samples, first_done, now, seconds_before + now - started, measure_after, group)
            row = {"step": step, "samples": samples, "seconds": seconds_before + now - started}
            row["samples_per_second"] = (samples - window_samples) / (now - window_started)
            row["factor"] = plan.factor(samples)
            if plan.minutes is not None and plan.total_samples < OPEN_END:
                row["total_samples"] = plan.total_samples
            write(row | {key: value / log_every for key, value in sums.items()})
            window_started, window_samples = now, samples
            sums.clear()
        if time.monotonic() - reported > report_every:
            settle()
            if group.rank == 0:
                report_now(task, average, write, step, samples)
            reported = window_started = time.monotonic()
            window_samples = samples
        if time.monotonic() - saved > save_every:
            save()
            saved = time.monotonic()
    save()
    if group.rank == 0:
        report_now(task, average, write, step, samples)
    return average.weights


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
    return replace(plan, total_samples=int(group.tell(total)))


def eager() -> AbstractContextManager[object]:
    """Within, compiled networks run as they are written: for what is called now and then, at other sizes."""
    set_stance = getattr(torch.compiler, "set_stance", None)  # torch 2.6
    return nullcontext() if set_stance is None else set_stance("force_eager")


def report_now(
    task: Task, average: MovingAverage, write: Callable[[dict[str, float]], None], step: int, samples: int
) -> None:
    """Log the task's slower figures, taken with the averaged weights in place; puts the trained ones back."""
    trained = {
        name: {k: v.detach().clone() for k, v in module.state_dict().items()} for name, module in task.modules.items()
    }
    for name, module in task.modules.items():
        module.load_state_dict(average.weights[name])
        module.eval()
    with torch.no_grad(), eager():
        figures = task.report(task.modules)
    for name, module in task.modules.items():
        module.load_state_dict(trained[name])
        module.train()
    write({"step": step, "samples": samples} | figures)
