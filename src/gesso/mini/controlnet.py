"""Training of a ControlNet on the edges of composed pictures (Zhang et al. 2023, arXiv:2302.05543).

The UNet stays as it is. Half of the captions are left out, so that the picture must say what the words do not
(section 3.4 there).
"""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from gesso.diffusion.denoiser import Prediction
from gesso.diffusion.schedule import NoiseSchedule
from gesso.families.native_control import save_control
from gesso.hints.registry import preprocess
from gesso.mini.denoising import DenoisingTask
from gesso.mini.pictures import Pictures
from gesso.mini.pools import LatentPool
from gesso.mini.recipes import FULL_MIX, Mix
from gesso.mini.trained_model import OnLog, TrainedModel
from gesso.models.clip import CLIPTextModel
from gesso.models.controlnet import ControlNet, ControlNetConfig
from gesso.models.unet import UNet
from gesso.scenes.render import Renderer
from gesso.scenes.scene import Scene, SceneSampler, moved
from gesso.training.loop import Plan, fit, load_average, state_facts
from gesso.training.precision import TrainingPrecision
from gesso.training.task import Enter, Figures, generator_for

EMPTY_SHARE = 0.5  # captions left out
SHARE_MOVED = 0.5
CONTROL_MIX: Mix = {category: share for category, share in FULL_MIX.items() if category != "size"}  # "large" moves
HINTS = {"canny": 0.85, "softedge": 0.15}  # share of each preprocessor


class MovingSampler(SceneSampler):
    """Scenes of which half stand somewhere else and at another size than the model would draw them.

    Where objects stand to each other stays, so captions stay true.
    """

    def __call__(self, rng: np.random.Generator) -> Scene:
        scene = super().__call__(rng)
        return moved(scene, rng) if rng.random() < SHARE_MOVED else scene


class EdgeHints:
    """Scenes to edge pictures of `size` points a side, as the user's preprocessors make them."""

    def __init__(self, renderer: Renderer, size: int) -> None:
        self.renderer, self.size = renderer, size

    def __call__(self, scenes: list[Scene], rng: np.random.Generator) -> Tensor:
        """-> float32 [B, 3, size, size] in [0, 1]; which preprocessor makes each is drawn from rng"""
        names = rng.choice(list(HINTS), p=list(HINTS.values()), size=len(scenes))
        drawn = [
            np.asarray(preprocess(str(name), Image.fromarray(self.renderer(scene, self.size))))
            for name, scene in zip(names, scenes, strict=True)
        ]
        return torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2).float().div_(255)


class ControlTask(DenoisingTask):
    """The base model's own training with everything frozen but a ControlNet beside it."""

    def __init__(
        self,
        control: ControlNet,
        hints: EdgeHints,
        unet: UNet,
        text: CLIPTextModel,
        pool: LatentPool,
        schedule: NoiseSchedule,
        prediction: Prediction,
        *,
        report_pictures: int = 96,
    ) -> None:
        super().__init__(unet, text, pool, schedule, prediction, report_pictures=report_pictures)
        unet.requires_grad_(False)
        text.requires_grad_(False)
        self.control, self.hints, self.latents = control, hints, pool
        self.precision: Enter = nullcontext
        self.modules: Mapping[str, nn.Module] = {"control": control}

    def parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        return [{"params": list(self.control.parameters()), "lr": learning_rate}]

    def networks(self) -> list[nn.Module]:
        return [self.control, self.unet, self.text, self.latents.vae.encoder]

    def loss(self, step: int, batch_size: int, seed: int) -> tuple[Tensor, Figures]:
        with self.precision():
            scenes, latents = self.latents.scenes_and_latents(step, batch_size, seed)
        rng = np.random.default_rng((seed, step, 3))
        ids = self.latents.captions.ids(scenes, rng, EMPTY_SHARE)
        times, eps = self.draw(latents, step, seed)
        losses = self.steered(latents, eps, times, ids, self.hints(scenes, rng))
        return losses.mean(), {"loss": losses.detach().mean()}

    def steered(self, latents: Tensor, eps: Tensor, times: Tensor, ids: Tensor, hint: Tensor) -> Tensor:
        """As `errors`, with the ControlNet looking at hint [B, 3, h, w]."""

        def predict(x: Tensor) -> Tensor:
            encoding = self.text(ids)
            control = self.control(x, times, encoding.last, hint, encoding.pooled)
            output: Tensor = self.unet(x, times, encoding.last, encoding.pooled, control=control)
            return output

        return self.gaps(latents, eps, times, predict)

    def report(self, modules: Mapping[str, nn.Module]) -> dict[str, float]:
        """Loss without words at high noise: with the right hint, with another picture's, with none."""
        pictures, captions = self.latents.phases[-1][1], self.latents.captions
        rng = np.random.default_rng(10**9)
        scenes = pictures.scenes(self.report_pictures, 10**9)
        latents = self.latents.vae.encode(pictures.pixels(scenes)).mean
        ids, hint = captions.ids(scenes, rng, 1.0), self.hints(scenes, rng)
        figures = {}
        for time in (999, 800, 600):
            eps = torch.randn(latents.shape, generator=generator_for(10**9, time))
            rows = torch.full((len(scenes),), time)
            for label, shown_hint in (("right", hint), ("swapped", hint.roll(1, dims=0))):
                figures[f"{label}_{time}"] = float(self.steered(latents, eps, rows, ids, shown_hint).mean())
            figures[f"none_{time}"] = float(self.errors(latents, eps, rows, ids).mean())
        return figures


