"""Solvers of the reverse SDE that are made for it: ER-SDE, SA-Solver. See `seam` for the interface."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from torch import Tensor

from gesso.diffusion.noise import NoiseSource
from gesso.diffusion.noise_schedule import NoiseSchedule, scaled_linear
from gesso.diffusion.samplers.quadrature import lagrange_integrals
from gesso.diffusion.samplers.seam import ModelCall, Sampling, check_levels, draw


def er_sde(
    x: Tensor,
    sigmas: Tensor,
    noise: NoiseSource | None = None,
    *,
    s_noise: float = 1.0,
    max_order: float = 3,
) -> Sampling:
    """Extended reverse-time SDE solver, of order 1 to 3 (Cui et al. 2023, arXiv:2309.06169, algorithms 3 to 5).

    One call a step, one draw a step but for a last one that ends in 0. Noise scale function phi(s) =
    s (exp(s^0.3) + 10), the authors' fifth. Its integrals are exact to 1e-10; the authors' code, and ComfyUI's, sums
    200 rectangles, which changes the correction terms by about a part in 200. The third form adds the curvature but
    leaves the slope one-sided, as published: it converges with order 2 like the second, with a smaller error.
    s_noise 0: without random numbers; then it is no ODE solver, but follows the mean of each step.
    """
    levels = check_levels(sigmas)
    past: list[Tensor] = []
    slope: Tensor | None = None
    for step, (a, b) in enumerate(pairwise(levels)):
        x0 = yield ModelCall(x, a, step)
        if b == 0:
            x = x0
            continue
        keep = _phi(b) / _phi(a)
        following = x * keep + x0 * (1 - keep)
        last_slope, slope = slope, None
        if past and max_order >= 2:
            slope = (x0 - past[0]) / (a - levels[step - 1])
            first, second = _er_integrals(a, b)
            following = following + slope * (b - a + first * _phi(b))
            if last_slope is not None and max_order >= 3:
                curve = (slope - last_slope) / ((a - levels[step - 2]) / 2)
                following = following + curve * ((b - a) ** 2 / 2 + second * _phi(b))
        x = following
        amount = math.sqrt(max(b * b - (a * keep) ** 2, 0.0)) * s_noise
        if amount > 0:
            x = x + draw(noise, x) * amount
        past = [x0]
    return x


def _phi(sigma: float) -> float:
    return sigma * (math.exp(sigma**0.3) + 10)


def _er_integrals(a: float, b: float) -> tuple[float, float]:
    """Integrals from b to a of 1 / phi(s) and of (s - a) / phi(s), in ln(s), where they are smooth."""
    points, weights = np.polynomial.legendre.leggauss(24)
    middle, half = (math.log(a) + math.log(b)) / 2, math.log(a / b) / 2
    s = np.exp(middle + points * half)
    density = weights * half * np.array([level / _phi(level) for level in s.tolist()])  # ds / phi = s / phi d ln(s)
    return float(density.sum()), float((density * (s - a)).sum())


def sa_solver(
    x: Tensor,
    sigmas: Tensor,
    noise: NoiseSource | None = None,
    *,
    tau: float = 1.0,
    tau_from: float = 200,
    tau_to: float = 800,
    s_noise: float = 1.0,
    schedule: NoiseSchedule | None = None,
    taus: Sequence[float] | None = None,
) -> Sampling:
    """Stochastic Adams predictor and corrector of second order (Xue et al. 2023, arXiv:2309.05019, algorithm 1).

    tau: how stochastic, 0 the ODE, 1 the reverse SDE, at timesteps tau_from .. tau_to; 0 outside (diffusers' default).
    schedule: what a timestep is; Stable Diffusion's if left out. With the authors' correction for few steps, which
    diffusers has too. One call a step, one draw where tau acts and the step does not end in 0. The corrector uses the
    noise of the step again. taus: tau of each step instead, and a draw in every step, as in diffusers; of more than
    there are steps, those of the last steps count.
    """
    schedule = schedule or scaled_linear()
    levels = check_levels(sigmas)
    num_steps = len(levels) - 1
    past: list[tuple[Tensor, float]] = []  # (x0, -ln sigma), newest first
    begun, strength, added = x, 0.0, None  # of the last step: its beginning, tau and noise
    for step, (a, b) in enumerate(pairwise(levels)):
        x0 = yield ModelCall(x, a, step)
        here = (x0, -math.log(a))
        if step > 0:
            x = _adams(begun, [here, past[0]], levels[step - 1], a, strength, added)
        past = [here, *past][:2]
        begun = x
        if b == 0:
            x = x0
            continue
        if taus is None:
            timestep = float(schedule.timestep_of(a))
            strength = tau if tau_from - 1e-6 <= timestep <= tau_to + 1e-6 else 0.0
        else:
            strength = taus[step - num_steps]
        drawn = draw(noise, x) if taus is not None or (strength > 0 and s_noise > 0) else None
        added = drawn * s_noise if drawn is not None and strength > 0 and s_noise > 0 else None
        order = min(2, num_steps - step, len(past))
        x = _adams(x, past[:order], a, b, strength, added)
    return x


def _adams(
    x: Tensor, known: list[tuple[Tensor, float]], a: float, b: float, tau: float, noise: Tensor | None
) -> Tensor:
    """From a to b by the polynomial through the known values of x0; b itself is among them for the corrector."""
    h, rate = math.log(a / b), 1 + tau * tau
    end = -math.log(b)
    times = [time for _, time in known]
    weights = [rate * value for value in lagrange_integrals(times, end - h, end, rate)]
    if len(known) == 2:
        # Of the integral of exp(rate (u - end)) (u - start), to leave out all but the leading term in h.
        gap = h * h / 2 - (h * rate + math.expm1(-rate * h)) / rate**2
        shift = rate * gap / (times[0] - times[1])
        weights = [weights[0] + shift, weights[1] - shift]
    x = x * (math.exp(-tau * tau * h) * b / a)
    for (x0, _), weight in zip(known, weights, strict=True):
        x = x + x0 * weight
    if noise is not None:
        x = x + noise * (b * math.sqrt(-math.expm1(-2 * tau * tau * h)))
    return x
