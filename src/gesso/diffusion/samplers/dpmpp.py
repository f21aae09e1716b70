"""DPM-Solver++ and its kin for the SDE (Lu et al. 2022, arXiv:2211.01095; k-diffusion). The seam is told in `seam`."""

from __future__ import annotations

import math
from itertools import pairwise

from torch import Tensor

from gesso.diffusion.noise import NoiseSource
from gesso.diffusion.samplers.seam import ModelCall, Sampling, ancestral, brownian, check_levels, draw


def dpmpp_2m(x: Tensor, sigmas: Tensor, noise: NoiseSource | None = None) -> Sampling:
    """DPM-Solver++(2M) (Lu et al. 2022, arXiv:2211.01095, algorithm 2): second order, from the x0 of two steps.

    One call a step, no random numbers. First order in the first step and in one that ends in 0, as in k-diffusion.
    """
    last: tuple[Tensor, float] | None = None
    for step, (a, b) in enumerate(pairwise(check_levels(sigmas))):
        x0 = yield ModelCall(x, a, step)
        best = x0
        if b > 0:
            h = math.log(a / b)
            if last is not None:
                last_x0, last_h = last
                best = x0 + (x0 - last_x0) * (h / (2 * last_h))
            last = x0, h
        x = x * (b / a) + best * (1 - b / a)
    return x


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
    x: Tensor, sigmas: Tensor, noise: NoiseSource | None = None, *, eta: float = 1.0, s_noise: float = 1.0
) -> Sampling:
    """DPM-Solver++(2M) for the reverse SDE, midpoint form (Lu et al. 2022; k-diffusion's sample_dpmpp_2m_sde).

    One call a step; noise from a Brownian path, none in a step that ends in 0. With eta 0 it is `dpmpp_2m`.
    """
    return _multistep_sde(x, sigmas, noise, eta, s_noise, heun=False)


def dpmpp_2m_sde_heun(
    x: Tensor, sigmas: Tensor, noise: NoiseSource | None = None, *, eta: float = 1.0, s_noise: float = 1.0
) -> Sampling:
    """As `dpmpp_2m_sde`, with the other of the two correction terms that agree to second order (its "heun" form).

    One call a step; noise from a Brownian path, none in a step that ends in 0.
    """
    return _multistep_sde(x, sigmas, noise, eta, s_noise, heun=True)


def _multistep_sde(
    x: Tensor, sigmas: Tensor, noise: NoiseSource | None, eta: float, s_noise: float, *, heun: bool
) -> Sampling:
    levels = check_levels(sigmas)
    between = brownian(noise, x, levels)
    last: tuple[Tensor, float] | None = None
    for step, (a, b) in enumerate(pairwise(levels)):
        x0 = yield ModelCall(x, a, step)
        if b == 0:
            x = x0
            continue
        h = math.log(a / b)
        grown = h * (1 + eta)
        keep = math.exp(-grown)  # of x; the rest comes from x0
        best = x * keep + x0 * (1 - keep)
        if last is not None:
            last_x0, last_h = last
            weight = 1 - (1 - keep) / grown if heun else (1 - keep) / 2
            best = best + (x0 - last_x0) * (weight * h / last_h)
        x = best
        if eta > 0:
            x = x + between(a, b) * (b * math.sqrt(-math.expm1(-2 * eta * h)) * s_noise)
        last = x0, h
    return x


def dpmpp_3m_sde(
    x: Tensor, sigmas: Tensor, noise: NoiseSource | None = None, *, eta: float = 1.0, s_noise: float = 1.0
) -> Sampling:
    """DPM-Solver++(3M) for the reverse SDE, from the x0 of three steps (k-diffusion's sample_dpmpp_3m_sde).

    One call a step; noise from a Brownian path, none in a step that ends in 0. Of second order in spite of its name:
    the last term is half of what the Taylor series asks for (as in diffusers), kept for the known picture.
    """
    levels = check_levels(sigmas)
    between = brownian(noise, x, levels)
    past: list[tuple[Tensor, float]] = []  # (x0, h) of the last steps, newest first
    for step, (a, b) in enumerate(pairwise(levels)):
        x0 = yield ModelCall(x, a, step)
        if b == 0:
            x = x0
            continue
        h = math.log(a / b)
        grown = h * (1 + eta)
        x = x * math.exp(-grown) + x0 * -math.expm1(-grown)
        phi2 = math.expm1(-grown) / grown + 1
        if len(past) == 2:
            (x0_1, h_1), (x0_2, h_2) = past
            r0, r1 = h_1 / h, h_2 / h
            u0, u1 = (x0 - x0_1) / r0, (x0_1 - x0_2) / r1
            phi3 = phi2 / grown - 0.5
            curve = (u0 - u1) / (r0 + r1)
            x = x + (u0 + curve * r0) * phi2 - curve * phi3
        elif past:
            x0_1, h_1 = past[0]
            x = x + (x0 - x0_1) * (phi2 * h / h_1)
        if eta > 0:
            x = x + between(a, b) * (b * math.sqrt(-math.expm1(-2 * eta * h)) * s_noise)
        past = [(x0, h), *past[:1]]
    return x
