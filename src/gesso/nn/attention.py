"""Attention, and the UNet's transformer blocks with cross-attention (Rombach et al. 2022, arXiv:2112.10752, B.1).

Shapes: B batch, N queries, L keys, D width of the queries, C channels, H W rows and columns.
"""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import handle_torch_function, has_torch_function_unary

T = TypeVar("T")
Kept = dict[nn.Module, object]


def keeping(context: Tensor, kept: Kept) -> None:
    """Let modules keep what they compute from this text alone for its next call.

    kept: of this text, these networks and their weights; empty at first, and filled by the modules
    """
    context.kept = kept  # type: ignore[attr-defined]


def of_text(module: nn.Module, context: Tensor, compute: Callable[[Tensor], T]) -> T:
    """What a module computes from the text alone: kept from an earlier call with the same text, if it may be."""
    kept: Kept | None = getattr(context, "kept", None)
    if kept is None:
        return compute(context)
    if module not in kept:
        kept[module] = compute(context)
    return kept[module]  # type: ignore[return-value]


class Attention(nn.Module):
    """Multi-head attention; the output projection has a bias, the inputs' have one on request.

    x [B, N, D], context [B, L, context_dim] (x itself where None) -> [B, N, D]
    causal: a query sees keys up to its own place. visible: bool [B, L], keys that may be seen; None: all.
    upcast: the scores are computed in float32 whatever the dtype: those of SD 2.1 overflow float16.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        context_dim: int | None = None,
        *,
        bias: bool = False,
        upcast: bool = False,
    ) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"attention of width {dim} does not divide into {num_heads} heads")
        self.num_heads = num_heads
        self.upcast = upcast
        self.to_q = nn.Linear(dim, dim, bias=bias)
        self.to_k = nn.Linear(context_dim or dim, dim, bias=bias)
        self.to_v = nn.Linear(context_dim or dim, dim, bias=bias)
        self.to_out = nn.Linear(dim, dim)

    def forward(
        self, x: Tensor, context: Tensor | None = None, *, causal: bool = False, visible: Tensor | None = None
    ) -> Tensor:
        q = self._split(self.to_q(x))
        if context is None:
            context = x
            k, v = self._keys_and_values(x)
        else:
            k, v = of_text(self, context, self._keys_and_values)
        mask = None
        if visible is not None:  # the fused kernels take a mask or a flag, not both
            mask = visible[:, None, None, :]
            if causal:
                mask = mask & torch.ones(x.shape[1], context.shape[1], dtype=torch.bool, device=x.device).tril()
            causal = False
        if self.upcast:
            wide = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=mask, is_causal=causal)
            mixed = wide.to(q.dtype)
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
        return self.to_out(mixed.transpose(1, 2).flatten(2))

    def _keys_and_values(self, context: Tensor) -> tuple[Tensor, Tensor]:
        return self._split(self.to_k(context)), self._split(self.to_v(context))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.num_heads, -1)).transpose(1, 2)


def gated(x: Tensor) -> Tensor:
    """The first half of the numbers times an exact GELU of the second.  [..., 2 D] -> [..., D]

    A mode of torch calls may compute it in another way, as it may torch's own functions.
    """
    if has_torch_function_unary(x):
        result: Tensor = handle_torch_function(gated, (x,), x)
        return result
    value, gate = x.chunk(2, dim=-1)
    return value * F.gelu(gate)


class GEGLU(nn.Module):
    """Feed-forward gated by an exact GELU (Shazeer 2020, arXiv:2002.05202).  [B, N, D] -> [B, N, D]"""

    def __init__(self, dim: int, mult: int = 4) -> None:
        super().__init__()
        self.proj = nn.Linear(dim, 2 * mult * dim)
        self.out = nn.Linear(mult * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(gated(self.proj(x)))


class TransformerBlock(nn.Module):
    """Self-attention, attention to the text, feed-forward, each around a skip.  x [B, N, D] -> [B, N, D]

    cross_only: what stands at the place of the self-attention looks at the text, too (the x4 upscaler).
    """

    def __init__(
        self, dim: int, num_heads: int, context_dim: int, *, cross_only: bool = False, upcast: bool = False
    ) -> None:
        super().__init__()
        self.cross_only = cross_only
        self.norm1 = nn.LayerNorm(dim)
        self.self_attention = Attention(dim, num_heads, context_dim if cross_only else None, upcast=upcast)
        self.norm2 = nn.LayerNorm(dim)
        self.cross_attention = Attention(dim, num_heads, context_dim, upcast=upcast)
        self.norm3 = nn.LayerNorm(dim)
        self.feed_forward = GEGLU(dim)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        x = x + self.self_attention(self.norm1(x), context if self.cross_only else None)
        x = x + self.cross_attention(self.norm2(x), context)
        return x + self.feed_forward(self.norm3(x))


class SpatialTransformer(nn.Module):
    """Transformer blocks over the positions of a feature map.

    x [B, C, H, W], context [B, L, context_dim] -> [B, C, H, W]. Released files hold the projections as 1x1
    convolutions (SD 1) or linear layers (SD 2, SDXL); the numbers are the same, here they are linear.
    """

    def __init__(
        self,
        channels: int,
        num_heads: int,
        context_dim: int,
        depth: int,
        norm_groups: int,
        *,
        cross_only: bool = False,
        upcast: bool = False,
    ) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(norm_groups, channels, eps=1e-6)  # 1e-6 here, 1e-5 in the residual blocks
        self.proj_in = nn.Linear(channels, channels)
        self.blocks = nn.ModuleList(
            TransformerBlock(channels, num_heads, context_dim, cross_only=cross_only, upcast=upcast)
            for _ in range(depth)
        )
        self.proj_out = nn.Linear(channels, channels)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        tokens = self.proj_in(self.norm(x).flatten(2).transpose(1, 2))
        for block in self.blocks:
            tokens = block(tokens, context)
        return x + self.proj_out(tokens).transpose(1, 2).reshape(x.shape)
