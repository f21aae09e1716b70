"""Trains the default model stage by stage and exports it as one file."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from gesso.checkpoints.native import save_native
from gesso.errors import GessoError
from gesso.families.base import Family
from gesso.families.gesso_mini import config_of
from gesso.mini.autoencoder import AutoencoderTask
from gesso.mini.compositor import Compositor
from gesso.mini.denoising import DenoisingTask, initialise_text, initialise_unet
from gesso.mini.grounding import GroundingTask
from gesso.mini.pictures import Pictures
from gesso.mini.pools import Captions, LatentPool, Pool, PreparedPool
from gesso.mini.recipes import FIRST_MIX, FULL_MIX, LAST_MIX, Mix, ModelRecipe, Stage
from gesso.mini.upscaling import UpscalingTask, initialise_upscaler
from gesso.models.clip import CLIPTextModel
from gesso.models.unet import UNet
from gesso.models.upscaler import MiniUpscaler
from gesso.models.vae import AutoencoderKL
from gesso.scenes.caption import Captioner, all_words
from gesso.scenes.glyphs import render_glyphs
from gesso.scenes.render import Renderer
from gesso.scenes.scene import SceneSampler
from gesso.scenes.vocabulary import Thing
from gesso.text.tokenizer import Tokenizer, learn_vocabulary
from gesso.training.loop import Plan, fit, load_average
from gesso.training.task import Task

M = TypeVar("M", bound=nn.Module)
GROUNDING_PASSES = 16  # a step is so cheap that encoding pictures would be most of it
OnLog = Callable[[dict[str, float]], None]


class DefaultModel:
    """One training of the default model in one folder, with a subfolder per stage.

    glyphs: uint8 [number of objects, 128, 128, 4], or None to draw them from the system's font. Raises GessoError where
    torch does not find the recipe's device.
    """

    def __init__(
        self, recipe: ModelRecipe, folder: Path, objects: tuple[Thing, ...], glyphs: np.ndarray | None = None
    ) -> None:
        self.recipe, self.folder, self.objects = recipe, folder, objects
        self.device = _device(recipe)
        self.tokenizer: Tokenizer = learn_vocabulary(all_words(objects), 4096, length=recipe.text_length)
        self.captions = Captions(Captioner(objects), self.tokenizer)
        self.glyphs = render_glyphs([thing.glyph for thing in objects]) if glyphs is None else glyphs

    @cached_property
    def renderer(self) -> Renderer | Compositor:
        """What draws the pictures."""
        return Compositor(self.glyphs, self.device) if self.recipe.prepared else Renderer(self.glyphs)

    def pictures(self, mix: Mix) -> Pictures:
        """Pictures of a mix of categories that never show what is held out."""
        sampler, recipe = SceneSampler(self.objects, mix), self.recipe
        return Pictures(sampler, self.renderer, recipe.native_size, device=self.device, workers=recipe.workers)

    def train(self, stage: Stage, plan: Plan | None = None, *, stop_after: float, on_log: OnLog) -> None:
        """Run one stage, or go on with it. plan replaces the recipe's. Raises GessoError if an earlier stage lacks."""
        recipe = self.recipe
        torch.manual_seed(0)  # start values only; a checkpoint replaces them
        task: Task
        if stage == "autoencoder":
            task = AutoencoderTask(
                self._place(AutoencoderKL(recipe.vae)),
                self.pictures(FULL_MIX),
                kl_weight=recipe.vae_kl_weight,
                decoder_noise=recipe.vae_decoder_noise,
                **self._report,
            )
        elif stage == "grounding":
            task = self._grounding()
        elif stage == "denoising":
            task = self._denoising()
        else:
            vae = self._trained_vae()
            upscaler = MiniUpscaler(recipe.upscaler)
            initialise_upscaler(upscaler)
            task = UpscalingTask(
                vae,
                self._place(upscaler),
                self.pictures(FULL_MIX),
                decoder_noise=recipe.vae_decoder_noise,
                decoder_smear=recipe.decoder_smear,
                **self._report,
            )
        with fast_convolutions(self.device):
            fit(
                task,
                plan or getattr(recipe, stage),
                self.folder / stage,
                device=self.device,
                precision=recipe.precision,
                compiled=recipe.compile,
                save_every=recipe.save_every,
                report_every=recipe.report_every,
                stop_after=stop_after,
                on_log=on_log,
            )

    def family(self) -> Family:
        """The model as far as its first stage decides it: the scaling factor makes latents of unit deviation."""
        vae = self._autoencoder_average()
        pictures = self.pictures(FULL_MIX)
        with torch.no_grad():
            latents = vae.encode(pictures.pixels(pictures.scenes(self.recipe.scaling_pictures, 10**9))).mean
        return self.recipe.family(self.tokenizer, self.objects, round(1 / float(latents.std()), 5))

    def export(self, path: Path, modelspec: dict[str, str]) -> Family:
        """Write the averaged weights of all stages as one file of half precision."""
        family = self.family()
        denoising, upscaling = self._average("denoising"), self._average("upscaling")
        vae = self._autoencoder_average().state_dict()
        for part in ("decoder", "post_quant_conv"):  # trained further by the last stage
            vae |= {f"{part}.{name}": value for name, value in upscaling[part].items()}
        save_native(
            path,
            {"unet": denoising["unet"], "text": denoising["text"], "vae": vae, "upscaler": upscaling["upscaler"]},
            config_of(family),
            self.tokenizer.to_json(),
            {"resolution": f"{family.output_size}x{family.output_size}", **modelspec},
        )
        return family

    def _grounding(self) -> GroundingTask:
        family, recipe = self.family(), self.recipe
        text, draft = CLIPTextModel(family.text), UNet(family.unet).draft
        initialise_text(text)
        if draft is None:
            raise ValueError("the default model's UNet has a draft; draft_size is None")
        side = family.native_size // family.vae.downscale
        phases = [(0, self.pictures(FULL_MIX))]
        return GroundingTask(
            self._place(text),
            self._place(draft),
            self._pool(self._trained_vae(), phases, size=2 * recipe.pool_size, passes=GROUNDING_PASSES),
            (family.vae.latent_channels, side, side),
            **self._report,
        )

    def _denoising(self) -> DenoisingTask:
        family, recipe = self.family(), self.recipe
        unet, text = UNet(family.unet), CLIPTextModel(family.text)
        initialise_unet(unet)
        grounded = self._average("grounding")
        text.load_state_dict(grounded["text"])
        assert unet.draft is not None
        unet.draft.load_state_dict(grounded["draft"])
        vae = self._trained_vae()
        phases = [
            (recipe.first_samples, self.pictures(FIRST_MIX)),
            (recipe.full_samples, self.pictures(FULL_MIX)),
            (0, self.pictures(LAST_MIX)),
        ]
        pool = self._pool(vae, phases, size=recipe.pool_size, passes=recipe.pool_passes)
        return DenoisingTask(
            self._place(unet),
            self._place(text),
            pool,
            family.schedule.build(),
            family.prediction,
            **self._report,
        )

    def _pool(self, vae: AutoencoderKL, phases: list[tuple[int, Pictures]], *, size: int, passes: int) -> Pool:
        if self.recipe.prepared:
            return PreparedPool(
                vae,
                self.captions,
                phases,
                size=size,
                passes=passes,
                workers=self.recipe.workers,
                device=self.device,
            )
        return LatentPool(vae, self.captions, phases, size=size, passes=passes, device=self.device)

    @property
    def _report(self) -> dict[str, int]:
        count = self.recipe.report_pictures
        return {} if count is None else {"report_pictures": count}

    def _autoencoder_average(self) -> AutoencoderKL:
        vae = AutoencoderKL(self.recipe.vae)
        vae.load_state_dict(self._average("autoencoder")["vae"])
        return self._place(vae).eval()

    def _trained_vae(self) -> AutoencoderKL:
        """The autoencoder with its scaling factor."""
        vae = self._autoencoder_average()
        vae.config = replace(vae.config, scaling_factor=self.family().vae.scaling_factor)
        return vae.requires_grad_(False)

    def _average(self, stage: Stage) -> dict[str, dict[str, torch.Tensor]]:
        return load_average(self.folder / stage)

    def _place(self, module: M) -> M:
        return module.to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _device(recipe: ModelRecipe) -> torch.device:
    device = torch.device(recipe.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise GessoError(
            f"The recipe {recipe.name!r} trains on {recipe.device!r}, and torch {torch.__version__} finds no GPU "
            "here. Install a torch with CUDA, choose another `device`, or use `recipe=cpu`",
            code="device_missing",
            field="device",
        )
    return device


@contextmanager
def fast_convolutions(device: torch.device) -> Iterator[None]:
    """Let cuDNN try its algorithms once for each size; sizes stay the same in a training."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = before or device.type == "cuda"
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
