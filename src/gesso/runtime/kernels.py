"""Own kernels in C++ (attention.cpp, layers.cpp), and torch's operations on packed weights, for bfloat16 on a CPU.

`cpu_kernels` is a mode of this thread's torch calls, not a change of the networks: within it

    attention      is computed by a kernel of our own where the processor has AVX512-BF16 and the wheel has it: three
                   times as fast as torch's fused attention, as close to float32
    the gate       of feed-forward layers is computed in one pass and rounded once, by another kernel
    norms          layer norms, and group norms with the SiLU behind them, likewise
    linear layers and convolutions   take packed weights (`runtime.packing`)

Everything else, and every float32 call, is torch's own.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from gesso.nn.attention import gated
from gesso.nn.resblock import OWN_SILU_OF
from gesso.runtime.compiled import Floats, Sizes, Strides, library
from gesso.runtime.int8 import Span
from gesso.runtime.packing import convolve, double, linear

MAX_HEAD = 512  # numbers of a head: that of the VAE's attention
FEWEST = 2**20  # products (queries, keys, numbers of all heads) for which a call of the kernel pays


def attention(query: Tensor, key: Tensor, value: Tensor, scale: float | None = None) -> Tensor | None:
    """softmax(scale query key^T) value; None where the kernel cannot compute it: another dtype or device, an odd width.

    query [B, H, N, D], key and value [B, H, L, D] bfloat16, of any strides with the D numbers side by side
    -> [B, H, N, D], in memory [B, N, H, D]. scale: 1 / sqrt(D) where none is given.
    """
    kernels = library()
    tensors = (query, key, value)
    if kernels is None or any(t.ndim != 4 or t.dtype != torch.bfloat16 or t.device.type != "cpu" for t in tensors):
        return None
    batch, heads, queries, dim = query.shape
    keys = key.shape[2]
    if not keys or dim % 2 or dim > MAX_HEAD or key.shape != value.shape or key.shape != (batch, heads, keys, dim):
        return None
    query, key, value = (t if t.stride(3) == 1 else t.contiguous() for t in tensors)
    result = torch.empty(batch, queries, heads, dim, dtype=query.dtype).transpose(1, 2)
    strides = [stride for t in (query, key, value, result) for stride in t.stride()[:3]]
    refused = kernels.gesso_attention(
        query.data_ptr(),
        key.data_ptr(),
        value.data_ptr(),
        result.data_ptr(),
        Sizes(batch, heads, queries, keys, dim),
        Strides(*strides),
        dim**-0.5 if scale is None else scale,
        torch.get_num_threads(),
    )
    return None if refused else result


def gate(x: Tensor) -> Tensor | None:
    """As `gesso.nn.attention.gated`; None where the kernel cannot compute it: another dtype or device.

    x [..., 2 D] bfloat16 -> [..., D]
    """
    kernels = library()
    if kernels is None or not _is_own(x) or not x.is_contiguous():
        return None
    width = x.shape[-1] // 2
    result, span = torch.empty(*x.shape[:-1], width, dtype=x.dtype), Floats()
    if result.numel():
        sizes = (result.numel() // width, width)
        if kernels.gesso_gate(x.data_ptr(), result.data_ptr(), *sizes, span, torch.get_num_threads()):
            return None
    return _spanning(result, span)


def layer_norm(
    x: Tensor, shape: Sequence[int], weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor | None:
    """As `F.layer_norm`; None where the kernel cannot compute it: another dtype or device, more than the last side."""
    kernels = library()
    if kernels is None or weight is None or bias is None or len(shape) != 1 or not _is_own(x, weight, bias):
        return None
    if not x.is_contiguous() or not x.numel():
        return None
    result, span, width = torch.empty_like(x), Floats(), shape[0]
    places = [each.data_ptr() for each in (x, weight, bias, result)]
    if kernels.gesso_layer_norm(*places, x.numel() // width, width, eps, span, torch.get_num_threads()):
        return None
    return _spanning(result, span)


def silu_norm(norm: nn.GroupNorm, x: Tensor) -> Tensor | None:
    """As `gesso.nn.resblock.silu_of`; None where the kernel cannot compute it: another dtype, device or layout, a norm
    that something hangs on, and where gradients are wanted.  x [B, C, H, W], channels last
    """
    kernels = library()
    if kernels is None or torch.is_grad_enabled() or norm._forward_hooks or norm._forward_pre_hooks:
        return None
    if x.ndim != 4 or not x.numel() or not x.is_contiguous(memory_format=torch.channels_last):
        return None
    if not _is_own(x, norm.weight, norm.bias):
        return None
    result, span = torch.empty_like(x), Floats()
    places = [each.data_ptr() for each in (x, norm.weight, norm.bias, result)]
    sizes = (len(x), x.shape[2] * x.shape[3], x.shape[1], norm.num_groups)
    if kernels.gesso_silu_norm(*places, *sizes, norm.eps, span, torch.get_num_threads()):
        return None
    return _spanning(result, span)


def _is_own(*tensors: Tensor) -> bool:
    return all(each.dtype == torch.bfloat16 and each.device.type == "cpu" for each in tensors)


def _spanning(x: Tensor, span: Any) -> Tensor:
    x.span = Span(span[0], span[1])  # type: ignore[attr-defined]
    return x


class _Kernels(TorchFunctionMode):
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[Any],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        answer = None
        if func is F.linear:
            answer = linear(*args, **kwargs)
        elif func is F.conv2d:
            answer = convolve(*args, **kwargs)
        elif func is F.interpolate:
            answer = double(*args, **kwargs)
        elif func is F.scaled_dot_product_attention:
            answer = self._attend(*args, **kwargs)
        elif func is F.layer_norm:
            answer = layer_norm(*args, **kwargs)
        elif func is gated:
            answer = gate(*args)
        return func(*args, **kwargs) if answer is None else answer

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor | None:
        if attn_mask is not None or dropout_p or is_causal or enable_gqa or query.dtype != torch.bfloat16:
            return None
        if query.numel() * key.shape[-2] < FEWEST:
            return None
        return attention(query, key, value, scale)


@contextmanager
def cpu_kernels() -> Iterator[None]:
    """This thread's torch calls take packed weights and the own kernels; float32 and other devices are not touched."""
    token = OWN_SILU_OF.set(silu_norm)
    try:
        with _Kernels():
            yield
    finally:
        OWN_SILU_OF.reset(token)
