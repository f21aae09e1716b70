"""What a ControlNet in training is judged by: pictures drawn by hints that it was not trained on.

The hints are those of pictures that are held out, then of pictures that the model drew itself. Of training pictures
there are none: whoever follows their outlines would be taken for copying them.

- likeness: how well the hint that the preprocessor makes of the drawn picture agrees with the hint that it was drawn
  by; 0 as the hints of two other pictures agree (shuffled pairs), 1 as the picture itself that the hint is of
- prompts, copies: as in `gesso.tuning.measures`; the judge is the model alone
- drift: by how much the model's error about its own pictures grows when the ControlNet shows it their hints; below 0
  they help

K hints, C h w of the latents.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gesso.training.task import generator_for
from gesso.tuning.controlling import ControlTask
from gesso.tuning.judge_prompts import JudgePrompt, JudgePrompts
from gesso.tuning.measures import JUDGED_SHARES, SEED, SPARE, Measurer

LOOK = 48  # pixels a side at which hints are compared: a line may be a little aside
MIN_MADE = 4  # pictures that the model draws itself, at least
FLAT = 1e-3  # deviation of levels in [0, 1] below which a hint shows nothing


@dataclass(frozen=True, eq=False)
class Shown:
    """A hint to draw by.

    text     of its picture. latents [C, h, w]: of the picture
    hint     [3, H, W] in [0, 1]. place: of the picture among those that were found; None: the model drew it
    """

    text: str
    latents: Tensor
    hint: Tensor
    place: int | None


class ControlMeasurer(Measurer):
    """A `Measurer` whose pictures are drawn by hints.  prompts: of the model's own pictures"""

    task: ControlTask
    puts_back = False  # without a hint, the model is what it was

    def draw_yours(self, places: Sequence[int], seed: int) -> list[Tensor]:
        sizes: dict[tuple[int, int], list[int]] = {}
        for number, place in enumerate(places):
            _, height, width = self.shown[place].latents.shape
            sizes.setdefault((height, width), []).append(number)
        drawn: dict[int, Tensor] = {}
        for size, numbers in sizes.items():
            for first in range(0, len(numbers), self.rows):
                some = numbers[first : first + self.rows]
                shown = [self.shown[places[number]] for number in some]
                hint = torch.stack([one.hint for one in shown])
                seeds = [seed + number for number in some]
                latents = self.sampled([one.text for one in shown], size, seeds, self.how, hint)
                drawn |= dict(zip(some, latents, strict=True))
        return [drawn[number] for number in range(len(places))]

    @cached_property
    def shown(self) -> list[Shown]:
        """The hints to draw by, as many as there are prompts; those of held-out pictures first."""
        task, count = self.task, len(self.prompts.yours)
        held = [
            Shown(
                task.found[place].subset.captions.whole(task.found[place].example.caption),
                task.latents[place, False].mean,
                task.hints([place], [False])[0],
                place,
            )
            for place in task.held[: max(count - MIN_MADE, 0)]
        ]
        texts = [one.text for one in self.prompts.yours][: count - len(held)]
        latents = self.draw(texts, SPARE)
        made = [
            Shown(text, one, self._levels(self._hint(picture)), None)
            for text, one, picture in zip(texts, latents, self.decode(latents), strict=True)
        ]
        shown = [*held, *made]
        self.prompts = JudgePrompts(tuple(JudgePrompt(one.text, one.text) for one in shown), (), "")
        return shown

    def _hint(self, picture: Image.Image) -> Image.Image:
        """Of a picture as the VAE has it, at the size of the finished one."""
        scale = self.task.parts.family.output_scale
        return self.task.hints.made_of(picture.resize((picture.width * scale, picture.height * scale)))

    @staticmethod
    def _levels(hint: Image.Image) -> Tensor:
        return torch.from_numpy(np.array(hint)).permute(2, 0, 1).float() / 255

    def _look(self, picture: Image.Image) -> np.ndarray:
        return look_of(self._levels(self._hint(picture)))

    @cached_property
    def _looks(self) -> list[np.ndarray]:
        return [look_of(one.hint) for one in self.shown]

    @cached_property
    def _ends(self) -> tuple[float, float, list[float]]:
        """Agreement of hints of two pictures, on average; of a hint with its own picture; and that one by one."""
        apart = [agreement(one, other) for one, other in _others(self._looks)]
        own = [
            agreement(self._look(self.decode([one.latents])[0]), look) if one.place is not None else 1.0
            for one, look in zip(self.shown, self._looks, strict=True)
        ]
        return float(np.mean(apart)) if apart else 0.0, float(np.mean(own)), own

    def measured(self, step: int) -> dict[str, Any]:
        latents = self.draw_yours(range(len(self.shown)), SEED)
        pictures = self.decode(latents)
        looks = [self._look(picture) for picture in pictures]
        table = np.array([[agreement(one, other) for other in self._looks] for one in looks])
        paired, count = table.diagonal(), len(looks)
        shuffled = (table.sum(axis=1) - paired) / max(count - 1, 1)
        zero, one, own = self._ends

        def scaled(values: Sequence[float] | np.ndarray) -> list[float]:
            span = max(one - zero, 1e-9)
            return [round(float((value - zero) / span), 4) for value in values]

        return {
            "likeness": scaled(paired),
            "own_likeness": scaled(own),
            "agreement": [round(float(value), 4) for value in paired],
            "shuffled": [round(float(value), 4) for value in shuffled],
            "fits": self.fits(latents),
            "drift": [round(self._grown(place), 6) for place, one in enumerate(self.shown) if one.place is None],
            **self.nearest(step, pictures),
        }

    def _grown(self, place: int) -> float:
        """By which share the error about a picture grows with its hint."""
        one, objective = self.shown[place], self.task.objective
        latents = one.latents[None].to(self.task.device)
        errors = [0.0, 0.0]
        for share in JUDGED_SHARES:
            time = int(share * objective.schedule.num_timesteps)
            eps = torch.randn(latents.shape, generator=generator_for(SEED, 7, place, time)).to(latents)
            for which, hint in enumerate((None, one.hint[None])):
                output = self.outputs(latents, eps, time, [one.text], hint)
                errors[which] += float(objective.errors(output, latents, eps, torch.tensor([time])))
        return errors[1] / max(errors[0], 1e-12) - 1


def look_of(hint: Tensor) -> np.ndarray:
    """A hint small, as it is compared.  [3, H, W] -> float32 [3, LOOK, LOOK]"""
    small = torch.nn.functional.interpolate(hint[None].float(), (LOOK, LOOK), mode="area")[0]
    return small.numpy()


def agreement(one: np.ndarray, other: np.ndarray) -> float:
    """Correlation of two hints, -1 to 1; of two that show nothing 1, of one that does and one that does not 0."""
    flat = [float(hint.std()) < FLAT for hint in (one, other)]
    if any(flat):
        return float(all(flat))
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])


def _others(looks: Sequence[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(one, other) for place, one in enumerate(looks) for other in looks[place + 1 :]]
