"""Training of the text transformer and the UNet together, on the latents of composed pictures.

The loss is the squared error of the predicted velocity at a random time. Three choices decide how soon words count
(docs/decisions tells what was measured): token embeddings start at unit variance and the residual branches of the text
transformer small, so that a token's identity survives the encoder; the pooled text joins the time embedding; times
lean to high noise, where the layout of the picture is decided.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gesso.diffusion.denoiser import Prediction, add_noise, scale_input, target
from gesso.diffusion.schedule import NoiseSchedule
from gesso.models.clip import CLIPLayer, CLIPTextModel
from gesso.models.unet import UNet
from gesso.models.vae import AutoencoderKL
from gesso.nn.attention import SpatialTransformer
from gesso.nn.resblock import ResBlock
from gesso.scenes.caption import Captioner
from gesso.scenes.scene import Scene
from gesso.text.tokenizer import Tokenizer
from gesso.training.loop import generator_for
from gesso.training.pictures import Pictures

EMPTY_SHARE = 0.1  # captions left out, for classifier-free guidance
ENCODE_BATCH = 64
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


class LatentPool:
    """Encoded scenes, drawn anew a segment at a time.

    Encoding costs a third of a training step, so each picture is used `passes` times, each time with new noise, a new
    time and a new caption. A segment follows from (seed, number of the segment) alone, so a resumed run sees the same.
    """

    def __init__(
        self, vae: AutoencoderKL, phases: Sequence[tuple[int, Pictures]], *, size: int, passes: int, device: str
    ) -> None:
        """phases: (number of samples, pictures) in their order; the last goes on for ever."""
        self.vae, self.phases, self.size, self.passes, self.device = vae, phases, size, passes, device
        self._segment: tuple[tuple[int, int], list[Scene], Tensor] | None = None

    def batch(self, step: int, batch_size: int, seed: int) -> tuple[list[Scene], Tensor]:
        """Scenes and latents [B, C, h, w] of one step.

        Latents are the posterior's mean: with its noise in them (a fifth of a deviation, the price of smooth latents)
        the UNet would learn to leave that noise in the picture.
        """
        steps_a_pass = self.size // batch_size
        segment, within = divmod(step, steps_a_pass * self.passes)
        if self._segment is None or self._segment[0] != (seed, segment):
            self._segment = ((seed, segment), *self._encode(segment, seed))
        _, scenes, latents = self._segment
        number, place = divmod(within, steps_a_pass)
        order = np.random.default_rng((seed, segment, number, 1)).permutation(self.size)
        rows = order[place * batch_size : (place + 1) * batch_size]
        return [scenes[i] for i in rows], latents[rows]

    def pictures_at(self, samples: int) -> Pictures:
        """Which pictures are shown after so many samples."""
        for count, pictures in self.phases[:-1]:
            if samples < count:
                return pictures
            samples -= count
        return self.phases[-1][1]

    @torch.no_grad()
    def _encode(self, segment: int, seed: int) -> tuple[list[Scene], Tensor]:
        pictures = self.pictures_at(segment * self.size * self.passes)
        scenes = pictures.scenes(self.size, seed, segment, 2)
        parts = [scenes[i : i + ENCODE_BATCH] for i in range(0, self.size, ENCODE_BATCH)]
        return scenes, torch.cat([self.vae.encode(pictures.pixels(part).to(self.device)).mean for part in parts])


class DenoisingTask:
    """Velocity prediction given the caption."""

    def __init__(
        self,
        unet: UNet,
        text: CLIPTextModel,
        tokenizer: Tokenizer,
        captioner: Captioner,
        pool: LatentPool,
        schedule: NoiseSchedule,
        prediction: Prediction,
        *,
        text_rate: float = 0.5,
        precision: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self.unet, self.text, self.tokenizer, self.captioner, self.pool = unet, text, tokenizer, captioner, pool
        self.schedule, self.prediction = schedule, prediction
        self.text_rate = text_rate  # of the UNet's learning rate: a text transformer that learns faster collapses
        self.precision = precision  # entered around the forward pass: autocast, or nothing
        self.modules: Mapping[str, nn.Module] = {"unet": unet, "text": text}

    def parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        return [
            {"params": list(self.unet.parameters()), "lr": learning_rate},
            {"params": list(self.text.parameters()), "lr": learning_rate * self.text_rate},
        ]

    def loss(self, step: int, batch_size: int, seed: int) -> tuple[Tensor, dict[str, float]]:
        scenes, latents = self.pool.batch(step, batch_size, seed)
        rng = np.random.default_rng((seed, step, 3))
        captions = ["" if rng.random() < EMPTY_SHARE else self.captioner(scene, rng) for scene in scenes]
        generator = generator_for(seed, step, 2)
        # One time from each of batch_size equal parts of the range: the mean loss varies less than with free draws.
        u = (torch.arange(batch_size) + torch.rand(batch_size, generator=generator)) / batch_size
        times = (u**TIME_BIAS * self.schedule.num_timesteps).long().clamp(max=self.schedule.num_timesteps - 1)
        eps = torch.randn(latents.shape, generator=generator).to(latents.device)
        losses = self.errors(latents, eps, times, captions)
        return losses.mean(), {"loss": float(losses.detach().mean())}

    def errors(self, latents: Tensor, eps: Tensor, times: Tensor, captions: list[str]) -> Tensor:
        """Mean squared error of the prediction for each row. latents, eps [B, C, h, w], times [B] -> [B]"""
        sigma = self.schedule.sigmas[times]
        x = scale_input(add_noise(latents, eps, sigma), sigma).contiguous(memory_format=torch.channels_last)
        with self.precision():
            encoding = self.text(self.tokenizer.encode(captions).to(x.device))
            output = self.unet(x, times.to(x.device), encoding.last, encoding.pooled)
        gap = output.float() - target(self.prediction, latents, eps, sigma)
        return gap.square().mean(dim=(1, 2, 3))

    def report(self, modules: Mapping[str, nn.Module]) -> dict[str, float]:
        """Loss at high noise with the right caption, with its objects swapped for others, and with none.

        Whether words count shows here thousands of steps before it shows in pictures.
        """
        pictures = self.pool.phases[-1][1]
        scenes = pictures.scenes(96, 10**9)
        latents = self.pool.vae.encode(pictures.pixels(scenes).to(self.pool.device)).mean
        count = len(self.captioner.objects)
        swapped = [
            replace(s, items=tuple(replace(item, thing=(item.thing + 7) % count) for item in s.items)) for s in scenes
        ]
        figures = {}
        for time in (999, 800, 600):
            eps = torch.randn(latents.shape, generator=generator_for(10**9, time)).to(latents.device)
            for label, told in (("right", scenes), ("swapped", swapped), ("empty", None)):
                rng = np.random.default_rng(0)
                captions = [self.captioner(s, rng) for s in told] if told else [""] * len(scenes)
                rows = torch.full((len(scenes),), time)
                figures[f"{label}_{time}"] = float(self.errors(latents, eps, rows, captions).mean())
        return figures
