"""Latent consistency distillation: a student that draws in a few steps (Luo et al. 2023, arXiv:2310.04378, 2311.05556).

The student is the model with factors of a LoRA, the teacher the model without. From a noisy picture the teacher takes
one step of DDIM with guidance; what the student says of both ends of the step shall be the same, and without guidance:
its scale is learned. Shapes: B batch, C h w of the latents.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gesso.diffusion.denoiser import boundary, per_row, scale_input, to_x0
from gesso.errors import GessoError
from gesso.tuning.learners import LoraLearner
from gesso.tuning.objective import Objective
from gesso.tuning.task import TuningTask

HUBER = 1e-3  # where the pseudo-Huber loss turns from a square into a distance; of the published training


@dataclass(frozen=True, kw_only=True)
class Distillation(Objective):
    """How a student learns from its teacher.

    solver_steps  of the teacher's DDIM over the whole schedule; the student's timesteps are among them
    guidance      (least, most) of the teacher's guidance scale, which is drawn for each picture
    """

    solver_steps: int = 50
    guidance: tuple[float, float] = (7.5, 7.5)

    def __post_init__(self) -> None:
        """Raises GessoError for solver steps that do not divide the schedule, and would leave out its noisiest end."""
        if (total := self.schedule.num_timesteps) % self.solver_steps:
            raise GessoError(
                f"`teacher_steps` {self.solver_steps}: expected a divisor of {total}, such as 20 or 50",
                code="invalid_value",
                field="teacher_steps",
            )

    @property
    def stride(self) -> int:
        """Timesteps of one of the teacher's steps."""
        return self.schedule.num_timesteps // self.solver_steps

    def draw_times(self, count: int, generator: torch.Generator) -> Tensor:
        """Timesteps from which the teacher takes a step, int64 [count] on the CPU."""
        return torch.randint(1, self.solver_steps + 1, (count,), generator=generator) * self.stride - 1

    def draw_guidance(self, count: int, generator: torch.Generator | None) -> Tensor:
        """Guidance scales, float64 [count] on the CPU. generator None: the middle, for losses that can be compared."""
        least, most = self.guidance
        share = torch.full((count,), 0.5, dtype=torch.float64)
        if generator is not None:
            share = torch.rand(count, generator=generator, dtype=torch.float64)
        return least + share * (most - least)

    def sigma(self, times: Tensor, like: Tensor) -> Tensor:
        """Of timesteps, float64 [B] on the device."""
        return self.schedule.sigmas[times.cpu()].to(like.device)

    def clean(self, z: Tensor, output: Tensor, times: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The network's output for z as x0, with x and sigma, all in the type of z."""
        sigma = self.sigma(times, z)
        x = z * (1 + per_row(sigma, z) ** 2).sqrt().to(z)
        return to_x0(self.prediction, x, sigma, output), x, sigma

    def consistency(self, z: Tensor, output: Tensor, times: Tensor) -> Tensor:
        """What the student says of z: x0 with the weights that leave a picture without noise as it is (equation 9)."""
        x0, x, sigma = self.clean(z, output, times)
        return boundary(x, x0, sigma, times.to(z.device))

    def solve(self, z: Tensor, cond: Tensor, uncond: Tensor, guidance: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
        """One step of the teacher's DDIM.  -> z and the timesteps where it ends"""
        after = (times - self.stride).clamp(min=0)
        scale = per_row(guidance.to(z.device), z).to(z)
        first, x, sigma = self.clean(z, cond, times)
        second, _, _ = self.clean(z, uncond, times)
        x0 = second + scale * (first - second)
        eps = (x - x0) / per_row(sigma, z).to(z)
        lower = self.sigma(after, z)
        return scale_input(x0 + per_row(lower, z).to(z) * eps, lower), after

    def distance(self, said: Tensor, wanted: Tensor, mask: Tensor | None = None) -> Tensor:
        """Pseudo-Huber loss of each row.  -> [B]"""
        gaps = ((said - wanted) ** 2 + HUBER**2).sqrt() - HUBER
        if mask is not None:
            gaps = gaps * (self.mask_floor + (1 - self.mask_floor) * mask)
        return gaps.mean(dim=(1, 2, 3))


class DistilTask(TuningTask):
    """A `TuningTask` whose error is the gap between a student and itself one step of its teacher further."""

    learner: LoraLearner
    objective: Distillation

    def draw_more(self, count: int, generator: torch.Generator) -> Mapping[str, Tensor]:
        return {"guidance": self.objective.draw_guidance(count, generator)}

    def errors(
        self,
        places: Sequence[int],
        flips: Sequence[bool],
        captions: Sequence[str],
        latents: Tensor,
        eps: Tensor,
        times: Tensor,
        guidance: Tensor | None = None,
    ) -> Tensor:
        objective, rows = self.objective, len(places)
        latents, eps = latents.to(self.device), eps.to(self.device)
        guidance = objective.draw_guidance(rows, None) if guidance is None else guidance
        z = objective.noisy(latents, eps, times)
        said = objective.consistency(z, self.predict(places, flips, captions, z, times), times)
        with torch.no_grad():
            with self.learner.factors.off():
                both = self.predict(
                    [*places] * 2, [*flips] * 2, [*captions, *[""] * rows], z.repeat(2, 1, 1, 1), times.repeat(2)
                )
            after, later = objective.solve(z, both[:rows].to(z), both[rows:].to(z), guidance, times)
            wanted = objective.consistency(after, self.predict(places, flips, captions, after, later), later)
        return objective.distance(said, wanted, self._masks(places, flips, latents))
