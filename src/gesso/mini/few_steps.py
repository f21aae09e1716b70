"""A few-step LoRA for the default model: a student that draws in four steps without guidance what its teacher, the
model itself, draws with guidance in many.

The student learns the teacher's trajectories of the probability flow ODE (Luhman & Luhman 2021, arXiv:2101.02388) at
the few noise levels that it will be called at: from the state at one of them, the first-order step to the next shall
end where the teacher ends in several steps of its own (progressive distillation's target: Salimans & Ho 2022,
arXiv:2202.00512, equation 9; guidance is learned as in Meng et al. 2022, arXiv:2210.03142). A share of the states are
ones that the student itself went to, so that it learns to go on from its own errors (DAgger: Ross et al. 2011,
arXiv:1011.0686). No picture is needed, captions are enough.

Shapes: B batch, C h w of the latents, L tokens of D numbers.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from gesso.adapters.names import Target
from gesso.diffusion.denoiser import Denoiser, per_row, scale_input, target
from gesso.diffusion.guidance import GuidedNetwork
from gesso.diffusion.samplers.dpmpp import dpmpp_2m
from gesso.diffusion.samplers.running import sample
from gesso.diffusion.spacing import sgm_uniform
from gesso.families.base import Family
from gesso.mini.pictures import scenes_of
from gesso.mini.pools import Captions
from gesso.mini.recipes import FULL_MIX, Mix
from gesso.mini.trained_model import OnLog, TrainedModel
from gesso.models.clip import CLIPTextModel
from gesso.models.unet import UNet
from gesso.scenes.scene import SceneSampler
from gesso.training.loop import Plan, fit, load_average, state_facts
from gesso.training.precision import TrainingPrecision
from gesso.training.task import Enter, Figures, generator_for
from gesso.tuning.factors import LoraFactors
from gesso.tuning.lora_file import save_lora

EMPTY_SHARE = 0.02  # captions left out
TEACH_BATCH = 64  # trajectories at a time
REPORT_KEY = 10**9


@dataclass(frozen=True, kw_only=True)
class FewStepRecipe:
    """Everything that defines a training of a few-step LoRA.

    steps       of the student, at the noise levels of `sgm_uniform`; it is drawn with `euler` and without guidance
    substeps    of the teacher for each of them
    own_share   of the states: the student's own ones
    pool_size   trajectories that are made at a time, each used `passes` times
    """

    steps: int
    substeps: int
    own_share: float
    rank: int
    plan: Plan
    pool_size: int
    passes: int
    precision: TrainingPrecision | Literal["auto"] = "auto"
    report_prompts: int = 64


CPU_FEW_STEPS = FewStepRecipe(
    steps=4,
    substeps=2,
    own_share=0.5,
    rank=16,
    plan=Plan(
        batch_size=12,
        total_samples=36_000,
        learning_rate=2e-3,
        warmup_samples=1_000,
        decay_share=0.5,
        ema_decay=0.995,
    ),
    pool_size=128,
    passes=3,
)


@dataclass(frozen=True)
class Text:
    """What the text transformer says of captions: tokens [B, L, D] and pooled vectors [B, D]."""

    tokens: Tensor
    pooled: Tensor

    def __getitem__(self, rows: Tensor | slice) -> "Text":
        return Text(self.tokens[rows], self.pooled[rows])

    @staticmethod
    def joined(first: "Text", second: "Text") -> "Text":
        return Text(torch.cat([first.tokens, second.tokens]), torch.cat([first.pooled, second.pooled]))


@dataclass(frozen=True)
class Lessons:
    """States z [S, B, C, h, w] at each of S noise levels, what the student should answer there, and the captions."""

    z: Tensor
    answers: Tensor
    text: Text


class Snapshot(nn.Module):
    """The factors as they were when the lessons in use were made: a run that goes on makes the same ones again."""

    def __init__(self, factors: LoraFactors) -> None:
        super().__init__()
        self.names = {name.replace(".", "/"): name for name in factors.state_dict()}
        for key, name in self.names.items():
            self.register_buffer(key, factors.state_dict()[name].detach().clone())

    @torch.no_grad()
    def take(self, factors: LoraFactors) -> None:
        state = factors.state_dict()
        for key, name in self.names.items():
            self.get_buffer(key).copy_(state[name])

    def state(self) -> dict[str, Tensor]:
        return {name: self.get_buffer(key) for key, name in self.names.items()}


class FewStepTask:
    """The squared error of the student's output for the step that its teacher takes in several."""

    def __init__(
        self,
        unet: UNet,
        text: CLIPTextModel,
        sampler: SceneSampler,
        captions: Captions,
        family: Family,
        recipe: FewStepRecipe,
    ) -> None:
        self.unet, self.text, self.sampler, self.captions = unet, text, sampler, captions
        self.family, self.recipe = family, recipe
        self.schedule = family.schedule.build()
        side = family.native_size // family.vae.downscale
        self.shape = (family.vae.latent_channels, side, side)
        self.precision: Enter = nullcontext
        unet.requires_grad_(False)
        text.requires_grad_(False)
        self.factors = LoraFactors({"unet": unet}, recipe.rank)
        self.snapshot = Snapshot(self.factors)
        self.modules: Mapping[str, nn.Module] = {"factors": self.factors, "snapshot": self.snapshot}
        self.levels = sgm_uniform(self.schedule, recipe.steps)  # falling to 0, one more than there are steps
        self.fine = sgm_uniform(self.schedule, recipe.steps * recipe.substeps)
        self._lessons: tuple[tuple[int, int], Lessons] | None = None

    def parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        return [{"params": list(self.factors.parameters()), "lr": learning_rate}]

    def networks(self) -> list[nn.Module]:
        return [self.unet, self.text]

    def loss(self, step: int, batch_size: int, seed: int) -> tuple[Tensor, Figures]:
        recipe = self.recipe
        per_pass = recipe.pool_size * recipe.steps // batch_size
        segment, within = divmod(step, per_pass * recipe.passes)
        if self._lessons is None or self._lessons[0] != (seed, segment):
            if within == 0:
                self.snapshot.take(self.factors)
            self._lessons = ((seed, segment), self._make(segment, seed))
        number, place = divmod(within, per_pass)
        order = np.random.default_rng((seed, segment, number, 1)).permutation(recipe.pool_size * recipe.steps)
        chosen = torch.from_numpy(order[place * batch_size : (place + 1) * batch_size])
        losses = self.errors(self._lessons[1], chosen)
        return losses.mean(), {"loss": losses.detach().mean()}

    def errors(self, lessons: Lessons, chosen: Tensor) -> Tensor:
        """Of the states with these numbers among all S B of them.  -> [number of them]"""
        stages, rows = chosen // len(lessons.text.pooled), chosen % len(lessons.text.pooled)
        z = lessons.z[stages, rows].contiguous(memory_format=torch.channels_last)
        times = self.schedule.timestep_of(self.levels[stages])
        text = lessons.text[rows]
        with self.precision():
            said = self.unet(z, times.float(), text.tokens, text.pooled)
        return (said.float() - lessons.answers[stages, rows]).square().mean(dim=(1, 2, 3))

    # ---- what is taught ----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _make(self, segment: int, seed: int) -> Lessons:
        """The lessons of a segment, with the factors of the snapshot."""
        now = {name: value.clone() for name, value in self.factors.state_dict().items()}
        self.factors.load_state_dict(self.snapshot.state())
        try:
            rng = np.random.default_rng((seed, segment, 2))
            scenes = scenes_of(self.sampler, self.recipe.pool_size, seed, segment, 3)
            ids = self.captions.ids(scenes, rng, EMPTY_SHARE)
            own = torch.from_numpy(rng.random(len(scenes)) < self.recipe.own_share)
            noise = torch.randn((len(scenes), *self.shape), generator=generator_for(seed, segment, 4))
            parts = [slice(i, i + TEACH_BATCH) for i in range(0, len(scenes), TEACH_BATCH)]
            lessons = [self.teach(self.encode(ids[part]), noise[part], own[part]) for part in parts]
        finally:
            self.factors.load_state_dict(now)
        tokens, pooled = (torch.cat([getattr(one.text, name) for one in lessons]) for name in ("tokens", "pooled"))
        z, answers = (torch.cat([getattr(one, name) for one in lessons], dim=1) for name in ("z", "answers"))
        return Lessons(z, answers, Text(tokens, pooled))

    @torch.no_grad()
    def encode(self, ids: Tensor) -> Text:
        encoding = self.text(ids)
        assert encoding.pooled is not None
        return Text(encoding.last.float(), encoding.pooled.float())

    @torch.no_grad()
    def teach(self, text: Text, noise: Tensor, own: Tensor) -> Lessons:
        """A trajectory for each row of noise of deviation 1.  own: [B] of bool, rows that the student takes itself."""
        recipe, guide, student = self.recipe, self.teacher(text), self.student(text)
        x = noise * float(self.levels[0])
        states, answers = [], []
        for i in range(recipe.steps):
            a, b = self.levels[i], self.levels[i + 1]
            path = self.fine[i * recipe.substeps : (i + 1) * recipe.substeps + 1]
            with self.factors.off():
                end = sample(dpmpp_2m, guide, x, path)
            # The x0 from which a first-order step of the student ends there.
            share = float(b / a)
            x0 = (end - x * share) / (1 - share)
            states.append(scale_input(x, a))
            answers.append(target(self.family.prediction, x0, (x - x0) / float(a), a))
            if own.any() and i + 1 < recipe.steps:
                rows = per_row(own, x).bool()
                end = torch.where(rows, self.step(student, x, i), end)
            x = end
        return Lessons(torch.stack(states), torch.stack(answers), text)

    def step(self, student: Denoiser, x: Tensor, i: int) -> Tensor:
        """One step of the student, number i, as `euler` takes it."""
        a, b = self.levels[i], self.levels[i + 1]
        x0 = student(x, a)
        return x0 + (x - x0) * float(b / a)

    @torch.no_grad()
    def draw(self, text: Text, noise: Tensor) -> Tensor:
        """The student's pictures.  noise [B, C, h, w] of deviation 1 -> latents"""
        x, student = noise * float(self.levels[0]), self.student(text)
        for i in range(self.recipe.steps):
            x = self.step(student, x, i)
        return x

    @torch.no_grad()
    def draw_as_teacher(self, text: Text, noise: Tensor, num_steps: int) -> Tensor:
        """The teacher's, in so many steps of its own."""
        sigmas = sgm_uniform(self.schedule, num_steps)
        with self.factors.off():
            return sample(dpmpp_2m, self.teacher(text), noise * float(sigmas[0]), sigmas)

    def student(self, text: Text) -> Denoiser:
        return self._denoiser(lambda z, t: self._network(z, t, text))

    def teacher(self, text: Text) -> Denoiser:
        empty = self.encode(self.captions.tokenizer.encode([""]))
        none = Text(empty.tokens.expand_as(text.tokens), empty.pooled.expand_as(text.pooled))
        scale = self.family.defaults.guidance_scale
        return self._denoiser(GuidedNetwork(self._network, text, none, scale, Text.joined))

    def _network(self, z: Tensor, times: Tensor, text: Text) -> Tensor:
        with self.precision():
            z = z.contiguous(memory_format=torch.channels_last)
            output: Tensor = self.unet(z, times, text.tokens, text.pooled)
        return output.float()

    def _denoiser(self, network: Any) -> Denoiser:
        return Denoiser(network, self.schedule, self.family.prediction)

    def report(self, modules: Mapping[str, nn.Module]) -> dict[str, float]:
        """How far the student's latents are from the teacher's, as a share of their power; and the teacher's own in as
        many steps, whose calls cost twice as much."""
        text, noise, aim, teacher = self._aim
        return {"gap_student": _gap(self.draw(text, noise), aim), "gap_teacher": teacher}

    @cached_property
    def _aim(self) -> tuple[Text, Tensor, Tensor, float]:
        """Captions, noise, what the teacher draws of them, and its gap in few steps."""
        count = self.recipe.report_prompts
        scenes = scenes_of(self.sampler, count, REPORT_KEY)
        text = self.encode(self.captions.ids(scenes, np.random.default_rng(REPORT_KEY)))
        noise = torch.randn((count, *self.shape), generator=generator_for(REPORT_KEY))
        aim = self.draw_as_teacher(text, noise, self.family.defaults.num_steps)
        return text, noise, aim, _gap(self.draw_as_teacher(text, noise, self.recipe.steps), aim)


