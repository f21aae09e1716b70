"""Seamless tiling: pictures whose opposite sides continue each other (A1111: Tiling).

A network sees the edge of a picture where a convolution, an interpolation or a padding needs values from beyond it.
Within `seamless` these use circular padding: the values come from the opposite side. It is a mode of this thread's
torch calls, not a change of the networks: nothing has to be undone, and it covers every network, adapters included.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


@contextmanager
def seamless(axes: str | None) -> Iterator[None]:
    """x: left and right continue each other; y: top and bottom; xy: both; None: nothing changes.

    Raises ValueError for other axes.
    """
    if axes is None:
        yield
        return
    with _Seamless(axes):
        yield


class _Seamless(TorchFunctionMode):
    def __init__(self, axes: str) -> None:
        super().__init__()
        if not axes or set(axes) - set("xy"):
            raise ValueError(f"axes {axes!r}, expected x, y or xy")
        self.x, self.y = "x" in axes, "y" in axes

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[Any],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.conv2d:
            return self._convolve(*args, **kwargs)
        if func is F.pad and args[0].ndim == 4:
            return self._pad(*args, **kwargs)
        if func is F.interpolate and kwargs.get("mode") in ("bilinear", "bicubic"):
            return self._enlarge(*args, **kwargs)
        return func(*args, **kwargs)

    def _convolve(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Tensor:
        assert not isinstance(padding, str)
        down, across = (padding, padding) if isinstance(padding, int) else padding
        x = self._round(x, across, across, down, down)
        left = (0 if self.y else down, 0 if self.x else across)
        return F.conv2d(x, weight, bias, stride, left, dilation, groups)

    def _pad(self, x: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Tensor:
        left, right, top, bottom = (*pad, 0, 0)[:4]
        x = self._round(x, left, right, top, bottom)
        zeros = [0 if self.x else left, 0 if self.x else right, 0 if self.y else top, 0 if self.y else bottom]
        return F.pad(x, zeros, mode, value) if any(zeros) else x

    def _enlarge(self, x: Tensor, size: Any = None, scale_factor: Any = None, **options: Any) -> Tensor:
        height, width = x.shape[-2:]
        if size is None:
            size = (int(height * scale_factor), int(width * scale_factor))
        # Pad each side by as many pixels as become whole pixels of the result, where they are cut off again.
        rows, columns = (side // math.gcd(side, to) for side, to in zip((height, width), size, strict=True))
        rows, columns = rows if self.y else 0, columns if self.x else 0
        top, left = rows * size[0] // height, columns * size[1] // width
        wide = self._round(x, columns, columns, rows, rows)
        larger = F.interpolate(wide, (size[0] + 2 * top, size[1] + 2 * left), **options)
        return larger[..., top : top + size[0], left : left + size[1]]

    def _round(self, x: Tensor, left: int, right: int, top: int, bottom: int) -> Tensor:
        """Circular padding along the seamless axes."""
        pad = [left * self.x, right * self.x, top * self.y, bottom * self.y]
        if not any(pad):
            return x
        wide = F.pad(x, pad, mode="circular")
        return wide.contiguous(memory_format=torch.channels_last) if _is_channels_last(x) else wide


def _is_channels_last(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
