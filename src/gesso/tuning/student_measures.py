"""What the student of a distillation is judged by: its pictures in a few steps beside its teacher's in all of them.

Both draw the same prompts from the same noise, and all figures are paired:

- likeness: how well the features of both pictures agree, place by place (those of `gesso.tuning.measures`); 0 as the
  model in so few steps before the training, 1 as the teacher in half of its own steps
- prompts, copies: as there
- gap: prompts of the student less that of its teacher

K prompts, D features.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gesso.tuning.measures import SEED, Drawing, Measurer, drawing_of

GRID = 8  # places a side at which features are compared


def student_drawing(steps: int) -> Drawing:
    """As a student draws."""
    return Drawing(steps, "lcm", "sgm_uniform", 1.0, consistency=True)


class StudentMeasurer(Measurer):
    """A `Measurer` of a student that draws as `how` says, beside its teacher, the model as it was."""

    @cached_property
    def _teacher(self) -> "_Teacher":
        with self.as_before():
            return _Teacher(self)

    def measured(self, step: int) -> dict[str, Any]:
        teacher = self._teacher
        latents = teacher.start if step == 0 else self.draw_yours(range(len(self.prompts.yours)), SEED)
        with self.as_before():
            alike = teacher.agreements(torch.stack(latents))
            fits = self.fits(latents)
        paired = alike.diagonal()
        shuffled = (alike.sum(axis=1) - paired) / max(len(alike) - 1, 1)
        return {
            "likeness": teacher.scaled(paired),
            "own_likeness": teacher.scaled(teacher.half),
            "agreement": [round(float(value), 4) for value in paired],
            "shuffled": [round(float(value), 4) for value in shuffled],
            "fits": fits,
            "teacher_fits": teacher.fits,
            **self.nearest(step, self.decode(latents)),
        }


class _Teacher:
    """What the teacher draws in all of its steps, and how near others come to it."""

    def __init__(self, measurer: StudentMeasurer) -> None:
        self.measurer = measurer
        texts = [one.text for one in measurer.prompts.yours]
        family = measurer.task.parts.family
        how = drawing_of(family, family.defaults.num_steps)
        drawn = measurer.draw(texts, SEED, how)
        maps = self._maps(drawn)
        self.middle, self.scale = maps.mean(axis=(0, 2), keepdims=True), maps.std(axis=(0, 2), keepdims=True) + 1e-6
        self.looks = self._looks(maps)
        self.fits = measurer.fits(list(drawn))
        self.start = measurer.draw_yours(range(len(texts)), SEED)
        self.half = self.agreements(measurer.draw(texts, SEED, replace(how, steps=max(how.steps // 2, 1)))).diagonal()
        self.zero, self.one = (
            float(part.mean()) for part in (self.agreements(torch.stack(self.start)).diagonal(), self.half)
        )

    def _maps(self, latents: Tensor) -> np.ndarray:
        """Features on a small grid.  -> [K, D, GRID * GRID]"""
        pooled = [
            torch.nn.functional.adaptive_avg_pool2d(part, GRID).flatten(2) for part in self.measurer.maps(latents)
        ]
        return torch.cat(pooled).numpy().astype(np.float64)

    def _looks(self, maps: np.ndarray) -> np.ndarray:
        """Without what all of the teacher's pictures have, of length 1.  -> [K, D * GRID * GRID]"""
        flat = ((maps - self.middle) / self.scale).reshape(len(maps), -1)
        return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-12)

    def agreements(self, latents: Tensor) -> np.ndarray:
        """Of each picture with each of the teacher's, -1 to 1.  -> [K, K]"""
        return self._looks(self._maps(latents)) @ self.looks.T

    def scaled(self, values: Sequence[float] | np.ndarray) -> list[float]:
        """0 as before the training, 1 as the teacher in half of its steps."""
        span = self.one - self.zero
        return [round(float((value - self.zero) / span), 4) if span > 1e-9 else 0.0 for value in values]
