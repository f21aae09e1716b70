"""Sinusoidal embeddings of timesteps, sizes and the guidance scale."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def sinusoid(values: Tensor, dim: int, max_period: float = 10_000.0) -> Tensor:
    """Cosines, then sines, of the values at falling frequencies (Ho et al. 2020; Vaswani et al. 2017, section 3.5).

    values [B], fractions allowed; dim even -> [B, dim] float32. Always float32: half precision cannot hold 999 * freq.
    """
    half = dim // 2
    freqs = torch.exp(-math.log(max_period) / half * torch.arange(half, dtype=torch.float32, device=values.device))
    angles = values.float()[:, None] * freqs
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def guidance_sinusoid(scale: Tensor, dim: int) -> Tensor:
    """Guidance scale embedding of guidance-distilled models (Luo et al. 2023, arXiv:2310.04378; as published).

    scale [B], 1 is no guidance; dim even -> [B, dim] float32: sines, then cosines, of 1000 (scale - 1).
    Other frequencies than `sinusoid`: they fall to 1 / 10000 at the last, not beyond it.
    """
    half = dim // 2
    freqs = torch.exp(-math.log(10_000.0) / (half - 1) * torch.arange(half, dtype=torch.float32, device=scale.device))
    angles = (scale.float()[:, None] - 1) * 1000 * freqs
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class EmbeddingMLP(nn.Module):
    """Two linear layers around a SiLU.  x [B, dim_in] -> [B, dim_out]"""

    def __init__(self, dim_in: int, dim_out: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(dim_in, dim_out)
        self.linear2 = nn.Linear(dim_out, dim_out)

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear2(F.silu(self.linear1(x)))
        return x
