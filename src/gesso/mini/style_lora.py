"""A style LoRA for the default model: trained on composed pictures in one of the styles of `scenes.styles`.

Two stages. The encoder first learns which latents the decoder, which stays as it is, draws the style from best; then
the factors learn to make those latents out of the captions of the default model's own training. No word is added: the
style is there when the LoRA is on.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from gesso.adapters.names import Target
from gesso.errors import GessoError
from gesso.mini.encoding import EncoderTask
from gesso.mini.lora import LoraTask
from gesso.mini.pictures import Pictures
from gesso.mini.pools import LatentPool
from gesso.mini.recipes import FULL_MIX, Mix
from gesso.mini.trained_model import OnLog, TrainedModel
from gesso.models.vae import AutoencoderKL
from gesso.scenes.scene import SceneSampler
from gesso.scenes.styles import STYLES, StyledRenderer
from gesso.training.loop import Plan, fit, load_average, state_facts
from gesso.training.precision import TrainingPrecision
from gesso.training.task import Task
from gesso.tuning.factors import LoraFactors
from gesso.tuning.lora_file import save_lora

STYLE_MIX: Mix = {category: share for category, share in FULL_MIX.items() if category != "style"}


@dataclass(frozen=True, kw_only=True)
class LoraRecipe:
    """Everything that defines a training of a style LoRA."""

    rank: int
    encoding: Plan
    denoising: Plan
    pool_size: int
    pool_passes: int
    decoder_noise: float  # in the encoder's training, as in the autoencoder's
    kl_weight: float
    precision: TrainingPrecision | Literal["auto"] = "auto"
    report_pictures: int = 96


CPU_LORA = LoraRecipe(
    rank=8,
    encoding=Plan(
        batch_size=16,
        total_samples=2_000,
        learning_rate=5e-4,
        warmup_samples=500,
        decay_share=0.4,
        ema_decay=0.99,
    ),
    denoising=Plan(
        batch_size=16,
        total_samples=40_000,
        learning_rate=2e-3,
        warmup_samples=1_000,
        decay_share=0.5,
        ema_decay=0.998,
    ),
    pool_size=2048,
    pool_passes=4,
    decoder_noise=0.1,
    kl_weight=0.01,
)


class StyleLora:
    """One training of a style in one folder, which holds a folder a stage.

    Raises GessoError for a style that is none of STYLES.
    """

    def __init__(self, base: TrainedModel, style: str, folder: Path, recipe: LoraRecipe = CPU_LORA) -> None:
        if style not in STYLES:
            raise GessoError(f"{style[:40]}: expected one of {', '.join(STYLES)}", code="unknown_name")
        self.base, self.style, self.folder, self.recipe = base, style, folder, recipe
        sampler = SceneSampler(base.objects, STYLE_MIX)
        self.pictures = Pictures(sampler, StyledRenderer(base.glyphs, style), base.family.native_size)

    def train(self, *, stop_after: float = float("inf"), on_log: OnLog) -> bool:
        """Run both stages, or go on with them, for stop_after seconds each at most. -> whether both are at their end"""
        torch.manual_seed(0)  # start values only; a checkpoint replaces them
        return self._fit("encoding", self._encoding(), stop_after, on_log) and self._fit(
            "denoising", self._denoising(), stop_after, on_log
        )

    def export(self, path: Path, about: Mapping[str, str]) -> None:
        """Write the averaged factors. about: as in `save_lora`."""
        unet = self.base.unet()
        factors = LoraFactors({"unet": unet}, self.recipe.rank)
        factors.load_state_dict(load_average(self.folder / "denoising")["factors"])
        family = self.base.family
        save_lora(path, factors.changes(), Target(family.name, family.layout, {"unet": unet}), about, base=family.name)

    def _encoding(self) -> EncoderTask:
        recipe = self.recipe
        return EncoderTask(
            self.base.vae().requires_grad_(True),
            self.pictures,
            kl_weight=recipe.kl_weight,
            decoder_noise=recipe.decoder_noise,
            report_pictures=recipe.report_pictures,
        )

    def _denoising(self) -> LoraTask:
        recipe, family = self.recipe, self.base.family
        return LoraTask(
            self.base.unet(),
            self.base.text(),
            LatentPool(
                self._vae(),
                self.base.captions,
                [(0, self.pictures)],
                size=recipe.pool_size,
                passes=recipe.pool_passes,
            ),
            family.schedule.build(),
            family.prediction,
            rank=recipe.rank,
            report_pictures=recipe.report_pictures,
        )

    def _vae(self) -> AutoencoderKL:
        """The base model's, with the encoder that looks for the style."""
        vae = self.base.vae()
        for name, weights in load_average(self.folder / "encoding").items():
            vae.get_submodule(name).load_state_dict(weights)
        return vae.requires_grad_(False)

    def _fit(self, stage: str, task: Task, stop_after: float, on_log: OnLog) -> bool:
        plan: Plan = getattr(self.recipe, stage)
        folder = self.folder / stage
        fit(
            task,
            plan,
            folder,
            precision=self.recipe.precision,
            stop_after=stop_after,
            what=f"the style {self.style}",
            on_log=on_log,
        )
        return bool(state_facts(folder / "last.pt")["samples"] >= plan.total_samples)
