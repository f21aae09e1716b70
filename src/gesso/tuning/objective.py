"""The loss of a diffusion training: which timesteps, which noise, which weight.

Shapes: B batch, C h w of the latents, T timesteps of the schedule.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from gesso.diffusion.denoiser import Prediction, add_noise, scale_input, target
from gesso.diffusion.schedule import NoiseSchedule

Timesteps = Literal["uniform", "sigmoid", "logit-normal"]
TIMESTEPS = get_args(Timesteps)


@dataclass(frozen=True, kw_only=True)
class Objective:
    """How the network's error is taken.

    timesteps     how timesteps are drawn; sigmoid: of a standard normal number; logit-normal: of one with mean and std
    low, high     first and last timestep that is drawn; high None: the schedule's last
    min_snr       gamma of min-SNR (Hang et al. 2023, arXiv:2303.09556); 0: every timestep counts alike
    noise_offset  deviation of a constant that is added to each channel of the noise
    mask_floor    what counts outside of a mask, of 1 inside
    prior_weight  of pictures of the class
    """

    schedule: NoiseSchedule
    prediction: Prediction
    timesteps: Timesteps = "uniform"
    mean: float = 0.0
    std: float = 1.0
    low: int = 0
    high: int | None = None
    min_snr: float = 0.0
    noise_offset: float = 0.0
    mask_floor: float = 0.0
    prior_weight: float = 1.0

    def draw_times(self, count: int, generator: torch.Generator) -> Tensor:
        """Timesteps, int64 [count] on the CPU."""
        if self.timesteps == "uniform":
            share = torch.rand(count, generator=generator, dtype=torch.float64)
        else:
            mean, std = (0.0, 1.0) if self.timesteps == "sigmoid" else (self.mean, self.std)
            share = (torch.randn(count, generator=generator, dtype=torch.float64) * std + mean).sigmoid()
        last = self.schedule.num_timesteps - 1 if self.high is None else self.high
        return (self.low + (share * (last + 1 - self.low)).long()).clamp(max=last)

    def draw_noise(self, like: Tensor, generator: torch.Generator) -> Tensor:
        """Noise of the shape of latents [B, C, h, w], float32 on the CPU: the same on every device."""
        eps = torch.randn(like.shape, generator=generator)
        if self.noise_offset:
            eps = eps + self.noise_offset * torch.randn(*like.shape[:2], 1, 1, generator=generator)
        return eps

    def noisy(self, latents: Tensor, eps: Tensor, times: Tensor) -> Tensor:
        """What the network sees."""
        sigma = self.schedule.sigmas[times.cpu()].to(latents.device)
        return scale_input(add_noise(latents, eps, sigma), sigma)

    def weights(self, times: Tensor) -> Tensor:
        """What each timestep counts, float64 [B].

        The weight of min-SNR is min(snr, gamma) on the error of x0; the error of eps is snr times that of x0, that of
        v snr + 1 times.
        """
        if not self.min_snr:
            return torch.ones(times.shape, dtype=torch.float64)
        snr = self.schedule.sigmas[times.cpu()] ** -2
        clipped = snr.clamp(max=self.min_snr)
        return {"eps": clipped / snr, "v": clipped / (snr + 1), "x0": clipped}[self.prediction]

    def errors(self, output: Tensor, latents: Tensor, eps: Tensor, times: Tensor, mask: Tensor | None = None) -> Tensor:
        """Mean squared error of each row, before weights.  mask [B, 1, h, w] -> [B]"""
        sigma = self.schedule.sigmas[times.cpu()].to(latents.device)
        gaps = (output.to(latents.dtype) - target(self.prediction, latents, eps, sigma)).square()
        if mask is not None:
            gaps = gaps * (self.mask_floor + (1 - self.mask_floor) * mask)
        return gaps.mean(dim=(1, 2, 3))

    def loss(self, errors: Tensor, times: Tensor, is_reg: Tensor | None = None) -> Tensor:
        """The loss of a batch from the errors of its rows [B].  is_reg: bool [B], pictures of the class"""
        weights = self.weights(times).to(errors)
        if is_reg is not None:
            weights = torch.where(is_reg.to(errors.device), weights * self.prior_weight, weights)
        return (errors * weights).mean()


def quantile_times(schedule: NoiseSchedule, count: int = 8) -> list[int]:
    """Fixed timesteps in the middle of `count` equal parts of the schedule, for losses that can be compared."""
    return [math.floor((place + 0.5) / count * schedule.num_timesteps) for place in range(count)]
