"""Runs a sampler to its end: as a generator of network calls (`sampling`), or making the calls (`sample`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gesso.diffusion.calls import CallGenerator, calls_of, run_calls
from gesso.diffusion.denoiser import Denoise
from gesso.diffusion.noise import NoiseSource
from gesso.diffusion.samplers.seam import ModelCall, OnStep, Sampling, ignore


@torch.no_grad()
def sampling(
    sampler: Callable[..., Sampling],
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    noise: NoiseSource | None = None,
    *,
    on_step: OnStep = ignore,
    stop: int | None = None,
    **options: Any,
) -> CallGenerator[Tensor]:
    """One sampler to its end, without gradients, asking for the network calls that its denoiser wants.

    sampler: a row of SAMPLERS or a sampler function. denoise, a plain function or one that asks, is given sigma as
    float64 [B] on the CPU; samplers that need the unconditional prediction (CFG++) need one that gives it,
    such as `Denoiser`.
    stop: only the steps before this one are taken, while the sampler knows of those that follow.
    x [B, ...] holding noise of sigmas[0] -> x holding noise of sigmas[-1], or of sigmas[stop]; of a sampler that calls
    twice a step, the x of that step's first call. Raises ValueError for sigmas that do not
    fall, for a missing noise source and for options that the sampler lacks.
    """
    steps = sampler(x, sigmas, noise, **options)
    call = next(steps)
    while True:
        reply = yield from reply_to(denoise, call)
        x0 = reply[0] if call.uncond else reply
        try:
            following = steps.send(reply)
        except StopIteration as end:
            final: Tensor = end.value
            on_step(call.step, final, x0)
            return final
        if following.step != call.step:
            on_step(call.step, following.x, x0)
        if stop is not None and following.step >= stop:
            return following.x
        call = following


@torch.no_grad()
def sample(
    sampler: Callable[..., Sampling],
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    noise: NoiseSource | None = None,
    *,
    on_step: OnStep = ignore,
    stop: int | None = None,
    **options: Any,
) -> Tensor:
    """As `sampling`, with the calls made one after the other. -> x holding noise of sigmas[-1], or of sigmas[stop]"""
    return run_calls(sampling(sampler, denoise, x, sigmas, noise, on_step=on_step, stop=stop, **options))


def reply_to(denoise: Denoise, call: ModelCall) -> CallGenerator[Tensor]:
    """What a sampler wants to be sent: x0 [B, ...], or [2, B, ...] where it asks for the one without a prompt too.

    Raises ValueError for a denoiser without an unconditional prediction.
    """
    missing = "this sampler needs the unconditional prediction: it needs a guided Denoiser"
    return (yield from calls_of(denoise, call.x, call.sigma_of_rows(), uncond=call.uncond, missing=missing))
