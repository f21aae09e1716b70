"""DPM-Solver++ and its SDE variants (Lu et al. 2022, arXiv:2211.01095; k-diffusion). See `seam` for the interface."""

from __future__ import annotations

import math
from itertools import pairwise

from torch import Tensor

from gesso.diffusion.noise import NoiseSource
from gesso.diffusion.samplers.seam import ModelCall, Sampling, ancestral, brownian, check_levels, draw


def dpmpp_2m(
    x: Tensor,
    sigmas: Tensor,
    noise: NoiseSource | None = None,
    *,
    max_order: float = 2,
    heun: float = 0,
    lower_final: float = 0,
    euler_final: float = 0,
) -> Sampling:
    """DPM-Solver++(2M) (Lu et al. 2022, arXiv:2211.01095, algorithm 2): second order, from the x0 of two steps.

    One call a step, no random numbers. First order in the first step and in one that ends in 0, as in k-diffusion.
    The options are those of diffusers: max_order 1 is Euler, 3 the deterministic `dpmpp_3m_sde`; heun 1 takes the other
    of the two forms of second order; lower_final lets the order fall to 1 in the last of fewer than 15 steps, and
    euler_final in the last step whatever their number, also where they end above 0.
    """
    final = lower_final, euler_final
    return _multistep(x, sigmas, None, 0.0, 1.0, int(max_order), heun=bool(heun), final=final)


def dpmpp_2s_ancestral(
    x: Tensor, sigmas: Tensor, noise: NoiseSource | None = None, *, eta: float = 1.0, s_noise: float = 1.0
) -> Sampling:
    """DPM-Solver++(2S) (algorithm 1, r = 1/2) to below the next sigma, then fresh noise up to it (k-diffusion).

    Two calls a step, one where the slope leads to 0; one draw a step but for a last one that ends in 0.
    """
    for step, (a, b) in enumerate(pairwise(check_levels(sigmas))):
        x0 = yield ModelCall(x, a, step)
        down, up = ancestral(a, b, eta)
        if down == 0:
            x = x0
        else:
            middle = math.sqrt(a * down)
            middle_x0 = yield ModelCall(x * (middle / a) + x0 * (1 - middle / a), middle, step)
            x = x * (down / a) + middle_x0 * (1 - down / a)
        if up > 0:
            x = x + draw(noise, x) * (up * s_noise)
    return x


def dpmpp_sde(
    x: Tensor,
    sigmas: Tensor,
    noise: NoiseSource | None = None,
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
    r: float = 0.5,
) -> Sampling:
    """DPM-Solver++ for the reverse SDE, singlestep (k-diffusion's sample_dpmpp_sde).

    Two calls a step, one where sigma reaches 0. Noise from one Brownian path: that of the first half of a step is part
    of the noise of the step. (Both start at a; with independent numbers instead the step has too much noise in it.)
    r: where the second call is made, as a share of the step in ln(sigma). eta 0 draws nothing.
    """
    levels = check_levels(sigmas)
    between = brownian(noise, x, levels)
    for step, (a, b) in enumerate(pairwise(levels)):
        x0 = yield ModelCall(x, a, step)
        if b == 0:
            x = x0
            continue
        middle = math.exp(math.log(a) * (1 - r) + math.log(b) * r)
        down, up = ancestral(a, middle, eta)
        guess = x * (down / a) + x0 * (1 - down / a)
        if up > 0:
            guess = guess + between(a, middle) * (up * s_noise)
        middle_x0 = yield ModelCall(guess, middle, step)
        down, up = ancestral(a, b, eta)
        best = x0 * (1 - 1 / (2 * r)) + middle_x0 * (1 / (2 * r))
        x = x * (down / a) + best * (1 - down / a)
        if up > 0:
            x = x + between(a, b) * (up * s_noise)
    return x


