"""Emphasis: how a weight changes the vectors of a text encoder; each tool's rule as a function of tensors.

A rule is part of what makes a picture, so each is named. All work on every chunk alone: A1111 takes the mean of
`original` over all prompts of a batch, so that a picture depends on its neighbours; here it does not.

Shapes: N chunks, L tokens, D width. Weights are 1 for beginning, end and padding.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Emphasis = Literal["original", "no_norm", "ignore", "comfyui", "compel"]
RULES: tuple[Emphasis, ...] = ("original", "no_norm", "ignore", "comfyui", "compel")
NEEDS_EMPTY: frozenset[Emphasis] = frozenset({"comfyui", "compel"})  # rules that take the empty prompt's vectors
_LEAST_WEIGHT = 1e-5  # Compel's: below, a fragment is as good as gone


def original(context: Tensor, weights: Tensor) -> Tensor:
    """Vectors times their weights, then all of a chunk scaled so that its mean is as before ("Original" in A1111).

    context [N, L, D], weights [N, L] -> [N, L, D]. Where the mean is near 0, as in SDXL, the scaling means little and
    can be large; a scaling that is not finite is left out. Without weights nothing changes, to the bit.
    """
    weighted = no_norm(context, weights)
    before, after = (x.float().mean(dim=(1, 2), keepdim=True) for x in (context, weighted))
    ratio = before / after
    usable = torch.isfinite(ratio) & (weights != 1).any(dim=1)[:, None, None]
    return weighted * torch.where(usable, ratio, torch.ones_like(ratio)).to(context.dtype)


def no_norm(context: Tensor, weights: Tensor) -> Tensor:
    """Vectors times their weights ("No norm" in A1111). context [N, L, D], weights [N, L] -> [N, L, D]"""
    return context * weights[:, :, None].to(context)


def ignore(context: Tensor, weights: Tensor) -> Tensor:
    """The vectors as they are: brackets are read, and mean nothing ("Ignore" in A1111)."""
    return context


def from_empty(context: Tensor, weights: Tensor, empty: Tensor) -> Tensor:
    """Each vector moved away from the empty prompt's, or towards it: empty + weight * (context - empty) (ComfyUI).

    context [N, L, D], weights [N, L], empty [1, L, D] -> [N, L, D]. Vectors of weight 1 stay as they are, to the bit.
    """
    factor = weights[:, :, None].to(context)
    return torch.where(factor == 1, context, empty + factor * (context - empty))


def compel(context: Tensor, weights: Tensor, empty: Tensor, without: Sequence[tuple[Tensor, float]] = ()) -> Tensor:
    """The rule of Compel: weights move vectors as in ComfyUI, and one below 1 also takes the words themselves away.

    without: for each piece of weight below 1, the context [N, L, D] encoded with the piece's tokens hidden from the
    others, and that weight. Its share grows from 0 at weight 1 over a half at 0.5 to all of it at 0.
    """
    shares = [1.0, *(math.tan((1 - max(_LEAST_WEIGHT, weight)) * math.pi / 2) for _, weight in without)]
    parts = [from_empty(part, weights, empty) for part in (context, *(part for part, _ in without))]
    if len(parts) == 1:
        return parts[0]
    total = sum(shares)
    blended = parts[0] * (shares[0] / total)
    for part, share in zip(parts[1:], shares[1:], strict=True):
        blended = blended + part * (share / total)
    return blended


def blend(contexts: Sequence[Tensor], weights: Sequence[float], *, normalize: bool = True) -> Tensor:
    """The weighted sum of whole prompts' contexts, all of one shape; normalize: weights are shares of their sum.

    Raises ValueError for no context, other counts, or a sum of 0 to share.
    """
    if not contexts or len(contexts) != len(weights):
        raise ValueError(f"{len(contexts)} contexts, {len(weights)} weights")
    total = sum(weights) if normalize else 1.0
    if total == 0:
        raise ValueError("weights that sum to 0 cannot be normalised; use normalize=False")
    return torch.stack([context * (weight / total) for context, weight in zip(contexts, weights, strict=True)]).sum(0)
