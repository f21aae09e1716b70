"""What learns beside one frozen layer: LoRA and LoCon, LoKr, and DoRA's magnitudes around either.

The change is added to the layer's output and never made as a whole weight, but for the lengths that DoRA needs. Shapes:
O out, I in, k of a convolution's kernel, R rank.
"""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gesso.adapters.changes import DoRA, Kronecker, LowRank, WeightChange

Layer = nn.Linear | nn.Conv2d


def is_wide(layer: nn.Module) -> bool:
    """Whether it is a convolution of more than 1 x 1, whose LoRA is called LoCon."""
    return isinstance(layer, nn.Conv2d) and layer.kernel_size != (1, 1)


class LayerFactors(nn.Module, ABC):
    """The change of one layer's weight while it learns; it starts at zero.

    up_names: of parameters that begin at zero, which LoRA+ gives a rate of their own
    """

    up_names: frozenset[str] = frozenset()

    @abstractmethod
    def forward(self, layer: Layer, x: Tensor, output: Tensor) -> Tensor:
        """What is added to the layer's output.  x: its input, with dropout; output: without the change"""

    @abstractmethod
    def delta(self) -> Tensor:
        """The change as a matrix, [O, I k k]."""

    @abstractmethod
    def change(self) -> WeightChange:
        """The same for a file."""


def _start(shape: tuple[int, ...], device: torch.device, generator: torch.Generator | None) -> nn.Parameter:
    """Kaiming's uniform start values, as PEFT and LyCORIS draw them. generator None: torch's own."""
    value = torch.empty(shape, device=device)
    if generator is None:
        nn.init.kaiming_uniform_(value, a=math.sqrt(5))
    else:  # the same distribution
        bound = 1 / math.sqrt(math.prod(shape[1:]))
        value = torch.empty(shape).uniform_(-bound, bound, generator=generator).to(device)
    return nn.Parameter(value)


