"""Measures how much memory a network's activations need, without computing them.

The network runs once on the meta device, where tensors have shapes but no data, while every storage that is allocated
and freed is counted. So the figure follows the code. Attention is counted as torch's fused kernels compute it, block by
block, unless the caller says that the scores are materialised.
"""

import weakref
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _Live(TorchDispatchMode):
    """Bytes of the storages that are alive, now and at most."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._counted: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, Tensor):
                self._count(leaf, 0)  # a parameter, or a tensor of the caller: not an activation
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._count(leaf, leaf.untyped_storage().nbytes())
        return result

    def _count(self, tensor: Tensor, nbytes: int) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._counted:
            self._counted.add(key)
            self.now += nbytes
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._forget, key, nbytes)

    def _forget(self, key: int, nbytes: int) -> None:
        self._counted.discard(key)
        self.now -= nbytes


class _Whole(TorchFunctionMode):
    """Attention and group norm as one operation each, by what they allocate.

    For group norm torch has shapes on the meta device through its reference in Python, slower than all else together.

    scores  whether attention's matrix of all scores is materialised
    """

    def __init__(self, *, scores: bool) -> None:
        super().__init__()
        self.scores = scores

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.scaled_dot_product_attention:
            query, key, value = args[:3]
            table = query.new_empty(*query.shape[:-1], key.shape[-2]) if self.scores else None
            result = query.new_empty(*query.shape[:-1], value.shape[-1])
            del table
            return result
        if func is F.group_norm:
            x, groups = args[:2]
            moments = [x.new_empty(len(x), groups) for _ in range(2)]
            result = torch.empty_like(x)
            del moments
            return result
        return func(*args, **(kwargs or {}))


def peak_nbytes(call: Callable[[], object], *, scores: bool = False) -> int:
    """The most bytes that tensors made by `call` take at once. All that it uses must be on the meta device."""
    # A command may have put off what torch needs for shapes without numbers; the name makes it whole.
    _ = import_module("torch._meta_registrations").activate_meta
    with torch.no_grad(), _Live() as live, _Whole(scores=scores):
        call()
    return live.peak
