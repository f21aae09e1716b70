"""The interface between sampler and network: `denoise(x, sigma) -> x0`, and the prediction types eps, v and x0.

x = x0 + sigma * eps is what samplers work on; a network was trained on z = x / sqrt(1 + sigma^2), which has the
variance of the data, and on timesteps. Prediction types: eps (Ho et al. 2020), v (Salimans & Ho 2022, appendix D,
v = sqrt(ab) eps - sqrt(1 - ab) x0 with ab = 1 / (1 + sigma^2)), x0. Training uses the same functions the other way.

Shapes: B batch; x, x0, eps [B, ...]; sigma a scalar or [B], since rows may belong to different requests. What depends
on sigma alone is computed in float64 and then rounded to the type of x, a row at a time, so a row does not change
with its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from gesso.diffusion.calls import CallGenerator, GeneratorFunction, calls_of
from gesso.diffusion.schedule import NoiseSchedule

Prediction = Literal["eps", "v", "x0"]
Denoise = Callable[[Tensor, Tensor], Tensor]  # (x, sigma) -> predicted x0
Network = Callable[[Tensor, Tensor], Tensor]  # (z, timestep [B]) -> eps, v or x0


def per_row(value: Tensor | float, x: Tensor) -> Tensor:
    """A scalar or [B] -> float64 [B, 1, ...] that multiplies x [B, ...] row by row; it stays on its device.

    Raises ValueError for any other shape.
    """
    value = torch.as_tensor(value, dtype=torch.float64)
    if value.ndim > 1 or (value.ndim == 1 and len(value) != len(x)):
        raise ValueError(f"expected one value, or one per row, found {list(value.shape)} for x {list(x.shape)}")
    return value.expand(len(x)).reshape(-1, *[1] * (x.ndim - 1))


def add_noise(x0: Tensor, eps: Tensor, sigma: Tensor | float) -> Tensor:
    """x = x0 + sigma * eps."""
    return x0 + per_row(sigma, x0).to(x0) * eps


def scale_input(x: Tensor, sigma: Tensor | float) -> Tensor:
    """z = x / sqrt(1 + sigma^2), what the network sees."""
    return x * (1 + per_row(sigma, x) ** 2).rsqrt().to(x)


def to_x0(prediction: Prediction, x: Tensor, sigma: Tensor | float, output: Tensor) -> Tensor:
    """The network's output as clean latents x0.

    x, output [B, ...] -> x0 [B, ...] in the type of x. Raises ValueError for an unknown prediction.
    """
    output = output.to(x.dtype)
    s = per_row(sigma, x)
    match prediction:
        case "eps":
            return x - s.to(x) * output
        case "v":
            return x * (1 / (1 + s**2)).to(x) - output * (s / (1 + s**2).sqrt()).to(x)
        case "x0":
            return output
        case _:
            raise ValueError(_unknown(prediction))


def target(prediction: Prediction, x0: Tensor, eps: Tensor, sigma: Tensor | float) -> Tensor:
    """The training target for x = x0 + sigma * eps; the inverse of `to_x0`.

    x0, eps [B, ...] -> [B, ...] in the type of x0. Raises ValueError for an unknown prediction.
    """
    match prediction:
        case "eps":
            return eps
        case "v":
            s = per_row(sigma, x0)
            root = (1 + s**2).sqrt()
            return eps * (1 / root).to(x0) - x0 * (s / root).to(x0)
        case "x0":
            return x0
        case _:
            raise ValueError(_unknown(prediction))


def _unknown(prediction: str) -> str:
    return f"prediction is {prediction!r}, expected one of {get_args(Prediction)}"


@dataclass(frozen=True, eq=False)
class Denoiser(GeneratorFunction):
    """A network with its schedule and prediction type, as `denoise(x, sigma) -> x0`.

    network: (z [B, ...], timestep float32 [B]) -> eps, v or x0 [B, ...]; one that asks for its calls, such as
    `GuidedNetwork`, or a plain function. It sees z in the type of x and casts to its
    own; its output is cast back. Timesteps may be fractional, as in k-diffusion.
    timestep_of: another rule for the network's timestep, float64 sigma [B] -> float64 timestep [B]; see
    `conventions.whole_timesteps` and `diffusers_steps`. None: `schedule.timestep_of`.
    consistency: the network was made by latent consistency distillation (Luo et al. 2023, arXiv:2310.04378): what it
    says is mixed with z by the boundary weights of equation 9, as diffusers and A1111 do (ComfyUI does not; the
    weight of z is below 1e-5 from timestep 16 on).
    """

    network: Network
    schedule: NoiseSchedule
    prediction: Prediction
    timestep_of: Callable[[Tensor], Tensor] | None = None
    consistency: bool = False

    def __post_init__(self) -> None:
        if self.prediction not in get_args(Prediction):
            raise ValueError(_unknown(self.prediction))

    def calls(self, x: Tensor, level: Tensor | float, *, uncond: bool = False) -> CallGenerator[Tensor]:
        """x [B, ...], level: sigma > 0, a scalar or [B] -> x0 [B, ...]; uncond: [2, B, ...]. One call of the network.

        Raises ValueError for a network that cannot answer without the prompt, where that is asked for.
        """
        timestep = self._timestep(x, level)
        missing = "the unconditional prediction is needed: the network must be a GuidedNetwork"
        z, time = scale_input(x, level), timestep.to(torch.float32)
        output = yield from calls_of(self.network, z, time, uncond=uncond, missing=missing)
        if not uncond:
            return self._x0(x, level, timestep, output)
        return torch.stack([self._x0(x, level, timestep, each) for each in output])

    def _timestep(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        timestep_of = self.timestep_of or self.schedule.timestep_of
        return timestep_of(per_row(sigma, x).flatten()).to(x.device)

    def _x0(self, x: Tensor, sigma: Tensor | float, timestep: Tensor, output: Tensor) -> Tensor:
        x0 = to_x0(self.prediction, x, sigma, output)
        return boundary(x, x0, sigma, timestep) if self.consistency else x0


def boundary(x: Tensor, x0: Tensor, sigma: Tensor | float, timestep: Tensor) -> Tensor:
    """The consistency function c_skip z + c_out x0 (arXiv:2310.04378, section 4.1; numbers of its published models).

    x, x0 [B, ...], timestep [B] -> [B, ...]. With s = 10 timestep and 0.5 for the data's deviation:
    c_skip = 0.25 / (s^2 + 0.25), c_out = s / sqrt(s^2 + 0.25).
    """
    s = per_row(timestep * 10, x)
    skip, out = 0.25 / (s**2 + 0.25), s / (s**2 + 0.25).sqrt()
    return x0 * out.to(x) + scale_input(x, sigma) * skip.to(x)