def dpmpp_2m_sde(
    x: Tensor,
    sigmas: Tensor,
    noise: NoiseSource | None = None,
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
    lower_final: float = 0,
    euler_final: float = 0,
) -> Sampling:
    """DPM-Solver++(2M) for the reverse SDE, midpoint form (Lu et al. 2022; k-diffusion's sample_dpmpp_2m_sde).

    One call a step; noise from a Brownian path, none in a step that ends in 0. With eta 0 it is `dpmpp_2m`.
    lower_final, euler_final: as there.
    """
    return _multistep(x, sigmas, noise, eta, s_noise, 2, heun=False, final=(lower_final, euler_final))


def dpmpp_2m_sde_heun(
    x: Tensor,
    sigmas: Tensor,
    noise: NoiseSource | None = None,
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
    lower_final: float = 0,
    euler_final: float = 0,
) -> Sampling:
    """As `dpmpp_2m_sde`, with the other of the two correction terms that agree to second order (its "heun" form).

    One call a step; noise from a Brownian path, none in a step that ends in 0.
    """
    return _multistep(x, sigmas, noise, eta, s_noise, 2, heun=True, final=(lower_final, euler_final))


def dpmpp_3m_sde(
    x: Tensor,
    sigmas: Tensor,
    noise: NoiseSource | None = None,
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
    lower_final: float = 0,
    euler_final: float = 0,
) -> Sampling:
    """DPM-Solver++(3M) for the reverse SDE, from the x0 of three steps (k-diffusion's sample_dpmpp_3m_sde).

    One call a step; noise from a Brownian path, none in a step that ends in 0. Of second order in spite of its name:
    the last term is half of what the Taylor series asks for (as in diffusers), kept for the known picture. Its second
    step is that of `dpmpp_2m_sde_heun`.
    """
    return _multistep(x, sigmas, noise, eta, s_noise, 3, heun=True, final=(lower_final, euler_final))


def _multistep(
    x: Tensor,
    sigmas: Tensor,
    noise: NoiseSource | None,
    eta: float,
    s_noise: float,
    max_order: int,
    *,
    heun: bool,
    final: tuple[float, float],
) -> Sampling:
    """All of them: x decays to x0, which is corrected by the slope and the curvature of its last values."""
    levels = check_levels(sigmas)
    num_steps = len(levels) - 1
    between = brownian(noise, x, levels)
    past: list[tuple[Tensor, float]] = []  # (x0, h) of the last steps, newest first
    for step, (a, b) in enumerate(pairwise(levels)):
        x0 = yield ModelCall(x, a, step)
        if b == 0:
            x = x0
            continue
        h = math.log(a / b)
        grown = h * (1 + eta)
        keep = b / a * math.exp(-eta * h)  # of x; the rest comes from x0
        x = x * keep + x0 * (1 - keep)
        order = min(max_order, len(past) + 1, _allowed(step, num_steps, *final))
        if order > 1:
            x = x + _correction(x0, past[: order - 1], h, grown, heun or order == 3)
        if eta > 0:
            x = x + between(a, b) * (b * math.sqrt(-math.expm1(-2 * eta * h)) * s_noise)
        past = [(x0, h), *past[:1]]
    return x


def _allowed(step: int, num_steps: int, lower_final: float, euler_final: float) -> int:
    left = num_steps - step
    if euler_final and left == 1:
        return 1
    return left if lower_final and num_steps < 15 else 3


def _correction(x0: Tensor, past: list[tuple[Tensor, float]], h: float, grown: float, heun: bool) -> Tensor:
    """What the slope of x0 over the last steps adds, and its curvature where two of them are given."""
    x0_1, h_1 = past[0]
    phi2 = math.expm1(-grown) / grown + 1
    slope = (x0 - x0_1) * (h / h_1)
    if len(past) == 1:
        return slope * (phi2 if heun else -math.expm1(-grown) / 2)
    x0_2, h_2 = past[1]
    r0, r1 = h_1 / h, h_2 / h
    curve = (slope - (x0_1 - x0_2) / r1) / (r0 + r1)
    return (slope + curve * r0) * phi2 - curve * (phi2 / grown - 0.5)
