"""What stands between the sampler and the networks of a job: masks, a refiner, guidance by text and picture, text that
changes over the steps.

Each keeps the seam of `gesso.diffusion.denoiser`: denoise(x, sigma) -> x0, with_uncond(x, sigma) -> [2, B, ...].
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from gesso.diffusion.denoiser import add_noise
from gesso.diffusion.guidance import joined
from gesso.diffusion.noise import NoiseSource
from gesso.pipelines.clock import Clock
from gesso.runtime.conditioning import Conditioning


class Denoising(Protocol):
    """What samplers call; `Denoiser` is one."""

    def __call__(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """x [B, ...], sigma > 0 a scalar or [B] -> x0 [B, ...]."""

    def with_uncond(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """The same, and beside it x0 without the prompt: [2, B, ...]."""


@dataclass(frozen=True, eq=False)
class MaskedPrediction:
    """Puts the picture that came in into every prediction where the mask is 0 (A1111's way of inpainting).

    mask [1, 1, h, w], 1 is drawn again; latents [B, C, h, w] of the picture that came in.
    """

    inner: Denoising
    mask: Tensor
    latents: Tensor

    def __call__(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        return torch.where(self.mask > 0, self.inner(x, sigma), self.latents)

    def with_uncond(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        return torch.where(self.mask > 0, self.inner.with_uncond(x, sigma), self.latents)


class MaskedInput:
    """Puts the picture that came in, made noisy, under every call but the first where the mask is 0 (diffusers' way).

    It changes x in place: x is the sampler's own state, so the sampler goes on from what the network saw.
    noise [B, C, h, w] is the one noise of the start, the same for every level.
    """

    def __init__(self, inner: Denoising, mask: Tensor, latents: Tensor, noise: Tensor) -> None:
        self.inner, self.mask, self.latents, self.noise = inner, mask, latents, noise
        self._is_first = True

    def __call__(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        self._blend(x, sigma)
        return self.inner(x, sigma)

    def with_uncond(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        self._blend(x, sigma)
        return self.inner.with_uncond(x, sigma)

    def _blend(self, x: Tensor, sigma: Tensor | float) -> None:
        if not self._is_first:
            x.copy_(torch.where(self.mask > 0, x, add_noise(self.latents, self.noise, sigma)))
        self._is_first = False


class Differential:
    """Each place is freed at its own step (Levin & Fried 2023, arXiv:2306.00950, algorithm 1): until then the picture
    that came in, made noisy, stands there.

    mask [1, 1, h, w] in 0..1: a place of m is freed after a share 1 - m of the run's steps, one of 0 never.
    It changes x in place, as `MaskedInput` does. clock: that of the run, whose first step is `first`.
    """

    def __init__(
        self, inner: Denoising, mask: Tensor, latents: Tensor, noise: Tensor, clock: Clock, *, first: int
    ) -> None:
        self.inner, self.mask, self.latents, self.noise, self.clock = inner, mask, latents, noise, clock
        self._first = first

    def __call__(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        self._blend(x, sigma)
        return self.inner(x, sigma)

    def with_uncond(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        self._blend(x, sigma)
        return self.inner.with_uncond(x, sigma)

    def _blend(self, x: Tensor, sigma: Tensor | float) -> None:
        done = self.clock.step - self._first
        steps = self.clock.num_steps - self._first
        freed = self.mask * steps >= steps - done
        x.copy_(torch.where(freed & (self.mask > 0), x, add_noise(self.latents, self.noise, sigma)))


class HandOver:
    """The base model first, the refiner after a share of the calls (A1111's rule: tested before each call)."""

    def __init__(
        self, base: Denoising, refiner: Denoising, *, at: float, num_calls: int, on_switch: Callable[[], None]
    ) -> None:
        self.base, self.refiner, self.at, self.num_calls, self.on_switch = base, refiner, at, num_calls, on_switch
        self._calls, self._refining = 0, False

    def __call__(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        return self._next()(x, sigma)

    def with_uncond(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        return self._next().with_uncond(x, sigma)

    def _next(self) -> Denoising:
        if not self._refining and self._calls / self.num_calls >= self.at:
            self._refining = True
            self.on_switch()
        self._calls += 1
        return self.refiner if self._refining else self.base


@dataclass(frozen=True, eq=False)
class EditNetwork:
    """Guidance by text and by picture (Brooks et al. 2022, arXiv:2211.09800, equation 3), all in one call.

    cond: text and picture; uncond: negative text and picture; neither: negative text and a picture of zeros.
    weights, apart: as `GuidedNetwork` has them
    """

    network: Callable[[Tensor, Tensor, Conditioning], Tensor]
    cond: Conditioning
    uncond: Conditioning
    neither: Conditioning
    scale: float
    image_scale: float
    weights: tuple[float, ...] = (1.0,)
    apart: bool = False

    def __call__(self, z: Tensor, timestep: Tensor) -> Tensor:
        """z [B, ...], timestep [B] -> [B, ...] in the type of z. One call of the network, on 3B rows or more."""
        return self.with_uncond(z, timestep)[0]

    def with_uncond(self, z: Tensor, timestep: Tensor) -> Tensor:
        """The same, and beside it what the network says without text: [2, B, ...]."""
        times, unconds = len(self.weights), Conditioning.cat(self.uncond, self.neither)
        if self.apart:
            prompts = self._ask(z, timestep, self.cond, times)
            uncond, neither = self._ask(z, timestep, unconds, 2)
        else:
            *prompts, uncond, neither = self._ask(z, timestep, Conditioning.cat(self.cond, unconds), times + 2)
        cond = joined(prompts, uncond, self.weights)
        guided = neither + self.scale * (cond - uncond) + self.image_scale * (uncond - neither)
        return torch.stack([guided, uncond])

    def _ask(self, z: Tensor, timestep: Tensor, told: Conditioning, times: int) -> list[Tensor]:
        output = self.network(torch.cat([z] * times), torch.cat([timestep] * times), told)
        return list(output.to(z.dtype).chunk(times))


class TextNetwork(Protocol):
    """A network that knows its text: `GuidedNetwork` and `EditNetwork` are such."""

    def __call__(self, z: Tensor, timestep: Tensor) -> Tensor:
        """z [B, ...], timestep [B] -> [B, ...]"""

    def with_uncond(self, z: Tensor, timestep: Tensor) -> Tensor:
        """The same, and beside it what the network says without text: [2, B, ...]."""


@dataclass(frozen=True, eq=False)
class ChangingText:
    """A network whose text changes over the steps.

    moments: last step, counted from 1, and the network up to it, rising; the last holds to the end
    shift: what is added to the clock's step before it is looked up: 1 where a change after n steps comes after n steps
    """

    clock: Clock
    moments: Sequence[tuple[int, TextNetwork]]
    shift: int = 1

    def __call__(self, z: Tensor, timestep: Tensor) -> Tensor:
        """z [B, ...], timestep [B] -> [B, ...]"""
        return self._now()(z, timestep)

    def with_uncond(self, z: Tensor, timestep: Tensor) -> Tensor:
        """The same, and beside it what the network says without text: [2, B, ...]."""
        return self._now().with_uncond(z, timestep)

    def _now(self) -> TextNetwork:
        place = bisect_left([last for last, _ in self.moments], self.clock.step + self.shift)
        return self.moments[min(place, len(self.moments) - 1)][1]


class IndependentNoise(NoiseSource):
    """A source whose noise between two sigmas is a fresh draw each time, as diffusers takes it for its SDE samplers."""

    def __init__(self, source: NoiseSource) -> None:
        super().__init__(source.seeds, source.pictures, draws=source.draws)
        self._source = source

    def fresh(self) -> "IndependentNoise":
        """The same source as if nothing had been drawn."""
        return IndependentNoise(self._source.fresh())

    def brownian(self, levels: Sequence[float]) -> "IndependentNoise":
        """Itself; levels do not matter."""
        return self

    def increment(self, shape: Sequence[int], a: float, b: float) -> Tensor:
        """The next draw, float32 [B, *shape], whatever a and b are."""
        return self.draw(shape)

    def _draw_row(self, row: int, shape: tuple[int, ...]) -> Tensor:
        return self._source.draw(shape, rows=[other == row for other in range(len(self.seeds))])[row]
