"""Residual block, and up- and downsampling (Ho et al. 2020, arXiv:2006.11239, appendix B).

Shapes: B batch, C channels, H W rows and columns, E size of the time embedding.
"""

from collections.abc import Callable
from contextvars import ContextVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

OWN_SILU_OF: ContextVar[Callable[[nn.GroupNorm, Tensor], Tensor | None] | None] = ContextVar("silu_of", default=None)


def silu_of(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    """SiLU of a group norm; in the norm's memory, unless gradients are wanted.

    OWN_SILU_OF: another way to compute it, within this thread; None where it cannot.
    """
    own = OWN_SILU_OF.get()
    if own is not None and (found := own(norm, x)) is not None:
        return found
    return F.silu(norm(x), inplace=not torch.is_grad_enabled())


def added(x: Tensor, y: Tensor) -> Tensor:
    """x + y; in the memory of x, which nobody else needs, unless gradients are wanted or y is of another dtype."""
    return x + y if torch.is_grad_enabled() or x.dtype != y.dtype else x.add_(y)


class ResBlock(nn.Module):
    """Two normalised convolutions around a skip; the time, where there is one, enters between them.

    x [B, C_in, H, W], emb [B, E] or None -> [B, C_out, H, W]
    """

    def __init__(
        self, channels_in: int, channels_out: int, emb_dim: int | None, *, norm_groups: int, eps: float
    ) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(norm_groups, channels_in, eps=eps)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        if emb_dim is not None:
            self.time = nn.Linear(emb_dim, channels_out)
        self.norm2 = nn.GroupNorm(norm_groups, channels_out, eps=eps)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        self.skip = nn.Identity() if channels_in == channels_out else nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x: Tensor, emb: Tensor | None = None) -> Tensor:
        h = self.conv1(silu_of(self.norm1, x))
        if emb is not None:
            h = added(h, self.time(F.silu(emb))[:, :, None, None])
        h = self.conv2(silu_of(self.norm2, h))
        return added(h, self.skip(x))


class Upsample(nn.Module):
    """Nearest neighbour, then a convolution.

    x [B, C, H, W] -> [B, C, *size], twice the size where none is given. A size is given where the way down halved
    an odd number.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        if size is None:
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        else:
            x = F.interpolate(x, size=size, mode="nearest")
        return self.conv(x)
