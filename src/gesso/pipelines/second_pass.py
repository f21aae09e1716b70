"""Hires fix: the second pass, which enlarges the first picture, adds noise and denoises it at the new size."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from gesso.hints.sizing import Size
from gesso.pipelines.framing import Placement
from gesso.pipelines.upscaling import UPSCALERS, UpscalerTiles, network_input, upscale
from gesso.request.groups import Source
from gesso.request.hires import LATENT_UPSCALERS
from gesso.request.request import ResolvedRequest, TextToImageRequest, with_values
from gesso.request.resolving import Defaults
from gesso.runtime.plan import EnlargingWork
from gesso.runtime.upscaling import TILE, OffloadedUpscaler, Upscaler

# Conventions that a preset chooses by the sampler.
_OF_SAMPLER = tuple(
    f"conventions.{name}" for name in ("initial_noise", "timestep_spacing", "discard_penultimate_sigma")
)


def second_request(
    request: ResolvedRequest, defaults_of: Callable[[TextToImageRequest], Defaults]
) -> ResolvedRequest | None:
    """The second pass as a request of its own; None where there is none.

    defaults_of: the default values of a request. A sampler other than the first pass's has the conventions that the
    preset sets for it.
    """
    hires = request.hires
    if hires is None:
        return None
    assert hires.width and hires.height and hires.sampler and hires.schedule and hires.num_steps is not None
    assert hires.guidance_scale is not None
    second = replace(
        request,
        hires=None,
        source=Source(strength=hires.strength),
        width=hires.width,
        height=hires.height,
        num_steps=hires.num_steps,
        sampler=hires.sampler,
        schedule=hires.schedule,
        sigmas=None,
        guidance_scale=hires.guidance_scale,
        prompt=request.prompt if hires.prompt is None else hires.prompt,
        negative_prompt=request.negative_prompt if hires.negative_prompt is None else hires.negative_prompt,
    )
    if second.preset != "a1111":  # A1111 applies seed resize in the second pass, too
        second = with_values(second, {"variation.width": None, "variation.height": None})
    if second.sampler == request.sampler and request.sigmas is None:
        return second
    own = None if second.schedule == request.schedule else second.schedule
    defaults = defaults_of(TextToImageRequest(prompt="", preset=second.preset, sampler=second.sampler, schedule=own))
    eta = second.eta if second.sampler == request.sampler else defaults.etas.get(second.sampler) or 0.0
    return with_values(second, {"eta": eta, **{path: defaults.presets[path] for path in _OF_SAMPLER}})


@dataclass(frozen=True)
class UpscalerFile:
    """An upscaler network, by the name that the request gives it."""

    name: str
    path: Path
    loaded: OffloadedUpscaler

    def work(self, size: Size, target: Size) -> EnlargingWork:
        """What the memory need depends on when pictures of `size` are enlarged to `target`."""
        upscaler = self.loaded.upscaler
        input_size = network_input(size, Placement.of(size, target, "crop").size, upscaler.scale)
        return EnlargingWork(upscaler.network.config, self.loaded.component, input_size)


def works_on_latents(upscaler: str) -> bool:
    """Whether an upscaler enlarges the latents; others enlarge the picture."""
    return upscaler in LATENT_UPSCALERS


def enlarged_latents(latents: Tensor, rows: int, columns: int, upscaler: str) -> Tensor:
    """Latents [B, C, h, w] -> [B, C, rows, columns]: interpolated to cover that size, then cropped, as in A1111."""
    mode, antialias = LATENT_UPSCALERS[upscaler]
    placement = Placement.of((latents.shape[-1], latents.shape[-2]), (columns, rows), "crop")
    size = placement.size[1], placement.size[0]
    larger = F.interpolate(latents.float(), size, mode=mode, antialias=antialias)
    return larger[..., -placement.top :, -placement.left :][..., :rows, :columns]


def enlarged_picture(
    image: Image.Image, width: int, height: int, upscaler: Upscaler | str, tile: int = TILE
) -> Image.Image:
    """A picture enlarged to cover width x height, then cropped.

    upscaler: a network, or the name of an interpolation; tile: pixels a side of a network's tiles
    """
    placement = Placement.of(image.size, (width, height), "crop")
    return placement.place(upscale(image, placement.size, upscaler, UpscalerTiles(tile)))


def is_interpolation(upscaler: str) -> bool:
    """Whether the name is that of an interpolation or of a plug-in; other names are those of files."""
    return upscaler in UPSCALERS
