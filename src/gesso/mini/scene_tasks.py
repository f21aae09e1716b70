"""The trainings of the default model on composed scenes: its autoencoder, then its text transformer and UNet."""

from collections.abc import Mapping
from dataclasses import replace
from random import Random
from typing import Any

import torch
from torch import Tensor, nn

from gesso.diffusion.denoiser import Prediction
from gesso.diffusion.schedule import NoiseSchedule
from gesso.mini.autoencoder import AutoencoderTask, psnr
from gesso.mini.denoising import DenoisingTask
from gesso.mini.scene_pool import ScenePictures, ScenePool
from gesso.models.clip import CLIPTextModel
from gesso.models.unet import UNet
from gesso.models.vae import AutoencoderKL
from gesso.text.lexicon import Lexicon
from gesso.training.loop import eager
from gesso.training.muon import split_groups
from gesso.training.task import Figures, generator_for


def steepness(pixels: Tensor) -> float:
    """How steep edges are: the mean of the steepest 2 % of horizontal slopes, in levels of 255 a pixel.

    pixels [B, 3, H, W] in [-1, 1]
    """
    slopes = pixels.float().clamp(-1, 1).diff(dim=-1).abs().amax(dim=1).flatten(1) * 127.5
    return float(slopes.topk(max(1, slopes.shape[1] // 50), dim=1).values.mean())


class SceneAutoencoderTask(AutoencoderTask):
    """`AutoencoderTask` on scenes, by Muon."""

    def __init__(
        self,
        vae: AutoencoderKL,
        pictures: ScenePictures,
        *,
        kl_weight: float,
        decoder_noise: float,
        report_pictures: int,
    ) -> None:
        super().__init__(
            vae,
            pictures,  # type: ignore[arg-type]
            kl_weight=kl_weight,
            decoder_noise=decoder_noise,
            report_pictures=report_pictures,
        )
        self.shown = pictures

    def parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        vae = self.vae
        ends = [vae.encoder.conv_in, vae.encoder.conv_out, vae.decoder.conv_in, vae.decoder.conv_out]
        return split_groups(vae, learning_rate, [*ends, vae.quant_conv, vae.post_quant_conv])

    def loss(self, step: int, batch_size: int, seed: int) -> tuple[Tensor, Figures]:
        return self.loss_of(self.shown.batch(step, batch_size, seed)[1], step, seed)

    def report(self, modules: Mapping[str, nn.Module]) -> dict[str, float]:
        """PSNR in dB and steepness of edges beside true ones, on fresh pictures."""
        pixels = self.shown.pixels(self.shown.scenes(self.report_pictures, 10**9))
        latents = torch.cat([self.vae.encode(part).mean for part in pixels.split(32)])
        decoded = torch.cat([self.vae.decode(part) for part in latents.split(32)])
        return {
            "psnr": psnr(decoded, pixels),
            "steepness": steepness(decoded) / steepness(pixels),
            "latent_std": float(latents.float().std()),
        }


class SceneDenoisingTask(DenoisingTask):
    """`DenoisingTask` on scenes, by Muon. Pictures of other shapes than the first run uncompiled."""

    def __init__(
        self,
        unet: UNet,
        text: CLIPTextModel,
        pool: ScenePool,
        schedule: NoiseSchedule,
        prediction: Prediction,
        *,
        num_things: int,
        report_pictures: int,
        lexicon: Lexicon | None = None,
    ) -> None:
        """lexicon: finds the objects of captions, for a text transformer with an object memory"""
        super().__init__(unet, text, pool, schedule, prediction, report_pictures=report_pictures)  # type: ignore[arg-type]
        self.scenes, self.num_things, self.lexicon = pool, num_things, lexicon
        self._first_shape = [side // pool.vae.config.downscale for side in pool.shapes[0]]

    def parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        """Muon for the UNet's inside; AdamW, at half the rate, for its ends, the pooled text's path and the memory.

        The text transformer keeps AdamW at a quarter: by Muon words came to count later (docs/log.md).
        """
        unet = self.unet
        assert unet.added_embed is not None
        ends_of_it = [unet.conv_in, unet.conv_out, unet.time_embed, unet.added_embed]
        inside, ends = split_groups(unet, learning_rate, ends_of_it)
        memory = list(self.text.memory.parameters()) if self.text.memory else []
        of_memory = {id(one) for one in memory}
        text = {"params": [one for one in self.text.parameters() if id(one) not in of_memory], "muon": False}
        learned = [one for one in memory if one.requires_grad]
        ends = ends | {"params": [*ends["params"], *learned], "lr": learning_rate / 2}
        return [inside, ends, text | {"lr": learning_rate / 2 * self.text_rate}]

    def errors(self, latents: Tensor, eps: Tensor, times: Tensor, ids: Tensor) -> Tensor:
        """As in `DenoisingTask`, with the drawings of the objects behind the text."""
        memory = self.text.memory
        if memory is None or self.lexicon is None:
            return super().errors(latents, eps, times, ids)
        found = self.lexicon.find(ids.cpu().numpy(), memory.config.slots)
        objects, places = (torch.from_numpy(one).to(ids.device) for one in found)

        def predict(x: Tensor) -> Tensor:
            encoding = self.text(ids)
            context = memory(encoding.last, encoding.pooled, objects, places)
            output: Tensor = self.unet(x, times, context, encoding.pooled)
            return output

        return self.gaps(latents, eps, times, predict)

    def loss(self, step: int, batch_size: int, seed: int) -> tuple[Tensor, Figures]:
        with self.precision():
            ids, latents = self.scenes.batch(step, batch_size, seed)
        times, eps = self.draw(latents, step, seed)
        if list(latents.shape[2:]) == self._first_shape:
            losses = self.errors(latents, eps, times, ids)
        else:
            with eager():
                losses = self.errors(latents, eps, times, ids)
        return losses.mean(), {"loss": losses.detach().mean()}

    def report(self, modules: Mapping[str, nn.Module]) -> dict[str, float]:
        """Loss at high noise with the right caption, with its objects swapped for others, and with none."""
        scenes = self.scenes.scenes(self.report_pictures, 10**9)
        latents = self.scenes.latents(scenes)
        swapped = [
            replace(s, items=tuple(replace(i, thing=(i.thing + 7) % self.num_things) for i in s.items)) for s in scenes
        ]
        variants = {"right": (scenes, 0.0), "swapped": (swapped, 0.0), "empty": (scenes, 1.0)}
        figures = {}
        for time in (999, 800, 600):
            generator = generator_for(10**9, time, device=latents.device)
            eps = torch.randn(latents.shape, generator=generator, device=latents.device)
            rows = torch.full((len(scenes),), time, device=latents.device)
            for label, (shown, empty_share) in variants.items():
                ids = torch.from_numpy(self.scenes.captions.ids(shown, Random(0), empty_share)).long()
                figures[f"{label}_{time}"] = float(self.errors(latents, eps, rows, ids.to(latents.device)).mean())
        return figures
