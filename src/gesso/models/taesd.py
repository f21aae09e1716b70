"""Tiny autoencoder (TAESD, Ollin Boer Bohan, github.com/madebyollin/taesd): previews, and a quick decoder.

It was distilled from the VAE of Stable Diffusion and takes latents in the sampler's scale, without scaling factor. Its
pictures have values in [0, 1]; this module takes and gives [-1, 1] as every other.
Shapes: B batch, C channels of the latents, H W rows and columns of the pixels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gesso.models.vae import Posterior


@dataclass(frozen=True, kw_only=True)
class TAESDConfig:
    channels: int = 64
    latent_channels: int = 4
    encoder_blocks: tuple[int, ...] = (1, 3, 3, 3)  # per level, finest first
    decoder_blocks: tuple[int, ...] = (3, 3, 3, 1)  # per level, coarsest first
    image_channels: int = 3

    @property
    def downscale(self) -> int:
        """Pixels a side of one latent position."""
        return int(2 ** (len(self.encoder_blocks) - 1))


LATENT_LIMIT = 3.0  # latents beyond it are bent towards it before they are decoded


class Block(nn.Module):
    """Three convolutions around a skip, with a ReLU after the sum.  [B, C, H, W] -> [B, C, H, W]"""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv3 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.conv1(x))
        h = F.relu(self.conv2(h))
        return F.relu(self.conv3(h) + x)


class EncoderLevel(nn.Module):
    """Half the size, except at the first level, then blocks."""

    def __init__(self, channels: int, count: int, *, first: bool) -> None:
        super().__init__()
        self.downsample = nn.Identity() if first else nn.Conv2d(channels, channels, 3, stride=2, padding=1, bias=False)
        self.blocks = nn.ModuleList(Block(channels) for _ in range(count))

    def forward(self, x: Tensor) -> Tensor:
        x = self.downsample(x)
        for block in self.blocks:
            x = block(x)
        return x


class DecoderLevel(nn.Module):
    """Blocks, then twice the size, except at the last level."""

    def __init__(self, channels: int, count: int, *, last: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(channels) for _ in range(count))
        self.upsample = nn.Identity() if last else nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x if self.last else self.upsample(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Encoder(nn.Module):
    """Pixels in [0, 1] to latents.  [B, 3, H, W] -> [B, C, H/8, W/8]"""

    def __init__(self, config: TAESDConfig) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(config.image_channels, config.channels, 3, padding=1)
        self.levels = nn.ModuleList(
            EncoderLevel(config.channels, count, first=i == 0) for i, count in enumerate(config.encoder_blocks)
        )
        self.conv_out = nn.Conv2d(config.channels, config.latent_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level in self.levels:
            x = level(x)
        return self.conv_out(x)


class Decoder(nn.Module):
    """Latents to pixels in about [0, 1].  [B, C, H/8, W/8] -> [B, 3, H, W]"""

    def __init__(self, config: TAESDConfig) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(config.latent_channels, config.channels, 3, padding=1)
        last = len(config.decoder_blocks) - 1
        self.levels = nn.ModuleList(
            DecoderLevel(config.channels, count, last=i == last) for i, count in enumerate(config.decoder_blocks)
        )
        self.conv_out = nn.Conv2d(config.channels, config.image_channels, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        x = F.relu(self.conv_in(torch.tanh(z / LATENT_LIMIT) * LATENT_LIMIT))
        for level in self.levels:
            x = level(x)
        return self.conv_out(x)


class TAESD(nn.Module):
    """Latents to a quick picture, and back; takes the place of an `AutoencoderKL`."""

    def __init__(self, config: TAESDConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder: Encoder | None = Encoder(config)  # None: only the decoder was there
        self.decoder = Decoder(config)

    def encode(self, pixels: Tensor) -> Posterior:
        """Pixels to latents; there is no spread, every sample is the mean.

        pixels [B, 3, H, W] in [-1, 1] -> Posterior of [B, C, H/8, W/8]. Raises ValueError unless H and W are multiples
        of 8, and for a model without an encoder.
        """
        if self.encoder is None:
            raise ValueError("this TAESD has a decoder only")
        if pixels.shape[-2] % self.config.downscale or pixels.shape[-1] % self.config.downscale:
            raise ValueError(f"pixels {list(pixels.shape)}: sides must be multiples of {self.config.downscale}")
        mean = self.encoder(pixels / 2 + 0.5)
        return Posterior(mean=mean, std=torch.zeros_like(mean))

    def decode(self, latents: Tensor) -> Tensor:
        """Latents to pixels.

        latents [B, C, H/8, W/8] in the sampler's scale -> [B, 3, H, W] in about [-1, 1], not clamped. Raises
        ValueError for another number of channels.
        """
        if latents.shape[1] != self.config.latent_channels:
            raise ValueError(f"latents {list(latents.shape)}: expected {self.config.latent_channels} channels")
        pixels: Tensor = self.decoder(latents)
        return pixels * 2 - 1
