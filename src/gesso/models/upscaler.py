"""A small residual network that draws a picture larger, for models whose own pictures are small.

The convolutions run below the size of the input and the result is unfolded once at the end (sub-pixel convolution:
Shi et al. 2016, arXiv:1609.05158; residual blocks without normalisation: Lim et al. 2017, arXiv:1707.02921).
Shapes: B batch, H W rows and columns of the input, s = scale.
"""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True, kw_only=True)
class UpscalerConfig:
    scale: int  # sides grow by this
    channels: int
    num_blocks: int
    patch_size: int  # pixels a side of the input folded into channels before the first convolution
    image_channels: int = 3


class Block(nn.Module):
    """Two convolutions around a skip.  [B, C, h, w] -> [B, C, h, w]"""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.silu(self.conv1(x)))


class Upscaler(nn.Module):
    """Pixels to more pixels; learns what bilinear interpolation leaves out."""

    def __init__(self, config: UpscalerConfig) -> None:
        super().__init__()
        self.config = config
        patch, channels = config.patch_size, config.channels
        self.conv_in = nn.Conv2d(config.image_channels * patch**2, channels, 3, padding=1)
        self.blocks = nn.ModuleList(Block(channels) for _ in range(config.num_blocks))
        self.conv_out = nn.Conv2d(channels, config.image_channels * (patch * config.scale) ** 2, 3, padding=1)

    def forward(self, pixels: Tensor) -> Tensor:
        """pixels [B, 3, H, W] in about [-1, 1] -> [B, 3, sH, sW], not clamped.

        Raises ValueError unless H and W are multiples of patch_size.
        """
        patch, scale = self.config.patch_size, self.config.scale
        if pixels.shape[-2] % patch or pixels.shape[-1] % patch:
            raise ValueError(f"pixels {list(pixels.shape)}: sides must be multiples of {patch}")
        x = self.conv_in(F.pixel_unshuffle(pixels, patch))
        for block in self.blocks:
            x = block(x)
        detail = F.pixel_shuffle(self.conv_out(F.silu(x)), patch * scale)
        return F.interpolate(pixels, scale_factor=float(scale), mode="bilinear", align_corners=False) + detail