@dataclass(frozen=True, kw_only=True)
class ControlRecipe:
    """Everything that defines a training of a ControlNet."""

    hint_channels: tuple[int, ...]
    hint_patch: int
    plan: Plan
    pool_size: int
    pool_passes: int
    precision: TrainingPrecision | Literal["auto"] = "auto"
    report_pictures: int = 96


# The picture is four times the size of what the UNet draws: 4 x 4 points are folded into channels, no line is lost.
CPU_CONTROL = ControlRecipe(
    hint_channels=(16, 32, 64),
    hint_patch=4,
    plan=Plan(
        batch_size=16,
        total_samples=24_000,
        learning_rate=5e-4,
        warmup_samples=1_000,
        decay_share=0.4,
        ema_decay=0.998,
    ),
    pool_size=2048,
    pool_passes=4,
)


class EdgeControl:
    """One training of a ControlNet for edges in one folder."""

    def __init__(self, base: TrainedModel, folder: Path, recipe: ControlRecipe = CPU_CONTROL) -> None:
        self.base, self.folder, self.recipe = base, folder, recipe
        unet = replace(base.family.unet, draft_size=None)
        config = ControlNetConfig(unet=unet, hint_channels=recipe.hint_channels, hint_patch=recipe.hint_patch)
        torch.manual_seed(0)  # start values only; a checkpoint replaces them
        self.control = ControlNet(config)

    def train(self, *, stop_after: float = float("inf"), on_log: OnLog) -> bool:
        """Train, or go on, for stop_after seconds at most. -> whether the training is at its end"""
        recipe = self.recipe
        fit(self._task(), recipe.plan, self.folder, precision=recipe.precision, stop_after=stop_after, on_log=on_log)
        return bool(state_facts(self.folder / "last.pt")["samples"] >= recipe.plan.total_samples)

    def export(self, path: Path, about: Mapping[str, str]) -> None:
        """Write the averaged weights. about: as in `save_control`."""
        self.control.load_state_dict(load_average(self.folder)["control"])
        save_control(path, self.control, self.base.family.name, "canny", about)

    def _task(self) -> ControlTask:
        base, recipe, family = self.base, self.recipe, self.base.family
        renderer = Renderer(base.glyphs)
        unet = base.unet()
        self.control.initialise_from(unet)
        self.control.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        pictures = Pictures(MovingSampler(base.objects, CONTROL_MIX), renderer, family.native_size)
        return ControlTask(
            self.control,
            EdgeHints(renderer, family.native_size // family.vae.downscale * self.control.config.downscale),
            unet,
            base.text(),
            LatentPool(base.vae(), base.captions, [(0, pictures)], size=recipe.pool_size, passes=recipe.pool_passes),
            family.schedule.build(),
            family.prediction,
            report_pictures=recipe.report_pictures,
        )
