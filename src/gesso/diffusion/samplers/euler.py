"""Euler, Euler ancestral, Heun, DDIM, DDIM CFG++, DDPM. See `seam` for the interface."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor

from gesso.diffusion.noise import NoiseSource
from gesso.diffusion.samplers.seam import ModelCall, Sampling, ancestral, check_levels, churn, draw, moved


def euler(
    x: Tensor,
    sigmas: Tensor,
    noise: NoiseSource | None = None,
    *,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
    s_noise: float = 1.0,
) -> Sampling:
    """First-order solver of the probability-flow ODE (Karras et al. 2022, arXiv:2206.00364, algorithm 2, lines 3-7).

    One call a step. No random numbers unless s_churn > 0: then one draw in each step with s_tmin <= sigma <= s_tmax,
    which is made noisier first.
    """
    levels = check_levels(sigmas)
    for step, (a, b) in enumerate(pairwise(levels)):
        if s_tmin <= a <= s_tmax:
            x, a = churn(x, a, noise, s_churn / (len(levels) - 1), s_noise)
        x0 = yield ModelCall(x, a, step)
        x = x0 + (x - x0) * (b / a)
    return x


def heun(
    x: Tensor,
    sigmas: Tensor,
    noise: NoiseSource | None = None,
    *,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
    s_noise: float = 1.0,
) -> Sampling:
    """Second-order solver of the probability-flow ODE (Karras et al. 2022, arXiv:2206.00364, algorithms 1 and 2).

    Two calls a step, one where sigma reaches 0. Random numbers as in `euler`.
    """
    levels = check_levels(sigmas)
    for step, (a, b) in enumerate(pairwise(levels)):
        if s_tmin <= a <= s_tmax:
            x, a = churn(x, a, noise, s_churn / (len(levels) - 1), s_noise)
        x0 = yield ModelCall(x, a, step)
        guess = x0 + (x - x0) * (b / a)
        if b == 0:
            x = guess
        else:
            guess_x0 = yield ModelCall(guess, b, step)
            x = x + ((x - x0) / a + (guess - guess_x0) / b) * ((b - a) / 2)
    return x


def euler_ancestral(
    x: Tensor, sigmas: Tensor, noise: NoiseSource | None = None, *, eta: float = 1.0, s_noise: float = 1.0
) -> Sampling:
    """Euler to below the next sigma, then fresh noise up to it (k-diffusion; eta 1 is DDPM, arXiv:2006.11239).

    One call a step, one draw a step but for a last one that ends in 0; none at all with eta 0.
    """
    for step, (a, b) in enumerate(pairwise(check_levels(sigmas))):
        x0 = yield ModelCall(x, a, step)
        down, up = ancestral(a, b, eta)
        x = x0 + (x - x0) * (down / a)
        if up > 0:
            x = x + draw(noise, x) * (up * s_noise)
    return x


def ddim(
    x: Tensor,
    sigmas: Tensor,
    noise: NoiseSource | None = None,
    *,
    eta: float = 0.0,
    s_noise: float = 1.0,
    landings: Sequence[float] | None = None,
) -> Sampling:
    """Song et al. 2020 (arXiv:2010.02502), equations 12 and 16; first order.

    Divided by sqrt(alphas_cumprod), equation 12 reads x0 + sqrt(b^2 - up^2) d + up n with up = eta b/a sqrt(a^2 - b^2):
    the ancestral step of Euler, and Euler itself for eta 0. What sets the DDIM of other tools apart is their choice of
    timesteps and of the last sigma, and both come in with `sigmas`. Calls and draws as in `euler_ancestral`.
    landings: where each step ends instead of at the next sigma; the model is then asked as if it had ended there. That
    is diffusers' DDIM where its timesteps are not T // num_steps apart ("linspace"; "trailing" with 15 steps). There
    may be more of them than steps: those of the last steps count, so a run may begin in the middle.
    """
    levels = check_levels(sigmas)
    num_steps = len(levels) - 1
    for step, (a, b) in enumerate(pairwise(levels)):
        x0 = yield ModelCall(x, a, step)
        b, following = (b, b) if landings is None else (landings[step - num_steps], b)
        down, up = ancestral(a, b, eta)
        x = x0 + (x - x0) * (down / a)
        if up > 0:
            x = x + draw(noise, x) * (up * s_noise)
        x = moved(x, b, following)
    return x


def ddim_cfgpp(
    x: Tensor, sigmas: Tensor, noise: NoiseSource | None = None, *, eta: float = 0.0, s_noise: float = 1.0
) -> Sampling:
    """DDIM with CFG++ (Chung et al. 2024, arXiv:2406.08070, algorithm 2): x0 guided, the slope without the prompt.

    Needs both predictions. The guidance scale is the paper's lambda, between 0 and 1; A1111 divides the scale that
    its user gives by 12.5 first (`conventions.CFGPP_SCALE`). Calls and draws as in `ddim`.
    """
    for step, (a, b) in enumerate(pairwise(check_levels(sigmas))):
        x0, x0_uncond = (yield ModelCall(x, a, step, uncond=True)).unbind(0)
        down, up = ancestral(a, b, eta)
        x = x0 + (x - x0_uncond) * (down / a)
        if up > 0:
            x = x + draw(noise, x) * (up * s_noise)
    return x


def ddpm(
    x: Tensor,
    sigmas: Tensor,
    noise: NoiseSource | None = None,
    *,
    large: float = 0.0,
    noisy_end: float = 0.0,
) -> Sampling:
    """Ho et al. 2020 (arXiv:2006.11239), equation 7: the posterior given x0, between any two noise levels.

    large 0: the posterior's own variance ("fixed_small", the ancestral step of Euler); 1: beta ("fixed_large").
    noisy_end 1 with large 1 draws in a step to 0 too, as diffusers does whose last timestep is 1 with steps_offset 1:
    that leaves noise of sigma / sqrt(1 + sigma^2), 0.041 for timestep 1, in the picture.
    One call a step, one draw a step but for a last one that ends in 0.
    """
    for step, (a, b) in enumerate(pairwise(check_levels(sigmas))):
        x0 = yield ModelCall(x, a, step)
        down, up = ancestral(a, b, 1.0)
        x = x0 + (x - x0) * (down / a)
        if large:
            up = math.sqrt((1 + b * b) * (a * a - b * b) / (1 + a * a)) if b > 0 or noisy_end else 0.0
        if up > 0:
            x = x + draw(noise, x) * up
    return x
