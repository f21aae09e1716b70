"""Training of the decoder and the upscaler behind it, with the encoder as it is.

What the decoder gets in use is what a sampler made, not what the encoder said: latents are disturbed before decoding.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gesso.models.upscaler import Upscaler
from gesso.models.vae import AutoencoderKL
from gesso.training.autoencoder import gradient_gap, psnr
from gesso.training.loop import Figures, generator_for
from gesso.training.pictures import Pictures
from gesso.training.precision import Enter


class UpscalingTask:
    """L1 and slopes, of the decoded picture at its own size and of a crop of it drawn larger.

    crop: side, in pixels of the decoded picture, of the part that is drawn larger in training.
    """

    def __init__(
        self,
        vae: AutoencoderKL,
        upscaler: Upscaler,
        pictures: Pictures,
        *,
        decoder_noise: float,
        crop: int,
        report_pictures: int = 64,
    ) -> None:
        self.vae, self.upscaler, self.pictures = vae, upscaler, pictures
        self.decoder_noise, self.crop, self.report_pictures = decoder_noise, crop, report_pictures
        self.precision: Enter = nullcontext
        vae.requires_grad_(False)
        vae.decoder.requires_grad_(True)
        vae.post_quant_conv.requires_grad_(True)
        self.modules: Mapping[str, nn.Module] = {
            "post_quant_conv": vae.post_quant_conv,
            "decoder": vae.decoder,
            "upscaler": upscaler,
        }

    def parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        decoder = [*self.vae.decoder.parameters(), *self.vae.post_quant_conv.parameters()]
        return [
            {"params": list(self.upscaler.parameters()), "lr": learning_rate},
            {"params": decoder, "lr": learning_rate},
        ]

    def networks(self) -> list[nn.Module]:
        return [self.vae.encoder, self.vae.decoder, self.upscaler]

    def loss(self, step: int, batch_size: int, seed: int) -> tuple[Tensor, Figures]:
        shown = self.pictures.at(step, batch_size, seed)
        pixels = self.pictures.pixels(shown)
        large = self.pictures.pixels(shown, self.pictures.size * self.upscaler.config.scale)
        device = pixels.device
        generator = generator_for(seed, step, device=device)
        with torch.no_grad():
            with self.precision():
                posterior = self.vae.encode(pixels)
            mean, std = posterior.mean.float(), posterior.std.float()
            z = mean + std * torch.randn(mean.shape, generator=generator, device=device)
            share = self.decoder_noise * torch.rand((len(z), 1, 1, 1), generator=generator, device=device)
            z = z + share * z.std() * torch.randn(z.shape, generator=generator, device=device)
        with self.precision():
            decoded = self.vae.decode(z)
        decoded = decoded.float()
        rng = np.random.default_rng((seed, step, 1))
        grid = self.upscaler.config.patch_size
        top, left = (int(rng.integers((self.pictures.size - self.crop) // grid + 1)) * grid for _ in range(2))
        with self.precision():
            drawn = self.upscaler(decoded[..., top : top + self.crop, left : left + self.crop])
        drawn = drawn.float()
        f = self.upscaler.config.scale
        wanted = large[..., f * top : f * (top + self.crop), f * left : f * (left + self.crop)]
        small_loss = F.l1_loss(decoded, pixels) + 0.5 * gradient_gap(decoded, pixels) + 2 * F.mse_loss(decoded, pixels)
        large_loss = F.l1_loss(drawn, wanted) + gradient_gap(drawn, wanted)
        return small_loss + large_loss, {"small": small_loss.detach(), "large": large_loss.detach()}

    def report(self, modules: Mapping[str, nn.Module]) -> dict[str, float]:
        scenes = self.pictures.scenes(self.report_pictures, 10**9)
        pixels = self.pictures.pixels(scenes)
        large = self.pictures.pixels(scenes, self.pictures.size * self.upscaler.config.scale)
        decoded = torch.cat([self.vae.decode(self.vae.encode(part).mean) for part in pixels.split(16)])
        drawn = torch.cat([self.upscaler(part) for part in decoded.split(16)])
        plain = F.interpolate(decoded, size=large.shape[-2:], mode="bicubic")
        return {"psnr": psnr(decoded, pixels), "psnr_large": psnr(drawn, large), "psnr_bicubic": psnr(plain, large)}
