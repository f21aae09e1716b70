"""Embeddings of numbers: the time of the diffusion, sizes."""

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


class EmbeddingMLP(nn.Module):
    """Two linear layers around a SiLU.  x [B, dim_in] -> [B, dim_out]"""

    def __init__(self, dim_in: int, dim_out: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(dim_in, dim_out)
        self.linear2 = nn.Linear(dim_out, dim_out)

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear2(F.silu(self.linear1(x)))
        return x
