"""Linear multistep solvers of the probability-flow ODE: LMS, PLMS, PNDM, IPNDM, DEIS. See `seam` for the interface."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor

from gesso.diffusion.noise import NoiseSource
from gesso.diffusion.noise_schedule import NoiseSchedule, scaled_linear
from gesso.diffusion.samplers.quadrature import lagrange_integrals
from gesso.diffusion.samplers.seam import ModelCall, Sampling, check_levels, moved

# Adams-Bashforth with equal steps, newest slope first.
_ADAMS = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))


def lms(x: Tensor, sigmas: Tensor, noise: NoiseSource | None = None, *, max_order: float = 4) -> Sampling:
    """Adams-Bashforth with uneven steps: the polynomial through the last slopes, over sigma (k-diffusion).

    One call a step, no random numbers. The order rises from 1 to max_order (1 .. 4) in the first steps. k-diffusion
    integrates numerically to 1e-4, here the integral is exact.
    """
    levels = check_levels(sigmas)
    slopes: list[Tensor] = []
    for step, (a, b) in enumerate(pairwise(levels)):
        x0 = yield ModelCall(x, a, step)
        slopes = [(x - x0) / a, *slopes][: int(max_order)]
        nodes = [levels[step - i] for i in range(len(slopes))]
        x = x0 + (x - x0) * (b / a) if len(slopes) == 1 else x + _weighted(slopes, lagrange_integrals(nodes, a, b))
    return x


def plms(
    x: Tensor,
    sigmas: Tensor,
    noise: NoiseSource | None = None,
    *,
    landings: Sequence[float] | None = None,
    departures: Sequence[float] | None = None,
    velocity: float = 0,
) -> Sampling:
    """Pseudo linear multistep (Liu et al. 2022, arXiv:2202.09778): DDIM's step with an Adams-Bashforth mean of slopes.

    One call a step and one more in the first, which averages the slopes at its two ends (as CompVis, A1111, and
    diffusers' PNDM with skip_prk_steps). No random numbers. Second order: its weights are those of equal steps.
    landings: as in `ddim`. departures: where the first step, made again with both slopes, is taken to begin; counted as
    landings are. Both are diffusers' where its timesteps are not T // num_steps apart. velocity: 1 takes the mean of
    velocities (v) instead of slopes, and makes a slope of it where the step begins, as diffusers does for models that
    predict v.
    """
    levels = check_levels(sigmas)
    num_steps = len(levels) - 1
    slopes: list[Tensor] = []
    for step, (a, b) in enumerate(pairwise(levels)):
        x0 = yield ModelCall(x, a, step)
        slopes = [_output(x, x0, a, velocity), *slopes][:4]
        slope = _weighted(slopes, _ADAMS[len(slopes) - 1])
        landing = b if landings is None else landings[step - num_steps]
        begun, begin = x, a
        if len(slopes) == 1 and b > 0:
            guess = moved(x0 + (x - x0) * (landing / a), landing, b)
            guess_x0 = yield ModelCall(guess, b, step)
            slope = (slope + _output(guess, guess_x0, b, velocity)) / 2
            begin = a if departures is None else departures[step - num_steps]
            begun, landing = moved(x, a, begin), b
        slope = _as_slope(slope, begun, begin, velocity)
        x = x0 if b == 0 and len(slopes) == 1 else moved(begun + slope * (landing - begin), landing, b)
    return x


def pndm(
    x: Tensor,
    sigmas: Tensor,
    noise: NoiseSource | None = None,
    *,
    schedule: NoiseSchedule | None = None,
    landings: Sequence[float] | None = None,
    halves: Sequence[float] | None = None,
    half_landings: Sequence[float] | None = None,
    velocity: float = 0,
) -> Sampling:
    """PNDM (Liu et al. 2022, arXiv:2202.09778, algorithm 2): three steps of pseudo Runge-Kutta, then as `plms`.

    Four calls in each of the first three steps, one in each later one, one in a step that ends in 0. No random numbers.
    schedule: for the sigma half way between two timesteps; Stable Diffusion's if left out. diffusers' PNDM
    with skip_prk_steps=False. Not for zero terminal SNR, whose first step is too long for Runge-Kutta.
    landings: as in `ddim`, of the later steps. halves: the sigma half way, of each step, counted as landings are;
    half_landings: where the first guess leads instead. All are diffusers' for timesteps that are not T // num_steps
    apart, or whose distance is odd. velocity: as in `plms`.
    """
    schedule = schedule or scaled_linear()
    levels = check_levels(sigmas)
    num_steps = len(levels) - 1
    slopes: list[Tensor] = []
    for step, (a, b) in enumerate(pairwise(levels)):
        x0 = yield ModelCall(x, a, step)
        slopes = [_output(x, x0, a, velocity), *slopes][:4]
        if len(slopes) == 4:
            landing = b if landings is None else landings[step - num_steps]
            slope = _as_slope(_weighted(slopes, _ADAMS[3]), x, a, velocity)
            x = moved(x + slope * (landing - a), landing, b)
            continue
        if b == 0:
            x = x0
            continue
        if halves is None:
            half = float(schedule.sigma_of((schedule.timestep_of(a) + schedule.timestep_of(b)) / 2))
        else:
            half = halves[step - num_steps]
        landing = half if half_landings is None else half_landings[step - num_steps]
        mean = slopes[0] / 6
        guess = moved(x + _as_slope(slopes[0], x, a, velocity) * (landing - a), landing, half)
        for level, goal, weight in ((half, half, 1 / 3), (half, b, 1 / 3), (b, b, 1 / 6)):
            guess_x0 = yield ModelCall(guess, level, step)
            slope = _output(guess, guess_x0, level, velocity)
            mean = mean + slope * weight
            guess = x + _as_slope(slope, x, a, velocity) * (goal - a)
        x = x + _as_slope(mean, x, a, velocity) * (b - a)
    return x


def _output(x: Tensor, x0: Tensor, sigma: float, velocity: float) -> Tensor:
    """What is averaged: the slope, or the velocity v = (slope - sigma * x0) / sqrt(1 + sigma^2)."""
    slope = (x - x0) / sigma
    return (slope - sigma * x0) / math.hypot(1, sigma) if velocity else slope


def _as_slope(output: Tensor, x: Tensor, sigma: float, velocity: float) -> Tensor:
    """The slope that an output of `_output` means at x."""
    return output / math.hypot(1, sigma) + x * (sigma / (1 + sigma**2)) if velocity else output


def ipndm(x: Tensor, sigmas: Tensor, noise: NoiseSource | None = None, *, max_order: float = 4) -> Sampling:
    """Improved PNDM (Zhang and Chen 2022, arXiv:2204.13902, section 3.3): `plms` that begins with lower orders instead.

    One call a step, no random numbers. Second order: its weights are those of equal steps. diffusers' IPNDM has the
    same rule on a noise schedule of its own; ComfyUI's "ipndm" is this one.
    """
    slopes: list[Tensor] = []
    for step, (a, b) in enumerate(pairwise(check_levels(sigmas))):
        x0 = yield ModelCall(x, a, step)
        slopes = [(x - x0) / a, *slopes][: int(max_order)]
        x = x0 if b == 0 and len(slopes) == 1 else x + _weighted(slopes, _ADAMS[len(slopes) - 1]) * (b - a)
    return x


def deis(
    x: Tensor, sigmas: Tensor, noise: NoiseSource | None = None, *, max_order: float = 3, lower_final: float = 1
) -> Sampling:
    """DEIS in log-rho form (Zhang and Chen 2022, arXiv:2204.13902, equation 15): polynomials of the slope in ln(sigma).

    One call a step, no random numbers. The order rises from 1 to max_order (1 .. 3) in the first steps; lower_final
    lets it fall again to 2 and 1 in the last two of fewer than 15 steps, as diffusers does.
    """
    levels = check_levels(sigmas)
    num_steps = len(levels) - 1
    slopes: list[Tensor] = []
    for step, (a, b) in enumerate(pairwise(levels)):
        x0 = yield ModelCall(x, a, step)
        slopes = [(x - x0) / a, *slopes][: int(max_order)]
        order = min(len(slopes), num_steps - step) if lower_final and num_steps < 15 else len(slopes)
        if order == 1:
            x = x0 + (x - x0) * (b / a)
            continue
        nodes = [math.log(levels[step - i]) for i in range(order)]
        integrals = lagrange_integrals(nodes, math.log(b) if b > 0 else -math.inf, math.log(a), rate=1.0)
        x = x - _weighted(slopes[:order], [a * integral for integral in integrals])
    return x


def _weighted(slopes: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    total = slopes[0] * weights[0]
    for slope, weight in zip(slopes[1:], weights[1:], strict=True):
        total = total + slope * weight
    return total
