"""DPM-Solver 1, 2 and 3 and k-diffusion's DPM2, DPM fast, DPM adaptive. See `seam` for the interface.

Lu et al. 2022, "DPM-Solver" (arXiv:2206.00927); singlestep, noise prediction.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from gesso.diffusion.denoiser import per_row
from gesso.diffusion.noise import NoiseSource
from gesso.diffusion.samplers.seam import ModelCall, Sampling, ancestral, check_levels, churn, draw


def dpm_2(
    x: Tensor,
    sigmas: Tensor,
    noise: NoiseSource | None = None,
    *,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
    s_noise: float = 1.0,
) -> Sampling:
    """DPM-Solver-2 in sigma: the slope from the middle of the step in ln(sigma) (Karras et al. 2022, algorithm 2).

    Two calls a step, one where sigma reaches 0. Random numbers as in `euler`.
    """
    levels = check_levels(sigmas)
    for step, (a, b) in enumerate(pairwise(levels)):
        if s_tmin <= a <= s_tmax:
            x, a = churn(x, a, noise, s_churn / (len(levels) - 1), s_noise)
        x0 = yield ModelCall(x, a, step)
        if b == 0:
            x = x0
        else:
            middle = math.sqrt(a * b)
            guess = x0 + (x - x0) * (middle / a)
            guess_x0 = yield ModelCall(guess, middle, step)
            x = x + (guess - guess_x0) * ((b - a) / middle)
    return x


def dpm_2_ancestral(
    x: Tensor,
    sigmas: Tensor,
    noise: NoiseSource | None = None,
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
    apart: float = 0.0,
) -> Sampling:
    """`dpm_2` to below the next sigma, then fresh noise up to it (k-diffusion).

    Two calls a step, one where the slope leads to 0 (there no noise is added either, as in k-diffusion); one draw a
    step but for such a one. With eta 1 the second call is made at the next sigma: apart is how far from it instead, as
    a share, for a denoiser whose timesteps are listed and which is to tell the two.
    """
    for step, (a, b) in enumerate(pairwise(check_levels(sigmas))):
        x0 = yield ModelCall(x, a, step)
        down, up = ancestral(a, b, eta)
        if down == 0:
            x = x0
            continue
        middle = math.sqrt(a * down) * (1 + apart)
        guess = x0 + (x - x0) * (middle / a)
        guess_x0 = yield ModelCall(guess, middle, step)
        x = x + (guess - guess_x0) * ((down - a) / middle)
        if up > 0:
            x = x + draw(noise, x) * (up * s_noise)
    return x


def dpm_fast(
    x: Tensor, sigmas: Tensor, noise: NoiseSource | None = None, *, eta: float = 0.0, s_noise: float = 1.0
) -> Sampling:
    """DPM-Solver-fast: steps of order 3, then 2 and 1, equal in ln(sigma), num_steps calls in all.

    Of sigmas only the first, the last above 0 and their number count; ends AT that last one, so its noise is left. (Of
    one sigma and 0 it makes x0.)
    A "step" is one call. With eta, k-diffusion's ancestral noise after each solver step but a last one that would go
    beyond the end. (k-diffusion asks its noise source once more, for an amount of zero.)
    """
    levels = check_levels(sigmas)
    calls = len(levels) - 1
    first, last = levels[0], min(level for level in levels if level > 0)
    if first == last:
        return (yield ModelCall(x, first, 0))
    orders = _fast_orders(calls)
    times = [-math.log(first) + i * math.log(first / last) / len(orders) for i in range(len(orders) + 1)]
    times[-1] = -math.log(last)
    calls_made = 0
    for order, (s, t) in zip(orders, pairwise(times), strict=True):
        down, up = _lower_time(s, t, times[-1], eta)
        solve = _solve(x, [s], [down], calls_made, order, counts_calls=True)
        x, _ = yield from solve
        calls_made += order
        if up > 0:
            x = x + draw(noise, x) * (up * s_noise)
    return x


def dpm_adaptive(
    x: Tensor,
    sigmas: Tensor,
    noise: NoiseSource | None = None,
    *,
    eta: float = 0.0,
    s_noise: float = 1.0,
    rtol: float = 0.05,
    atol: float = 0.0078,
    h_init: float = 0.05,
    order: float = 3,
) -> Sampling:
    """DPM-Solver-12 or -23 with steps chosen by the error (arXiv:2206.00927, appendix C; k-diffusion's controller).

    Of sigmas only the first and the last above 0 count; ends AT that last one, so its noise is left (of one sigma and 0
    it makes x0). `order` calls an attempt (3, or 2), as many attempts as the picture needs; `step` goes by the share of
    ln(sigma) that is done.
    Every row has its own steps and its own error, so a picture does not change with its neighbours: in A1111 and
    k-diffusion the error is that of the whole batch. A finished row waits for the others. eta: as in `dpm_fast`; A1111
    passes 1, k-diffusion's default is 0. A row with numbers that are not finite ends at once.
    """
    if order not in (2, 3):
        raise ValueError(f"order is {order}, expected 2 or 3")
    levels = check_levels(sigmas)
    begin, end = -math.log(levels[0]), -math.log(min(level for level in levels if level > 0))
    if begin == end:
        return (yield ModelCall(x, levels[0], 0))
    rows = [_Row(begin, abs(h_init)) for _ in range(len(x))]
    power = 1 / (1.5 if eta else order)
    previous = x
    while any(row.time < end - 1e-5 for row in rows):
        step = int(min((row.time - begin) / (end - begin) for row in rows) * (len(levels) - 1))
        moving = [row.time < end - 1e-5 for row in rows]
        starts = [row.time for row in rows]
        # A row that waits makes a step of length 0 that is thrown away.
        goals = [min(end, row.time + row.h) if moves else row.time for row, moves in zip(rows, moving, strict=True)]
        lower = [_lower_time(s, t, end, eta) for s, t in zip(starts, goals, strict=True)]
        high, low = yield from _solve(x, starts, [time for time, _ in lower], min(step, len(levels) - 2), int(order))
        accepted = []
        for i, row in enumerate(rows):
            accepts = moving[i] and row.judge(_error(low[i], high[i], previous[i], rtol, atol), power)
            accepted.append(accepts)
            if accepts:
                row.time = goals[i] if row.finite else end
        chosen = _as_rows(accepted, x).bool()
        previous = torch.where(chosen, low, previous)
        x = torch.where(chosen, high, x)
        ups = [up if accepts else 0.0 for (_, up), accepts in zip(lower, accepted, strict=True)]
        if any(ups):
            x = x + draw(noise, x, [up > 0 for up in ups]) * (_as_rows(ups, x) * s_noise)
    return x


class _Row:
    """One picture's time and step size; the integral controller of k-diffusion (accept_safety 0.81)."""

    def __init__(self, time: float, h: float) -> None:
        self.time, self.h, self.finite = time, h, True

    def judge(self, error: float, power: float) -> bool:
        """Whether the attempt is good enough; chooses the next step size either way."""
        if not math.isfinite(error):
            self.finite = False
            return True
        factor = 1 + math.atan((1 / (error + 1e-8)) ** power - 1)
        self.h *= factor
        return factor >= 0.81


def _error(low: Tensor, high: Tensor, previous: Tensor, rtol: float, atol: float) -> float:
    delta = torch.maximum(low.abs(), previous.abs()).mul(rtol).clamp(min=atol)
    return float(((low - high) / delta).double().norm()) / math.sqrt(low.numel())


def _fast_orders(calls: int) -> list[int]:
    """Orders that add up to the number of calls: as many of 3 as fit, the rest before the end in 2 and 1."""
    steps = calls // 3 + 1
    return [3] * (steps - 2) + [2, 1] if calls % 3 == 0 else [3] * (steps - 1) + [calls % 3]


def _lower_time(s: float, t: float, end: float, eta: float) -> tuple[float, float]:
    """Where the solver goes to in time = -ln(sigma), at most to the end, and the noise that leads back up to t."""
    if not eta or t <= s:
        return t, 0.0
    down, _ = ancestral(math.exp(-s), math.exp(-t), eta)
    lower = min(end, -math.log(down)) if down > 0 else end
    return lower, math.sqrt(max(math.exp(-2 * t) - math.exp(-2 * lower), 0.0))


def _solve(
    x: Tensor, starts: Sequence[float], ends: Sequence[float], step: int, order: int, *, counts_calls: bool = False
) -> Generator[ModelCall, Tensor, tuple[Tensor, Tensor]]:
    """One singlestep of DPM-Solver in time = -ln(sigma), rows each from their start to their end.

    One start and end for all rows, or one each. Returns x after it, and x by the method one order lower that shares
    its calls (for order 1: the same). counts_calls: the second call is of step + 1, the third of step + 2.
    """
    together = len(starts) == 1

    def call(x: Tensor, times: list[float], index: int) -> ModelCall:
        levels = [math.exp(-time) for time in times]
        return ModelCall(x, levels[0] if together else tuple(levels), step + index if counts_calls else step)

    def rows(values: list[float]) -> Tensor | float:
        return values[0] if together else _as_rows(values, x)

    h = [t - s for s, t in zip(starts, ends, strict=True)]

    def along(r: float) -> list[float]:
        return [s + r * length for s, length in zip(starts, h, strict=True)]

    def level_times(times: list[float], f: list[float]) -> Tensor | float:
        return rows([math.exp(-time) * value for time, value in zip(times, f, strict=True)])

    def growth(r: float) -> list[float]:
        return [math.expm1(r * length) for length in h]

    eps = (x - (yield call(x, list(starts), 0))) / rows([math.exp(-s) for s in starts])
    first = x - eps * level_times(list(ends), growth(1))
    if order == 1:
        return first, first
    r1 = 1 / 2 if order == 2 else 1 / 3
    at_1 = along(r1)
    u = x - eps * level_times(at_1, growth(r1))
    change_1 = (u - (yield call(u, at_1, 1))) / rows([math.exp(-time) for time in at_1]) - eps
    second = first - change_1 * level_times(list(ends), [g / (2 * r1) for g in growth(1)])
    if order == 2:
        return second, first
    r2 = 2 / 3
    at_2 = along(r2)
    u = x - eps * level_times(at_2, growth(r2))
    u = u - change_1 * level_times(at_2, [r2 / r1 * _phi(r2 * length) for length in h])
    change_2 = (u - (yield call(u, at_2, 2))) / rows([math.exp(-time) for time in at_2]) - eps
    third = first - change_2 * level_times(list(ends), [_phi(length) / r2 for length in h])
    return third, second


def _phi(h: float) -> float:
    """(e^h - 1) / h - 1, 0 for h = 0."""
    return math.expm1(h) / h - 1 if h else 0.0


def _as_rows(values: Sequence[float], x: Tensor) -> Tensor:
    return per_row(torch.tensor(values, dtype=torch.float64), x).to(x)
