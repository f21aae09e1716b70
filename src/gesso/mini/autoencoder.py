"""Training of the KL autoencoder on composed pictures."""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gesso.mini.pictures import Pictures
from gesso.models.vae import AutoencoderKL
from gesso.training.task import Enter, Figures, generator_for


def gradient_gap(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference of horizontal and vertical slopes, so that edges count.  [B, C, H, W] -> []"""
    d = a - b
    return d.diff(dim=-1).abs().mean() + d.diff(dim=-2).abs().mean()


def psnr(a: Tensor, b: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of pixels in [-1, 1], mean over pictures."""
    error = (a.float().clamp(-1, 1) - b.float()).square().mean(dim=(1, 2, 3))
    return float((10 * torch.log10(4.0 / error)).mean())


class AutoencoderTask:
    """L1 + 0.5 slopes + 2 MSE + kl_weight * KL, KL in nats per number of the picture.

    decoder_noise: latents get Gaussian noise of up to this share of their spread before they are decoded, so that the
    decoder forgives what a sampler leaves behind; with the KL weight it makes the latents smooth, which halves the
    samples that the UNet needs (docs/decisions).
    """

    def __init__(
        self,
        vae: AutoencoderKL,
        pictures: Pictures,
        *,
        kl_weight: float,
        decoder_noise: float,
        report_pictures: int = 128,
    ) -> None:
        self.vae, self.pictures, self.kl_weight, self.decoder_noise = vae, pictures, kl_weight, decoder_noise
        self.report_pictures = report_pictures
        self.precision: Enter = nullcontext
        self.modules: Mapping[str, nn.Module] = {"vae": vae}

    def parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        return [{"params": list(self.vae.parameters()), "lr": learning_rate}]

    def networks(self) -> list[nn.Module]:
        return [self.vae.encoder, self.vae.decoder]

    def loss(self, step: int, batch_size: int, seed: int) -> tuple[Tensor, Figures]:
        return self.loss_of(self.pictures.pixels(self.pictures.at(step, batch_size, seed)), step, seed)

    def loss_of(self, pixels: Tensor, step: int, seed: int) -> tuple[Tensor, Figures]:
        """The loss of given pictures.  pixels [B, 3, H, W] in [-1, 1]"""
        device = pixels.device
        generator = generator_for(seed, step, device=device)
        with self.precision():
            mean, logvar = self.vae.moments(pixels)
            mean, logvar = mean.float(), logvar.float()
            kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum() / pixels.numel()
            z = mean + torch.exp(0.5 * logvar) * torch.randn(mean.shape, generator=generator, device=device)
            share = self.decoder_noise * torch.rand((len(z), 1, 1, 1), generator=generator, device=device)
            z = z + share * z.detach().std() * torch.randn(z.shape, generator=generator, device=device)
            scale = self.vae.config.scaling_factor
            out = self.vae.decode(z * scale).float()
        loss = (out - pixels).abs().mean() + 0.5 * gradient_gap(out, pixels) + 2 * F.mse_loss(out, pixels)
        nats = kl.detach() * (pixels.numel() / mean.numel())
        return loss + self.kl_weight * kl, {"loss": loss.detach(), "nats": nats, "std": z.detach().std()}

    def report(self, modules: Mapping[str, nn.Module]) -> dict[str, float]:
        pixels = self.pictures.pixels(self.pictures.scenes(self.report_pictures, 10**9))
        latents = torch.cat([self.vae.encode(part).mean for part in pixels.split(32)])
        decoded = torch.cat([self.vae.decode(part) for part in latents.split(32)])
        return {"psnr": psnr(decoded, pixels), "latent_std": float(latents.std())}
