"""A schedule: from the model's noise levels and a number of steps to the sigmas of a run."""

import math

import torch
from torch import Tensor

from gesso import NoiseSchedule, Schedule


def cosine(schedule: NoiseSchedule, num_steps: int) -> Tensor:
    """Timesteps on a quarter of a cosine, from the last one to 0 -> float64 [num_steps + 1], falling to 0."""
    last = schedule.num_timesteps - 1
    timesteps = [last * math.cos(math.pi / 2 * step / num_steps) for step in range(num_steps)]
    sigmas = schedule.sigma_of(torch.tensor(timesteps, dtype=torch.float64))
    return torch.cat([sigmas, sigmas.new_zeros(1)])


COSINE = Schedule("Cosine", cosine, aliases=("cos",))
