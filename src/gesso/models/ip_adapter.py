"""IP-Adapter's projections: an image encoder's output becomes tokens of an image prompt, besides those of the text
(Ye et al. 2023, arXiv:2308.06721).

B batch, D width of the encoder, T tokens, C context_dim of the UNet.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HEAD_DIM = 64  # of the resampler, in every release


@dataclass(frozen=True, kw_only=True)
class IPAdapterConfig:
    """Sizes.

    kind         base: T tokens of the projected vector; plus: T tokens that ask the states of the patches; full: one of
                 each patch
    encoder_dim  of what the encoder gives: its projected vector, or its states for plus and full
    num_tokens   T; of full, patches and one more
    dim, num_layers  of the resampler of plus
    """

    kind: Literal["base", "plus", "full"]
    encoder_dim: int
    context_dim: int
    num_tokens: int
    dim: int = 0
    num_layers: int = 0


class BaseProjection(nn.Module):
    """[B, D] -> [B, T, C]"""

    def __init__(self, config: IPAdapterConfig) -> None:
        super().__init__()
        self.num_tokens = config.num_tokens
        self.proj = nn.Linear(config.encoder_dim, config.num_tokens * config.context_dim)
        self.norm = nn.LayerNorm(config.context_dim)

    def forward(self, x: Tensor) -> Tensor:
        tokens: Tensor = self.norm(self.proj(x).unflatten(1, (self.num_tokens, -1)))
        return tokens


class FullProjection(nn.Module):
    """[B, T, D] -> [B, T, C]"""

    def __init__(self, config: IPAdapterConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.encoder_dim, config.encoder_dim)
        self.fc2 = nn.Linear(config.encoder_dim, config.context_dim)
        self.norm = nn.LayerNorm(config.context_dim)

    def forward(self, x: Tensor) -> Tensor:
        tokens: Tensor = self.norm(self.fc2(F.gelu(self.fc1(x))))
        return tokens


class PerceiverLayer(nn.Module):
    """Queries that look at the picture and at each other, then a perceptron (Jaegle et al. 2021, arXiv:2103.03206)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.num_heads = dim // HEAD_DIM
        self.norm_picture, self.norm_queries = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.to_q = nn.Linear(dim, dim, bias=False)
        self.to_kv = nn.Linear(dim, 2 * dim, bias=False)
        self.to_out = nn.Linear(dim, dim, bias=False)
        self.norm = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, 4 * dim, bias=False)
        self.fc2 = nn.Linear(4 * dim, dim, bias=False)

    def forward(self, x: Tensor, queries: Tensor) -> Tensor:
        normed = self.norm_queries(queries)
        k, v = self.to_kv(torch.cat([self.norm_picture(x), normed], dim=1)).chunk(2, dim=-1)
        q, k, v = (t.unflatten(2, (self.num_heads, -1)).transpose(1, 2) for t in (self.to_q(normed), k, v))
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        queries = queries + self.to_out(mixed)
        return queries + self.fc2(F.gelu(self.fc1(self.norm(queries))))


class Resampler(nn.Module):
    """[B, N, D] -> [B, T, C]"""

    def __init__(self, config: IPAdapterConfig) -> None:
        super().__init__()
        if config.dim % HEAD_DIM:
            raise ValueError(f"a resampler of width {config.dim}, expected a multiple of {HEAD_DIM}")
        queries = torch.empty(1, config.num_tokens, config.dim)
        self.queries = nn.Parameter(nn.init.normal_(queries, std=1 / math.sqrt(config.dim)))
        self.proj_in = nn.Linear(config.encoder_dim, config.dim)
        self.layers = nn.ModuleList(PerceiverLayer(config.dim) for _ in range(config.num_layers))
        self.proj_out = nn.Linear(config.dim, config.context_dim)
        self.norm_out = nn.LayerNorm(config.context_dim)

    def forward(self, x: Tensor) -> Tensor:
        queries, x = self.queries.expand(len(x), -1, -1), self.proj_in(x)
        for layer in self.layers:
            queries = layer(x, queries)
        tokens: Tensor = self.norm_out(self.proj_out(queries))
        return tokens


class IPAdapter(nn.Module):
    """The projection, and keys and values of the tokens for each attention to the text, in the order of the file.

    widths: of these attentions
    """

    def __init__(self, config: IPAdapterConfig, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.config = config
        kinds = {"base": BaseProjection, "plus": Resampler, "full": FullProjection}
        self.projection: nn.Module = kinds[config.kind](config)
        self.to_k = nn.ModuleList(nn.Linear(config.context_dim, width, bias=False) for width in widths)
        self.to_v = nn.ModuleList(nn.Linear(config.context_dim, width, bias=False) for width in widths)

    def forward(self, x: Tensor) -> Tensor:
        """Output of the image encoder -> tokens [B, T, C]."""
        tokens: Tensor = self.projection(x)
        return tokens
