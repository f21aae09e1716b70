"""Classifier-free guidance in one batch (Ho & Salimans 2022, arXiv:2207.12598), with its rescale (arXiv:2305.08891).

Guidance wraps a network: it takes (z, timestep) and returns a prediction like a network without a prompt, so `Denoiser`
needs to know nothing of it. The conditioning (hidden states, pooled vector, ControlNet hints) is opaque here: any type
C with a function that concatenates two batches of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, TypeVar

import torch
from torch import Tensor

from gesso.diffusion.calls import CallGenerator, GeneratorFunction, NetworkCall
from gesso.diffusion.denoiser import per_row

C = TypeVar("C")


@dataclass(frozen=True, eq=False)
class GuidedNetwork(GeneratorFunction, Generic[C]):
    """Classifier-free guidance as a network of its own, which yields one call, on B rows or on 2B and more.

    network: (z [B, ...], timestep [B], conditioning of B rows) -> eps, v or x0 [B, ...].

    cond, uncond: conditioning of B rows each; uncond may be None if no row is guided.
    weights: of several prompts joined by AND (see `joined`); cond has B rows for each, one prompt after another.
    scale: w in uncond + w * (cond - uncond), a number or [B]. 1 switches it off, for that row bit by bit; where it is 1
    for all rows and a single prompt the network is called on B rows instead of 2B.
    cat: stacks (uncond, cond) along the batch. It is called once, not once a step.
    is_over: asked before each call whether guidance has ended: then the prompt alone is called, on B rows. Not with
    several prompts.
    separate: call the network for cond and uncond separately, since their shapes do not fit into one batch.
    rescale: phi of arXiv:2305.08891, section 3.4, a number or [B] in 0..1: that share of the result gets the standard
    deviation of cond (over all but the batch). 0 switches it off; with zero terminal SNR 0.7 is common.
    Raises ValueError if uncond is missing, phi is outside 0..1 or a list has not one value per row.
    """

    network: Callable[[Tensor, Tensor, C], Tensor]
    cond: C
    uncond: C | None
    scale: Tensor | float
    cat: Callable[[C, C], C]
    rescale: Tensor | float = 0.0
    weights: tuple[float, ...] = (1.0,)
    separate: bool = False
    is_over: Callable[[], bool] | None = None

    def __post_init__(self) -> None:
        phi = torch.as_tensor(self.rescale, dtype=torch.float64)
        if not bool(((phi >= 0) & (phi <= 1)).all()):
            raise ValueError(f"rescale is {self.rescale}, expected 0..1")
        if self.is_guided and self.uncond is None:
            raise ValueError(
                f"scale is {self.scale}, which needs uncond; only a single prompt at scale 1 works without it"
            )

    @cached_property
    def is_guided(self) -> bool:
        """Whether any row needs the unconditional prediction."""
        return self.weights != (1.0,) or bool((torch.as_tensor(self.scale, dtype=torch.float64) != 1).any())

    @cached_property
    def _is_rescaled(self) -> bool:
        return bool((torch.as_tensor(self.rescale, dtype=torch.float64) != 0).any())

    @cached_property
    def _both(self) -> C:
        assert self.uncond is not None
        return self.cat(self.uncond, self.cond)

    def calls(self, x: Tensor, level: Tensor | float, *, uncond: bool = False) -> CallGenerator[Tensor]:
        """z [B, ...], timestep [B] -> [B, ...] in the type of z. One call, on B rows without guidance, else on 2B
        or more.

        uncond: return the unconditional prediction, too, [2, B, ...], even if scale is 1. Two calls if `separate`.
        Raises ValueError if uncond is missing.
        """
        z, timestep = x, torch.as_tensor(level)
        over = self.is_over is not None and self.weights == (1.0,) and self.is_over()
        if not uncond and (over or not self.is_guided):
            return (yield NetworkCall(self.network, z, timestep, self.cond)).to(z.dtype)
        if self.uncond is None:
            raise ValueError("the unconditional prediction needs uncond")
        times = len(self.weights)
        if self.separate:
            unguided = (yield NetworkCall(self.network, z, timestep, self.uncond)).to(z.dtype)
            output = yield self._call(z, timestep, self.cond, times)
            prompts = list(output.to(z.dtype).chunk(times))
        else:
            output = yield self._call(z, timestep, self._both, times + 1)
            unguided, *prompts = output.to(z.dtype).chunk(times + 1)
        cond = joined(prompts, unguided, self.weights)
        guided = guide(cond, unguided, self.scale, rescale=self.rescale if self._is_rescaled else None)
        return torch.stack([guided, unguided]) if uncond else guided

    def _call(self, z: Tensor, timestep: Tensor, conditioning: C, times: int) -> NetworkCall:
        return NetworkCall(self.network, torch.cat([z] * times), torch.cat([timestep] * times), conditioning)


def joined(prompts: Sequence[Tensor], uncond: Tensor, weights: Sequence[float]) -> Tensor:
    """Composable diffusion: uncond + sum of weight * (prompt - uncond) (Liu et al. 2022, arXiv:2206.01714,
    equation 11).

    prompts: [B, ...] each -> [B, ...]. A single prompt of weight 1 stays as it is, bit by bit.
    """
    if tuple(weights) == (1.0,):
        return prompts[0]
    return uncond + torch.stack([w * (x - uncond) for x, w in zip(prompts, weights, strict=True)]).sum(0)


def guide(cond: Tensor, uncond: Tensor, scale: Tensor | float, *, rescale: Tensor | float | None = None) -> Tensor:
    """uncond + scale * (cond - uncond), then the rescale if any.

    cond, uncond [B, ...] -> [B, ...]; scale, rescale a number or [B]. Rows with scale 1 are cond, bit by bit.
    """
    w = per_row(scale, cond)
    guided = uncond + w.to(cond) * (cond - uncond)
    if rescale is not None:
        phi = per_row(rescale, cond)
        gain = phi.to(cond) * (_std(cond) / _std(guided)) + (1 - phi).to(cond)
        # A row without rescale stays as it is even where its deviation is 0, which would make the gain nan.
        guided = torch.where((phi == 0).to(cond.device), guided, guided * gain)
    return torch.where((w == 1).to(cond.device), cond, guided)


def _std(x: Tensor) -> Tensor:
    """Standard deviation of each row, [B, 1, ...].

    A row at a time, since a reduction over a batch may choose its order of summation by the number of rows. (torch 2.13
    on the CPU does not; nothing promises the same of other devices.)
    """
    return torch.stack([row.std() for row in x]).reshape(-1, *[1] * (x.ndim - 1))
