"""Training of the decoder and the upscaler behind it, with the encoder as it is.

What the decoder gets in use is what a sampler made, not what the encoder said: latents are disturbed before decoding.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gesso.mini.autoencoder import gradient_gap, psnr
from gesso.mini.pictures import Pictures
from gesso.models.upscaler import MiniUpscaler, mix
from gesso.models.vae import AutoencoderKL
from gesso.training.task import Enter, Figures, generator_for

TOLERANCE = 0.06  # scale of the Laplace distribution around each colour of the palette, 8 levels of 255
STRIDE = 2  # the loss looks at one point in so many squared, others each step: its points are most of a step's memory
FAINT = 2.0  # levels a pixel: slopes below are shading, not edges


def initialise_upscaler(upscaler: MiniUpscaler) -> None:
    """Start values: the colours of the small picture as they are, the choice among them nearly open."""
    with torch.no_grad():
        for name, parameter in upscaler.palette.named_parameters():
            if name.startswith("corrections.") or name.endswith("conv2.bias"):
                parameter.zero_()
            elif name.endswith(("conv2.weight", "likely_detail.weight")):
                parameter.mul_(0.5)


def choice_gap(logits: Tensor, colours: Tensor, pixels: Tensor) -> Tensor:
    """-TOLERANCE * log likelihood of a picture whose points each take one colour of their palette.

    logits [B, K, H, W], colours [B, K, 3, H, W], pixels [B, 3, H, W] -> []. In the unit of an absolute error. Where an
    edge may lie here or there, its best answer is one of both places, where that of a squared error lies between.
    """
    errors = (colours - pixels[:, None]).abs().mean(dim=2)
    return -TOLERANCE * torch.logsumexp(logits.log_softmax(dim=1) - errors / TOLERANCE, dim=1).mean()


def steepness(pixels: Tensor) -> float:
    """How steep the edges of pictures are, in levels of 255 a pixel: the mean slope, weighted with the slope.

    pixels [B, 3, H, W] in [-1, 1]. An edge of a height h that is w pixels wide counts h / w, wherever it lies: blur
    lowers the figure, and so does grain; a picture drawn elsewhere or with fewer objects has the same.
    """
    grey = (pixels.float().clamp(-1, 1) * 127.5).mean(dim=1)
    slope = torch.hypot(grey.diff(dim=-1)[..., :-1, :], grey.diff(dim=-2)[..., :-1])
    slope = slope * (slope > FAINT)
    return float((slope.square().sum(dim=(1, 2)) / slope.sum(dim=(1, 2)).clamp(min=1e-6)).mean())


class UpscalingTask:
    """The decoded picture at its own size: L1, slopes and MSE; the larger one: its palette's likelihood and L1.

    The decoder learns from the first only: what it draws is a picture, no message to the upscaler.

    Latents get noise of up to decoder_noise of their spread and are smeared, by up to decoder_smear, into their
    neighbours: what samplers leave behind is grainy where they stop early and vague where the UNet did not know.
    """

    def __init__(
        self,
        vae: AutoencoderKL,
        upscaler: MiniUpscaler,
        pictures: Pictures,
        *,
        decoder_noise: float,
        decoder_smear: float,
        report_pictures: int = 64,
    ) -> None:
        self.vae, self.upscaler, self.pictures = vae, upscaler, pictures
        self.decoder_noise, self.decoder_smear = decoder_noise, decoder_smear
        self.report_pictures = report_pictures
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
            {"params": decoder, "lr": learning_rate / 2},  # it has learned before
        ]

    def networks(self) -> list[nn.Module]:
        return [self.vae.encoder, self.vae.decoder, self.upscaler.palette]

    def loss(self, step: int, batch_size: int, seed: int) -> tuple[Tensor, Figures]:
        shown = self.pictures.at(step, batch_size, seed)
        pixels = self.pictures.pixels(shown)
        large = self.pictures.pixels(shown, self.pictures.size * self.upscaler.config.scale)
        with torch.no_grad():
            with self.precision():
                mean = self.vae.encode(pixels).mean
            z = self.disturb(mean.float(), generator_for(seed, step, device=pixels.device))
        with self.precision():
            decoded = self.vae.decode(z)
            logits, colours = self.upscaler.palette(decoded.detach())
        decoded = decoded.float()
        top, left = torch.randint(STRIDE, (2,), generator=generator_for(seed, step, 1)).tolist()
        logits, colours, large = (x[..., top::STRIDE, left::STRIDE].float() for x in (logits, colours, large))
        drawn = mix(logits, colours, self.upscaler.config.sharpness)
        small_loss = F.l1_loss(decoded, pixels) + 0.5 * gradient_gap(decoded, pixels) + 2 * F.mse_loss(decoded, pixels)
        gap, large_loss = choice_gap(logits, colours, large), F.l1_loss(drawn, large)
        figures = {"small": small_loss.detach(), "large": large_loss.detach(), "choice": gap.detach()}
        return small_loss + gap + 0.5 * large_loss, figures

    def disturb(self, z: Tensor, generator: torch.Generator) -> Tensor:
        """Latents as a sampler might have left them, each picture by another amount.  [B, C, h, w] -> the same"""
        noise = torch.randn(z.shape, generator=generator, device=z.device)
        share, smear = torch.rand((2, len(z), 1, 1, 1), generator=generator, device=z.device)
        around = F.avg_pool2d(F.pad(z, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
        smeared = z.lerp(around, self.decoder_smear * smear.square())  # squared: most pictures a little
        return smeared + self.decoder_noise * share * z.std() * noise

    def report(self, modules: Mapping[str, nn.Module]) -> dict[str, float]:
        scenes = self.pictures.scenes(self.report_pictures, 10**9)
        pixels = self.pictures.pixels(scenes)
        large = self.pictures.pixels(scenes, self.pictures.size * self.upscaler.config.scale)
        decoded = torch.cat([self.vae.decode(self.vae.encode(part).mean) for part in pixels.split(16)])
        drawn = torch.cat([self.upscaler(part) for part in decoded.split(16)])
        plain = F.interpolate(decoded, size=large.shape[-2:], mode="bicubic")
        figures = {"psnr": psnr(decoded, pixels)}
        for name, output in (("large", drawn), ("bicubic", plain)):
            figures |= {f"psnr_{name}": psnr(output, large), f"steepness_{name}": steepness(output)}
        return figures | {"steepness_true": steepness(large)}
