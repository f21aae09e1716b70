"""RRDBNet, the network of ESRGAN (Wang et al. 2018, arXiv:1809.00219, section 3.1) and Real-ESRGAN (arXiv:2107.10833).

Dense blocks at the size of the picture, then twice the size by nearest neighbours and a convolution, some times over.
Where the published network is for twice the size or for the same, it works at four times and first folds pixels into
channels. Its pictures have values in [0, 1]; this module takes and gives [-1, 1] as every other.
Shapes: B batch, C channels, G channels that a convolution adds, H W rows and columns of the pixels, s the scale.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

RESIDUAL = 0.2  # share of a block's result that is added to its input
SLOPE = 0.2  # of the leaky ReLU
CONVS = 5  # in a dense block
DENSE = 3  # dense blocks in a residual block


@dataclass(frozen=True, kw_only=True)
class RRDBNetConfig:
    channels: int
    growth: int
    num_blocks: int
    num_enlargements: int  # how often the size is doubled
    fold: int  # pixels a side that become channels at the start: 1, 2 or 4
    image_channels: int = 3

    @property
    def scale(self) -> int:
        """How many times larger the result is."""
        return int(2**self.num_enlargements) // self.fold

    @property
    def sight(self) -> int:
        """Pixels around a place that its result depends on."""
        return self.fold * (DENSE * CONVS * self.num_blocks + 4)  # four: the first and the last of the body, the rest


class DenseBlock(nn.Module):
    """Each convolution sees the input and what all before it made.  [B, C, H, W] -> [B, C, H, W]"""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(channels + i * growth, growth if i < CONVS - 1 else channels, 3, padding=1) for i in range(CONVS)
        )

    def forward(self, x: Tensor) -> Tensor:
        features = x
        for conv in self.convs[:-1]:
            features = torch.cat([features, F.leaky_relu(conv(features), SLOPE)], dim=1)
        return x + RESIDUAL * self.convs[-1](features)


class ResidualBlock(nn.Module):
    """Dense blocks around a skip (RRDB).  [B, C, H, W] -> [B, C, H, W]"""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.dense = nn.ModuleList(DenseBlock(channels, growth) for _ in range(DENSE))

    def forward(self, x: Tensor) -> Tensor:
        h = x
        for block in self.dense:
            h = block(h)
        return x + RESIDUAL * h


class RRDBNet(nn.Module):
    """Pixels to s times as many a side."""

    def __init__(self, config: RRDBNetConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.channels
        self.conv_in = nn.Conv2d(config.image_channels * config.fold**2, channels, 3, padding=1)
        self.blocks = nn.ModuleList(ResidualBlock(channels, config.growth) for _ in range(config.num_blocks))
        self.conv_body = nn.Conv2d(channels, channels, 3, padding=1)
        self.enlarge = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, padding=1) for _ in range(config.num_enlargements)
        )
        self.conv_hr = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv_out = nn.Conv2d(channels, config.image_channels, 3, padding=1)

    def forward(self, pixels: Tensor) -> Tensor:
        """pixels [B, 3, H, W] in [-1, 1] -> [B, 3, sH, sW] in about [-1, 1], not clamped; any H and W"""
        height, width = pixels.shape[-2:]
        x = self.conv_in(F.pixel_unshuffle(_filled(pixels / 2 + 0.5, self.config.fold), self.config.fold))
        h = x
        for block in self.blocks:
            h = block(h)
        x = x + self.conv_body(h)
        for conv in self.enlarge:
            x = F.leaky_relu(conv(F.interpolate(x, scale_factor=2.0, mode="nearest")), SLOPE)
        x = self.conv_out(F.leaky_relu(self.conv_hr(x), SLOPE))
        return x[..., : height * self.config.scale, : width * self.config.scale] * 2 - 1


def _filled(pixels: Tensor, multiple: int) -> Tensor:
    """Mirrored at the right and below up to a multiple; repeated where there is too little to mirror."""
    below, right = -pixels.shape[-2] % multiple, -pixels.shape[-1] % multiple
    mirrors = below < pixels.shape[-2] and right < pixels.shape[-1]
    return F.pad(pixels, (0, right, 0, below), mode="reflect" if mirrors else "replicate")
