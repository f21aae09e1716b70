"""Pictures of a model for an evaluation, many prompts at a time.

`gesso generate` lets every picture through the networks alone, so that it comes out the same bit by bit in any batch.
Here hundreds of different prompts are drawn and only what they show matters, so they share batches.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from gesso.diffusion.denoiser import Denoiser
from gesso.diffusion.guidance import GuidedNetwork
from gesso.diffusion.noise import NOISE_SOURCES
from gesso.diffusion.samplers import SAMPLERS, sample
from gesso.diffusion.schedule import SCHEDULES
from gesso.evaluation.composition import Generate
from gesso.pipelines.request import ResolvedRequest, TextToImageRequest
from gesso.pipelines.text_to_image import TextToImage, check_finite, decode, encode_prompt
from gesso.runtime.conditioning import Conditioning
from gesso.runtime.engine import Engine, LoadedModel


def pictures_of(engine: Engine, model: LoadedModel, request: TextToImageRequest) -> tuple[Generate, ResolvedRequest]:
    """-> a function that draws prompts with everything else as in the request, and that request with all its defaults.

    Prompt and seed of the request are replaced. Raises RequestError for a request that the model cannot serve.
    """
    resolved = TextToImage(engine, model).resolve(request)

    def generate(prompts: list[str], seeds: list[int]) -> np.ndarray:
        return draw_batch(model, resolved, prompts, seeds)

    return generate, resolved


def draw_batch(model: LoadedModel, request: ResolvedRequest, prompts: list[str], seeds: list[int]) -> np.ndarray:
    """One picture for each prompt and seed, all in one batch.  -> uint8 [B, H, W, 3]"""
    encoded = [encode_prompt(model, replace(request, prompt=prompt)) for prompt in prompts]
    noise = NOISE_SOURCES[request.noise](seeds, [0] * len(seeds))
    family, sampler = model.family, SAMPLERS[request.sampler]
    schedule = family.schedule.build()
    sigmas = SCHEDULES[request.schedule](schedule, request.num_steps)
    scale = family.size_multiple
    start = noise.draw((family.vae.latent_channels, request.height // scale, request.width // scale))
    guided = [one.uncond for one in encoded if one.uncond is not None]
    network = GuidedNetwork(
        network=model.predict,
        cond=_together([one.cond for one in encoded]),
        uncond=_together(guided) if guided else None,
        scale=request.guidance_scale,
        cat=Conditioning.cat,
        rescale=request.guidance_rescale,
    )
    options: dict[str, Any] = {"eta": request.eta} if "eta" in sampler.options else {}
    with torch.inference_mode():
        denoiser = Denoiser(network, schedule, family.prediction)
        latents = sample(sampler, denoiser, start.to(model.device) * float(sigmas[0]), sigmas, noise, **options)
    check_finite(latents, "unet", model)
    return np.stack([np.asarray(image) for image in decode(model, latents)])


def _together(rows: list[Conditioning]) -> Conditioning:
    added = [row.added for row in rows if row.added is not None]
    return Conditioning(context=torch.cat([row.context for row in rows]), added=torch.cat(added) if added else None)