def _gap(latents: Tensor, aim: Tensor) -> float:
    return float((latents - aim).square().mean() / aim.square().mean())


class FewSteps:
    """One training of a few-step LoRA in one folder."""

    def __init__(
        self, base: TrainedModel, folder: Path, recipe: FewStepRecipe = CPU_FEW_STEPS, mix: Mix = FULL_MIX
    ) -> None:
        self.base, self.folder, self.recipe = base, folder, recipe
        self.sampler = SceneSampler(base.objects, mix)

    def task(self) -> FewStepTask:
        base = self.base
        return FewStepTask(base.unet(), base.text(), self.sampler, base.captions, base.family, self.recipe)

    def train(self, *, stop_after: float = float("inf"), on_log: OnLog) -> bool:
        """Train, or go on, for stop_after seconds at most. -> whether it is at its end"""
        torch.manual_seed(0)  # start values only; a checkpoint replaces them
        fit(
            self.task(),
            self.recipe.plan,
            self.folder,
            precision=self.recipe.precision,
            stop_after=stop_after,
            what=f"{self.recipe.steps} steps",
            on_log=on_log,
        )
        return bool(state_facts(self.folder / "last.pt")["samples"] >= self.recipe.plan.total_samples)

    def export(self, path: Path, about: Mapping[str, str]) -> None:
        """Write the averaged factors. about: as in `save_lora`."""
        unet = self.base.unet()
        factors = LoraFactors({"unet": unet}, self.recipe.rank)
        factors.load_state_dict(load_average(self.folder)["factors"])
        family = self.base.family
        save_lora(path, factors.changes(), Target(family.name, family.layout, {"unet": unet}), about, base=family.name)
