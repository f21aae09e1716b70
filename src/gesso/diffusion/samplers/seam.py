"""The interface of samplers: how each calls the model, checks its sigmas and draws its noise.

A sampler does not call the model. It yields a `ModelCall`, is sent x0, and returns the final x. So the caller makes the
call: `sample` makes one after the other, a server joins the calls of several requests, each at its own sigma, in one
batch. A sampler holds no model and no state but its own; its only random numbers come from the noise source that it is
passed, and it draws only those that it uses.

x [B, ...] holding noise of sigmas[0]; sigmas [num_steps + 1], falling -> x holding noise of sigmas[-1] (0: a picture).
Names in the code: a, b are sigma before and after the step, h = ln(a / b), d = (x - x0) / a is the slope dx / dsigma.
Numbers that depend on sigma alone are Python's float64; arithmetic on x is elementwise, so rows are independent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from gesso.diffusion.noise import Brownian, NoiseSource


@dataclass(frozen=True, eq=False)
class ModelCall:
    """A model call that a sampler yields: it is sent x0, predicted from x [B, ...] with noise of `sigma`.

    sigma: one number for all rows, or one a row where a sampler chooses its steps row by row (DPM adaptive).
    step: which step asks, 0 .. num_steps - 1; a second-order sampler asks twice in a step.
    uncond: send [2, B, ...], x0 and the unconditional x0, instead of x0 alone (CFG++).
    """

    x: Tensor
    sigma: float | tuple[float, ...]
    step: int
    uncond: bool = False

    def sigma_of_rows(self) -> Tensor:
        """sigma as float64 [B] on the CPU."""
        return torch.tensor(self.sigma, dtype=torch.float64).expand(len(self.x))


Sampling = Generator[ModelCall, Tensor, Tensor]  # yields calls, is sent x0 [B, ...], returns the final x
OnStep = Callable[[int, Tensor, Tensor], None]  # (step, x after it, the last x0 in it, which is what a preview shows)


def ignore(step: int, x: Tensor, x0: Tensor) -> None:
    """The OnStep that does nothing."""


def check_levels(sigmas: Tensor) -> list[float]:
    """sigmas as Python's floats. Raises ValueError unless two or more finite numbers fall and end at 0 or above."""
    levels: list[float] = sigmas.to(torch.float64).tolist() if sigmas.ndim == 1 else []
    falling = all(a > b for a, b in pairwise(levels))
    if len(levels) < 2 or not falling or not math.isfinite(levels[0]) or not levels[-1] >= 0:
        raise ValueError(f"sigmas must be two or more finite numbers that fall and end at 0 or above, found {sigmas}")
    return levels


def ancestral(a: float, b: float, eta: float) -> tuple[float, float]:
    """(down, up) with down^2 + up^2 = b^2: where the slope leads to, and how much fresh noise leads up to b."""
    up = min(b, eta * b / a * math.sqrt(a * a - b * b))
    return math.sqrt(b * b - up * up), up


def moved(x: Tensor, start: float, end: float) -> Tensor:
    """x holding noise of one sigma, as the x of another that looks the same to the network, z = x / sqrt(1 + s^2)."""
    return x if start == end else x * (math.hypot(1, end) / math.hypot(1, start))


def churn(x: Tensor, a: float, noise: NoiseSource | None, share: float, s_noise: float) -> tuple[Tensor, float]:
    """A little back up the noise before a step; share is s_churn / num_steps, at most sqrt(2) - 1."""
    if share <= 0:
        return x, a
    raised = a * (1 + min(share, math.sqrt(2) - 1))
    return x + draw(noise, x) * (math.sqrt(raised * raised - a * a) * s_noise), raised


def draw(noise: NoiseSource | None, x: Tensor, rows: Sequence[bool] | None = None) -> Tensor:
    """The next numbers, shaped and placed as x; rows left out get zeros. Raises ValueError without a source."""
    return _required(noise).draw(x.shape[1:], rows=rows).to(x)


def brownian(noise: NoiseSource | None, x: Tensor, levels: Sequence[float]) -> Callable[[float, float], Tensor]:
    """(a, b) -> unit normal numbers shaped as x, those of a Brownian path between sigma a and b (see `Brownian`).

    The path is begun when it is first asked. Raises ValueError then without a source.
    """
    path: list[Brownian] = []

    def between(a: float, b: float) -> Tensor:
        if not path:
            path.append(_required(noise).brownian(levels))
        return path[0].increment(x.shape[1:], a, b).to(x)

    return between


def _required(noise: NoiseSource | None) -> NoiseSource:
    if noise is None:
        raise ValueError("this sampler draws random numbers: it needs a noise source")
    return noise
