"""Less to keep for the backward pass: what is quickly computed again, and what frozen convolutions do not need.

torch keeps the input of every operation. Of a normalised convolution these are three pictures: before the norm, between
norm and SiLU, and before the convolution. Of them only the first is needed: the other two follow from it by operations
that take no time beside a convolution, and a convolution whose weights do not learn asks for its input's shape alone
(Chen et al. 2016, arXiv:1604.06174, choose what to compute again in the same way). All gradients stay what they are,
bit by bit. Where whole blocks are computed again (`checkpointing`), they keep their inputs alone, and this has no part.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.grad import conv2d_input
from torch.overrides import TorchFunctionMode

from gesso.nn.attention import gated
from gesso.training.mixed import is_mixed, mixed_on_cpu


def keeping_less(wanted: bool = True) -> AbstractContextManager[object]:
    """Within, networks that learn, or parts of which do, keep less for the backward pass."""
    return _KeepingLess() if wanted else nullcontext()


class _KeepingLess(TorchFunctionMode):
    """Takes the calls of norms, SiLU, gates and convolutions while a network computes with gradients."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        take = _TAKEN.get(func) if torch.is_grad_enabled() else None
        return func(*args, **given) if take is None else take(*args, **given)


def _group_norm(x: Tensor, groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Tensor:
    y = F.group_norm(x, groups, weight, bias, eps)
    y.normalised = (x, weight, bias, groups, eps)  # type: ignore[attr-defined]  # for the SiLU that may follow
    return y


def _silu(x: Tensor, inplace: bool = False) -> Tensor:
    made = getattr(x, "normalised", None)
    if made is None or inplace or not x.requires_grad or made[1] is None or made[2] is None:
        return F.silu(x, inplace)
    result: Tensor = _NormalisedSiLU.apply(x.detach(), *made)  # type: ignore[no-untyped-call]
    return result


def _gated(x: Tensor) -> Tensor:
    result: Tensor = _Gated.apply(x) if x.requires_grad else gated(x)  # type: ignore[no-untyped-call]
    return result


def _conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    learns = weight.requires_grad or (bias is not None and bias.requires_grad)
    if learns or not x.requires_grad or isinstance(padding, str):
        return F.conv2d(x, weight, bias, stride, padding, dilation, groups)
    result: Tensor = _FrozenConv.apply(x, weight, bias, stride, padding, dilation, groups)  # type: ignore[no-untyped-call]
    return result


_TAKEN: Mapping[Callable[..., Any], Callable[..., Tensor]] = {
    F.group_norm: _group_norm,
    F.silu: _silu,
    F.conv2d: _conv2d,
    gated: _gated,
}


def _autocast(x: Tensor) -> AbstractContextManager[object]:
    """What autocast is now, to be entered once more in the backward pass."""
    if is_mixed():
        return mixed_on_cpu()
    kind = x.device.type if x.device.type != "meta" else "cpu"
    on, dtype = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
    return torch.autocast(kind, dtype=dtype, enabled=on)


class _NormalisedSiLU(torch.autograd.Function):
    """SiLU of a group norm of x, which was computed already; keeps x."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        ctx.save_for_backward(x, weight, bias)
        ctx.groups, ctx.eps, ctx.autocast = groups, eps, _autocast(x)
        return F.silu(y)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        inputs = [one.detach().requires_grad_(one.requires_grad) for one in ctx.saved_tensors]
        wanted = [one for one, needed in zip(inputs, ctx.needs_input_grad[1:4], strict=True) if needed]
        with torch.enable_grad(), ctx.autocast:
            x, weight, bias = inputs
            again = F.silu(F.group_norm(x, ctx.groups, weight, bias, ctx.eps))
        found = iter(torch.autograd.grad(again, wanted, grads))
        return None, *(next(found) if needed else None for needed in ctx.needs_input_grad[1:4]), None, None


class _Gated(torch.autograd.Function):
    """`gated`, which keeps its input alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        ctx.autocast = _autocast(x)
        return gated(x)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x = ctx.saved_tensors[0].detach().requires_grad_()
        with torch.enable_grad(), ctx.autocast:
            again = gated(x)
        return torch.autograd.grad(again, x, grads)[0]


class _FrozenConv(torch.autograd.Function):
    """A convolution whose weights do not learn: of its input it keeps the shape."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any, groups: int
    ) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.how = stride, padding, dilation, groups
        ctx.shape, ctx.dtype = x.shape, x.dtype
        return F.conv2d(x, weight, bias, stride, padding, dilation, groups)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (weight,) = ctx.saved_tensors
        grad = conv2d_input(ctx.shape, weight.to(grads[0].dtype), grads[0], *ctx.how)
        return grad.to(ctx.dtype), None, None, None, None, None, None
