"""The noise schedule of Stable Diffusion, its view in sigma, and the ways to space the steps of a sampler.

A network was trained at timesteps t = 0 .. T-1 (highest is noisiest) on z = sqrt(ab) * x0 + sqrt(1 - ab) * eps with
ab = alphas_cumprod[t]. Samplers work on x = z / sqrt(ab) = x0 + sigma * eps with sigma = sqrt((1 - ab) / ab).

Everything here is float64 from the first beta on. k-diffusion and its users round alphas_cumprod to float32, diffusers
multiplies in float32 throughout; the tables differ by up to 1.3e-5 relative, ours is the one without rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

# sqrt(alphas_cumprod) of zero terminal SNR is exactly 0 at the last timestep, so sigma would be infinite and
# x = x0 + sigma * eps would lose x0. A1111 and ComfyUI put this number there instead (sigma 4518.76); with the same
# number we follow the same path, and a signal of 2e-4 of the noise is nothing that a picture shows.
ZERO_SNR_LAST_ALPHA_CUMPROD = 4.8973451890853435e-08


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """How noisy each timestep is.

    alphas_cumprod: float64 [T], T >= 2, falling strictly, inside (0, 1). Raises ValueError for anything else.
    """

    alphas_cumprod: Tensor

    def __post_init__(self) -> None:
        ab = self.alphas_cumprod
        if ab.ndim != 1 or len(ab) < 2 or ab.dtype != torch.float64:
            raise ValueError(f"alphas_cumprod is {ab.dtype} {list(ab.shape)}, expected float64 [T] with T >= 2")
        if not (bool((ab > 0).all()) and bool((ab < 1).all()) and bool((ab[1:] < ab[:-1]).all())):
            raise ValueError("alphas_cumprod must fall strictly and stay inside (0, 1)")

    @property
    def num_timesteps(self) -> int:
        """T, 1000 for every Stable Diffusion."""
        return len(self.alphas_cumprod)

    @cached_property
    def sigmas(self) -> Tensor:
        """Standard deviation of the noise in x at each timestep: float64 [T], rising."""
        return ((1 - self.alphas_cumprod) / self.alphas_cumprod).sqrt()

    @cached_property
    def log_sigmas(self) -> Tensor:
        """ln(sigmas): float64 [T], rising."""
        return self.sigmas.log()

    @property
    def sigma_min(self) -> float:
        """sigma at timestep 0."""
        return float(self.sigmas[0])

    @property
    def sigma_max(self) -> float:
        """sigma at timestep T-1."""
        return float(self.sigmas[-1])

    def sigma_of(self, timestep: Tensor | float) -> Tensor:
        """Timestep to sigma, straight lines in ln(sigma) between whole timesteps (k-diffusion's rule).

        timestep of any shape and type, fractions allowed, clamped to 0 .. T-1 -> float64 sigma of that shape, there.
        """
        t = torch.as_tensor(timestep, dtype=torch.float64).clamp(0, self.num_timesteps - 1)
        table = self.log_sigmas.to(t.device)
        low = t.floor().long().clamp(max=self.num_timesteps - 2)
        return torch.lerp(table[low], table[low + 1], t - low).exp()

    def timestep_of(self, sigma: Tensor | float) -> Tensor:
        """Sigma to timestep, the inverse of `sigma_of`.

        sigma > 0 of any shape -> float64 timestep of that shape, fractional, clamped to 0 .. T-1, there.
        """
        log_sigma = torch.as_tensor(sigma, dtype=torch.float64).log()
        table = self.log_sigmas.to(log_sigma.device)
        high = torch.searchsorted(table, log_sigma.contiguous()).clamp(1, self.num_timesteps - 1)
        low = high - 1
        share = (log_sigma - table[low]) / (table[high] - table[low])
        return low + share.clamp(0, 1)


def scaled_linear(
    *,
    beta_start: float = 0.00085,
    beta_end: float = 0.012,
    num_timesteps: int = 1000,
    zero_terminal_snr: bool = False,
) -> NoiseSchedule:
    """The schedule of Stable Diffusion: square roots of beta on a line (latent-diffusion calls it "linear").

    zero_terminal_snr shifts and scales sqrt(alphas_cumprod) so that the last timestep is noise alone while the first
    stays (Lin et al. 2023, arXiv:2305.08891, algorithm 1); see ZERO_SNR_LAST_ALPHA_CUMPROD for the very last number.
    Raises ValueError unless 0 < beta_start <= beta_end < 1 and num_timesteps >= 2.
    """
    if not 0 < beta_start <= beta_end < 1:
        raise ValueError(f"betas are {beta_start} .. {beta_end}, expected 0 < beta_start <= beta_end < 1")
    if num_timesteps < 2:
        raise ValueError(f"num_timesteps is {num_timesteps}, expected 2 or more")
    betas = torch.linspace(beta_start**0.5, beta_end**0.5, num_timesteps, dtype=torch.float64) ** 2
    alphas_cumprod = (1 - betas).cumprod(0)
    if zero_terminal_snr:
        root = alphas_cumprod.sqrt()
        root = (root - root[-1]) * (root[0] / (root[0] - root[-1]))
        alphas_cumprod = root**2
        alphas_cumprod[-1] = ZERO_SNR_LAST_ALPHA_CUMPROD
    return NoiseSchedule(alphas_cumprod)


def uniform(schedule: NoiseSchedule, num_steps: int) -> Tensor:
    """Equal steps in time from sigma_max to sigma_min, then 0 (k-diffusion's and A1111's standard for Euler).

    -> float64 [num_steps + 1], falling. Raises ValueError if num_steps < 1.
    """
    _check(num_steps)
    last = schedule.num_timesteps - 1
    return _end_in_zero(schedule.sigma_of(_line(last, 0, num_steps)))


def sgm_uniform(schedule: NoiseSchedule, num_steps: int) -> Tensor:
    """Equal steps in time from sigma_max to 0, so that sigma_min is never visited (Stability's generative-models).

    -> float64 [num_steps + 1], falling. Raises ValueError if num_steps < 1.
    """
    _check(num_steps)
    last = schedule.num_timesteps - 1
    return _end_in_zero(schedule.sigma_of(_line(last, 0, num_steps + 1)[:-1]))


def karras(schedule: NoiseSchedule, num_steps: int, *, rho: float = 7.0) -> Tensor:
    """Equal steps in sigma^(1/rho) from sigma_max to sigma_min, then 0 (Karras et al. 2022, arXiv:2206.00364, eq. 5).

    -> float64 [num_steps + 1], falling. Raises ValueError if num_steps < 1.
    """
    _check(num_steps)
    roots = _line(schedule.sigma_max ** (1 / rho), schedule.sigma_min ** (1 / rho), num_steps)
    return _end_in_zero(roots**rho)


def _line(first: float, last: float, num_points: int) -> Tensor:
    """Points at equal distance, both ends included; one point is `first`."""
    return torch.linspace(first, last, num_points, dtype=torch.float64)


def _end_in_zero(sigmas: Tensor) -> Tensor:
    return torch.cat([sigmas, sigmas.new_zeros(1)])


def _check(num_steps: int) -> None:
    if num_steps < 1:
        raise ValueError(f"num_steps is {num_steps}, expected 1 or more")


@dataclass(frozen=True)
class Spacing:
    """One way to space the steps. `label` is what A1111 calls it in its infotext."""

    label: str
    build: Callable[[NoiseSchedule, int], Tensor]

    def __call__(self, schedule: NoiseSchedule, num_steps: int) -> Tensor:
        """sigmas, float64 [num_steps + 1], falling and ending in 0. Raises ValueError if num_steps < 1."""
        return self.build(schedule, num_steps)


# A new way is one function above and one line here.
SCHEDULES: dict[str, Spacing] = {
    "uniform": Spacing("Uniform", uniform),
    "karras": Spacing("Karras", karras),
    "sgm_uniform": Spacing("SGM Uniform", sgm_uniform),
}
