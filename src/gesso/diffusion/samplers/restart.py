"""Restart sampling (Xu et al. 2023, arXiv:2306.14878). See `seam` for the interface."""

from __future__ import annotations

import math
from itertools import pairwise

from torch import Tensor

from gesso.diffusion.noise import NoiseSource
from gesso.diffusion.samplers.seam import ModelCall, Sampling, check_levels, draw


def restart(x: Tensor, sigmas: Tensor, noise: NoiseSource | None = None, *, s_noise: float = 1.0) -> Sampling:
    """Heun's steps down, and once or twice back up from sigma 0.1 to 2 with fresh noise (A1111's settings).

    num_steps steps in all. From 20 steps on only the first sigma, the last above 0 and the number count: the steps are
    Karras' (rho 7), 9 of them belong to one restart; from 36 on a quarter each to two restarts. Below 20 steps it is
    Heun on the sigmas as they are, without random numbers. Two calls a step, one where sigma reaches 0; one draw a
    restart.
    """
    last = None
    for step, (a, b) in enumerate(_steps(check_levels(sigmas))):
        if last is not None and a > last:
            x = x + draw(noise, x) * (math.sqrt(a * a - last * last) * s_noise)
        x0 = yield ModelCall(x, a, step)
        guess = x0 + (x - x0) * (b / a)
        if b == 0:
            x = guess
        else:
            guess_x0 = yield ModelCall(guess, b, step)
            x = x + ((x - x0) / a + (guess - guess_x0) / b) * ((b - a) / 2)
        last = b
    return x


def _num_restarts(num_steps: int) -> int:
    """How often a run of so many steps goes back up."""
    return 0 if num_steps < 20 else 1 if num_steps < 36 else 2


def _steps(levels: list[float]) -> list[tuple[float, float]]:
    num_steps = len(levels) - 1
    times = _num_restarts(num_steps)
    if times == 0:
        return list(pairwise(levels))
    each = 9 if times == 1 else num_steps // 4
    low, high = min(level for level in levels if level > 0), levels[0]
    main = [*_karras(low, high, num_steps - each * times), 0.0]
    turn, top = _nearest(main, 0.1), _nearest(main, 2.0)
    again = _karras(main[turn], main[top], each + 1)
    steps = list(pairwise(main))
    return [*steps[:turn], *list(pairwise(again)) * times, *steps[turn:]]


def _nearest(levels: list[float], target: float) -> int:
    return min(range(len(levels)), key=lambda i: abs(levels[i] - target))


def _karras(low: float, high: float, count: int) -> list[float]:
    first, last = high ** (1 / 7), low ** (1 / 7)
    return [(first + i / max(count - 1, 1) * (last - first)) ** 7 for i in range(count)]
