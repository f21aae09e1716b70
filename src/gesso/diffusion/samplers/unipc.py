"""UniPC (Zhao et al. 2023, arXiv:2302.04867). See `seam` for the interface."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
from torch import Tensor

from gesso.diffusion.noise import NoiseSource
from gesso.diffusion.samplers.seam import ModelCall, Sampling, check_levels


def unipc(
    x: Tensor, sigmas: Tensor, noise: NoiseSource | None = None, *, max_order: float = 3, corrector: float = 1.0
) -> Sampling:
    """UniPC: a predictor, and a corrector that uses the model's value at the predicted point again; with B(h) = h.

    One call a step, no random numbers. max_order 1 .. 3, of the predictor; the corrector adds one. The order rises in
    the first steps and falls in the last ones, to 1 in the last; there is no corrector after it, which would cost a
    call. (h is -ln(a / b), for data prediction.) This is "UniPC" of A1111 and "uni_pc" of ComfyUI. A step to 0 gives
    x0; diffusers' bh1 gives nan there.
    """
    return _unipc(x, sigmas, int(max_order), bool(corrector), bh1=True)


def unipc_bh2(
    x: Tensor, sigmas: Tensor, noise: NoiseSource | None = None, *, max_order: float = 2, corrector: float = 1.0
) -> Sampling:
    """`unipc` with B(h) = e^h - 1 and order 2, the default of the authors and of diffusers; ComfyUI's "uni_pc_bh2"."""
    return _unipc(x, sigmas, int(max_order), bool(corrector), bh1=False)


def _unipc(x: Tensor, sigmas: Tensor, max_order: int, corrector: bool, *, bh1: bool) -> Sampling:
    levels = check_levels(sigmas)
    num_steps = len(levels) - 1
    past: list[tuple[Tensor, float]] = []  # (x0, -ln sigma), newest first
    begun, order = x, 0  # where the last step began, and its order
    for step, (a, b) in enumerate(pairwise(levels)):
        x0 = yield ModelCall(x, a, step)
        if corrector and step > 0:
            x = _step(begun, past, levels[step - 1], a, order, bh1, arrived=x0)
        past = [(x0, -math.log(a)), *past][:max_order]
        order = min(max_order, num_steps - step, len(past))
        begun = x
        x = x0 if b == 0 else _step(x, past, a, b, order, bh1, arrived=None)
    return x


def _step(
    x: Tensor, past: list[tuple[Tensor, float]], a: float, b: float, order: int, bh1: bool, arrived: Tensor | None
) -> Tensor:
    """From a to b with the newest `order` values of x0, and the one at b where it is known (the corrector)."""
    h = math.log(a / b)
    x0, time = past[0]
    ratios = [(other - time) / h for _, other in past[1:order]]
    changes = [(value - x0) * (1 / ratio) for (value, _), ratio in zip(past[1:order], ratios, strict=True)]
    if arrived is not None:
        ratios, changes = [*ratios, 1.0], [*changes, arrived - x0]
    x = x * (b / a) - x0 * math.expm1(-h)
    scale = -h if bh1 else math.expm1(-h)
    for change, weight in zip(changes, _weights(ratios, h, scale), strict=True):
        x = x - change * (scale * weight)
    return x


def _weights(ratios: list[float], h: float, scale: float) -> list[float]:
    """The solution of R rho = b (equation 10). One ratio has the weight 1/2 whatever h is, as the authors set it."""
    if len(ratios) < 2:
        return [0.5] * len(ratios)
    rows, right = [], []
    phi, factorial = math.expm1(-h) / -h - 1, 1
    for power in range(1, len(ratios) + 1):
        rows.append([ratio ** (power - 1) for ratio in ratios])
        right.append(phi * factorial / scale)
        factorial *= power + 1
        phi = phi / -h - 1 / factorial
    weights: list[float] = np.linalg.solve(np.array(rows), np.array(right)).tolist()
    return weights
