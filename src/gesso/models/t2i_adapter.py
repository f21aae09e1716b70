"""T2I-Adapter: a small network that turns a hint into features which join the UNet on its way down
(Mou et al. 2023, arXiv:2302.08453, section 3.3).

It depends on the hint alone, so it runs once per picture. Shapes: B batch, H W rows and columns of the latents.
"""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True, kw_only=True)
class T2IAdapterConfig:
    """image_channels: 3, or 1 for grey hints

    patch       pixels a side that are folded into channels first
    channels    of each feature, finest first
    halves      which features are half the size of the one before
    num_blocks  residual blocks a feature
    light       narrow blocks between two projections, rather than blocks of the full width after one convolution
    """

    image_channels: int
    patch: int
    channels: tuple[int, ...]
    halves: tuple[bool, ...]
    num_blocks: int
    light: bool = False


class AdapterBlock(nn.Module):
    """Convolution, ReLU, convolution around a skip.  kernel: of the second.  [B, C, H, W] -> [B, C, H, W]"""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, kernel, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(x)))


class AdapterLevel(nn.Module):
    """Half the size where it halves, a projection where the width changes, residual blocks."""

    def __init__(self, before: int, channels: int, config: T2IAdapterConfig, *, halves: bool) -> None:
        super().__init__()
        self.halves = halves
        width = channels // 4 if config.light else channels
        self.conv_in = nn.Conv2d(before, width, 1) if config.light or before != channels else None
        self.blocks = nn.ModuleList(AdapterBlock(width, 3 if config.light else 1) for _ in range(config.num_blocks))
        self.conv_out = nn.Conv2d(width, channels, 1) if config.light else None

    def forward(self, x: Tensor) -> Tensor:
        if self.halves:
            x = F.avg_pool2d(x, 2, ceil_mode=True)  # as the UNet rounds odd sizes
        if self.conv_in is not None:
            x = self.conv_in(x)
        for block in self.blocks:
            x = block(x)
        return x if self.conv_out is None else self.conv_out(x)


class T2IAdapter(nn.Module):
    """A hint to one feature a level of the UNet; SDXL's fourth is for the middle."""

    def __init__(self, config: T2IAdapterConfig) -> None:
        super().__init__()
        self.config = config
        into = config.image_channels * config.patch**2
        self.conv_in = None if config.light else nn.Conv2d(into, config.channels[0], 3, padding=1)
        before = (into if config.light else config.channels[0], *config.channels[:-1])
        self.levels = nn.ModuleList(
            AdapterLevel(first, channels, config, halves=halves)
            for first, channels, halves in zip(before, config.channels, config.halves, strict=True)
        )

    def forward(self, hint: Tensor) -> list[Tensor]:
        """hint [B, image_channels, H, W] in [0, 1] of whole patches -> [B, channels[i], ...] each"""
        x = F.pixel_unshuffle(hint, self.config.patch)
        if self.conv_in is not None:
            x = self.conv_in(x)
        features = []
        for level in self.levels:
            x = level(x)
            features.append(x)
        return features
