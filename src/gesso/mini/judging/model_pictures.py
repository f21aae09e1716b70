"""Pictures of a model for an evaluation, many prompts at a time.

`gesso generate` lets every picture through the networks alone, so that it comes out the same bit by bit in any batch.
Here hundreds of different prompts are drawn and only what they show matters, so they share batches.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gesso.adapters.attaching import attach
from gesso.adapters.lora import read_lora
from gesso.adapters.names import Target
from gesso.checkpoints.weight_file import open_weights
from gesso.diffusion.noise import NOISE_SOURCES
from gesso.families.native_control import load_control
from gesso.mini.judging.composition import Generate
from gesso.mini.judging.control import Steer
from gesso.pipelines.inputs import SourcePictures, prepare
from gesso.pipelines.prompts import EncodedPrompt, Told, encode_prompts
from gesso.pipelines.steps import plan_steps
from gesso.pipelines.text_to_image import TextToImage, draw_latents, to_images
from gesso.request.request import ResolvedRequest, TextToImageRequest
from gesso.runtime.conditioning import Conditioning
from gesso.runtime.engine import Engine, LoadedModel
from gesso.runtime.finite import rescued


def pictures_of(engine: Engine, model: LoadedModel, request: TextToImageRequest) -> tuple[Generate, ResolvedRequest]:
    """-> a function that draws prompts with everything else as in the request, and that request with all its defaults.

    Prompt and seed of the request are replaced. Raises RequestError for a request that the model cannot serve.
    """
    resolved = TextToImage(engine, model).resolve(request)

    def generate(prompts: list[str], seeds: list[int]) -> np.ndarray:
        return draw_batch(model, resolved, prompts, seeds)

    return generate, resolved


def with_lora(generate: Generate, model: LoadedModel, path: Path, strength: float = 1.0) -> Generate:
    """The same with an adapter on the model while it draws. Raises ModelFileError for one that does not fit."""
    networks = {name: net for name, net in model.parts.networks.items() if name in ("unet", "text", "text_2")}
    lora = read_lora(open_weights(path), Target(model.family.name, model.family.layout, networks))

    def styled(prompts: list[str], seeds: list[int]) -> np.ndarray:
        with attach(networks, [(lora, strength, strength)]):
            return generate(prompts, seeds)

    return styled


def with_control(generate: Generate, model: LoadedModel, path: Path, weight: float = 1.0) -> Steer:
    """A function that draws with a ControlNet that looks at a hint for each prompt. Raises ModelFileError.

    In a call of the UNet the rows of a batch come one or more times, with and without the prompt.
    """
    control = load_control(path, model.device, torch.float32).control
    unet = model.parts.unet

    def steered(prompts: list[str], seeds: list[int], hints: np.ndarray) -> np.ndarray:
        seen = torch.from_numpy(np.ascontiguousarray(hints)).to(model.device).permute(0, 3, 1, 2).float() / 255

        def steer(unet: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
            x, timestep, context, added = (tensor.float() for tensor in args[:4])
            extra = control(x, timestep, context, seen.repeat(len(x) // len(seen), 1, 1, 1), added)
            return args, kwargs | {"control": [weight * residual.to(args[0].dtype) for residual in extra]}

        hook = unet.register_forward_pre_hook(steer, with_kwargs=True)
        try:
            return generate(prompts, seeds)
        finally:
            hook.remove()

    return steered


def draw_batch(model: LoadedModel, request: ResolvedRequest, prompts: list[str], seeds: list[int]) -> np.ndarray:
    """One picture for each prompt and seed, all in one batch.  -> uint8 [B, H, W, 3]"""
    encoded = [encode_prompts(model, replace(request, prompt=prompt)) for prompt in prompts]
    guided = [one.uncond for one in encoded if one.uncond is not None]
    together = EncodedPrompt.constant(
        Told(_together([one.cond for one in encoded]), _together(guided) if guided else None)
    )
    steps = plan_steps(request, model.family)

    def draw() -> Tensor:
        noise = NOISE_SOURCES[request.noise](seeds, [0] * len(seeds))
        start = prepare(model, request, steps, SourcePictures(), noise, len(seeds))
        return draw_latents(model, request, together, steps, start, noise, lambda step, x0: None)

    with torch.inference_mode():
        latents = rescued(model, "unet", draw).value
        small = rescued(model, "vae", lambda: model.decode(latents)).value
        pixels = rescued(model, "upscaler", lambda: model.upscale(small)).value if model.has_upscaler else small
    return np.stack([np.asarray(image) for image in to_images(pixels, request.levels)])


def _together(rows: list[Conditioning]) -> Conditioning:
    added = [row.added for row in rows if row.added is not None]
    return Conditioning(context=torch.cat([row.context for row in rows]), added=torch.cat(added) if added else None)
