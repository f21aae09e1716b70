"""What a run starts from: noise, the pictures that go in as latents, and what the network sees beside the latents.

The order of the draws from the noise source: the encoder's sample of the picture, where the request wants a sample; the
noise on a picture that is enlarged; the first noise; the encoder's sample of the masked picture.
"""

from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from gesso.diffusion.denoiser import add_noise, per_row
from gesso.diffusion.noise import NoiseSource
from gesso.errors import GessoError
from gesso.families.base import Family
from gesso.pipelines.request import ResolvedRequest
from gesso.pipelines.source_images import fit, latent_mask, mask_pixels, soften, to_pixels
from gesso.pipelines.steps import Steps
from gesso.runtime.engine import LoadedModel


@dataclass(frozen=True, eq=False)
class SourcePictures:
    """The pictures that go in, at the size that is drawn; the mask softened."""

    image: Image.Image | None = None
    mask: Image.Image | None = None

    @staticmethod
    def of(
        request: ResolvedRequest, family: Family, image: Image.Image | None, mask: Image.Image | None
    ) -> "SourcePictures":
        """Pictures as they were given -> as the run needs them; a picture that is enlarged keeps its size."""
        if image is None:
            return SourcePictures()
        if family.concat == "upscale":
            return SourcePictures(image.convert("RGB"))
        fitted = fit(image.convert("RGB"), request.width, request.height)
        if mask is None:
            return SourcePictures(fitted)
        return SourcePictures(fitted, soften(fit(mask.convert("L"), request.width, request.height), request.mask_blur))


@dataclass(frozen=True, eq=False)
class Start:
    """Where B rows start.

    x        [B, C, h, w] holding noise of the first sigma
    noise    [B, C, h, w] the unit noise in it
    latents  [B, C, h, w] the picture that came in, or None
    mask     [1, 1, h, w] 0 or 1, or None; 1 is drawn again
    concat   [B, K, h, w] channels beside the latents, or None
    level    int64 [B] noise level of the picture that is enlarged, or None
    """

    x: Tensor
    noise: Tensor
    latents: Tensor | None = None
    mask: Tensor | None = None
    concat: Tensor | None = None
    level: Tensor | None = None


def prepare(
    model: LoadedModel,
    request: ResolvedRequest,
    steps: Steps,
    pictures: SourcePictures,
    noise: NoiseSource,
    rows: int,
) -> Start:
    """The start of `rows` pictures. Raises GessoError where the encoder gives numbers that are not finite."""
    family, kind = model.family, model.family.concat
    scale = family.vae.downscale * family.output_scale
    shape = (family.vae.latent_channels, request.height // scale, request.width // scale)
    with torch.inference_mode():
        latents = None
        unseen = (
            kind == "inpaint" and request.mask_blend == "x" and _from_noise(request)
        )  # the concat shows enough of it
        if request.strength is not None and pictures.image is not None and not unseen:
            latents = encode(model, _at_scale(pictures.image, family), request, noise, rows)
        concat, level = None, None
        if kind == "upscale" and pictures.image is not None and request.noise_level is not None:
            concat, level = _noisy_picture(pictures.image, request.noise_level, steps, noise, rows)
        unit = noise.draw(shape).to(model.device)
        if pictures.mask is not None and kind == "none" and (request.mask_blend, request.vae_encode) == ("x", "sample"):
            noise.draw(shape)  # diffusers encodes the masked picture for every model and uses it for some
        mask = None
        if pictures.mask is not None:
            mask = latent_mask(pictures.mask, shape[1], shape[2], request.mask_blend).to(model.device)
        if kind == "inpaint":
            concat = _masked_picture(model, request, pictures, noise, rows, shape)
        elif kind == "edit" and pictures.image is not None:
            mean = _encode(model, _at_scale(pictures.image, family), None)
            concat = mean.expand(rows, -1, -1, -1) / family.vae.scaling_factor  # this family saw them unscaled
        start = _first_x(request, steps, unit, latents)
    return Start(
        x=start, noise=unit, latents=latents, mask=mask, concat=_there(concat, model), level=_there(level, model)
    )


def _first_x(request: ResolvedRequest, steps: Steps, unit: Tensor, latents: Tensor | None) -> Tensor:
    if latents is None or steps.num_steps == 0:
        return unit * steps.noise_scale
    if _from_noise(request):
        return unit * steps.noise_scale
    return add_noise(latents, unit, steps.image_sigma) * steps.image_scale


def _from_noise(request: ResolvedRequest) -> bool:
    """Whether an inpainting run starts without the picture."""
    return request.strength_rule == "diffusers" and request.mask is not None and request.strength == 1


def encode(model: LoadedModel, pixels: Tensor, request: ResolvedRequest, noise: NoiseSource, rows: int) -> Tensor:
    """Pixels [1, 3, H, W] -> latents [rows, C, h, w] in float32: the mean, or a sample with noise of its own a row."""
    if request.vae_encode == "mean":
        return _encode(model, pixels, None).expand(rows, -1, -1, -1)
    f = model.family.vae.downscale
    shape = (model.family.vae.latent_channels, pixels.shape[-2] // f, pixels.shape[-1] // f)
    return _encode(model, pixels.expand(rows, -1, -1, -1), noise.draw(shape))


def _encode(model: LoadedModel, pixels: Tensor, noise: Tensor | None) -> Tensor:
    latents = model.encode_image(pixels, noise)
    if not bool(torch.isfinite(latents).all()):
        raise GessoError(f"{model.name}: vae gave numbers that are not finite for the picture. Try --dtype float32")
    return latents


def _at_scale(image: Image.Image, family: Family) -> Tensor:
    """Pixels of the size that the VAE works at: smaller than the picture where an upscaler follows."""
    scale = family.output_scale
    return to_pixels(fit(image, image.width // scale, image.height // scale))


def _masked_picture(
    model: LoadedModel,
    request: ResolvedRequest,
    pictures: SourcePictures,
    noise: NoiseSource,
    rows: int,
    shape: tuple[int, int, int],
) -> Tensor:
    """[rows, 5, h, w]: the mask, then the picture with grey under the mask; all of it masked where none is given."""
    family = model.family
    if pictures.image is not None and pictures.mask is not None:
        scale = family.output_scale
        mask = fit(pictures.mask, pictures.mask.width // scale, pictures.mask.height // scale)
        pixels = _at_scale(pictures.image, family) * (mask_pixels(mask) < 0.5)
        small = latent_mask(pictures.mask, shape[1], shape[2], "x")
    else:
        f = family.vae.downscale
        pixels, small = torch.zeros(1, 3, shape[1] * f, shape[2] * f), torch.ones(1, 1, *shape[1:])
    latents = encode(model, pixels, request, noise, rows)
    return torch.cat([small.to(latents).expand(rows, -1, -1, -1), latents], dim=1)


def _noisy_picture(
    image: Image.Image, level: int, steps: Steps, noise: NoiseSource, rows: int
) -> tuple[Tensor, Tensor]:
    """[rows, 3, h, w] pixels with the noise of a level, as the model saw them in training; int64 [rows]."""
    pixels = to_pixels(image)
    drawn = noise.draw(pixels.shape[1:])
    ab = per_row(steps.schedule.alphas_cumprod[level], drawn)
    noisy = ab.sqrt().to(pixels) * pixels + (1 - ab).sqrt().to(pixels) * drawn
    return noisy, torch.full((rows,), level, dtype=torch.int64)


def _there(tensor: Tensor | None, model: LoadedModel) -> Tensor | None:
    return tensor.to(model.device) if tensor is not None else None
