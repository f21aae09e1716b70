"""gesso-mini's upscaler: each pixel of the larger picture takes one of a few colours found around it.

An average of what could be there is blurred; a choice between colours is not. So the network does not say what colour
a point has. It says how likely it has that of each of its neighbours in the small picture, a little to the left, to the
right, above or below: on both sides of an edge the colours are right, and only where one ends is not known. Those
colours may be corrected, slowly from place to place. How likely they are is a smooth field that passes from one to the
next within a pixel or two.
Levels run from coarse, where a wide network sees what is shown, to fine, where a slim one places the edges.
Sub-pixel convolution: Shi et al. 2016, arXiv:1609.05158; residual blocks without normalisation: Lim et al. 2017,
arXiv:1707.02921.
Shapes: B batch, C channels, H W rows and columns of the input, h w of a level, s = scale, K = colours to choose from.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Where the colours come from, in rows and columns of the input: the place itself and two rings around it. The near one
# serves small details, the far one what a sampler has left vague.
AROUND = ((0, 0), (0, -2), (0, 2), (-2, 0), (2, 0), (0, -4), (0, 4), (-4, 0), (4, 0))
REACH = 4


@dataclass(frozen=True, kw_only=True)
class MiniUpscalerConfig:
    scale: int  # sides grow by this
    channels: tuple[int, ...]  # per level, finest first; at least two
    num_blocks: tuple[int, ...]  # per level
    sharpness: float  # of the choice: 1 mixes colours by how likely they are, more takes rather the likeliest
    patch_size: int = 1  # pixels a side of the input that are one place of the finest level
    image_channels: int = 3

    def __post_init__(self) -> None:
        if len(self.channels) < 2 or len(self.channels) != len(self.num_blocks):
            raise ValueError(
                f"channels {self.channels} and num_blocks {self.num_blocks} of the upscaler: expected two levels or "
                "more"
            )

    @property
    def multiple(self) -> int:
        """Sides of the input are multiples of this."""
        return int(self.patch_size * 2 ** (len(self.channels) - 1))

    @property
    def sight(self) -> int:
        """Pixels of the input around a place that its result depends on, at most; a multiple of `multiple`."""
        radius = REACH + 6 * self.patch_size  # neighbours; the last convolutions, and what enlarges them
        for level, num_blocks in enumerate(self.num_blocks):
            radius += (1 + 2 * num_blocks) * self.patch_size * 2**level
        return -(-radius // self.multiple) * self.multiple


class Block(nn.Module):
    """Two convolutions around a skip.  [B, C, h, w] -> [B, C, h, w]"""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.silu(self.conv1(F.silu(x))))


class Level(nn.Module):
    """The picture at one resolution joined to what the coarser level saw, then residual blocks.

    pixels [B, 3, H, W], coarse [B, C, h/2, w/2] or None for the coarsest -> [B, C, h, w] with h = H / fold
    """

    def __init__(
        self, image_channels: int, fold: int, channels_coarse: int | None, channels: int, num_blocks: int
    ) -> None:
        super().__init__()
        self.fold = fold
        self.conv_in = nn.Conv2d(image_channels * fold**2, channels, 3, padding=1)
        self.up = None if channels_coarse is None else nn.Conv2d(channels_coarse, 4 * channels, 1)
        self.blocks = nn.ModuleList(Block(channels) for _ in range(num_blocks))

    def forward(self, pixels: Tensor, coarse: Tensor | None) -> Tensor:
        x = self.conv_in(F.pixel_unshuffle(pixels, self.fold))
        if self.up is not None and coarse is not None:
            x = x + F.pixel_shuffle(self.up(coarse), 2)
        for block in self.blocks:
            x = block(x)
        return x


class Palette(nn.Module):
    """The colours around each point of the larger picture, and how likely each is there."""

    def __init__(self, config: MiniUpscalerConfig) -> None:
        super().__init__()
        self.config = config
        channels, count = config.channels[::-1], len(AROUND)
        folds = [config.patch_size * 2**i for i in reversed(range(len(channels)))]
        self.levels = nn.ModuleList(
            Level(config.image_channels, fold, before, after, num_blocks)
            for fold, before, after, num_blocks in zip(
                folds, (None, *channels[:-1]), channels, config.num_blocks[::-1], strict=True
            )
        )
        self.corrections = nn.Conv2d(channels[-2], config.image_channels * count, 3, padding=1)
        self.likely = nn.Conv2d(channels[-1], count, 3, padding=1)
        self.likely_detail = nn.Conv2d(channels[-1], count * (config.patch_size * config.scale) ** 2, 3, padding=1)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """pixels [B, 3, H, W] -> logits [B, K, sH, sW], colours [B, K, 3, sH, sW], both float32"""
        x, before = None, None
        for level in self.levels:
            x, before = level(pixels, x), x
        assert x is not None and before is not None  # two levels or more
        fine, size = F.silu(x), self.config.patch_size * self.config.scale
        logits = enlarge(self.likely(fine), size) + F.pixel_shuffle(self.likely_detail(fine), size).float()
        corrections = enlarge(self.corrections(F.silu(before)), 2 * self.config.patch_size)
        colours = enlarge(neighbours(pixels) + corrections, self.config.scale)
        return logits, colours.unflatten(1, (len(AROUND), self.config.image_channels))


class MiniUpscaler(nn.Module):
    """Pixels to more pixels."""

    def __init__(self, config: MiniUpscalerConfig) -> None:
        super().__init__()
        self.config = config
        self.palette = Palette(config)

    def forward(self, pixels: Tensor) -> Tensor:
        """pixels [B, 3, H, W] in about [-1, 1] -> float32 [B, 3, sH, sW], not clamped.

        Raises ValueError unless H and W are multiples of patch_size * 2 ** (levels - 1).
        """
        multiple = self.config.multiple
        if pixels.shape[-2] % multiple or pixels.shape[-1] % multiple:
            raise ValueError(f"pixels {list(pixels.shape)}: sides must be multiples of {multiple}")
        logits, colours = self.palette(pixels)
        return mix(logits, colours, self.config.sharpness)


def mix(logits: Tensor, colours: Tensor, sharpness: float) -> Tensor:
    """logits [B, K, H, W], colours [B, K, 3, H, W] -> [B, 3, H, W]"""
    shares = (sharpness * logits).softmax(dim=1)
    return (shares[:, :, None] * colours).sum(dim=1)


def neighbours(pixels: Tensor) -> Tensor:
    """The picture moved so that each pixel lies where its neighbours were.  [B, 3, H, W] -> [B, K * 3, H, W]"""
    height, width = pixels.shape[-2:]
    padded = F.pad(pixels, (REACH, REACH, REACH, REACH), mode="replicate")
    return torch.cat(
        [padded[..., REACH + y : REACH + y + height, REACH + x : REACH + x + width] for y, x in AROUND], dim=1
    )


def enlarge(x: Tensor, scale: int) -> Tensor:
    """Bilinear, in float32: bfloat16 would show as bands.  [B, C, h, w] -> [B, C, scale * h, scale * w]"""
    return F.interpolate(x.float(), scale_factor=float(scale), mode="bilinear", align_corners=False)
