"""A request becomes pictures: text, noise, sampler, decoder, pixels.

The picture of a row is the same alone or in a batch, bit by bit, because by default the networks see one picture at a
time (its guided and its unguided half together); see `Engine.rows_per_call`.
"""

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gesso.diffusion.denoiser import Denoiser
from gesso.diffusion.guidance import GuidedNetwork
from gesso.diffusion.noise import NOISE_SOURCES, NoiseSource
from gesso.diffusion.samplers import SAMPLERS, sample
from gesso.diffusion.schedule import SCHEDULES
from gesso.errors import GessoError
from gesso.families.base import Family
from gesso.pipelines.infotext import infotext
from gesso.pipelines.picture_file import encode_png, pixels_sha256
from gesso.pipelines.recipe import Recipe, WeightFile
from gesso.pipelines.request import Defaults, ResolvedRequest, TextToImageRequest
from gesso.pipelines.vocabulary import vocabulary_notices
from gesso.runtime.conditioning import Conditioning
from gesso.runtime.engine import Engine, LoadedModel


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run is. `step` of `num_steps` sampling steps are done for the pictures first .. first + count - 1."""

    first: int
    count: int
    num_images: int
    step: int
    num_steps: int
    latents: Tensor | None = None  # [count, C, h, w], the clean latents that the network last predicted


OnProgress = Callable[[Progress], None]


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One result."""

    image: Image.Image
    recipe: Recipe

    @property
    def seed(self) -> int:
        """The seed of the run; with `index` it decides the noise."""
        return self.recipe.request.seed

    @property
    def index(self) -> int:
        """Which picture of the run this is."""
        return self.recipe.request.first_index

    @property
    def notices(self) -> tuple[str, ...]:
        """What the user should know: words ignored, text cut off."""
        return self.recipe.notices

    def to_png(self) -> bytes:
        """The picture as a PNG file with infotext and recipe inside."""
        request = self.recipe.request
        parameters = infotext(
            self.recipe,
            sampler_label=SAMPLERS[request.sampler].label,
            schedule_label=SCHEDULES[request.schedule].label,
        )
        return encode_png(self.image, self.recipe, parameters)


class TextToImage:
    """Pictures from one model on one engine. Holds no state between calls."""

    def __init__(self, engine: Engine, model: LoadedModel) -> None:
        self.engine, self.model = engine, model

    def resolve(self, request: TextToImageRequest) -> ResolvedRequest:
        """The request with this model's defaults in place of everything left open. Raises RequestError."""
        return request.resolve(defaults_of(self.model.family))

    def __call__(self, request: TextToImageRequest, on_progress: OnProgress | None = None) -> Iterator[Picture]:
        """Pictures, each as soon as it is finished.

        The request is checked at once, the work is done as the iterator is read. Raises RequestError (a GessoError) for
        a request that the model cannot serve, GessoError where a network gives numbers that are not finite.
        """
        return self._run(self.resolve(request), on_progress or (lambda progress: None))

    def _run(self, request: ResolvedRequest, on_progress: OnProgress) -> Iterator[Picture]:
        prompt = encode_prompt(self.model, request)
        for start in range(0, request.num_images, self.engine.rows_per_call):
            count = min(self.engine.rows_per_call, request.num_images - start)
            first = request.first_index + start
            noise = NOISE_SOURCES[request.noise]([request.seed] * count, range(first, first + count))

            def report(step: int, latents: Tensor | None, start: int = start, count: int = count) -> None:
                on_progress(
                    Progress(
                        first=start,
                        count=count,
                        num_images=request.num_images,
                        step=step,
                        num_steps=request.num_steps,
                        latents=latents,
                    )
                )

            report(0, None)
            latents = draw_latents(self.model, request, prompt, noise, report)
            for row, image in enumerate(decode(self.model, latents)):
                yield Picture(image=image, recipe=self._recipe(request.picture(start + row), prompt.notices, image))

    def _recipe(self, request: ResolvedRequest, notices: tuple[str, ...], image: Image.Image) -> Recipe:
        return Recipe(
            request=request,
            model=self.model.name,
            family=self.model.family.name,
            files=tuple(WeightFile(name=name, sha256=digest) for name, digest in self.model.files),
            environment=self.engine.environment(),
            notices=notices,
            pixels_sha256=pixels_sha256(image),
        )


def defaults_of(family: Family) -> Defaults:
    """What a model fills into a request and what it accepts, from its family."""
    return Defaults(
        width=family.output_size,
        height=family.output_size,
        num_steps=family.defaults.num_steps,
        guidance_scale=family.defaults.guidance_scale,
        sampler=family.defaults.sampler,
        schedule=family.defaults.schedule,
        clip_skip=family.clip_skip,
        multiple=family.size_multiple,
        max_clip_skip=family.text.num_layers,
        samplers=SAMPLERS.keys(),
        schedules=SCHEDULES.keys(),
        noises=NOISE_SOURCES.keys(),
        etas={name: _default_eta(name) for name, sampler in SAMPLERS.items() if "eta" in sampler.options},
    )


