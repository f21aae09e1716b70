"""The weight delta of each kind of adapter (LoRA, LoHa, LoKr, GLoRA, IA3, OFT, DoRA): one class per kind.

    new weight = weight + sum over adapters of strength * delta(weight)

All start from the weight of the model itself, so the order of several adapters does not matter, and strength is linear
for every kind (where tools differ for DoRA and OFT, this is ComfyUI's and A1111's way).

Shapes: O out, I in, k of a convolution's kernel, R rank. Deltas are float32 in the shape of the weight.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
from torch import Tensor

_EPS = torch.finfo(torch.float32).eps


@dataclass(frozen=True, eq=False)
class WeightChange(ABC):
    """One weight's change. Tensors keep the dtype of the file and are used in float32."""

    @abstractmethod
    def delta(self, weight: Tensor) -> Tensor:
        """weight float32 [O, I] or [O, I, k, k], or [N] of a norm -> float32 of the same shape.

        Raises RuntimeError or ValueError for a weight of another shape than the change is made for.
        """

    @property
    def needs_weight(self) -> bool:
        """Whether the delta depends on the weight, or on its shape alone."""
        return False

    def to(self, device: str | torch.device) -> Self:
        """The same with its tensors on another device."""
        moved: dict[str, Any] = {}
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, Tensor | WeightChange):
                moved[each.name] = value.to(device)
        return replace(self, **moved)


def _like(weight: Tensor, tensor: Tensor) -> Tensor:
    return tensor.to(weight.device, torch.float32)


def _flat(tensor: Tensor) -> Tensor:
    return tensor.flatten(1)


