"""The dtype of a training (mixed precision): float32, or bfloat16 where that is faster.

bfloat16 here means autocast: weights, gradients and the optimiser stay float32, products run in bfloat16.
"""

import time
from contextlib import nullcontext
from typing import Literal

import torch

from gesso.training.mixed import mixed_on_cpu
from gesso.training.task import Enter, Task

TrainingPrecision = Literal["float32", "bfloat16"]
TIMED_RUNS = 2


def context_of(precision: TrainingPrecision, device: torch.device) -> Enter:
    """What a task enters around its networks."""
    if precision == "float32":
        return nullcontext
    if device.type == "cpu":
        return mixed_on_cpu
    return lambda: torch.autocast(device.type, dtype=torch.bfloat16)


def faster_precision(
    task: Task, batch_size: int, seed: int, device: torch.device
) -> tuple[TrainingPrecision, dict[str, float]]:
    """Time forward and backward passes of a task in both formats; leave no gradient behind.

    Which one wins is no question of the instructions that a CPU lists: bfloat16 was measured at twice the speed of
    float32 on one CPU with AVX512-BF16 and at half of it on another. -> the faster, and the seconds of both.
    """
    seconds: dict[str, float] = {}
    for precision in ("float32", "bfloat16"):
        task.precision = context_of(precision, device)
        taken = []
        for _ in range(1 + TIMED_RUNS):  # the first one also fills caches and composes pictures
            started = time.perf_counter()
            loss, _ = task.loss(0, batch_size, seed)
            if loss.requires_grad:  # a process may have no row of a short batch
                loss.backward()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            taken.append(time.perf_counter() - started)
        seconds[precision] = min(taken[1:])
    for module in task.modules.values():
        module.zero_grad(set_to_none=True)
    return ("bfloat16" if seconds["bfloat16"] < seconds["float32"] else "float32"), {
        f"seconds_{name}": value for name, value in seconds.items()
    }
