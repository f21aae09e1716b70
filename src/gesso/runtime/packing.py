"""Weights of linear layers and convolutions as the processor reads them, for bfloat16 and int8 on a CPU.

torch otherwise arranges a weight anew in each call. `pack` does it once, and `linear` and `convolve` compute with it:
the same bits. A convolution after doubling the size (`gesso.nn.resblock.Upsample`) is more than arranged: each pixel of
the smaller picture stands in the larger one four times, so that of the nine numbers of a kernel several always meet the
same value. Summed beforehand, four kernels of 2 x 2 on the smaller picture do the work, each for a quarter of the
result, with 4/9 of the products; what is off is the rounding of the sums, as the weights themselves are rounded.

A weight may be packed in int8 (`runtime.int8`): the layer then takes and gives bfloat16 as before.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_map_only

from gesso.runtime.int8 import Weight8, arrange_convolution, arrange_linear, convolve8, linear8, quantize


@dataclass(frozen=True)
class Packed:
    """A layer's weight as the processor reads it.

    weights  one, or four of a convolution after doubling, by row and column of the quarter that they compute
    place    address of the plain weight that it was made from: another one (merged adapters) is used as it is
    """

    weights: "Weights"
    dtype: torch.dtype
    place: int


Weights = tuple[Tensor | Weight8, ...]


@cache
def can_pack() -> bool:
    """Whether torch has what packed weights in bfloat16 need, and the processor too."""
    try:
        supported = torch.ops.mkldnn._is_mkldnn_bf16_supported()
        _ = (torch.ops.mkldnn._linear_pointwise, torch.ops.mkldnn._convolution_pointwise)
    except (AttributeError, RuntimeError):
        return False
    return bool(torch.backends.mkldnn.is_available() and supported)


def is_packable(module: nn.Module) -> bool:
    """Linear layers and plain convolutions."""
    if isinstance(module, nn.Conv2d):
        return module.groups == 1 and module.padding_mode == "zeros" and not isinstance(module.padding, str)
    return type(module) is nn.Linear


def pack(module: nn.Module, weight: Tensor, *, doubled: bool = False, int8: bool = False) -> Weights:
    """The weight of such a layer, packed. weight bfloat16, [out, in] or [out, in, h, w].

    doubled  the layer is a convolution of 3 x 3 over a picture that was doubled in size
    int8     it multiplies in int8
    """
    weights, geometry = [weight], ((0, 0), (1, 1), (1, 1))
    if doubled:
        weights = _quarters(weight)
    elif isinstance(module, nn.Conv2d) and not _is_by_place(module.weight, module.stride, module.padding):
        geometry = (_pair(module.padding), _pair(module.stride), _pair(module.dilation))
    else:
        flat = weight.flatten(1)
        return (arrange_linear(flat) if int8 else torch.ops.mkldnn._reorder_linear_weight(flat),)
    arrange = arrange_convolution if int8 else _arrange
    return tuple(arrange(each, *geometry) for each in weights)


def _arrange(weight: Tensor, padding: Any, stride: Any, dilation: Any) -> Tensor:
    geometry = [list(pair) for pair in (padding, stride, dilation)]
    packed: Tensor = torch.ops.mkldnn._reorder_convolution_weight(weight, *geometry, 1)
    return packed


def _quarters(weight: Tensor) -> list[Tensor]:
    """A kernel of 3 x 3 over a doubled picture, as four of 2 x 2 over the picture itself.

    In an even row of the result, the rows above, at and below are the smaller picture's row before, this one and this
    one again; in an odd row this one twice, then the next.
    """

    def halves(weight: Tensor, dim: int) -> tuple[Tensor, Tensor]:
        first, second, third = weight.unbind(dim)
        return torch.stack([first, second + third], dim), torch.stack([first + second, third], dim)

    rows = halves(weight.float(), 2)
    return [quarter.to(weight.dtype) for half in rows for quarter in halves(half, 3)]


def _is_by_place(weight: Tensor, stride: Any, padding: Any) -> bool:
    """A convolution that is a linear layer at each place. As a convolution, oneDNN wants its weight in another layout
    for another size of pictures: 0.2 s for one layer of SD 1.5 at 4 x 4, which a linear layer computes in 1 ms."""
    return weight.shape[2:] == (1, 1) and _pair(stride) == (1, 1) and _pair(padding) == (0, 0)


def packed_of(param: Any, dtype: torch.dtype) -> Weights | None:
    """What `pack` made of this parameter, if it still has the same numbers."""
    packed: Packed | None = getattr(param, "packed", None)
    if packed is None or packed.dtype != dtype or packed.place != param.data_ptr():
        return None
    return packed.weights


# Computing with them -------------------------------------------------------------------------------------------------


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor | None:
    """As `F.linear`; None where the weight is not packed."""
    packed = packed_of(weight, x.dtype)
    if packed is None:
        return None
    return _linear(x.contiguous(), packed[0], bias)


def _linear(x: Tensor, packed: Tensor | Weight8, bias: Tensor | None) -> Tensor:
    if isinstance(packed, Weight8):
        return linear8(quantize(x), packed, bias)
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
    return result


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor | None:
    """As `F.conv2d`; None where the weight is not packed."""
    packed = packed_of(weight, x.dtype)
    if packed is None or isinstance(padding, str):
        return None
    if len(packed) > 1:
        if not isinstance(x, Doubled):  # what was doubled was changed since, as for seamless tiling
            return F.conv2d(x, weight.to(x.dtype), bias, stride, padding, dilation, groups)
        return _convolve_doubled(x.smaller, packed, bias, len(weight))
    x = x.contiguous(memory_format=torch.channels_last)
    if _is_by_place(weight, stride, padding):
        return _linear(x.permute(0, 2, 3, 1), packed[0], bias).permute(0, 3, 1, 2)
    return _convolve(x, packed[0], bias, _pair(padding), _pair(stride), _pair(dilation), groups)


def _convolve(
    x: Tensor,
    packed: Tensor | Weight8,
    bias: Tensor | None,
    padding: Any = 0,
    stride: Any = 1,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    geometry = [_pair(padding), _pair(stride), _pair(dilation)]
    if isinstance(packed, Weight8):
        return convolve8(quantize(x), packed, bias, *geometry)
    result: Tensor = torch.ops.mkldnn._convolution_pointwise(x, packed, bias, *geometry, groups, "none", [], "")
    return result


class Doubled(Tensor):
    """A picture of twice the size that is not in memory: `convolve` computes with the smaller one.

    Any other operation gets the picture itself, which is made for it.
    """

    smaller: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, smaller: Tensor) -> "Doubled":
        rows, columns = smaller.shape[2:]
        size = (*smaller.shape[:2], 2 * rows, 2 * columns)
        like = torch.empty(size, dtype=smaller.dtype, device="meta", memory_format=torch.channels_last)
        made: Doubled = Tensor._make_wrapper_subclass(
            cls, size, strides=like.stride(), dtype=smaller.dtype, device=smaller.device
        )
        made.smaller = smaller
        return made

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[Any, Any] | None = None
    ) -> Any:
        args, kwargs = tree_map_only(Doubled, lambda each: each.made(), (args, kwargs or {}))
        return func(*args, **kwargs)

    def made(self) -> Tensor:
        """The picture."""
        return F.interpolate(self.smaller, scale_factor=2.0, mode="nearest")


def double(
    x: Tensor, size: Any = None, scale_factor: Any = None, mode: str = "nearest", **options: Any
) -> Tensor | None:
    """As `F.interpolate`, where it repeats each pixel in two rows and columns; None for anything else."""
    twice = [2 * side for side in x.shape[2:]]
    if mode != "nearest" or x.dtype != torch.bfloat16 or x.ndim != 4:
        return None
    if (list(size) if size is not None else scale_factor) not in (twice, 2, 2.0):
        return None
    return Doubled(x)


def _convolve_doubled(x: Tensor, packed: Weights, bias: Tensor | None, channels: int) -> Tensor:
    rows, columns = x.shape[2:]
    size = (len(x), channels, 2 * rows, 2 * columns)
    result = torch.empty(size, dtype=x.dtype, memory_format=torch.channels_last)
    x = x.contiguous(memory_format=torch.channels_last)
    eight = quantize(x) if isinstance(packed[0], Weight8) else None
    for i, weight in enumerate(packed):
        row, column = divmod(i, 2)
        around = (1 - column, column, 1 - row, row)
        if eight is not None and isinstance(weight, Weight8):
            values = _padded(eight.values, around, eight.zero)
            quarter = convolve8(replace(eight, values=values), weight, bias)
        else:
            quarter = _convolve(_padded(x, around), weight, bias)
        result[:, :, row::2, column::2] = quarter
    return result


def _padded(x: Tensor, around: Sequence[int], value: int = 0) -> Tensor:
    return F.pad(x, list(around), value=value).contiguous(memory_format=torch.channels_last)


def _pair(value: Any) -> tuple[int, int]:
    first, second = (value, value) if isinstance(value, int) else value
    return first, second
