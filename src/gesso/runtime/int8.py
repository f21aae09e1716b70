"""Products in int8 for linear layers and convolutions, on CPUs whose instructions multiply 8-bit numbers (VNNI).

A weight has a scale for each output channel, symmetric around zero, fixed when it is loaded. What enters a layer is
measured anew in each call: 255 steps from its least to its greatest number, zero among them. The sums are whole numbers
and exact, so that their order changes no bit; the result is scaled to bfloat16. oneDNN multiplies, through torch's
operations for quantised networks. The same scheme as in Krishnamoorthi 2018, arXiv:1806.08342, sections 2 and 3.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from gesso.runtime.compiled import Range, library

_STEPS = 255  # of 8 bits without a sign, which what enters a layer has
_LEAST = 1e-30  # a step, so that its inverse is finite in float32
_AT_ONCE = 2**18  # numbers of a weight that are converted while they are in the processor's cache
_GREATEST = 127  # of 8 bits with a sign, which weights have


@dataclass(frozen=True)
class Weight8:
    """A weight of 8 bits as the processor reads it.  scales [out], zeros [out]: their zero points, all 0"""

    packed: Tensor
    scales: Tensor
    zeros: Tensor


@dataclass(frozen=True)
class Input8:
    """What enters a layer, in 8 bits: (values - zero) * scale.  values uint8, of the shape of the original"""

    values: Tensor
    scale: float
    zero: int


@cache
def can_multiply() -> bool:
    """Whether torch and the processor multiply 8-bit numbers and sum them without overflow (VNNI)."""
    try:
        supported = torch.cpu._is_vnni_supported()
        _ = (torch.ops.onednn.qlinear_pointwise, torch.ops.onednn.qconv2d_pointwise)
    except (AttributeError, RuntimeError):
        return False
    return bool(torch.backends.mkldnn.is_available() and supported)


@dataclass
class Span:
    """What a kernel says of a tensor that it made, and that nobody changes afterwards.

    low, high  its least and greatest number, and 0; NaN where one is none
    eight      the tensor in 8 bits, once a layer took it: several may take it, as queries, keys and values do
    """

    low: float
    high: float
    eight: "Input8 | None" = None


# Numbers to 8 bits ----------------------------------------------------------------------------------------------------


def quantize(x: Tensor) -> Input8:
    """bfloat16, without gaps in memory -> the same in 8 bits. Where something is not finite, the scale is NaN."""
    span: Span | None = getattr(x, "span", None)
    if span is None:
        return _quantize(x, *_range(x))
    if span.eight is None:
        span.eight = _quantize(x, span.low, span.high)
    return span.eight


def _quantize(x: Tensor, low: float, high: float) -> Input8:
    scale = (high - low) / _STEPS
    if not math.isfinite(scale):
        return Input8(torch.zeros_like(x, dtype=torch.uint8), math.nan, 0)
    scale = max(scale, _LEAST)
    zero = round(-low / scale)
    return Input8(_quantized(x, float(torch.tensor(1 / scale)), zero), scale, zero)  # in float32, as the kernel has it


def _range(x: Tensor) -> tuple[float, float]:
    """Least and greatest number of x and 0."""
    kernels = library()
    if kernels is None:
        low, high = x.aminmax() if x.numel() else (x.new_zeros(()), x.new_zeros(()))
        return min(float(low), 0.0), max(float(high), 0.0)
    found = Range()
    kernels.gesso_range(x.data_ptr(), x.numel(), found, torch.get_num_threads())
    bits = torch.tensor([found[0] ^ 0x7FFF if found[0] < 0 else found[0], found[1]], dtype=torch.int16)
    low, high = bits.view(torch.bfloat16).tolist()
    return low, high


def _quantized(x: Tensor, per_step: float, zero: int) -> Tensor:
    kernels = library()
    if kernels is None:
        return (x.float() * per_step).round().add_(zero).clamp_(0, _STEPS).to(torch.uint8)
    result = torch.empty_like(x, dtype=torch.uint8)
    kernels.gesso_quantize(x.data_ptr(), result.data_ptr(), x.numel(), per_step, zero, torch.get_num_threads())
    return result


def quantize_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """[out, ...] -> the same in int8, and a scale for each output channel."""
    values, scales = torch.empty(weight.shape, dtype=torch.int8), torch.empty(len(weight))
    rows = max(1, _AT_ONCE * len(weight) // max(weight.numel(), 1))
    for first in range(0, len(weight), rows):
        part = weight[first : first + rows].to(torch.float32, copy=True)
        greatest = part.flatten(1).abs().amax(1)
        steps = torch.where(greatest > 0, greatest / _GREATEST, 1.0)
        values[first : first + rows] = part.div_(steps.view(-1, *[1] * (part.ndim - 1))).round_()
        scales[first : first + rows] = steps
    return values, scales


# Weights --------------------------------------------------------------------------------------------------------------


def arrange_linear(weight: Tensor) -> Weight8:
    """[out, in]"""
    values, scales = quantize_weight(weight)
    return Weight8(torch.ops.onednn.qlinear_prepack(values, None), scales, _zeros(scales))


def arrange_convolution(
    weight: Tensor, padding: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> Weight8:
    """[out, in, h, w]"""
    values, scales = quantize_weight(weight.contiguous())
    # The scale and the zero point of the input are others in each call: these only say that it has some.
    packed = torch.ops.onednn.qconv_prepack(
        values, scales, 1.0, _STEPS // 2, list(stride), list(padding), list(dilation), 1, None
    )
    return Weight8(packed, scales, _zeros(scales))


def _zeros(scales: Tensor) -> Tensor:
    return torch.zeros(len(scales), dtype=torch.int64)


# Products -------------------------------------------------------------------------------------------------------------


def linear8(x: Input8, weight: Weight8, bias: Tensor | None) -> Tensor:
    """As `F.linear`.  [..., in] -> bfloat16 [..., out]"""
    rows = x.values.flatten(0, -2)
    arguments = (rows, x.scale, x.zero, weight.packed, weight.scales, weight.zeros, _float(bias))
    result: Tensor = torch.ops.onednn.qlinear_pointwise(*arguments, 1.0, 0, torch.bfloat16, "none", [], "")
    return result.unflatten(0, x.values.shape[:-1])


def convolve8(
    x: Input8,
    weight: Weight8,
    bias: Tensor | None,
    padding: Sequence[int] = (0, 0),
    stride: Sequence[int] = (1, 1),
    dilation: Sequence[int] = (1, 1),
) -> Tensor:
    """As `F.conv2d` with zeros around.  [B, C, H, W], channels last -> bfloat16"""
    arguments = (x.values, x.scale, x.zero, weight.packed, weight.scales, weight.zeros, _float(bias))
    geometry = (list(stride), list(padding), list(dilation))
    result: Tensor = torch.ops.onednn.qconv2d_pointwise(
        *arguments, *geometry, 1, 1.0, 0, torch.bfloat16, "none", [], ""
    )
    return result


def _float(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.float()
