"""The table of samplers: what they are called, what they cost, what they take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from gesso.diffusion.names import Names
from gesso.diffusion.noise import NoiseSource
from gesso.diffusion.samplers.seam import Sampling


@dataclass(frozen=True)
class Sampler:
    """One row of the registry: a generator function and what callers want to know about it.

    names: its label, what other tools call it, and the schedule that A1111 takes for "Automatic".
    order: of convergence, for the ODE; 0: does not converge (LCM). Where the first and last steps are of lower order,
    it shows once these are small. stochastic: draws random numbers at its defaults.
    calls_per_step: calls of the model in a step that does not end in 0. options: the keyword arguments that it takes:
    numbers, and `schedule`, the NoiseSchedule, for those whose rule speaks of timesteps (Stable Diffusion's if left
    out).
    draws_per_step: draws from the noise source in a step that does not end in 0, at the defaults. brownian: its noise
    comes from a Brownian path instead of such draws.
    ignores_sigmas: only the first sigma, the last above 0 and their number count; what is left at the end is noise of
    the last sigma above 0. row_steps: chooses its own steps for every row.
    discards_penultimate: A1111 makes one step more and leaves out the last sigma above 0 (`discard_penultimate`).
    asks_uncond: asks for the prediction without the prompt as well.
    counted: number of calls where calls_per_step does not tell it; None there: it depends on the picture.
    """

    names: Names
    start: Callable[..., Sampling]
    order: int
    stochastic: bool
    calls_per_step: int = 1
    options: frozenset[str] = frozenset()
    draws_per_step: int = 0
    brownian: bool = False
    ignores_sigmas: bool = False
    row_steps: bool = False
    discards_penultimate: bool = False
    asks_uncond: bool = False
    counted: Callable[[int], int | None] | None = None

    @property
    def label(self) -> str:
        """What A1111 calls it in its infotext."""
        return self.names.label

    @property
    def aliases(self) -> tuple[str, ...]:
        """What other tools and diffusers call it."""
        return self.names.aliases

    @property
    def schedule(self) -> str:
        """Which of SCHEDULES A1111 takes for "Automatic"."""
        return self.names.schedule

    def __call__(self, x: Tensor, sigmas: Tensor, noise: NoiseSource | None = None, **options: Any) -> Sampling:
        """Start sampling; see `gesso.diffusion.samplers.seam`. Raises ValueError for an option that it lacks."""
        unknown = sorted(options.keys() - self.options)
        if unknown:
            raise ValueError(
                f"{self.label} has no option {', '.join(unknown)}; it has {sorted(self.options) or 'none'}"
            )
        return self.start(x, sigmas, noise, **options)

    def num_calls(self, num_steps: int) -> int | None:
        """How often the model is called where sigmas end in 0 (there the last step takes one call); None: unknown."""
        if self.counted is not None:
            return self.counted(num_steps)
        return self.calls_per_step * (num_steps - 1) + 1
