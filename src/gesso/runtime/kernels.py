"""Own kernels in C++ (attention.cpp), and torch's operations on packed weights, for bfloat16 on a CPU.

`cpu_kernels` is a mode of this thread's torch calls, not a change of the networks: within it

    attention      is computed by a kernel of our own where the processor has AVX512-BF16 and the wheel has it: three
                   times as fast as torch's fused attention, as close to float32
    linear layers and convolutions   take the weights that `pack` laid out as the processor reads them, which torch
                   otherwise does anew in each call; the same bits

Everything else, and every float32 call, is torch's own.
"""

import ctypes
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

MAX_HEAD = 512  # numbers of a head: that of the VAE's attention
FEWEST = 2**20  # products (queries, keys, numbers of all heads) for which a call of the kernel pays

_Sizes, _Strides = ctypes.c_int64 * 5, ctypes.c_int64 * 12


@cache
def _library() -> Any | None:
    """The kernels; None where they were not built, or the processor lacks what they need."""
    try:
        library = ctypes.CDLL(str(Path(__file__).with_name("_kernels.so")))
    except OSError:  # not built, or torch brings no OpenMP
        return None
    if not library.gesso_attention_is_supported():
        return None
    function = library.gesso_attention
    function.argtypes = [ctypes.c_void_p] * 4 + [_Sizes, _Strides, ctypes.c_float, ctypes.c_int]
    return library


def has_kernels() -> bool:
    """Whether attention in bfloat16 is computed by the own kernel."""
    return _library() is not None


def attention(query: Tensor, key: Tensor, value: Tensor, scale: float | None = None) -> Tensor | None:
    """softmax(scale query key^T) value; None where the kernel cannot compute it: another dtype or device, an odd width.

    query [B, H, N, D], key and value [B, H, L, D] bfloat16, of any strides with the D numbers side by side
    -> [B, H, N, D], in memory [B, N, H, D]. scale: 1 / sqrt(D) where none is given.
    """
    library = _library()
    tensors = (query, key, value)
    if library is None or any(t.ndim != 4 or t.dtype != torch.bfloat16 or t.device.type != "cpu" for t in tensors):
        return None
    batch, heads, queries, dim = query.shape
    keys = key.shape[2]
    if not keys or dim % 2 or dim > MAX_HEAD or key.shape != value.shape or key.shape != (batch, heads, keys, dim):
        return None
    query, key, value = (t if t.stride(3) == 1 else t.contiguous() for t in tensors)
    result = torch.empty(batch, queries, heads, dim, dtype=query.dtype).transpose(1, 2)
    strides = [stride for t in (query, key, value, result) for stride in t.stride()[:3]]
    refused = library.gesso_attention(
        query.data_ptr(),
        key.data_ptr(),
        value.data_ptr(),
        result.data_ptr(),
        _Sizes(batch, heads, queries, keys, dim),
        _Strides(*strides),
        dim**-0.5 if scale is None else scale,
        torch.get_num_threads(),
    )
    return None if refused else result


# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Packed:
    """A layer's weight as the processor reads it.

    place  address of the plain weight that it was made from: another one (merged adapters) is used as it is
    """

    weight: Tensor
    dtype: torch.dtype
    place: int


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


def pack(module: nn.Module, weight: Tensor) -> Tensor:
    """The weight of such a layer, packed. weight bfloat16, [out, in] or [out, in, h, w]."""
    if isinstance(module, nn.Conv2d) and not _is_by_place(module.weight, module.stride, module.padding):
        geometry = [list(pair) for pair in (module.padding, module.stride, module.dilation)]
        packed: Tensor = torch.ops.mkldnn._reorder_convolution_weight(weight, *geometry, 1)
    else:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight.flatten(1))
    return packed


def _is_by_place(weight: Tensor, stride: Any, padding: Any) -> bool:
    """A convolution that is a linear layer at each place. As a convolution, oneDNN wants its weight in another layout
    for another size of pictures: 0.2 s for one layer of SD 1.5 at 4 x 4, which a linear layer computes in 1 ms."""
    return weight.shape[2:] == (1, 1) and _pair(stride) == [1, 1] and _pair(padding) == [0, 0]


def packed_of(param: Any, dtype: torch.dtype) -> Tensor | None:
    """What `pack` made of this parameter, if it still has the same numbers."""
    packed: Packed | None = getattr(param, "packed", None)
    if packed is None or packed.dtype != dtype or packed.place != param.data_ptr():
        return None
    return packed.weight


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
            answer = self._linear(*args, **kwargs)
        elif func is F.conv2d:
            answer = self._convolve(*args, **kwargs)
        elif func is F.scaled_dot_product_attention:
            answer = self._attend(*args, **kwargs)
        return func(*args, **kwargs) if answer is None else answer

    def _linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor | None:
        packed = packed_of(weight, x.dtype)
        if packed is None:
            return None
        return torch.ops.mkldnn._linear_pointwise(x.contiguous(), packed, bias, "none", [], "")

    def _convolve(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Tensor | None:
        packed = packed_of(weight, x.dtype)
        if packed is None or isinstance(padding, str):
            return None
        x = x.contiguous(memory_format=torch.channels_last)
        if _is_by_place(weight, stride, padding):
            places = x.permute(0, 2, 3, 1)
            return torch.ops.mkldnn._linear_pointwise(places, packed, bias, "none", [], "").permute(0, 3, 1, 2)
        geometry = [_pair(padding), _pair(stride), _pair(dilation)]
        return torch.ops.mkldnn._convolution_pointwise(x, packed, bias, *geometry, groups, "none", [], "")

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


def _pair(value: Any) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)


@contextmanager
def cpu_kernels() -> Iterator[None]:
    """This thread's torch calls take packed weights and the own kernels; float32 and other devices are not touched."""
    with _Kernels():
        yield
