"""Training of the text transformer and the UNet together, on the latents of composed pictures.

The loss is the squared error of the predicted velocity at a random time. Three choices decide how soon words count
(docs/decisions tells what was measured): token embeddings start at unit variance and the residual branches of the text
transformer small, so that a token's identity survives the encoder; the pooled text joins the time embedding; times
lean to high noise, where the layout of the picture is decided.
"""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gesso.diffusion.denoiser import Prediction, add_noise, scale_input, target
from gesso.diffusion.schedule import NoiseSchedule
from gesso.mini.pools import Pool
from gesso.models.clip import CLIPLayer, CLIPTextModel
from gesso.models.unet import UNet
from gesso.nn.attention import SpatialTransformer
from gesso.nn.resblock import ResBlock
from gesso.training.task import Enter, Figures, generator_for

TIME_BIAS = 0.75  # t = T * u ** 0.75


@torch.no_grad()
def initialise_text(model: CLIPTextModel) -> None:
    """Start values under which a token's identity survives the encoder."""
    nn.init.normal_(model.token_embedding.weight, std=1.0)
    nn.init.normal_(model.position_embedding.weight, std=0.2)
    for layer in model.layers:
        assert isinstance(layer, CLIPLayer)
        layer.attention.to_out.weight.mul_(0.2)
        layer.fc2.weight.mul_(0.2)


@torch.no_grad()
def initialise_unet(model: UNet) -> None:
    """Residual branches start at zero, so that the network starts as a plain path (Ho et al. 2020)."""
    for module in model.modules():
        if isinstance(module, ResBlock):
            nn.init.zeros_(module.conv2.weight)
        elif isinstance(module, SpatialTransformer):
            nn.init.zeros_(module.proj_out.weight)
            nn.init.zeros_(module.proj_out.bias)
    nn.init.zeros_(model.conv_out.weight)


class DenoisingTask:
    """Velocity prediction given the caption."""

    def __init__(
        self,
        unet: UNet,
        text: CLIPTextModel,
        pool: Pool,
        schedule: NoiseSchedule,
        prediction: Prediction,
        *,
        text_rate: float = 0.5,
        report_pictures: int = 96,
    ) -> None:
        self.unet, self.text, self.pool, self.prediction = unet, text, pool, prediction
        self.schedule = NoiseSchedule(schedule.alphas_cumprod.to(pool.device))
        self.text_rate = text_rate  # of the UNet's learning rate: a text transformer that learns faster collapses
        self.report_pictures = report_pictures
        self.precision: Enter = nullcontext
        self.modules: Mapping[str, nn.Module] = {"unet": unet, "text": text}

    def parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        return [
            {"params": list(self.unet.parameters()), "lr": learning_rate},
            {"params": list(self.text.parameters()), "lr": learning_rate * self.text_rate},
        ]

    def networks(self) -> list[nn.Module]:
        return [self.unet, self.text, self.pool.vae.encoder]

    def loss(self, step: int, batch_size: int, seed: int) -> tuple[Tensor, Figures]:
        with self.precision():
            ids, latents = self.pool.batch(step, batch_size, seed)
        times, eps = self.draw(latents, step, seed)
        losses = self.errors(latents, eps, times, ids)
        return losses.mean(), {"loss": losses.detach().mean()}

    def draw(self, latents: Tensor, step: int, seed: int) -> tuple[Tensor, Tensor]:
        """Times [B] and noise of the latents' shape for one step."""
        batch_size, device = len(latents), latents.device
        generator = generator_for(seed, step, 2, device=device)
        # One time from each of batch_size equal parts of the range: the mean loss varies less than with free draws.
        part = torch.arange(batch_size, device=device)
        u = (part + torch.rand(batch_size, generator=generator, device=device)) / batch_size
        times = (u**TIME_BIAS * self.schedule.num_timesteps).long().clamp(max=self.schedule.num_timesteps - 1)
        return times, torch.randn(latents.shape, generator=generator, device=device)

    def errors(self, latents: Tensor, eps: Tensor, times: Tensor, ids: Tensor) -> Tensor:
        """Mean squared error of the prediction for each row.

        latents, eps [B, C, h, w], times [B], token ids [B, L], all on the device -> [B]
        """

        def predict(x: Tensor) -> Tensor:
            encoding = self.text(ids)
            output: Tensor = self.unet(x, times, encoding.last, encoding.pooled)
            return output

        return self.gaps(latents, eps, times, predict)

    def gaps(self, latents: Tensor, eps: Tensor, times: Tensor, predict: Callable[[Tensor], Tensor]) -> Tensor:
        """The same for any prediction from the noisy latents as the UNet takes them."""
        sigma = self.schedule.sigmas[times]
        x = scale_input(add_noise(latents, eps, sigma), sigma).contiguous(memory_format=torch.channels_last)
        with self.precision():
            output = predict(x)
        gap = output.float() - target(self.prediction, latents, eps, sigma)
        return gap.square().mean(dim=(1, 2, 3))

    def report(self, modules: Mapping[str, nn.Module]) -> dict[str, float]:
        """Loss at high noise with the right caption, with its objects swapped for others, and with none.

        Whether words count shows here thousands of steps before it shows in pictures.
        """
        pictures, captions = self.pool.phases[-1][1], self.pool.captions
        scenes = pictures.scenes(self.report_pictures, 10**9)
        latents = self.pool.vae.encode(pictures.pixels(scenes)).mean
        count = len(captions.captioner.objects)
        swapped = [
            replace(s, items=tuple(replace(item, thing=(item.thing + 7) % count) for item in s.items)) for s in scenes
        ]
        variants = {"right": (scenes, 0.0), "swapped": (swapped, 0.0), "empty": (scenes, 1.0)}
        figures = {}
        for time in (999, 800, 600):
            generator = generator_for(10**9, time, device=latents.device)
            eps = torch.randn(latents.shape, generator=generator, device=latents.device)
            rows = torch.full((len(scenes),), time, device=latents.device)
            for label, (shown, empty_share) in variants.items():
                ids = captions.ids(shown, np.random.default_rng(0), empty_share).to(latents.device)
                figures[f"{label}_{time}"] = float(self.errors(latents, eps, rows, ids).mean())
        return figures
