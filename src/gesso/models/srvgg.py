"""SRVGGNetCompact, the small network of Real-ESRGAN (Wang et al. 2021, arXiv:2107.10833; realesr-general, animevideo).

A plain row of convolutions at the size of the picture, whose last makes every new pixel at once and is added to the
picture enlarged by nearest neighbours. Its pictures have values in [0, 1]; this module takes and gives [-1, 1].
Shapes: B batch, C channels, H W rows and columns of the pixels, s the scale.
"""

from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True, kw_only=True)
class SRVGGConfig:
    channels: int
    num_convs: int  # between the first and the last
    scale: int
    image_channels: int = 3

    @property
    def sight(self) -> int:
        """Pixels around a place that its result depends on."""
        return self.num_convs + 2


class SRVGG(nn.Module):
    """Pixels to s times as many a side."""

    def __init__(self, config: SRVGGConfig) -> None:
        super().__init__()
        self.config = config
        sizes = [config.image_channels, *[config.channels] * (config.num_convs + 1)]
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(sizes))
        self.slopes = nn.ModuleList(nn.PReLU(config.channels) for _ in self.convs)
        self.conv_out = nn.Conv2d(config.channels, config.image_channels * config.scale**2, 3, padding=1)

    def forward(self, pixels: Tensor) -> Tensor:
        """pixels [B, 3, H, W] in [-1, 1] -> [B, 3, sH, sW] in about [-1, 1], not clamped"""
        picture = pixels / 2 + 0.5
        x = picture
        for conv, slope in zip(self.convs, self.slopes, strict=True):
            x = slope(conv(x))
        x = F.pixel_shuffle(self.conv_out(x), self.config.scale)
        x = x + F.interpolate(picture, scale_factor=float(self.config.scale), mode="nearest")
        return x * 2 - 1