class Factors(LayerFactors):
    """LoRA (Hu et al. 2021, arXiv:2106.09685): up [O, R(, 1, 1)] @ down [R, I(, k, k)] * scale.

    A layer narrower than the rank gets as many as it is wide. generator: of the start values; None: torch's own.
    """

    up_names = frozenset({"up"})

    def __init__(
        self, layer: Layer, rank: int, *, scale: float = 1.0, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        out, into, *kernel = layer.weight.shape
        rank = min(rank, out, into * math.prod(kernel))
        device = layer.weight.device
        self.down = _start((rank, into, *kernel), device, generator)
        self.up = nn.Parameter(torch.zeros(out, rank, *(1 for _ in kernel), device=device))
        self.scale = scale

    def forward(self, layer: Layer, x: Tensor, output: Tensor) -> Tensor:
        down, up = self.down.to(x.dtype), self.up.to(x.dtype)
        if isinstance(layer, nn.Linear):
            added = F.linear(F.linear(x, down), up)
        else:
            added = F.conv2d(F.conv2d(x, down, None, layer.stride, layer.padding, layer.dilation), up)
        return added if self.scale == 1 else added * self.scale

    def delta(self) -> Tensor:
        return self.up.flatten(1) @ self.down.flatten(1) * self.scale

    def change(self) -> LowRank:
        return LowRank(self.up.detach(), self.down.detach(), self.scale)


class KroneckerFactors(LayerFactors):
    """LoKr (Yeh et al. 2023, arXiv:2309.14859): kron(w1 [a, b], w2 [c, d(, k, k)]) * scale; O = a c, I = b d.

    w2 is a product of rank R, or whole where that is as small, or `whole` asks for it; then scale is 1, as in LyCORIS.
    factor: a and b are the largest divisors up to it; None: up to the root of O and I.
    """

    def __init__(
        self,
        layer: Layer,
        rank: int,
        *,
        factor: int | None = None,
        whole: bool = False,
        scale: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        out, into, *kernel = layer.weight.shape
        (a, c), (b, d) = divisors(out, factor), divisors(into, factor)
        device = layer.weight.device
        self.kernel = tuple(kernel)
        self.w1 = _start((a, b), device, generator)
        self.w2: nn.Parameter | None = None
        self.w2_a: nn.Parameter | None = None
        self.w2_b: nn.Parameter | None = None
        if whole or rank >= max(c, d) / 2:
            self.scale = 1.0
            self.w2 = nn.Parameter(torch.zeros(c, d, *kernel, device=device))
        else:
            self.scale = scale
            self.w2_a = _start((c, rank), device, generator)
            self.w2_b = nn.Parameter(torch.zeros(rank, d * math.prod(kernel), device=device))

    @property
    def _second(self) -> Tensor:
        """w2 [c, d(, k, k)], whole."""
        if self.w2 is not None:
            return self.w2
        assert self.w2_a is not None and self.w2_b is not None
        return (self.w2_a @ self.w2_b).reshape(self.w2_a.shape[0], -1, *self.kernel)

    def forward(self, layer: Layer, x: Tensor, output: Tensor) -> Tensor:
        w1, w2 = self.w1.to(x.dtype), self._second.to(x.dtype)
        if isinstance(layer, nn.Linear):  # w2 on groups of d inputs, then w1 across the groups
            parted = F.linear(x.unflatten(-1, (w1.shape[1], w2.shape[1])), w2)
            added = torch.einsum("ab,...bc->...ac", w1, parted).flatten(-2)
        else:
            groups = x.unflatten(1, (w1.shape[1], w2.shape[1])).flatten(0, 1)
            parted = F.conv2d(groups, w2, None, layer.stride, layer.padding, layer.dilation)
            added = torch.einsum("ab,nbchw->nachw", w1, parted.unflatten(0, (x.shape[0], w1.shape[1]))).flatten(1, 2)
        return added if self.scale == 1 else added * self.scale

    def delta(self) -> Tensor:
        w2 = self._second
        w1 = self.w1.reshape(*self.w1.shape, *(1 for _ in self.kernel))
        return torch.kron(w1, w2.contiguous()).flatten(1) * self.scale

    def change(self) -> Kronecker:
        parts = {name: value.detach() for name, value in self.named_parameters()}
        return Kronecker(scale=self.scale, **parts)


def divisors(size: int, factor: int | None = None) -> tuple[int, int]:
    """A size as a product of two, the first the largest that is no larger than the other, nor than the factor.

    A factor that divides the size is one of the two, whatever its size. As in LyCORIS.
    """
    if factor is not None and size % factor == 0:
        return min(factor, size // factor), max(factor, size // factor)
    most = min(math.isqrt(size), size if factor is None else factor)
    first = next(one for one in range(most, 0, -1) if size % one == 0)
    return first, size // first


class MagnitudeFactors(LayerFactors):
    """DoRA (Liu et al. 2024, arXiv:2402.09353): the changed weight, each output scaled to a length that learns.

    The length that it has is taken as a constant in the backward pass (section 4.3 there).
    inner: what changes the weight's direction; its dropout leaves the frozen weight's own part alone
    """

    def __init__(self, layer: Layer, inner: LayerFactors) -> None:
        super().__init__()
        self.inner = inner
        self.up_names = frozenset(f"inner.{name}" for name in inner.up_names)
        with torch.no_grad():
            self.magnitude = nn.Parameter(torch.linalg.vector_norm(_wide(layer.weight).flatten(1), dim=1))

    def forward(self, layer: Layer, x: Tensor, output: Tensor) -> Tensor:
        with torch.no_grad():
            delta = self.inner.delta()
            length = torch.linalg.vector_norm(layer.weight.flatten(1).to(delta) + delta, dim=1)
        shape = (1, -1, *([1] * (output.ndim - 2))) if isinstance(layer, nn.Conv2d) else (-1,)
        factor = (self.magnitude / length).reshape(shape).to(output.dtype)
        own = output if layer.bias is None else output - layer.bias.reshape(shape)
        return (factor - 1) * own + factor * self.inner(layer, x, output)

    def delta(self) -> Tensor:
        raise TypeError("the change of a DoRA depends on its weight")

    def change(self) -> DoRA:
        return DoRA(self.inner.change(), self.magnitude.detach())


def _wide(weight: Tensor) -> Tensor:
    """Half precision as float32."""
    return weight.float() if weight.dtype.itemsize < 4 else weight
