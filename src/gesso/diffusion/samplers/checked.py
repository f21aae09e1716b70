"""Checks what a sampler of a plug-in yields and returns, so that its faults are not blamed on the model."""

from __future__ import annotations

import torch
from torch import Tensor

from gesso.diffusion.samplers.seam import ModelCall, Sampling


def checked(sampling: Sampling, x: Tensor) -> Sampling:
    """The same sampling. Raises TypeError or ValueError where it is no generator, yields anything but a ModelCall,
    yields or returns no tensor of the shape of x, or NaN or infinity in a row where the model has given none.

    x [B, ...], which it starts from
    """
    if not hasattr(sampling, "send"):
        raise TypeError(f"its function returned a {type(sampling).__name__}, expected a generator of ModelCall")
    finite = _finite_rows(x)
    reply = None
    while True:
        try:
            call = sampling.send(reply) if reply is not None else next(sampling)
        except StopIteration as end:
            if reply is None:
                raise ValueError("its function asked for no ModelCall") from None
            _check(end.value, x, finite, "returned")
            return end.value
        if not isinstance(call, ModelCall):
            raise TypeError(f"its function yielded a {type(call).__name__}, expected a ModelCall")
        _check(call.x, x, finite, "yielded")
        reply = yield call
        finite &= _finite_rows(reply[0] if call.uncond else reply)


def _check(value: object, x: Tensor, finite: Tensor, verb: str) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"its function {verb} x as a {type(value).__name__}, expected a tensor")
    if value.shape != x.shape:
        raise ValueError(f"its function {verb} x of shape {list(value.shape)}, expected {list(x.shape)}")
    if bool((finite & ~_finite_rows(value)).any()):
        raise ValueError(f"its function {verb} NaN or infinity, though the model gave none")


def _finite_rows(x: Tensor) -> Tensor:
    """x [B, ...] -> bool [B]"""
    return torch.isfinite(x).flatten(1).all(dim=1)
