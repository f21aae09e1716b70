"""Samplers for models distilled to a few steps: LCM, TCD. See `seam` for the interface."""

from __future__ import annotations

import math
from itertools import pairwise

from torch import Tensor

from gesso.diffusion.noise import NoiseSource
from gesso.diffusion.noise_schedule import NoiseSchedule, scaled_linear
from gesso.diffusion.samplers.seam import ModelCall, Sampling, check_levels, draw


def lcm(x: Tensor, sigmas: Tensor, noise: NoiseSource | None = None, *, s_noise: float = 1.0) -> Sampling:
    """Multistep consistency sampling (Luo et al. 2023, arXiv:2310.04378, algorithm 3): to x0, then fresh noise.

    One call a step, one draw a step but for a last one that ends in 0. The boundary weights of the consistency function
    are `Denoiser(consistency=True)`; ComfyUI goes without.
    """
    for step, (a, b) in enumerate(pairwise(check_levels(sigmas))):
        x = yield ModelCall(x, a, step)
        if b > 0:
            x = x + draw(noise, x) * (b * s_noise)
    return x


def tcd(
    x: Tensor,
    sigmas: Tensor,
    noise: NoiseSource | None = None,
    *,
    gamma: float = 0.3,
    schedule: NoiseSchedule | None = None,
) -> Sampling:
    """Strategic stochastic sampling (Zheng et al. 2024, arXiv:2402.19159, algorithm 4): below the next timestep and up.

    gamma: how far below, as a share of the next timestep; 0 is DDIM, 1 is LCM. schedule: what a timestep is; Stable
    Diffusion's if left out. One call a step, one draw where gamma > 0 and the next timestep is above 0. diffusers ends
    at timestep 0, not at sigma 0: then so must sigmas.
    """
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma is {gamma}, expected 0..1")
    schedule = schedule or scaled_linear()
    for step, (a, b) in enumerate(pairwise(check_levels(sigmas))):
        x0 = yield ModelCall(x, a, step)
        if b == 0:
            x = x0
            continue
        below = b if gamma == 0 else _below(schedule, b, gamma)
        x = x0 + (x - x0) * (below / a)
        if below < b:
            x = x + draw(noise, x) * math.sqrt(b * b - below * below)
    return x


def _below(schedule: NoiseSchedule, sigma: float, gamma: float) -> float:
    """sigma at (1 - gamma) of its timestep, rounded down. What was a whole timestep is one to within 1e-6 here."""
    timestep = (1 - gamma) * float(schedule.timestep_of(sigma))
    below = float(schedule.sigma_of(math.floor(timestep + 1e-6)))
    return sigma if below > sigma * (1 - 1e-9) else below
