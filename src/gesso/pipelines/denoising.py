"""The denoising loop of one pass: from noise, or from a noisy picture, to clean latents, as a generator of calls."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gesso.adapters.attaching import Attachment
from gesso.diffusion.calls import CallGenerator, GeneratorFunction
from gesso.diffusion.conventions import CFGPP_SCALE, EnsdNoise
from gesso.diffusion.denoiser import Denoiser
from gesso.diffusion.guidance import GuidedNetwork
from gesso.diffusion.noise import NOISE_SOURCES, NoiseSource
from gesso.diffusion.sampler_table import SAMPLERS, sampler_named
from gesso.diffusion.samplers import sampling
from gesso.diffusion.tiles import TiledDenoiser, tiles_of
from gesso.diffusion.torchsde_tree import TreeNoise
from gesso.families.base import Family
from gesso.pipelines.clock import Clock
from gesso.pipelines.inputs import Start
from gesso.pipelines.networks import (
    DifferentialDiffusion,
    IndependentNoise,
    InstructPix2PixNetwork,
    MaskedInput,
    MaskedPrediction,
    PromptEditing,
    RefinerSwitch,
)
from gesso.pipelines.prompts import EncodedPrompt, TextConditioning
from gesso.pipelines.steps import Steps
from gesso.request.request import ResolvedRequest
from gesso.runtime.batcher import UNetCaller
from gesso.runtime.conditioning import Conditioning
from gesso.runtime.deep_features import DeepFeatures
from gesso.runtime.finite import stop_when_all_nonfinite
from gesso.runtime.model import LoadedModel

DEIS_SHORT_RUN = 15  # steps


def noise_source(
    request: ResolvedRequest, pictures: range, steps: Steps, draws: Sequence[int] | None = None
) -> NoiseSource:
    """The noise of the pictures with these indices; with a variation seed, all share the noise of index 0.

    draws: how many draws each of them has made already
    """
    kind = NOISE_SOURCES[request.noise]
    indices = [0] * len(pictures) if request.variation.strength else pictures
    source: NoiseSource = kind([request.seed] * len(pictures), indices, draws=draws)
    if request.conventions.ensd:
        source = EnsdNoise(source, request.conventions.ensd)
    if request.conventions.sde_noise == "torchsde":
        return TreeNoise(source, *steps.ends, lambda seed, shape: kind([seed]).draw(shape)[0])
    return IndependentNoise(source) if request.conventions.sde_noise == "independent" else source


def variation_source(request: ResolvedRequest, pictures: range) -> NoiseSource | None:
    """The noise of the variation seed, mixed into the initial noise of the pictures with these indices."""
    if not request.variation.strength or request.variation.seed is None:
        return None
    return NOISE_SOURCES[request.noise]([request.variation.seed] * len(pictures), pictures)


def denoising(
    request: ResolvedRequest,
    steps: Steps,
    start: Start,
    noise: NoiseSource,
    report: Callable[[int, Tensor | None], None],
    model: LoadedModel,
    prompt: EncodedPrompt,
    refiner: LoadedModel | None = None,
    refined: EncodedPrompt | None = None,
) -> CallGenerator[Tensor]:
    """Denoises from `start` to clean latents [B, C, h, w] in float32, for the rows of the noise source.

    prompt, refined: of one row, which all share, or of B.
    To be run by `runtime.finite.finite_calls`, which handles NaN and infinity.
    """
    if steps.num_steps == 0:
        assert start.latents is not None
        return start.latents
    clock = Clock(steps.num_planned, steps.first)
    sampler = SAMPLERS[request.sampler]
    denoise = _denoiser(model, request, prompt, steps, start, clock)
    switch = steps.num_steps  # the step at which the sampler restarts with the refiner
    second = None

    def offload() -> None:
        if model.plan is not None:  # memory is limited: two UNets at once may be too much
            model.offload()

    if refiner is not None and refined is not None and request.refiner_switch_at is not None:
        second = _denoiser(refiner, request, refined, steps, replace(start, controls=None), clock)
        if request.conventions.refiner_rule == "timesteps":
            switch = steps.switch_of(request.refiner_switch_at)
        else:
            calls = sampler.num_calls(steps.num_steps) or steps.num_steps
            denoise = RefinerSwitch(denoise, second, at=request.refiner_switch_at, num_calls=calls, on_switch=offload)

    def advance(step: int, x0: Tensor) -> None:
        clock.step = min(steps.first + step, clock.num_steps - 1)
        stop_when_all_nonfinite(x0)
        report(step, x0)

    def part(
        denoise: GeneratorFunction, x: Tensor, sigmas: Tensor, first: int, stop: int | None = None
    ) -> CallGenerator[Tensor]:
        return sampling(
            sampler_named(request.sampler),
            _masked(denoise, request, start, model.family, clock, steps),
            x,
            sigmas,
            noise,
            on_step=lambda step, x, x0: advance(first + step + 1, x0),
            stop=stop,
            **_options(request, steps),
        )

    x = start.x
    try:
        if switch > 0:
            # A run of one model goes to its own end, however its sampler numbers its calls.
            x = yield from part(denoise, x, steps.sigmas, 0, switch if switch < steps.num_steps else None)
        if switch < steps.num_steps and second is not None:
            offload()
            x = yield from part(second, x, steps.sigmas[switch:], switch)
    finally:
        if second is not None and refiner is not None and model.plan is not None:
            refiner.offload()  # the VAE of the model follows
    latents = x / steps.final_scale
    if start.mask is not None and start.latents is not None and _blends(request, model.family):
        latents = torch.where(start.mask > 0, latents, start.latents)
    return latents


def _denoiser(
    model: LoadedModel, request: ResolvedRequest, prompt: EncodedPrompt, steps: Steps, start: Start, clock: Clock
) -> GeneratorFunction:
    """One model with its prompt, guidance and extra channels, for the whole picture or in tiles (MultiDiffusion)."""
    adapters = prompt.adapters.for_unet(model, clock)
    if request.tiles.size is None or request.tiles.overlap is None:
        return _whole(model, adapters, request, prompt, steps, start, clock)
    multiple = model.family.size_multiple
    overlap = request.tiles.overlap // multiple
    tiles = tiles_of(start.x.shape[-2], start.x.shape[-1], request.tiles.size // multiple, overlap)
    parts = [(tile, _whole(model, adapters, request, prompt, steps, start.part(tile), clock)) for tile in tiles]
    return TiledDenoiser(parts, overlap) if len(parts) > 1 else parts[0][1]


def _whole(
    model: LoadedModel,
    adapters: Attachment | None,
    request: ResolvedRequest,
    prompt: EncodedPrompt,
    steps: Steps,
    start: Start,
    clock: Clock,
) -> Denoiser:
    scale = request.guidance_scale
    if request.conventions.timestep_spacing == "a1111" and SAMPLERS[request.sampler].asks_uncond:
        scale *= CFGPP_SCALE
    control_function = start.controls.over(clock, steps.first) if start.controls is not None else None
    deep = DeepFeatures(request.deep_cache) if request.deep_cache is not None else None
    caller = UNetCaller(model, control_function, adapters, deep)
    networks = {id(texts): _guided(model, caller, request, texts, start, scale, clock) for _, texts in prompt.moments}
    network = networks[id(prompt.moments[0][1])]
    if len(networks) > 1:
        shift = -steps.first if request.conventions.prompt_timing == "a1111" else 1
        network = PromptEditing(clock, [(last, networks[id(texts)]) for last, texts in prompt.moments], shift)
    return Denoiser(
        network,
        steps.schedule,
        model.family.prediction,
        timestep_of=steps.timestep_of,
        consistency=request.sampler == "lcm",
    )


def _guided(
    model: LoadedModel,
    caller: UNetCaller,
    request: ResolvedRequest,
    texts: TextConditioning,
    start: Start,
    scale: float,
    clock: Clock,
) -> GeneratorFunction:
    """The network with one prompt, guidance and extra channels.  caller: the model's UNet"""
    rows = len(start.x)
    # One prompt for all rows, or one for each; of prompts joined by AND, all rows of one, then those of the next.
    cond = texts.cond.repeat(rows * len(texts.weights) // len(texts.cond.context))
    uncond = texts.uncond.repeat(rows // len(texts.uncond.context)) if texts.uncond is not None else None
    separate = uncond is not None and uncond.context.shape[1] != cond.context.shape[1]
    if start.controls is not None:
        cond = cond.marked(negative=False)
        uncond = uncond.marked(negative=True) if uncond is not None else None
    if model.family.takes_guidance_scale:
        cond, scale = replace(cond, guidance=torch.full((rows,), scale, device=cond.context.device)), 1.0
    if start.concat is not None:
        every, level = start.concat.repeat(len(texts.weights), 1, 1, 1), start.level
        cond = cond.with_picture(every, None if level is None else level.repeat(len(texts.weights)))
        uncond = uncond.with_picture(start.concat, level) if uncond is not None else None
    if start.window is not None and model.family.unet.draft_size is not None:
        cond = replace(cond, window=start.window.repeat(len(texts.weights), 1))
        uncond = replace(uncond, window=start.window) if uncond is not None else None
    if request.source.guidance_scale is not None and uncond is not None and start.concat is not None:
        return InstructPix2PixNetwork(
            network=caller,
            cond=cond,
            uncond=uncond,
            neither=uncond.with_picture(torch.zeros_like(start.concat)),
            scale=scale,
            image_scale=request.source.guidance_scale,
            weights=texts.weights,
            separate=separate,
        )
    until = request.guidance_until
    return GuidedNetwork(
        network=caller,
        cond=cond,
        uncond=uncond,
        scale=scale,
        cat=Conditioning.cat,
        rescale=request.guidance_rescale,
        weights=texts.weights,
        separate=separate,
        is_over=None if until is None else lambda: clock.share >= until,
    )


def _blends(request: ResolvedRequest, family: Family) -> bool:
    """Whether the unmasked part is blended into the latents; in diffusers, inpainting models do without that."""
    return not (request.conventions.mask_blend == "x" and family.concat == "inpaint")


def _masked(
    inner: GeneratorFunction, request: ResolvedRequest, start: Start, family: Family, clock: Clock, steps: Steps
) -> GeneratorFunction:
    if not _blends(request, family) or start.mask is None or start.latents is None:
        return inner
    if request.conventions.mask_blend == "differential":
        return DifferentialDiffusion(inner, start.mask, start.latents, start.noise, clock, first=steps.first)
    if request.conventions.mask_blend == "x":
        return MaskedInput(inner, start.mask, start.latents, start.noise)
    return MaskedPrediction(inner, start.mask, start.latents)


def _options(request: ResolvedRequest, steps: Steps) -> dict[str, Any]:
    """Options of the sampler besides its steps, including those of diffusers' schedulers."""
    own = SAMPLERS[request.sampler].options
    options = {"eta": request.eta} if "eta" in own else {}
    if request.sampler == "tcd" and (request.eta or request.preset == "diffusers"):  # else an old recipe: the default
        options["gamma"] = request.eta
    schedule = {"schedule": steps.schedule} if "schedule" in own else {}
    # diffusers lowers the order at the end of short runs; a refiner's part is short even in a long run.
    whole = {"lower_final": 0.0} if "lower_final" in own and steps.num_planned >= DEIS_SHORT_RUN else {}
    return schedule | whole | dict(steps.options) | options
