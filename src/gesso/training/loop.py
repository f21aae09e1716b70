"""The training loop: optimiser, learning-rate schedule, moving average, log and checkpoints that resume exactly.

Everything random in a step follows from (seed, step), so a run that was cut off goes on from its last checkpoint as if
nothing had happened. The learning rate rises, stays, and falls to zero over the last share of the samples
(warm-up-stable-decay: Hu et al. 2024, arXiv:2404.06395): until the fall begins, the length of the run can still change.
"""

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from gesso.errors import GessoError
from gesso.training.group import Group


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How long and how fast to train; samples count pictures."""

    batch_size: int
    total_samples: int
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


class Task(Protocol):
    """What the loop needs to know of a network in training."""

    modules: Mapping[str, nn.Module]  # every trained module by name

    def parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]: ...

    def loss(self, step: int, batch_size: int, seed: int) -> tuple[Tensor, dict[str, float]]:
        """Loss of one batch and figures worth logging. Everything random follows from (seed, step)."""
        ...

    def report(self, modules: Mapping[str, nn.Module]) -> dict[str, float]:
        """Slower figures about the moving average, taken now and then."""
        ...


def generator_for(seed: int, *key: int) -> torch.Generator:
    """A generator that belongs to one place in the run and no other."""
    mixed = seed
    for part in key:
        mixed = (mixed * 6364136223846793005 + part * 1442695040888963407 + 1) % 2**63
    return torch.Generator().manual_seed(mixed)


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
    save_every: float = 120.0,
    log_every: int = 50,
    report_every: float = 300.0,
    stop_after: float = float("inf"),
    on_log: Callable[[dict[str, float]], None] = lambda row: None,
) -> dict[str, dict[str, Tensor]]:
    """Train until the plan's samples are used up, or stop_after seconds.

    folder gets `last.pt` (everything needed to go on) and `log.jsonl`; where `last.pt` exists, the run goes on from it.
    Times are in seconds. -> the moving average of the weights by module and name.
    """
    group = Group()
    folder.mkdir(parents=True, exist_ok=True)
    last, log = folder / "last.pt", folder / "log.jsonl"
    optimizer = torch.optim.AdamW(
        task.parameter_groups(plan.learning_rate), betas=plan.betas, weight_decay=plan.weight_decay, fused=True
    )
    average = MovingAverage(task.modules, plan.ema_decay)
    bases = [rates["lr"] for rates in optimizer.param_groups]
    step = samples = 0
    seconds_before = 0.0
    if last.exists():
        state = load_state(last)
        for name, module in task.modules.items():
            module.load_state_dict(state["modules"][name])
        optimizer.load_state_dict(state["optimizer"])
        average.weights = state["average"]
        step, samples, seconds_before = state["step"], state["samples"], state["seconds"]
    parameters = [p for rates in optimizer.param_groups for p in rates["params"]]
    started = saved = reported = time.monotonic()
    sums: dict[str, float] = {}

    def save() -> None:
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
            },
            last,
        )

    def write(row: dict[str, float]) -> None:
        if group.rank > 0:
            return
        on_log(row)
        with log.open("a") as file:
            file.write(json.dumps({key: round(value, 5) for key, value in row.items()}) + "\n")

    window_started, window_samples = started, samples
    seed = plan.seed + 1_000_003 * group.rank  # every process sees pictures of its own
    while samples < plan.total_samples and group.agree(time.monotonic() - started < stop_after):
        for rates, base in zip(optimizer.param_groups, bases, strict=True):
            rates["lr"] = base * plan.factor(samples)
        loss, figures = task.loss(step, plan.batch_size, seed)
        loss.backward()
        group.average([p.grad for p in parameters if p.grad is not None])
        norm = nn.utils.clip_grad_norm_(parameters, plan.clip)
        if not torch.isfinite(norm):
            raise GessoError(f"step {step}: the gradient is not finite. Lower the learning rate, or go on from {last}.")
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step, samples = step + 1, samples + plan.batch_size * group.size
        average.update(task.modules, step)
        for key, value in {**figures, "norm": float(norm)}.items():
            sums[key] = sums.get(key, 0.0) + value
        if step % log_every == 0:
            now = time.monotonic()
            row = {"step": step, "samples": samples, "seconds": seconds_before + now - started}
            row["samples_per_second"] = (samples - window_samples) / (now - window_started)
            row["factor"] = plan.factor(samples)
            write(row | {key: value / log_every for key, value in sums.items()})
            sums, window_started, window_samples = {}, now, samples
        if time.monotonic() - reported > report_every:
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
    with torch.no_grad():
        figures = task.report(task.modules)
    for name, module in task.modules.items():
        module.load_state_dict(trained[name])
        module.train()
    write({"step": step, "samples": samples} | figures)
