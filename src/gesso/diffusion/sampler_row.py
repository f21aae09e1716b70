"""`Sampler`, a row of SAMPLERS: label, aliases, order, calls per step, options. Imports no torch."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gesso.registry import imported

if TYPE_CHECKING:
    from torch import Tensor

    from gesso.diffusion.noise import NoiseSource
    from gesso.diffusion.samplers.seam import Sampling


@dataclass(frozen=True)
class Sampler:
    """One row of the registry: a generator function and what callers want to know about it.

    label: its name in A1111's infotext (if A1111 lacks it, the name that its users would expect).
    function: the generator function, see `gesso.diffusion.samplers.seam`; or "module:name" of it, imported when the
    sampler first runs.
    order: of convergence, for the ODE; 0: does not converge (LCM). Where the first and last steps are of lower order,
    it shows once these are small. stochastic: draws random numbers at its defaults.
    calls_per_step: calls of the model in a step that does not end in 0. options: the keyword arguments that it takes:
    numbers, and `schedule`, the NoiseSchedule, for those whose rule speaks of timesteps (Stable Diffusion's if left
    out).
    aliases: its names in other tools and diffusers. schedule: which of SCHEDULES A1111 takes for "Automatic".
    draws_per_step: draws from the noise source in a step that does not end in 0, at the defaults. brownian: its noise
    comes from a Brownian path instead of such draws.
    ignores_sigmas: only the first sigma, the last above 0 and their number count; what is left at the end is noise of
    the last sigma above 0. row_steps: chooses its own steps for every row.
    discards_penultimate: A1111 makes one step more and leaves out the last sigma above 0 (`discard_penultimate`).
    asks_uncond: needs the unconditional prediction, too (CFG++).
    counted: number of calls if calls_per_step is not enough; None there: it depends on the picture.
    """

    label: str
    function: Callable[..., Sampling] | str
    order: int
    stochastic: bool
    calls_per_step: int = 1
    options: frozenset[str] = frozenset()
    aliases: tuple[str, ...] = ()
    schedule: str = "uniform"
    draws_per_step: int = 0
    brownian: bool = False
    ignores_sigmas: bool = False
    row_steps: bool = False
    discards_penultimate: bool = False
    asks_uncond: bool = False
    counted: Callable[[int], int | None] | None = None

    @property
    def start(self) -> Callable[..., Sampling]:
        """The generator function."""
        function: Callable[..., Sampling] = imported(self.function) if isinstance(self.function, str) else self.function
        return function

    def check(self) -> None:
        """Raises TypeError for an option that the function does not take by name; for rows of plug-ins."""
        known = inspect.signature(self.start).parameters
        if unknown := sorted(self.options - known.keys()):
            raise TypeError(f"its function takes no {', '.join(unknown)}, which its options name")
        if "eta" in self.options and not isinstance(known["eta"].default, int | float):
            raise TypeError("eta needs a default that is a number")

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
