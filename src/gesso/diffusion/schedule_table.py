"""SCHEDULES: every way to space the steps of a sampler, one row each, and those of plug-ins. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gesso.registry import Registry, imported

if TYPE_CHECKING:
    from torch import Tensor

    from gesso.diffusion.noise_schedule import NoiseSchedule


@dataclass(frozen=True)
class Schedule:
    """One way to space the steps: a "schedule type" of A1111, a "scheduler" of ComfyUI.

    label: its name in A1111's infotext; if two tools use one name for two tables, the other adds the tool's name.
    function: (noise schedule, number of steps) -> sigmas, float64, falling; or "module:name" of it, imported when it is
    first called. aliases: what other tools call it. exact_steps: gives num_steps steps, neither more nor fewer.
    ends_in_zero: the last sigma is 0.
    """

    label: str
    function: Callable[[NoiseSchedule, int], Tensor] | str
    aliases: tuple[str, ...] = ()
    exact_steps: bool = True
    ends_in_zero: bool = True

    def __call__(self, schedule: NoiseSchedule, num_steps: int) -> Tensor:
        """sigmas, float64 [num_steps + 1] where exact_steps, falling. Raises ValueError for a num_steps it lacks."""
        build = imported(self.function) if isinstance(self.function, str) else self.function
        sigmas: Tensor = build(schedule, num_steps)
        return sigmas


_IN = "gesso.diffusion.spacing"

# A new way is one function there and one line here.
_BUILTIN = {
    "uniform": Schedule("Uniform", f"{_IN}:uniform", aliases=("normal",)),
    "karras": Schedule("Karras", f"{_IN}:karras"),
    "exponential": Schedule("Exponential", f"{_IN}:exponential"),
    "polyexponential": Schedule("Polyexponential", f"{_IN}:polyexponential"),
    "sgm_uniform": Schedule("SGM Uniform", f"{_IN}:sgm_uniform"),
    "simple": Schedule("Simple", f"{_IN}:simple"),
    "ddim_uniform": Schedule("DDIM", f"{_IN}:ddim_uniform", exact_steps=False),
    "beta": Schedule("Beta", f"{_IN}:beta"),
    "beta_comfyui": Schedule("Beta (ComfyUI)", f"{_IN}:beta_comfyui", exact_steps=False),
    "linear_quadratic": Schedule("Linear Quadratic", f"{_IN}:linear_quadratic"),
    "kl_optimal": Schedule("KL Optimal", f"{_IN}:kl_optimal", ends_in_zero=False),
    "kl_optimal_comfyui": Schedule("KL Optimal (ComfyUI)", f"{_IN}:kl_optimal_comfyui"),
    "align_your_steps": Schedule("Align Your Steps", f"{_IN}:align_your_steps", aliases=("ays", "ays_sd15")),
    "align_your_steps_sdxl": Schedule("Align Your Steps SDXL", f"{_IN}:align_your_steps_sdxl", aliases=("ays_sdxl",)),
    "align_your_steps_comfyui": Schedule("Align Your Steps (ComfyUI)", f"{_IN}:align_your_steps_comfyui"),
    "align_your_steps_sdxl_comfyui": Schedule(
        "Align Your Steps SDXL (ComfyUI)", f"{_IN}:align_your_steps_sdxl_comfyui"
    ),
    "turbo": Schedule("Turbo", f"{_IN}:turbo", aliases=("sgm_turbo",)),
}

SCHEDULES: Registry[Schedule] = Registry(Schedule, "gesso.schedules", _BUILTIN)
