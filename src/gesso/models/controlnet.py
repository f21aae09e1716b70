"""ControlNet: a copy of a UNet's encoder that takes a hint, the control image (Zhang et al. 2023, arXiv:2302.05543).

Its outputs are added to the frozen UNet's skips through convolutions that start at zero, so that training begins with
the UNet as it was. Shapes as in `models.unet`; h w rows and columns of the hint.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gesso.models.unet import DownLevel, Middle, UNet, UNetConfig
from gesso.nn.embedding import EmbeddingMLP, sinusoid


@dataclass(frozen=True, kw_only=True)
class ControlNetConfig:
    """Sizes of a ControlNet.  unet: config of the UNet that it controls

    hint_channels  of the hint's own encoder, finest first; each further one halves rows and columns
    hint_patch     points a side that are folded into channels before, for a model that enlarges its pictures
    """

    unet: UNetConfig
    hint_channels: tuple[int, ...] = (16, 32, 96, 256)
    hint_patch: int = 1

    @property
    def downscale(self) -> int:
        """Sides of the hint by those of the latents."""
        return int(self.hint_patch * 2 ** (len(self.hint_channels) - 1))


class HintEncoder(nn.Module):
    """The picture at the size of the latents.  [B, 3, h, w] in [0, 1] -> [B, C, H, W]; starts at zero"""

    def __init__(self, config: ControlNetConfig) -> None:
        super().__init__()
        channels = config.hint_channels
        self.patch = config.hint_patch
        self.conv_in = nn.Conv2d(3 * self.patch**2, channels[0], 3, padding=1)
        self.blocks = nn.ModuleList()
        for before, after in pairwise(channels):
            self.blocks.append(nn.Conv2d(before, before, 3, padding=1))
            self.blocks.append(nn.Conv2d(before, after, 3, padding=1, stride=2))
        self.conv_out = nn.Conv2d(channels[-1], config.unet.channels[0], 3, padding=1)

    def forward(self, hint: Tensor) -> Tensor:
        x = F.silu(self.conv_in(F.pixel_unshuffle(hint, self.patch)))
        for block in self.blocks:
            x = F.silu(block(x))
        encoded: Tensor = self.conv_out(x)
        return encoded


class ControlNet(nn.Module):
    """Noisy latents, time, text and hint to residuals for the UNet's skip connections, and last for its middle block.

    A draft, which only gesso-mini's UNet has, is left to the UNet.
    """

    def __init__(self, config: ControlNetConfig) -> None:
        super().__init__()
        self.config = config
        unet, first = config.unet, config.unet.channels[0]
        self.time_embed = EmbeddingMLP(first, 4 * first)
        self.added_embed = EmbeddingMLP(unet.added_dim, 4 * first) if unet.added_dim else None
        self.conv_in = nn.Conv2d(unet.in_channels, first, 3, padding=1)
        self.hint = HintEncoder(config)
        self.down = nn.ModuleList(DownLevel(unet, level) for level in range(len(unet.channels)))
        self.mid = Middle(unet)
        self.zero_down = nn.ModuleList(nn.Conv2d(width, width, 1) for width in skip_widths(unet))
        self.zero_mid = nn.Conv2d(unet.channels[-1], unet.channels[-1], 1)

    @torch.no_grad()
    def initialise_from(self, unet: UNet) -> None:
        """The UNet's encoder as start values, and zero where the picture enters and where the outputs leave."""
        for name in ("time_embed", "added_embed", "down", "mid"):
            if (part := getattr(self, name)) is not None:
                part.load_state_dict(getattr(unet, name).state_dict())
        self.conv_in.weight.copy_(unet.conv_in.weight[:, : self.config.unet.in_channels])
        self.conv_in.bias.copy_(unet.conv_in.bias)  # type: ignore[union-attr, arg-type]
        for zero in (self.hint.conv_out, self.zero_mid, *self.zero_down):
            for parameter in zero.parameters():
                nn.init.zeros_(parameter)

    def forward(
        self, x: Tensor, timestep: Tensor, context: Tensor, hint: Tensor, added: Tensor | None = None
    ) -> list[Tensor]:
        """x, timestep, context, added as for the UNet; hint [B, 3, h, w] in [0, 1] -> one for each skip, and the middle

        Raises ValueError for a hint of another size than `downscale` times the latents'.
        """
        expected = tuple(side * self.config.downscale for side in x.shape[-2:])
        if tuple(hint.shape[-2:]) != expected:
            raise ValueError(f"hint {list(hint.shape)}, expected {expected[0]} x {expected[1]} for these latents")
        emb = self.embed(timestep, x.dtype, added)
        return self.descend(self.conv_in(x) + self.hint(hint), emb, context)

    def embed(self, timestep: Tensor, dtype: torch.dtype, added: Tensor | None) -> Tensor:
        """Everything that joins the residual blocks as one vector."""
        emb: Tensor = self.time_embed(sinusoid(timestep, self.config.unet.channels[0]).to(dtype))
        return emb if self.added_embed is None else emb + self.added_embed(added)

    def descend(self, x: Tensor, emb: Tensor, context: Tensor) -> list[Tensor]:
        """From latents that have met the hint -> one for each skip, and the middle"""
        skips = [x]
        for down in self.down:
            skips.extend(down(skips[-1], emb, context))
        middle = self.mid(skips[-1], emb, context)
        return [*(zero(skip) for zero, skip in zip(self.zero_down, skips, strict=True)), self.zero_mid(middle)]


def skip_widths(config: UNetConfig) -> list[int]:
    """Channels of each skip of a UNet, in the order of the way down."""
    widths = [config.channels[0]]
    for level, channels in enumerate(config.channels):
        last = level == len(config.channels) - 1
        widths += [channels] * (config.num_res_blocks + (0 if last else 1))
    return widths