def _kernel(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The sizes behind [O, I]; none for 1x1."""
    return () if all(side == 1 for side in shape[2:]) else tuple(shape[2:])


@dataclass(frozen=True, eq=False)
class LowRank(WeightChange):
    """LoRA and LoCon: scale * up @ down.  up [O, R], down [R, I(, k, k)], in convolutions perhaps [.., 1, 1]

    mid [R, R, k, k]: the core of a Tucker decomposition, where down is [R, I(, 1, 1)].
    """

    up: Tensor
    down: Tensor
    scale: float
    mid: Tensor | None = None

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    def delta(self, weight: Tensor) -> Tensor:
        up, down = _like(weight, self.up), _like(weight, self.down)
        if _kernel(tuple(up.shape)):
            raise ValueError("the upper factor is not a matrix")
        if self.mid is not None:
            core = _like(weight, self.mid)
            delta = torch.einsum("m n ..., i m, n j -> i j ...", core, _flat(up), _flat(down))
        else:
            if _kernel(tuple(down.shape)) != _kernel(tuple(weight.shape)):
                raise ValueError("kernels of different sizes")
            delta = _flat(up) @ _flat(down)
        if delta.shape[0] != weight.shape[0] or delta.flatten(1).shape[1] != weight.flatten(1).shape[1]:
            raise ValueError("different sizes")
        return delta.reshape(weight.shape) * self.scale


def _tucker(core: Tensor, b: Tensor, a: Tensor) -> Tensor:
    """LyCORIS' order: core [R, R, k, k], b [R, I], a [R, O] -> [O, I, k, k]"""
    return torch.einsum("i j ..., j r, i p -> p r ...", core, b, a)


@dataclass(frozen=True, eq=False)
class Hadamard(WeightChange):
    """LoHa (Hyeon-Woo et al. 2022, arXiv:2108.06098): scale * (a1 @ b1) * (a2 @ b2), elementwise.

    a [O, R], b [R, I(kk)]; with cores t1, t2 [R, R, k, k]: a [R, O], b [R, I].
    """

    a1: Tensor
    b1: Tensor
    a2: Tensor
    b2: Tensor
    scale: float
    t1: Tensor | None = None
    t2: Tensor | None = None

    def delta(self, weight: Tensor) -> Tensor:
        a1, b1, a2, b2 = (_like(weight, t) for t in (self.a1, self.b1, self.a2, self.b2))
        if self.t1 is not None and self.t2 is not None:
            delta = _tucker(_like(weight, self.t1), b1, a1) * _tucker(_like(weight, self.t2), b2, a2)
        else:
            delta = (a1 @ b1) * (a2 @ b2)
        return _shaped(delta, weight) * self.scale


@dataclass(frozen=True, eq=False)
class Kronecker(WeightChange):
    """LoKr: scale * kron(w1, w2).  w1 [a, b], w2 [c, d(, k, k)], O = a * c, I = b * d; either may come in factors.

    w1, w2   whole, or None where w1_a @ w1_b, w2_a @ w2_b or, with t2 [R, R, k, k], its Tucker form stand for them
    """

    scale: float
    w1: Tensor | None = None
    w1_a: Tensor | None = None
    w1_b: Tensor | None = None
    w2: Tensor | None = None
    w2_a: Tensor | None = None
    w2_b: Tensor | None = None
    t2: Tensor | None = None

    def delta(self, weight: Tensor) -> Tensor:
        w1 = _whole(weight, self.w1, self.w1_a, self.w1_b, None)
        w2 = _whole(weight, self.w2, self.w2_a, self.w2_b, self.t2)
        if w2.ndim == 2 and weight.ndim == 4 and w1.shape[1] * w2.shape[1] != weight.shape[1]:
            kernel = weight.shape[2:]  # the factors of a convolution's weight are flat
            w2 = w2.reshape(w2.shape[0], -1, *kernel)
        w1 = w1.reshape(*w1.shape[:2], *[1] * (w2.ndim - 2))
        return _shaped(torch.kron(w1, w2.contiguous()), weight) * self.scale


def _whole(weight: Tensor, whole: Tensor | None, a: Tensor | None, b: Tensor | None, core: Tensor | None) -> Tensor:
    if whole is not None:
        return _like(weight, whole)
    assert a is not None and b is not None
    if core is not None:
        return _tucker(_like(weight, core), _like(weight, b), _like(weight, a))
    return _like(weight, a) @ _like(weight, b)


def _shaped(delta: Tensor, weight: Tensor) -> Tensor:
    if delta.shape[0] != weight.shape[0] or delta.numel() != weight.numel():
        raise ValueError("different sizes")
    if delta.ndim > 2 and delta.shape[1] != weight.shape[1]:
        raise ValueError("different sizes")
    return delta.reshape(weight.shape)


@dataclass(frozen=True, eq=False)
class Difference(WeightChange):
    """The difference itself, of a weight, a bias or a norm's scale."""

    difference: Tensor
    scale: float = 1.0

    def delta(self, weight: Tensor) -> Tensor:
        return _shaped(_like(weight, self.difference), weight) * self.scale


@dataclass(frozen=True, eq=False)
class Generalized(WeightChange):
    """GLoRA (Chavan et al. 2023, arXiv:2306.07967): scale * (b_up @ b_down + (W @ a_in) @ a_out).

    a_in [I, R], a_out [R, I], b_up [O, R], b_down [R, I]; core [R, R, k, k] of a convolution's b
    """

    a_in: Tensor
    a_out: Tensor
    b_up: Tensor
    b_down: Tensor
    scale: float
    core: Tensor | None = None

    @property
    def needs_weight(self) -> bool:
        return True

    def delta(self, weight: Tensor) -> Tensor:
        a_in, a_out = _flat(_like(weight, self.a_in)), _flat(_like(weight, self.a_out))
        own = LowRank(self.b_up, self.b_down, 1.0, self.core).delta(weight)
        turned = torch.einsum("o i ..., i r, r j -> o j ...", weight, a_in, a_out)
        return (own + turned) * self.scale


@dataclass(frozen=True, eq=False)
class Scaling(WeightChange):
    """IA3 (Liu et al. 2022, arXiv:2205.05638): the outputs or the inputs times 1 + factor.  factor: O or I numbers"""

    factor: Tensor
    on_input: bool

    @property
    def needs_weight(self) -> bool:
        return True

    def delta(self, weight: Tensor) -> Tensor:
        axis = 1 if self.on_input else 0
        factor = _like(weight, self.factor).flatten()
        if factor.numel() != weight.shape[axis]:
            raise ValueError("different sizes")
        return weight * factor.reshape([-1 if i == axis else 1 for i in range(weight.ndim)])


@dataclass(frozen=True, eq=False)
class Rotation(WeightChange):
    """OFT (Qiu et al. 2023, arXiv:2306.07280) and BOFT (Liu et al. 2023, arXiv:2311.06243): outputs are rotated.

    blocks      [N, S, S], O = N * S: a rotation a block; [M, N, S, S]: M butterfly factors. Q = blocks - transposed is
                skew, and (1 + Q)(1 - Q)^-1 orthogonal (Cayley)
    constraint  the most that Q's norm may be, or 0 for no limit
    rescale     O numbers that multiply the outputs, or None
    """

    blocks: Tensor
    constraint: float = 0.0
    rescale: Tensor | None = None

    @property
    def needs_weight(self) -> bool:
        return True

    def rotations(self, like: Tensor) -> Tensor:
        """The orthogonal matrices, [..., S, S]."""
        blocks = _like(like, self.blocks)
        skew = blocks - blocks.mT
        if self.constraint > 0:
            norm = skew.norm()
            skew = skew * (norm.clamp(max=self.constraint) + 1e-8) / (norm + 1e-8)
        one = torch.eye(blocks.shape[-1], device=blocks.device)
        return torch.linalg.solve(one - skew, one + skew)  # the two commute

    def delta(self, weight: Tensor) -> Tensor:
        rotations = self.rotations(weight)
        turned = self._rotated(rotations, weight) if rotations.ndim == 3 else self._butterfly(rotations, weight)
        if self.rescale is not None:
            scale = _like(weight, self.rescale).flatten()
            turned = turned * scale.reshape(-1, *[1] * (weight.ndim - 1))
        return turned - weight

    @staticmethod
    def _rotated(rotations: Tensor, weight: Tensor) -> Tensor:
        count, size = rotations.shape[:2]
        parted = weight.reshape(count, size, *weight.shape[1:])
        return torch.einsum("k n m, k n ... -> k m ...", rotations, parted).reshape(weight.shape)

    @staticmethod
    def _butterfly(rotations: Tensor, weight: Tensor) -> Tensor:
        size = rotations.shape[-1]
        turned = weight
        for level, matrices in enumerate(rotations):
            stride = 2**level * (size // 2)
            mixed = turned.unflatten(0, (-1, 2, stride)).transpose(1, 2).flatten(0, 2).unflatten(0, (-1, size))
            mixed = torch.einsum("b i j, b j ... -> b i ...", matrices, mixed)
            turned = mixed.flatten(0, 1).unflatten(0, (-1, stride, 2)).transpose(1, 2).flatten(0, 2)
        return turned


@dataclass(frozen=True, eq=False)
class InputRotation(WeightChange):
    """OFT and BOFT as PEFT has them: the inputs are rotated, W [O, I k k] becomes W times the rotation, transposed.

    skew      [M, N, S, S], N S = I k k, or N = 1 for the same block everywhere: M factors, one after another; of each
              the half that is antisymmetric, before any constraint
    terms     of the Neumann series that PEFT computes the rotation with, or None for Cayley's own, solved exactly
    bound     the most that the norm of all of a factor's blocks may be (COFT), or None
    rescale   O numbers that multiply the outputs, or None
    """

    skew: Tensor
    terms: int | None = None
    bound: float | None = None
    rescale: Tensor | None = None

    @property
    def needs_weight(self) -> bool:
        return True

    def rotations(self, like: Tensor) -> Tensor:
        """The matrices, [M, N, S, S]; orthogonal, but for what a short series leaves out."""
        skew = _like(like, self.skew)
        if self.bound is not None:
            most = self.bound / skew.shape[1] ** 0.5
            norm = torch.linalg.matrix_norm(skew, keepdim=True)
            skew = torch.where(norm <= most, skew, skew * (most / norm))
        one = torch.eye(skew.shape[-1], device=skew.device)
        if self.terms is None:
            return torch.linalg.solve(one + skew, one - skew)  # the two commute
        turned, power = one.expand_as(skew).clone(), skew
        highest = self.terms - 1 if self.terms < 3 else max(self.terms, 4) - 1  # PEFT's 3 terms are 4
        for index in range(1, highest + 1):  # 1 + 2 Q + 2 Q^2 + ..., of the last power half as much
            last = index == highest and self.terms > 2
            turned = turned + (power if last else 2 * power)
            power = power @ skew
        return turned

    def delta(self, weight: Tensor) -> Tensor:
        rotations = self.rotations(weight)
        turned = weight.flatten(1)
        size, inputs = rotations.shape[-1], turned.shape[1]
        if inputs % size or rotations.shape[1] not in (1, inputs // size):
            raise ValueError("different sizes")
        for level, blocks in enumerate(rotations):
            places = butterfly(inputs, size, level, len(rotations)).to(weight.device)
            mixed = torch.empty_like(turned).index_copy(1, places, turned).unflatten(1, (-1, size))
            mixed = torch.einsum("o n j, n i j -> o n i", mixed, blocks.expand(inputs // size, -1, -1)).flatten(1)
            turned = mixed[:, places]
        turned = turned.reshape(weight.shape)
        if self.rescale is not None:
            turned = turned * _like(weight, self.rescale).reshape(-1, *[1] * (weight.ndim - 1))
        return turned - weight


def butterfly(inputs: int, size: int, level: int, levels: int) -> Tensor:
    """Where each input stands before a factor of BOFT: int64 [inputs]; where it is if there is one factor alone.

    Groups of `size` * 2^level places are parted in halves of a block, first those with even numbers, then the odd ones.
    Raises ValueError where the groups do not come out even.
    """
    order = torch.arange(inputs)
    if levels == 1:
        return order
    group, half = size * 2**level, size // 2
    if size % 2 or inputs % group:
        raise ValueError("blocks that cannot be parted in halves")
    parted = order.reshape(-1, group // half, half)
    return torch.cat((parted[:, 0::2], parted[:, 1::2]), dim=1).flatten()


@dataclass(frozen=True, eq=False)
class DoRA(WeightChange):
    """DoRA (Liu et al. 2024, arXiv:2402.09353): the changed weight with rows or columns of given lengths.

    magnitude  O numbers, or I where `on_input`
    """

    inner: WeightChange
    magnitude: Tensor
    on_input: bool = False

    @property
    def needs_weight(self) -> bool:
        return True

    def delta(self, weight: Tensor) -> Tensor:
        axis = 1 if self.on_input else 0
        changed = weight + self.inner.delta(weight)
        others = [i for i in range(weight.ndim) if i != axis]
        length = torch.linalg.vector_norm(changed, dim=others, keepdim=True)
        magnitude = _like(weight, self.magnitude).flatten()
        return changed * (magnitude.reshape(length.shape) / (length + _EPS)) - weight


@dataclass(frozen=True, eq=False)
class QkvPart(WeightChange):
    """One of the three weights of an attention that the file changes as one, stacked: q, k, v."""

    inner: WeightChange
    index: int

    def delta(self, weight: Tensor) -> Tensor:
        stacked = torch.zeros(3 * weight.shape[0], *weight.shape[1:], device=weight.device)
        return self.inner.delta(stacked).chunk(3)[self.index]


def qkv_part(change: WeightChange, index: int) -> WeightChange:
    """A stacked change's part for q (0), k (1) or v (2). Raises ValueError for kinds that need the whole weight."""
    if change.needs_weight:
        raise ValueError("needs the query, key and value weights together")
    if isinstance(change, LowRank):
        return replace(change, up=change.up.chunk(3)[index])
    return QkvPart(change, index)
