"""Wrappers between the sampler and the networks: inpainting masks, refiner, InstructPix2Pix guidance, prompt editing.

Each has the interface of `gesso.diffusion.denoiser`, denoise(x, sigma) -> x0, and yields its network calls
(`gesso.diffusion.calls`).
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from gesso.diffusion.calls import CallGenerator, Function, GeneratorFunction, NetworkCall, calls_of
from gesso.diffusion.denoiser import add_noise
from gesso.diffusion.guidance import joined
from gesso.diffusion.noise import NoiseSource
from gesso.pipelines.clock import Clock
from gesso.runtime.conditioning import Conditioning


@dataclass(frozen=True, eq=False)
class MaskedPrediction(GeneratorFunction):
    """Inpainting as in A1111: puts the source picture into every prediction x0 where the mask is 0.

    mask [1, 1, h, w], 1 is redrawn; latents [B, C, h, w] of the source picture.
    """

    inner: Function
    mask: Tensor
    latents: Tensor

    def calls(self, x: Tensor, level: Tensor | float, *, uncond: bool = False) -> CallGenerator[Tensor]:
        x0 = yield from calls_of(self.inner, x, level, uncond=uncond)
        return torch.where(self.mask > 0, x0, self.latents)


class MaskedInput(GeneratorFunction):
    """Inpainting as in diffusers: puts the source picture, with noise added, into x where the mask is 0, in every call
    but the first.

    It changes x in place: x is the sampler's own state, so the sampler goes on from the input of the network.
    noise [B, C, h, w] is the initial noise, the same at every level.
    """

    def __init__(self, inner: Function, mask: Tensor, latents: Tensor, noise: Tensor) -> None:
        self.inner, self.mask, self.latents, self.noise = inner, mask, latents, noise
        self._is_first = True

    def calls(self, x: Tensor, level: Tensor | float, *, uncond: bool = False) -> CallGenerator[Tensor]:
        self._blend(x, level)
        return (yield from calls_of(self.inner, x, level, uncond=uncond))

    def _blend(self, x: Tensor, sigma: Tensor | float) -> None:
        if not self._is_first:
            x.copy_(torch.where(self.mask > 0, x, add_noise(self.latents, self.noise, sigma)))
        self._is_first = False


class DifferentialDiffusion(GeneratorFunction):
    """Differential diffusion, soft inpainting (Levin & Fried 2023, arXiv:2306.00950, algorithm 1): each pixel is
    redrawn from its own step on; until then it is the source picture with noise added.

    mask [1, 1, h, w] in 0..1: a pixel of value m is redrawn after a share 1 - m of the run's steps, one of 0 never.
    It changes x in place, as `MaskedInput` does. clock: that of the run, whose first step is `first`.
    """

    def __init__(
        self, inner: Function, mask: Tensor, latents: Tensor, noise: Tensor, clock: Clock, *, first: int
    ) -> None:
        self.inner, self.mask, self.latents, self.noise, self.clock = inner, mask, latents, noise, clock
        self._first = first

    def calls(self, x: Tensor, level: Tensor | float, *, uncond: bool = False) -> CallGenerator[Tensor]:
        self._blend(x, level)
        return (yield from calls_of(self.inner, x, level, uncond=uncond))

    def _blend(self, x: Tensor, sigma: Tensor | float) -> None:
        done = self.clock.step - self._first
        steps = self.clock.num_steps - self._first
        redrawn = self.mask * steps >= steps - done
        x.copy_(torch.where(redrawn & (self.mask > 0), x, add_noise(self.latents, self.noise, sigma)))


class RefinerSwitch(GeneratorFunction):
    """The base model first, the refiner after a share of the calls (A1111's rule: checked before each call)."""

    def __init__(
        self, base: Function, refiner: Function, *, at: float, num_calls: int, on_switch: Callable[[], None]
    ) -> None:
        self.base, self.refiner, self.at, self.num_calls, self.on_switch = base, refiner, at, num_calls, on_switch
        self._calls, self._refining = 0, False

    def calls(self, x: Tensor, level: Tensor | float, *, uncond: bool = False) -> CallGenerator[Tensor]:
        return (yield from calls_of(self._next(), x, level, uncond=uncond))

    def _next(self) -> Function:
        if not self._refining and self._calls / self.num_calls >= self.at:
            self._refining = True
            self.on_switch()
        self._calls += 1
        return self.refiner if self._refining else self.base


@dataclass(frozen=True, eq=False)
class InstructPix2PixNetwork(GeneratorFunction):
    """InstructPix2Pix: guidance by text and by picture (Brooks et al. 2022, arXiv:2211.09800, equation 3).

    cond: prompt and picture; uncond: negative prompt and picture; neither: negative prompt and a picture of zeros.
    weights, separate: as in `GuidedNetwork`
    """

    network: Callable[[Tensor, Tensor, Conditioning], Tensor]
    cond: Conditioning
    uncond: Conditioning
    neither: Conditioning
    scale: float
    image_scale: float
    weights: tuple[float, ...] = (1.0,)
    separate: bool = False

    @cached_property
    def _unconds(self) -> Conditioning:
        return Conditioning.cat(self.uncond, self.neither)

    @cached_property
    def _all(self) -> Conditioning:
        return Conditioning.cat(self.cond, self._unconds)

    def calls(self, x: Tensor, level: Tensor | float, *, uncond: bool = False) -> CallGenerator[Tensor]:
        """z [B, ...], timestep [B] -> [B, ...] in the dtype of z. One call of the network, on 3B rows or more."""
        z, timestep = x, torch.as_tensor(level)
        times = len(self.weights)
        if self.separate:
            prompts = yield from self._predict(z, timestep, self.cond, times)
            unguided, neither = yield from self._predict(z, timestep, self._unconds, 2)
        else:
            *prompts, unguided, neither = yield from self._predict(z, timestep, self._all, times + 2)
        cond = joined(prompts, unguided, self.weights)
        guided = neither + self.scale * (cond - unguided) + self.image_scale * (unguided - neither)
        return torch.stack([guided, unguided]) if uncond else guided

    def _predict(
        self, z: Tensor, timestep: Tensor, conditioning: Conditioning, times: int
    ) -> CallGenerator[list[Tensor]]:
        call = NetworkCall(self.network, torch.cat([z] * times), torch.cat([timestep] * times), conditioning)
        output = yield call
        return list(output.to(z.dtype).chunk(times))


@dataclass(frozen=True, eq=False)
class PromptEditing(GeneratorFunction):
    """Prompt editing: a network whose prompt changes over the steps.

    moments: (last step, network) pairs, steps counted from 1 and rising; the last network is used to the end
    shift: added to the clock's step before the look-up: 1 if a change "after n steps" comes after n steps
    """

    clock: Clock
    moments: Sequence[tuple[int, Function]]
    shift: int = 1

    def calls(self, x: Tensor, level: Tensor | float, *, uncond: bool = False) -> CallGenerator[Tensor]:
        """z [B, ...], timestep [B] -> [B, ...]"""
        return (yield from calls_of(self._current(), x, level, uncond=uncond))

    def _current(self) -> Function:
        place = bisect_left([last for last, _ in self.moments], self.clock.step + self.shift)
        return self.moments[min(place, len(self.moments) - 1)][1]


class IndependentNoise(NoiseSource):
    """A noise source whose noise between two sigmas is a new draw each time, as for diffusers' SDE samplers."""

    def __init__(self, source: NoiseSource) -> None:
        super().__init__(source.seeds, source.pictures, draws=source.draws)
        self._source = source

    def fresh(self) -> "IndependentNoise":
        """The same source, reset to its first draw."""
        return IndependentNoise(self._source.fresh())

    def brownian(self, levels: Sequence[float]) -> "IndependentNoise":
        """Itself; the levels are ignored."""
        return self

    def increment(self, shape: Sequence[int], a: float, b: float) -> Tensor:
        """The next draw, float32 [B, *shape], whatever a and b are."""
        return self.draw(shape)

    def _draw_row(self, row: int, shape: tuple[int, ...]) -> Tensor:
        return self._source.draw(shape, rows=[other == row for other in range(len(self.seeds))])[row]
