"""VAE: the KL-regularised autoencoder (Rombach et al. 2022, arXiv:2112.10752, section 3.1 and appendix G).

Shapes: B batch, C channels of the latents, H W rows and columns of the pixels, f = patch_size * 2 ** (levels - 1).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gesso.nn.attention import Attention
from gesso.nn.resblock import ResBlock, Upsample, silu_of

EPS = 1e-6


@dataclass(frozen=True, kw_only=True)
class VAEConfig:
    channels: tuple[int, ...]  # per level, finest first
    num_res_blocks: int  # in the encoder; the decoder has one more a level
    latent_channels: int
    scaling_factor: float  # latents = scaling_factor * output of the encoder, so that they have about unit variance
    patch_size: int = 1  # pixels a side folded into channels before the first convolution; 1 in every SD release
    norm_groups: int = 32
    image_channels: int = 3

    @property
    def downscale(self) -> int:
        """Pixels a side of one latent position."""
        return int(self.patch_size * 2 ** (len(self.channels) - 1))


class SpatialAttention(nn.Module):
    """Attention with a single head over all positions, around a skip.  [B, C, H, W] -> [B, C, H, W]"""

    def __init__(self, channels: int, norm_groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(norm_groups, channels, eps=EPS)
        self.attention = Attention(channels, 1, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.attention(self.norm(x).flatten(2).transpose(1, 2))
        return x + mixed.transpose(1, 2).reshape(x.shape)


class Middle(nn.Module):
    """Residual block, attention, residual block at the coarsest level.  [B, C, H, W] -> [B, C, H, W]"""

    def __init__(self, channels: int, norm_groups: int) -> None:
        super().__init__()
        self.block1 = ResBlock(channels, channels, None, norm_groups=norm_groups, eps=EPS)
        self.attention = SpatialAttention(channels, norm_groups)
        self.block2 = ResBlock(channels, channels, None, norm_groups=norm_groups, eps=EPS)

    def forward(self, x: Tensor) -> Tensor:
        return self.block2(self.attention(self.block1(x)))


class Downsample(nn.Module):
    """Convolution of stride 2 padded at the right and the bottom only, as released weights expect."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class EncoderLevel(nn.Module):
    """Residual blocks, then half the size unless it is the last level."""

    def __init__(self, channels_in: int, channels_out: int, config: VAEConfig, *, last: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            ResBlock(
                channels_in if i == 0 else channels_out, channels_out, None, norm_groups=config.norm_groups, eps=EPS
            )
            for i in range(config.num_res_blocks)
        )
        self.downsample = nn.Identity() if last else Downsample(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.downsample(x)


class DecoderLevel(nn.Module):
    """Residual blocks, then twice the size unless it is the last level."""

    def __init__(self, channels_in: int, channels_out: int, config: VAEConfig, *, last: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            ResBlock(
                channels_in if i == 0 else channels_out, channels_out, None, norm_groups=config.norm_groups, eps=EPS
            )
            for i in range(config.num_res_blocks + 1)
        )
        self.upsample = nn.Identity() if last else Upsample(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.upsample(x)


class Encoder(nn.Module):
    """Pixels to features of the latents' size.  [B, 3, H, W] -> [B, 2 * C, H/f, W/f]"""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        first, last = config.channels[0], config.channels[-1]
        self.patch_size = config.patch_size
        self.conv_in = nn.Conv2d(config.image_channels * config.patch_size**2, first, 3, padding=1)
        self.levels = nn.ModuleList(
            EncoderLevel(before, after, config, last=i == len(config.channels) - 1)
            for i, (before, after) in enumerate(zip((first, *config.channels), config.channels, strict=False))
        )
        self.mid = Middle(last, config.norm_groups)
        self.norm_out = nn.GroupNorm(config.norm_groups, last, eps=EPS)
        self.conv_out = nn.Conv2d(last, 2 * config.latent_channels, 3, padding=1)

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.conv_in(F.pixel_unshuffle(pixels, self.patch_size))
        for level in self.levels:
            x = level(x)
        return self.conv_out(silu_of(self.norm_out, self.mid(x)))


class Decoder(nn.Module):
    """Features of the latents' size to pixels; levels run from coarse to fine.  [B, C, H/f, W/f] -> [B, 3, H, W]"""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        channels = config.channels[::-1]
        self.patch_size = config.patch_size
        self.conv_in = nn.Conv2d(config.latent_channels, channels[0], 3, padding=1)
        self.mid = Middle(channels[0], config.norm_groups)
        self.levels = nn.ModuleList(
            DecoderLevel(before, after, config, last=i == len(channels) - 1)
            for i, (before, after) in enumerate(zip((channels[0], *channels), channels, strict=False))
        )
        self.norm_out = nn.GroupNorm(config.norm_groups, channels[-1], eps=EPS)
        self.conv_out = nn.Conv2d(channels[-1], config.image_channels * config.patch_size**2, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        x = self.mid(self.conv_in(z))
        for level in self.levels:
            x = level(x)
        return F.pixel_shuffle(self.conv_out(silu_of(self.norm_out, x)), self.patch_size)


@dataclass(frozen=True)
class Posterior:
    """Diagonal Gaussian over latents, already times scaling_factor.  mean, std [B, C, H/f, W/f]"""

    mean: Tensor
    std: Tensor

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        noise = torch.randn(self.mean.shape, generator=generator, dtype=self.mean.dtype, device=self.mean.device)
        return self.mean + self.std * noise


class AutoencoderKL(nn.Module):
    """Pixels to latents and back."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.quant_conv = nn.Conv2d(2 * config.latent_channels, 2 * config.latent_channels, 1)
        self.post_quant_conv = nn.Conv2d(config.latent_channels, config.latent_channels, 1)
        self.decoder = Decoder(config)

    def moments(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance before scaling.  pixels [B, 3, H, W] in [-1, 1] -> two of [B, C, H/f, W/f]

        Raises ValueError unless H and W are multiples of f.
        """
        if pixels.shape[-2] % self.config.downscale or pixels.shape[-1] % self.config.downscale:
            raise ValueError(f"pixels {list(pixels.shape)}: sides must be multiples of {self.config.downscale}")
        mean, logvar = self.quant_conv(self.encoder(pixels)).chunk(2, dim=1)
        return mean, logvar.clamp(-30.0, 20.0)

    def encode(self, pixels: Tensor) -> Posterior:
        """Pixels to the distribution of latents.  pixels [B, 3, H, W] in [-1, 1] -> Posterior of [B, C, H/f, W/f]"""
        mean, logvar = self.moments(pixels)
        scale = self.config.scaling_factor
        return Posterior(mean=mean * scale, std=torch.exp(0.5 * logvar) * scale)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents to pixels.

        latents [B, C, H/f, W/f], scaled -> [B, 3, H, W] in about [-1, 1], not clamped.
        float32 or bfloat16; float16 overflows in the SDXL decoder. Raises ValueError for another number of channels.
        """
        if latents.shape[1] != self.config.latent_channels:
            raise ValueError(f"latents {list(latents.shape)}: expected {self.config.latent_channels} channels")
        pixels: Tensor = self.decoder(self.post_quant_conv(latents / self.config.scaling_factor))
        return pixels
