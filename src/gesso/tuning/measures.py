"""What a training is judged by, measured at each of its reports: pictures of fixed prompts from fixed noise.

Everything is judged by the model as it was before the training, which is put back for the moment, so that no network
but the user's own is needed:

- likeness: where each picture lies between what the model drew for the same prompt before (0) and the user's own (1),
  along the direction in the UNet's features that tells the user's from all that it drew before (diffusion features:
  Tang et al. 2023, arXiv:2306.03881); it sees colours and textures more than shapes
- prompts: how often the model finds that a picture fits its own prompt better than another's, by its error at the same
  noise (Li et al. 2023, arXiv:2303.16203, "Your diffusion model is secretly a zero-shot classifier"); 0.5 is chance
- drift: how much the prediction for other prompts has changed, as a share of its error
- copies: the similarity of each picture to the nearest of the user's (`gesso.tuning.copies`)

K prompts, C h w of the latents, D features.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from gesso.diffusion.denoiser import Denoiser
from gesso.diffusion.guidance import GuidedNetwork
from gesso.diffusion.noise import PhiloxNoise
from gesso.diffusion.sampler_table import sampler_named
from gesso.diffusion.samplers.running import sample
from gesso.diffusion.spacing import sigmas_of
from gesso.families.base import Family
from gesso.families.encoding import Sizes
from gesso.files import atomic_file
from gesso.models.vae import AutoencoderKL
from gesso.pipelines.picture import to_images
from gesso.training.task import generator_for
from gesso.tuning.copies import CopyCheck, Copying, Prepare
from gesso.tuning.judge_prompts import JudgePrompts
from gesso.tuning.survey import Found, framed, read_example
from gesso.tuning.task import TuningTask

MEASURES, CHECKED = "measures.jsonl", "judged"  # in the folder of the training
SEED = 2000  # of the first picture; the others count up
SPARE = 4000  # that of the pictures that only show what the model drew before
FEATURE_SHARE, FEATURE_NOISES = 0.1, 2  # of the timesteps: little noise; and how many noises
JUDGED_SHARES = (0.35, 0.5, 0.65, 0.8)  # of the timesteps, at which pictures and prompts are compared
CONTRASTS = 3  # other prompts that each picture is compared with
MAX_TRAINED = 32  # training pictures whose features are taken
MAX_COMPARED = 2000  # training pictures that are looked through for copies
THUMB = 256  # pixels a side of the pictures that are kept
SHRINKAGE = 0.2  # of the covariance towards a sphere
Captions = Sequence[str]


@dataclass(frozen=True)
class Drawing:
    """How pictures are drawn. consistency: by a student of a distillation"""

    steps: int
    sampler: str
    schedule: str
    guidance: float
    consistency: bool = False


def drawing_of(family: Family, steps: int) -> Drawing:
    """As a family draws by default, in so many steps."""
    usual = family.defaults
    return Drawing(steps, usual.sampler, usual.schedule, usual.guidance_scale)


class Measurer:
    """Measures a task's networks as they are, into FOLDER/measures.jsonl, a row each time.

    prompts  what is drawn. how: and how; side: rows of the latents
    prepare  makes what compares pictures; by: its name. threshold: from which similarity on it is a copy
    The task's learner must be as it starts; its networks as they are now are what pictures are judged by.
    """

    puts_back = True  # the networks as they were before, for moments

    def __init__(
        self,
        task: TuningTask,
        folder: Path,
        prompts: JudgePrompts,
        *,
        how: Drawing,
        side: int,
        prepare: Prepare,
        threshold: float,
        by: str,
    ) -> None:
        self.task, self.folder, self.prompts, self.how, self.side = task, folder, prompts, how, side
        self._checking: Mapping[str, Any] = {"prepare": prepare, "threshold": threshold, "by": by}
        family = task.parts.family
        self.rows = 32 if family.scheduler is None else max(task.batches.batch_size, 1)  # at a time
        self._start = copied(task.modules) if prompts.yours and self.puts_back else {}
        own = [place for place in range(len(task.found)) if not task.found[place].subset.is_reg]
        self.own = [place for place in own if place not in set(task.held)]
        step = max(len(self.own) / MAX_COMPARED, 1.0)
        self.compared = [self.own[int(i * step)] for i in range(min(len(self.own), MAX_COMPARED))]

    @cached_property
    def _before(self) -> "_Before":
        with self.as_before():
            return _Before(self)

    @torch.no_grad()
    def __call__(self, step: int) -> dict[str, float]:
        """Measure, write the row of this step, and return its means for the log."""
        row: dict[str, Any] = {"step": step, **self.task.reported_errors}
        if self.prompts.yours:
            row |= self.measured(step)
        write_row(self.folder / MEASURES, row)
        names = ("likeness", "fits", "drift", "nearest")
        return {name: float(np.mean(row[name])) for name in names if row.get(name)}

    def measured(self, step: int) -> dict[str, Any]:
        """The figures of the pictures that the networks draw now, a list each."""
        before = self._before
        # At step 0 the model is what it was before.
        latents = before.anchors if step == 0 else self.draw_yours(range(len(self.prompts.yours)), SEED)
        pictures = self.decode(latents)
        row: dict[str, Any] = {"drift": self._drift(before)}
        with self.as_before():
            row["likeness"] = before.likeness(self.features(torch.stack(latents)))
            row["own_likeness"] = before.own
            row["fits"] = self.fits(latents)
        return row | self.nearest(step, pictures)

    def nearest(self, step: int, pictures: Sequence[Image.Image]) -> dict[str, Any]:
        """What a step's pictures have of the user's; keeps small copies of them."""
        checked = self.looks_for_copies(pictures)
        save_pictures(self.folder / CHECKED / f"{step:06d}", pictures)
        return {
            "nearest": [round(value, 4) for _, value in checked.nearest],
            "nearest_place": [self.compared[place] for place, _ in checked.nearest],
            "threshold": checked.threshold,
            "alike": [round(value, 4) for value in checked.alike],
        }

    # ---- drawing -----------------------------------------------------------------------------------------------------

    def draw_yours(self, places: Sequence[int], seed: int) -> list[Tensor]:
        """Pictures of the prompts at these places, from the noise of seed, seed + 1, ...  -> latents [C, h, w] each"""
        return list(self.draw([self.prompts.yours[place].text for place in places], seed))

    def draw(self, prompts: Captions, seed: int, how: Drawing | None = None) -> Tensor:
        """Pictures of prompts from the noise of seed, seed + 1, ...  -> latents [K, C, h, w], float32"""
        drawn = [torch.empty(0, self.task.parts.family.vae.latent_channels, self.side, self.side).to(self.task.device)]
        for first in range(0, len(prompts), self.rows):
            some = list(prompts[first : first + self.rows])
            seeds = range(seed + first, seed + first + len(some))
            drawn.append(self.sampled(some, (self.side, self.side), seeds, how or self.how))
        return torch.cat(drawn)

    def sampled(
        self, prompts: list[str], size: tuple[int, int], seeds: Sequence[int], how: Drawing, hint: Tensor | None = None
    ) -> Tensor:
        """One batch, a seed each.  size: (h, w) of the latents; hint [B, 3, H, W] in [0, 1] -> latents [B, C, h, w]"""
        family = self.task.parts.family
        schedule = family.schedule.build()
        sigmas = sigmas_of(how.schedule, schedule, how.steps)

        def network(z: Tensor, timestep: Tensor, captions: list[str]) -> Tensor:
            shown = None if hint is None else hint.repeat(len(z) // len(hint), 1, 1, 1)
            return self.task.answers(captions, self.sizes_of(z), z, timestep, shown).to(z.dtype)

        guided = GuidedNetwork(
            network=network,
            cond=prompts,
            uncond=[""] * len(prompts),
            scale=how.guidance,
            cat=lambda one, other: [*one, *other],
        )
        denoise = Denoiser(guided, schedule, family.prediction, consistency=how.consistency)
        noise = torch.cat([self._noise(seed, size) for seed in seeds])
        x = noise.to(self.task.device) * float((1 + sigmas[0] ** 2).sqrt())
        return sample(sampler_named(how.sampler), denoise, x, sigmas, PhiloxNoise(seeds))

    def sizes_of(self, latents: Tensor) -> list[Sizes]:
        """What SDXL is told of pictures of their own size."""
        family = self.task.parts.family
        scale = family.vae.downscale * family.output_scale
        size = latents.shape[2] * scale, latents.shape[3] * scale
        return [Sizes(original=size, target=size)] * len(latents)

    def _noise(self, seed: int, size: tuple[int, int]) -> Tensor:
        shape = 1, self.task.parts.family.vae.latent_channels, *size
        return torch.randn(shape, generator=generator_for(seed, 3))

    def decode(self, latents: Iterable[Tensor]) -> list[Image.Image]:
        """Pictures of latents [C, h, w], as the VAE has them."""
        vae = self.task.parts.vae
        assert isinstance(vae, AutoencoderKL)
        kind, found = next(vae.parameters()).dtype, list[Image.Image]()
        for one in latents:
            found += to_images(vae.decode(one[None].to(kind)))
        return found

    @cached_property
    def pictures(self) -> list[Image.Image]:
        """Training pictures as the VAE sees them, small."""
        return [thumbnail(self.task.found[place]) for place in self.compared]

    @cached_property
    def looks_for_copies(self) -> CopyCheck:
        """Of these."""
        return CopyCheck(self.pictures, **self._checking)

    # ---- judging -----------------------------------------------------------------------------------------------------

    @contextmanager
    def as_before(self) -> Iterator[None]:
        """The networks as they were before the training, for the time of the block."""
        now = copied(self.task.modules)
        try:
            for name, module in self.task.modules.items():
                module.load_state_dict(self._start[name])
            yield
        finally:
            for name, module in self.task.modules.items():
                module.load_state_dict(now[name])

    def features(self, latents: Tensor) -> np.ndarray:
        """Mean, deviation and maximum over all places of the features of the last but one level on the way up.

        Latents [K, C, h, w] of any sizes, one after the other -> [K, D]
        """
        found = [
            torch.cat([flat.mean(dim=2), flat.std(dim=2), flat.amax(dim=2)], dim=1)
            for flat in (one.flatten(2) for one in self.maps(latents))
        ]
        return torch.cat(found).numpy().astype(np.float64)

    def maps(self, latents: Tensor) -> Iterator[Tensor]:
        """These features at every place, a batch after the other.  -> float32 [B, D, h, w] on the CPU"""
        up = self.task.parts.unet.up
        layer, kept = up[-2] if len(up) > 1 else up[-1], []

        def keep(module: object, args: object, output: Tensor) -> None:
            kept.append(output.float())

        handle = layer.register_forward_hook(keep)
        schedule = self.task.objective.schedule
        time = int(FEATURE_SHARE * schedule.num_timesteps)
        try:
            for first in range(0, len(latents), self.rows):
                some = latents[first : first + self.rows].to(self.task.device)
                total: Tensor | None = None
                for number in range(FEATURE_NOISES):
                    eps = torch.randn(1, *some.shape[1:], generator=generator_for(SEED, 4, number)).expand_as(some)
                    self.outputs(some, eps.to(some), time, [""] * len(some))
                    new = kept.pop()
                    total = new if total is None else total + new
                assert total is not None
                yield (total / FEATURE_NOISES).cpu()
        finally:
            handle.remove()

    def outputs(
        self, latents: Tensor, eps: Tensor, time: int, captions: Captions, hint: Tensor | None = None
    ) -> Tensor:
        """What the network says of pictures with noise eps at a timestep.  [B, C, h, w] -> the same, float32"""
        times = torch.full((len(latents),), time)
        z = self.task.objective.noisy(latents, eps, times)
        return self.task.answers(captions, self.sizes_of(latents), z, times, hint).float()

    def fits(self, latents: Sequence[Tensor]) -> list[float]:
        """Of each picture [C, h, w]: the share of other prompts that it fits less well than its own."""
        texts = [one.judged for one in self.prompts.yours]
        count, found = len(texts), []
        for place in range(count):
            others = [texts[(place + 1 + i) % count] for i in range(count - 1)]
            others = [text for text in dict.fromkeys(others) if text != texts[place]][:CONTRASTS]
            if not others:
                return []
            rows = [texts[place], *others]
            errors = np.zeros(len(rows))
            one = latents[place][None].to(self.task.device)
            for share in JUDGED_SHARES:
                time = int(share * self.task.objective.schedule.num_timesteps)
                eps = torch.randn(one.shape, generator=generator_for(SEED, 5, place, time)).to(one)
                for first in range(0, len(rows), self.rows):
                    some = rows[first : first + self.rows]
                    both = one.expand(len(some), -1, -1, -1), eps.expand(len(some), -1, -1, -1)
                    output = self.outputs(*both, time, some)
                    times = torch.full((len(some),), time)
                    errors[first : first + len(some)] += self.task.objective.errors(output, *both, times).cpu().numpy()
            found.append(float(np.mean(errors[1:] > errors[0])))
        return found

    def _drift(self, before: "_Before") -> list[float]:
        if not len(before.others):
            return []
        changed = self._other_outputs(before.others)
        apart = [(now - was).square().mean(dim=(1, 2, 3)) for now, was in zip(changed, before.outputs, strict=True)]
        total = torch.stack(apart).sum(dim=0) / before.errors
        return [round(float(value), 6) for value in total]

    def _other_outputs(self, latents: Tensor) -> list[Tensor]:
        """For each timestep, what the network says about pictures of other prompts.  -> [M, C, h, w] each"""
        outputs = []
        for share in JUDGED_SHARES:
            time = int(share * self.task.objective.schedule.num_timesteps)
            parts = []
            for first in range(0, len(latents), self.rows):
                some = latents[first : first + self.rows]
                captions = list(self.prompts.others[first : first + self.rows])
                parts.append(self.outputs(some, self._other_noise(some, first, time), time, captions))
            outputs.append(torch.cat(parts))
        return outputs

    def _other_noise(self, latents: Tensor, first: int, time: int) -> Tensor:
        drawn = [
            torch.randn(latents.shape[1:], generator=generator_for(SEED, 6, first + i, time))
            for i in range(len(latents))
        ]
        return torch.stack(drawn).to(latents)

    # ---- the check of a file -----------------------------------------------------------------------------------------

    @torch.no_grad()
    def check(
        self, count: int, on_picture: Callable[[int, int], None] = lambda done, of: None
    ) -> tuple[Copying, list[Image.Image]]:
        """Draw `count` pictures with the networks as they are, and look for copies among them."""
        pictures: list[Image.Image] = []
        while len(pictures) < count:
            some = [(len(pictures) + i) % len(self.prompts.yours) for i in range(min(self.rows, count - len(pictures)))]
            pictures += self.decode(self.draw_yours(some, 10 * SEED + len(pictures)))
            on_picture(len(pictures), count)
        return self.looks_for_copies(pictures), pictures


class _Before:
    """What the model was before the training: its features, the direction to the user's pictures, its predictions."""

    def __init__(self, measurer: Measurer) -> None:
        task, prompts = measurer.task, measurer.prompts
        own = measurer.own[:: max(len(measurer.own) // MAX_TRAINED, 1)][:MAX_TRAINED]
        yours = np.concatenate([measurer.features(task.latents[place, False].mean[None]) for place in own])
        texts = [one.text for one in prompts.yours]
        self.anchors = measurer.draw_yours(range(len(texts)), SEED)
        self.others = measurer.draw(prompts.others, SEED)
        others = [measurer.features(self.others)] if len(self.others) else []
        spare = np.concatenate([measurer.features(measurer.draw(texts, SPARE)), *others])
        self.direction = Direction(spare, yours)
        self.zero = float(np.mean(self.direction(measurer.features(torch.stack(self.anchors)))))
        left_out = [
            Direction(spare, np.delete(yours, place, axis=0))(yours[place][None])[0] for place in range(len(yours))
        ]
        self.one = float(np.mean(left_out)) if len(yours) > 1 else float(np.mean(self.direction(yours)))
        self.own = [self._scaled(value) for value in left_out]
        self.outputs = measurer._other_outputs(self.others) if len(self.others) else []
        errors = [torch.zeros(len(self.others), device=task.device)]
        for share, output in zip(JUDGED_SHARES, self.outputs, strict=False):
            time = int(share * task.objective.schedule.num_timesteps)
            eps = measurer._other_noise(self.others, 0, time)
            times = torch.full((len(self.others),), time)
            errors.append(task.objective.errors(output, self.others, eps, times))
        self.errors = torch.stack(errors).sum(dim=0).clamp(min=1e-12)

    def likeness(self, features: np.ndarray) -> list[float]:
        """0 as the model drew before, 1 as the user's pictures."""
        return [self._scaled(value) for value in self.direction(features)]

    def _scaled(self, value: float) -> float:
        span = self.one - self.zero
        return round(float((value - self.zero) / span), 4) if span > 1e-9 else 0.0


class Direction:
    """Fisher's linear discriminant from one group of features [N, D] to another, shrunk, in the space they span."""

    def __init__(self, base: np.ndarray, yours: np.ndarray) -> None:
        both = np.concatenate([base, yours])
        self.middle = both.mean(axis=0)
        self.scale = both.std(axis=0) + 1e-6
        centred = (both - self.middle) / self.scale
        _, sizes, rows = np.linalg.svd(centred, full_matrices=False)
        self.basis = rows[sizes > 1e-8 * max(float(sizes[0]), 1e-12)]
        ours, theirs = (self._inside(some) for some in (base, yours))
        within = np.concatenate([ours - ours.mean(axis=0), theirs - theirs.mean(axis=0)])
        covariance = within.T @ within / max(len(within) - 2, 1)
        sphere = np.eye(len(covariance)) * (np.trace(covariance) / max(len(covariance), 1) + 1e-9)
        gap = theirs.mean(axis=0) - ours.mean(axis=0)
        self.weights = np.linalg.solve((1 - SHRINKAGE) * covariance + SHRINKAGE * sphere, gap)

    def _inside(self, features: np.ndarray) -> np.ndarray:
        return ((features - self.middle) / self.scale) @ self.basis.T

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """[N, D] -> [N]"""
        return self._inside(features) @ self.weights


def copied(modules: Mapping[str, nn.Module]) -> dict[str, dict[str, Tensor]]:
    """The weights of modules, on the CPU: a whole model need not fit onto the card twice."""
    return {
        name: {key: value.detach().to("cpu", copy=True) for key, value in module.state_dict().items()}
        for name, module in modules.items()
    }


def thumbnail(one: Found) -> Image.Image:
    """A training picture in its bucket, at most 128 pixels a side."""
    image, _ = read_example(one.example, use_mask=False)
    placed = framed(image, one.framing, flip=False)
    placed.thumbnail((THUMB // 2, THUMB // 2))
    return placed


def save_pictures(folder: Path, pictures: Sequence[Image.Image]) -> None:
    """Write small copies as FOLDER/00.png, 01.png, ..."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, picture in enumerate(pictures):
        small = picture.copy()
        small.thumbnail((THUMB, THUMB))
        with atomic_file(folder / f"{number:02}.png") as file:
            small.save(file, "PNG")


def write_row(path: Path, row: Mapping[str, Any]) -> None:
    """Add a row to a log of JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
