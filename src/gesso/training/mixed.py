"""Mixed precision on a CPU: autocast to bfloat16, but for two operations that torch computes slowly there.

Measured with torch 2.13 on one core with AVX512-BF16, forward and backward pass together (docs/log.md): a group norm of
channels-last pictures in bfloat16 takes five times as long as in float32; fused attention of few places takes up to
seven times as long as the products that it is made of.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

MOST_SCORES = 2**16  # of a head, that attention by products writes down; fused attention does not

_active: ContextVar[bool] = ContextVar("mixed precision on a CPU", default=False)


@contextmanager
def mixed_on_cpu() -> Iterator[None]:
    """Within, networks on a CPU compute in bfloat16 where it pays."""
    token = _active.set(True)
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16), _Mixed():
            yield
    finally:
        _active.reset(token)


def is_mixed() -> bool:
    """Whether this is within `mixed_on_cpu`."""
    return _active.get()


class _Mixed(TorchFunctionMode):
    """Takes the calls of group norms and of attention."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        take = _TAKEN.get(func)
        return func(*args, **given) if take is None else take(*args, **given)


def _group_norm(x: Tensor, groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Tensor:
    return F.group_norm(x.float(), groups, weight, bias, eps).to(x.dtype)


def _attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **other: Any,
) -> Tensor:
    is_small = q.shape[-2] * k.shape[-2] <= MOST_SCORES
    if other or dropout_p or attn_mask is not None or q.dtype != torch.bfloat16 or not is_small:
        return F.scaled_dot_product_attention(q, k, v, attn_mask, dropout_p, is_causal, **other)
    scores = torch.matmul(q * (1 / math.sqrt(q.shape[-1])), k.transpose(-1, -2))
    if is_causal:
        unseen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(unseen, -torch.inf)
    # Autocast would have the softmax in float32, whose size is what the time goes to.
    with torch.autocast("cpu", enabled=False):
        return torch.matmul(scores.softmax(-1), v)


_TAKEN: Mapping[Callable[..., Any], Callable[..., Tensor]] = {
    F.group_norm: _group_norm,
    F.scaled_dot_product_attention: _attention,
}
