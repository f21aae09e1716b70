"""The noise schedule of Stable Diffusion and its view in sigma.

A network was trained at timesteps t = 0 .. T-1 (highest is noisiest) on z = sqrt(ab) * x0 + sqrt(1 - ab) * eps with
ab = alphas_cumprod[t]. Samplers work on x = z / sqrt(ab) = x0 + sigma * eps with sigma = sqrt((1 - ab) / ab).

Everything here is float64 from the first beta on, unless `scaled_linear` is asked for the table of another tool:
k-diffusion and its users round alphas_cumprod to float32, diffusers multiplies in float32 throughout; the tables differ
by up to 1.3e-5 relative.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import torch
from torch import Tensor

# sqrt(alphas_cumprod) of zero terminal SNR is exactly 0 at the last timestep, so sigma would be infinite and
# x = x0 + sigma * eps would lose x0. A1111 and ComfyUI put this number there instead (sigma 4518.76); with the same
# number we follow the same path, and a signal of 2e-4 of the noise is nothing that a picture shows.
ZERO_SNR_LAST_ALPHA_CUMPROD = 4.8973451890853435e-08

# diffusers puts 2^-24 there (sigma 4096) in its schedulers that count in sigma, and leaves 0 in those that count in
# alphas (DDIM and its kin), for which a number stands that is 0 for float32: its root is below half a unit beside 1.
DIFFUSERS_ZERO_SNR_LAST_ALPHA_CUMPROD = 2.0**-24
DIFFUSERS_ZERO_SNR_NO_ALPHA = 2.0**-50

# exact: float64 throughout. rounded: the same, alphas_cumprod stored as float32 (k-diffusion, A1111, ComfyUI).
# float32: betas and the product in float32 (diffusers).
Table = Literal["exact", "rounded", "float32"]


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
    last_alpha_cumprod: float = ZERO_SNR_LAST_ALPHA_CUMPROD,
    table: Table = "exact",
) -> NoiseSchedule:
    """The schedule of Stable Diffusion: square roots of beta on a line (latent-diffusion calls it "linear").

    zero_terminal_snr shifts and scales sqrt(alphas_cumprod) so that the last timestep is noise alone while the first
    stays (Lin et al. 2023, arXiv:2305.08891, algorithm 1); last_alpha_cumprod is the very last number then.
    table: how precisely the numbers are made, see `Table`; whatever it is, they are kept as float64.
    Raises ValueError unless 0 < beta_start <= beta_end < 1 and num_timesteps >= 2, and for another table.
    """
    if not 0 < beta_start <= beta_end < 1:
        raise ValueError(f"betas are {beta_start} .. {beta_end}, expected 0 < beta_start <= beta_end < 1")
    if num_timesteps < 2:
        raise ValueError(f"num_timesteps is {num_timesteps}, expected 2 or more")
    if table not in get_args(Table):
        raise ValueError(f"table is {table!r}, expected one of {get_args(Table)}")
    dtype = torch.float32 if table == "float32" else torch.float64
    betas = torch.linspace(beta_start**0.5, beta_end**0.5, num_timesteps, dtype=dtype) ** 2
    alphas_cumprod = (1 - betas).cumprod(0)
    if zero_terminal_snr:
        root = alphas_cumprod.sqrt()
        root = (root - root[-1]) * (root[0] / (root[0] - root[-1]))
        alphas_cumprod = root**2
        alphas_cumprod[-1] = last_alpha_cumprod
    if table != "exact":
        alphas_cumprod = alphas_cumprod.to(torch.float32)
    return NoiseSchedule(alphas_cumprod.to(torch.float64))
