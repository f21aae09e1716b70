"""Samplers: from noise to a picture, as generators over model calls.

A sampler does not call the model. It yields what it wants to know, a `ModelCall`, is sent x0, and returns the final x.
So the caller owns the call: `sample` makes one after the other, a server gathers the calls of several requests, each
at its own sigma, into one batch. A sampler holds no model and no state but its own; its only random numbers come from
the noise source that it is given, and it draws only those that it uses.

x [B, ...] holding noise of sigmas[0]; sigmas [num_steps + 1], falling -> x holding noise of sigmas[-1] (0: a picture).
Names in the code: a, b are sigma before and after the step, h = ln(a / b), d = (x - x0) / a is the slope dx / dsigma.
Numbers that depend on sigma alone are Python's float64; arithmetic on x is elementwise, so rows are independent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from gesso.diffusion.denoiser import Denoise
from gesso.diffusion.noise import NoiseSource


@dataclass(frozen=True, eq=False)
class ModelCall:
    """What a sampler asks for: x0 predicted from x [B, ...], all rows holding noise of `sigma`.

    step: which step asks, 0 .. num_steps - 1; a second-order sampler asks twice in a step.
    """

    x: Tensor
    sigma: float
    step: int


Sampling = Generator[ModelCall, Tensor, Tensor]  # yields calls, is sent x0 [B, ...], returns the final x
OnStep = Callable[[int, Tensor, Tensor], None]  # (step, x after it, the last x0 in it, which is what a preview shows)


def ignore(step: int, x: Tensor, x0: Tensor) -> None:
    """The OnStep that does nothing."""


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
    levels = _levels(sigmas)
    for step, (a, b) in enumerate(pairwise(levels)):
        if s_tmin <= a <= s_tmax:
            x, a = _churn(x, a, noise, s_churn / (len(levels) - 1), s_noise)
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
    levels = _levels(sigmas)
    for step, (a, b) in enumerate(pairwise(levels)):
        if s_tmin <= a <= s_tmax:
            x, a = _churn(x, a, noise, s_churn / (len(levels) - 1), s_noise)
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
    for step, (a, b) in enumerate(pairwise(_levels(sigmas))):
        x0 = yield ModelCall(x, a, step)
        down, up = _ancestral(a, b, eta)
        x = x0 + (x - x0) * (down / a)
        if up > 0:
            x = x + _draw(noise, x) * (up * s_noise)
    return x


def ddim(
    x: Tensor, sigmas: Tensor, noise: NoiseSource | None = None, *, eta: float = 0.0, s_noise: float = 1.0
) -> Sampling:
    """Song et al. 2020 (arXiv:2010.02502), equations 12 and 16; first order.

    Divided by sqrt(alphas_cumprod), equation 12 reads x0 + sqrt(b^2 - up^2) d + up n with up = eta b/a sqrt(a^2 - b^2):
    the ancestral step of Euler, and Euler itself for eta 0. What sets the DDIM of other tools apart is their choice of
    timesteps and of the last sigma, and both come in with `sigmas`. Calls and draws as in `euler_ancestral`.
    """
    return euler_ancestral(x, sigmas, noise, eta=eta, s_noise=s_noise)


def dpmpp_2m(x: Tensor, sigmas: Tensor, noise: NoiseSource | None = None) -> Sampling:
    """DPM-Solver++(2M) (Lu et al. 2022, arXiv:2211.01095, algorithm 2): second order, from the x0 of two steps.

    One call a step, no random numbers. First order in the first step and in one that ends in 0, as in k-diffusion.
    """
    last: tuple[Tensor, float] | None = None
    for step, (a, b) in enumerate(pairwise(_levels(sigmas))):
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


def dpmpp_2m_sde(
    x: Tensor, sigmas: Tensor, noise: NoiseSource | None = None, *, eta: float = 1.0, s_noise: float = 1.0
) -> Sampling:
    """DPM-Solver++(2M) for the reverse SDE, midpoint form (Lu et al. 2022; k-diffusion's sample_dpmpp_2m_sde).

    One call a step, one draw a step but for a last one that ends in 0; with eta 0 it is `dpmpp_2m` and draws nothing.
    The draws are independent, which is what the equation asks for; other tools take them from a Brownian tree, whose
    numbers depend on the package that grows it.
    """
    last: tuple[Tensor, float] | None = None
    for step, (a, b) in enumerate(pairwise(_levels(sigmas))):
        x0 = yield ModelCall(x, a, step)
        if b == 0:
            x = x0
            continue
        h = math.log(a / b)
        keep = b / a * math.exp(-eta * h)  # of x; the rest comes from x0
        best = x0
        if last is not None:
            last_x0, last_h = last
            best = x0 + (x0 - last_x0) * (h / (2 * last_h))
        x = x * keep + best * (1 - keep)
        if eta > 0:
            x = x + _draw(noise, x) * (b * math.sqrt(-math.expm1(-2 * eta * h)) * s_noise)
        last = x0, h
    return x


def _levels(sigmas: Tensor) -> list[float]:
    levels: list[float] = sigmas.to(torch.float64).tolist() if sigmas.ndim == 1 else []
    falling = all(a > b for a, b in pairwise(levels))
    if len(levels) < 2 or not falling or not math.isfinite(levels[0]) or not levels[-1] >= 0:
        raise ValueError(f"sigmas must be two or more finite numbers that fall and end at 0 or above, found {sigmas}")
    return levels


def _ancestral(a: float, b: float, eta: float) -> tuple[float, float]:
    """(down, up) with down^2 + up^2 = b^2: where the slope leads to, and how much fresh noise leads up to b."""
    up = min(b, eta * b / a * math.sqrt(a * a - b * b))
    return math.sqrt(b * b - up * up), up


def _churn(x: Tensor, a: float, noise: NoiseSource | None, share: float, s_noise: float) -> tuple[Tensor, float]:
    """A little back up the noise before a step; share is s_churn / num_steps, at most sqrt(2) - 1."""
    if share <= 0:
        return x, a
    raised = a * (1 + min(share, math.sqrt(2) - 1))
    return x + _draw(noise, x) * (math.sqrt(raised * raised - a * a) * s_noise), raised


def _draw(noise: NoiseSource | None, x: Tensor) -> Tensor:
    if noise is None:
        raise ValueError("this sampler draws random numbers: it needs a noise source")
    return noise.draw(x.shape[1:]).to(x)


@dataclass(frozen=True)
class Sampler:
    """One row of the registry: a generator function and what callers want to know about it.

    label: what A1111 calls it in its infotext. order: of convergence, for the ODE. stochastic: draws random numbers at
    its defaults. options: the keyword arguments that it takes, all of them numbers.
    """

    label: str
    start: Callable[..., Sampling]
    order: int
    stochastic: bool
    calls_per_step: int = 1
    options: frozenset[str] = field(default_factory=frozenset)

    def __call__(self, x: Tensor, sigmas: Tensor, noise: NoiseSource | None = None, **options: float) -> Sampling:
        """Start sampling; see the module's docstring. Raises ValueError for an option that this sampler lacks."""
        unknown = sorted(options.keys() - self.options)
        if unknown:
            raise ValueError(
                f"{self.label} has no option {', '.join(unknown)}; it has {sorted(self.options) or 'none'}"
            )
        return self.start(x, sigmas, noise, **options)

    def num_calls(self, num_steps: int) -> int:
        """How often the model is called where sigmas end in 0: there the last step takes one call."""
        return self.calls_per_step * (num_steps - 1) + 1


_CHURN = frozenset({"s_churn", "s_tmin", "s_tmax", "s_noise"})
_ETA = frozenset({"eta", "s_noise"})

# A new sampler is one function above and one line here; the tests find it by themselves and ask for its goldens.
SAMPLERS: dict[str, Sampler] = {
    "euler": Sampler("Euler", euler, order=1, stochastic=False, options=_CHURN),
    "euler_ancestral": Sampler("Euler a", euler_ancestral, order=1, stochastic=True, options=_ETA),
    "heun": Sampler("Heun", heun, order=2, stochastic=False, calls_per_step=2, options=_CHURN),
    "ddim": Sampler("DDIM", ddim, order=1, stochastic=False, options=_ETA),
    "dpmpp_2m": Sampler("DPM++ 2M", dpmpp_2m, order=2, stochastic=False),
    "dpmpp_2m_sde": Sampler("DPM++ 2M SDE", dpmpp_2m_sde, order=2, stochastic=True, options=_ETA),
}


@torch.no_grad()
def sample(
    sampler: Callable[..., Sampling],
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    noise: NoiseSource | None = None,
    *,
    on_step: OnStep = ignore,
    **options: float,
) -> Tensor:
    """Run one sampler to its end, without gradients.

    sampler: a row of SAMPLERS or a sampler function. denoise is called with sigma as float64 [B] on the CPU.
    x [B, ...] holding noise of sigmas[0] -> x holding noise of sigmas[-1]. Raises ValueError for sigmas that do not
    fall, for a missing noise source and for options that the sampler lacks.
    """
    sampling = sampler(x, sigmas, noise, **options)
    call = next(sampling)
    while True:
        x0 = denoise(call.x, torch.full((len(call.x),), call.sigma, dtype=torch.float64))
        try:
            following = sampling.send(x0)
        except StopIteration as end:
            final: Tensor = end.value
            on_step(call.step, final, x0)
            return final
        if following.step != call.step:
            on_step(call.step, following.x, x0)
        call = following
