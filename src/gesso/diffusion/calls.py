"""Network calls as values: a generator yields the calls that it needs, is sent their outputs and returns a result.

Samplers are such generators (`samplers.seam`), and so is all that lies between them and a network: denoiser, guidance,
tiles, masks. The caller that drives one makes the calls: `run_calls` makes one after the other; a batcher joins those
of several runs in one network call, whatever their prompts, samplers and noise levels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

R = TypeVar("R")


@dataclass(frozen=True, eq=False)
class NetworkCall:
    """A network call to be made; its output is `network(z, timestep, conditioning)`.

    network       (z, timestep, conditioning) -> [B, ...], one row for each row of z
    z             [B, ...] the network's input
    timestep      [B]
    conditioning  of B rows, of whatever type the network takes
    """

    network: Callable[[Tensor, Tensor, Any], Tensor]
    z: Tensor
    timestep: Tensor
    conditioning: Any

    def make(self) -> Tensor:
        """Makes the call, alone."""
        return self.network(self.z, self.timestep, self.conditioning)


CallGenerator = Generator[NetworkCall, Tensor, R]  # yields calls, is sent [B, ...] for each, returns R


def run_calls(calls: CallGenerator[R]) -> R:
    """Runs a generator to its result, making its calls one after the other."""
    try:
        call = next(calls)
        while True:
            call = calls.send(call.make())
    except StopIteration as end:
        result: R = end.value
        return result


class GeneratorFunction(ABC):
    """A denoiser (x, sigma) -> x0, or a network with its prompt (z, timestep) -> output, that yields its calls.

    Called like a function, it makes them itself.
    """

    @abstractmethod
    def calls(self, x: Tensor, level: Tensor | float, *, uncond: bool = False) -> CallGenerator[Tensor]:
        """x [B, ...] at a level, a sigma or a timestep -> [B, ...]

        uncond: -> [2, B, ...]: the same, and the unconditional output (CFG++)
        """

    def __call__(self, x: Tensor, level: Tensor | float) -> Tensor:
        """x [B, ...] -> [B, ...], the calls made at once."""
        return run_calls(self.calls(x, level))

    def with_uncond(self, x: Tensor, level: Tensor | float) -> Tensor:
        """The same, and the unconditional output: [2, B, ...]."""
        return run_calls(self.calls(x, level, uncond=True))


Function = Callable[[Tensor, Tensor], Tensor] | GeneratorFunction  # a denoiser, or a network with its prompt

_MISSING = "the unconditional prediction is needed, which a plain function does not give"


def calls_of(
    function: Function, x: Tensor, level: Tensor | float, *, uncond: bool = False, missing: str = _MISSING
) -> CallGenerator[Tensor]:
    """As `GeneratorFunction.calls`, for a `GeneratorFunction` or a plain function, which is called at once.

    Raises ValueError, with the message `missing`, if `uncond` is requested of a plain function.
    """
    if isinstance(function, GeneratorFunction):
        return (yield from function.calls(x, level, uncond=uncond))
    if not uncond:
        return function(x, torch.as_tensor(level))
    with_uncond: Callable[[Tensor, Tensor], Tensor] | None = getattr(function, "with_uncond", None)
    if with_uncond is None:
        raise ValueError(missing)
    return with_uncond(x, torch.as_tensor(level))