@dataclass(frozen=True)
class EncodedPrompt:
    """A prompt and its negative as the network wants them, one row each, with what the user should know about them."""

    cond: Conditioning
    uncond: Conditioning | None  # None where guidance is off
    notices: tuple[str, ...]


def encode_prompt(model: LoadedModel, request: ResolvedRequest) -> EncodedPrompt:
    """Prompt and negative prompt to conditioning of one row each. Raises GessoError for numbers that are not finite."""
    cond, notices = _encode(model, request, request.prompt, "prompt")
    if request.guidance_scale == 1:
        return EncodedPrompt(cond, None, notices)
    uncond, more = _encode(model, request, request.negative_prompt, "negative prompt")
    return EncodedPrompt(cond, uncond, notices + more)


def draw_latents(
    model: LoadedModel,
    request: ResolvedRequest,
    prompt: EncodedPrompt,
    noise: NoiseSource,
    report: Callable[[int, Tensor | None], None],
    *,
    sigmas: Tensor | None = None,
    start: Tensor | None = None,
) -> Tensor:
    """Noise to clean latents [B, C, h, w] in float32, for the rows of the noise source.

    sigmas and start ([B, C, h, w], of unit variance) replace what request and noise would give: for parity with tools
    that space their steps or draw their noise in another way.
    """
    family = model.family
    schedule = family.schedule.build()
    if sigmas is None:
        sigmas = SCHEDULES[request.schedule](schedule, request.num_steps)
    if start is None:
        scale = family.vae.downscale * family.output_scale
        shape = (family.vae.latent_channels, request.height // scale, request.width // scale)
        start = noise.draw(shape)
    rows = len(start)
    cond = prompt.cond.repeat(rows)
    network = GuidedNetwork(
        network=model.predict,
        cond=cond,
        uncond=prompt.uncond.repeat(rows) if prompt.uncond is not None else None,
        scale=request.guidance_scale,
        cat=Conditioning.cat,
        rescale=request.guidance_rescale,
    )
    options = {"eta": request.eta} if "eta" in SAMPLERS[request.sampler].options else {}
    with torch.inference_mode():
        latents = sample(
            SAMPLERS[request.sampler],
            Denoiser(network, schedule, family.prediction),
            start.to(model.device) * float(sigmas[0]),
            sigmas,
            noise,
            on_step=lambda step, x, x0: report(step + 1, x0),
            **options,
        )
    check_finite(latents, "unet", model)
    return latents


def decode(model: LoadedModel, latents: Tensor) -> list[Image.Image]:
    """Clean latents [B, C, h, w] to pictures, through the model's own upscaler where it has one."""
    with torch.inference_mode():
        pixels = model.decode(latents)
        check_finite(pixels, "vae", model)
        if model.has_upscaler:
            pixels = model.upscale(pixels)
            check_finite(pixels, "upscaler", model)
    return to_images(pixels)


def to_images(pixels: Tensor) -> list[Image.Image]:
    """float [B, 3, H, W] in [-1, 1] -> B pictures of 8 bits.

    Values outside are clamped; the 256 levels are rounded to the nearest, as in diffusers (A1111 cuts off, which makes
    its pictures half a level darker on average).
    """
    levels = ((pixels.float() + 1) * 127.5).clamp(0, 255).round().to(torch.uint8)
    arrays: list[np.ndarray] = [row.permute(1, 2, 0).contiguous().cpu().numpy() for row in levels]
    return [Image.fromarray(array) for array in arrays]


def check_finite(x: Tensor, part: str, model: LoadedModel) -> None:
    """Raises GessoError that names the network, unless every number is finite: a black picture is no result."""
    if not bool(torch.isfinite(x).all()):
        hint = "Try --dtype float32" if model.precision.name != "float32" else "The file may be damaged"
        raise GessoError(f"{model.name}: {part} gave numbers that are not finite ({model.precision.name}). {hint}")


def _encode(
    model: LoadedModel, request: ResolvedRequest, text: str, field: str
) -> tuple[Conditioning, tuple[str, ...]]:
    tokenizer = model.tokenizer
    notices = vocabulary_notices(tokenizer, text, field=field, objects=model.family.objects, model=model.name)
    with torch.inference_mode():
        encoded = model.encode_prompt(
            tokenizer.known_text(text), clip_skip=request.clip_skip, width=request.width, height=request.height
        )
    if cut := encoded.report.cut[0]:
        fit, shown = tokenizer.length - 2, cut if len(cut) <= 80 else f"{cut[:77]}..."
        found = encoded.report.num_tokens[0]
        notices += (f"the {field} has {found} tokens, {fit} fit: left out from '{shown}' on",)
    for tensor in (encoded.context, encoded.added):
        if tensor is not None:
            check_finite(tensor, "text", model)
    return Conditioning(context=encoded.context, added=encoded.added), notices


def _default_eta(name: str) -> float:
    return float(inspect.signature(SAMPLERS[name].start).parameters["eta"].default)
