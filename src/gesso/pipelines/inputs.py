"""The inputs of a run: initial noise, source picture and mask as latents, extra channels of the UNet, control networks.

The order of the draws from the noise source: the VAE's sample of the source picture, if the request wants a sample; the
noise on a picture for an upscaler model; the initial noise; the VAE's sample of the masked picture.
"""

from dataclasses import dataclass, replace

import torch
from PIL import Image, ImageChops
from torch import Tensor

from gesso.diffusion.conventions import first_noise, slerp, slerp_a1111
from gesso.diffusion.denoiser import add_noise, per_row
from gesso.diffusion.noise import NoiseSource
from gesso.diffusion.tiles import Tile
from gesso.families.base import Family
from gesso.hints.levels import mask_levels
from gesso.notices import Notice
from gesso.pipelines.controls import NO_CONTROLS, Controls, RunControls
from gesso.pipelines.framing import Box, Placement, border_mask, extend, inside_of, masked_region
from gesso.pipelines.masks import fill_masked
from gesso.pipelines.source_images import fit, latent_mask, mask_pixels, paste_back, reach_of, soften, to_pixels
from gesso.pipelines.steps import Steps
from gesso.request.request import ResolvedRequest
from gesso.runtime.engine import LoadedModel
from gesso.runtime.finite import finite

NONE = (0, 0, 0, 0)
FADE = 4  # factor of a grey mask when a picture of differential diffusion is pasted back


@dataclass(frozen=True, eq=False)
class SourcePictures:
    """The source picture and mask of a run, resized, and how the result is pasted back.

    image    source picture at the size that is drawn
    content  the same with the masked content that the run starts from
    mask     blurred; grey, white is redrawn
    crop     for "only masked": the whole picture with its mask, and which part is drawn
    notices  about a mask that was stretched
    """

    image: Image.Image | None = None
    content: Image.Image | None = None
    mask: Image.Image | None = None
    crop: "MaskedCrop | None" = None
    notices: tuple[Notice, ...] = ()

    @staticmethod
    def of(
        request: ResolvedRequest, family: Family, image: Image.Image | None, mask: Image.Image | None
    ) -> "SourcePictures":
        """Prepares a source picture and mask for a run; a picture for an upscaler model keeps its size.

        A mask of another size than the picture is stretched to it, with a notice. Raises RequestError for a black mask
        with "only masked", and for outpainting borders that leave no room for the picture.
        """
        if image is None:
            return SourcePictures()
        image = image.convert("RGB")
        if family.concat == "upscale":
            return SourcePictures(image, image)
        notices = _stretched(mask, image)
        if mask is not None and request.mask.area == "masked":
            return replace(_masked_crop(request, image, fit(mask_levels(mask), *image.size)), notices=notices)
        canvas, mode, sides = (
            (request.width, request.height),
            request.source.resize or "stretch",
            request.source.outpaint or NONE,
        )
        inside = inside_of(canvas, sides)
        placement = Placement.of(image.size, inside, mode)
        placed = extend(placement.place(image), sides)
        if mask is None and not any(sides):
            return SourcePictures(placed, placed)
        drawn = Image.new("L", canvas)
        if mask is not None:
            whole = fit(mask_levels(mask), *image.size) if mode != "stretch" else mask_levels(mask)
            drawn.paste(placement.place(whole), sides[:2])
        if any(sides):
            drawn = ImageChops.lighter(drawn, border_mask(canvas, sides, reach_of(request.mask.blur)))
        soft = _softened(drawn, request)
        if drawn.getbbox() is None:
            text = "the mask is entirely black, so nothing is redrawn. Paint that part white, or invert the mask"
            notices = (*notices, Notice(text, code="mask_black", field="mask"))
        return SourcePictures(placed, _content(request, placed, soft), soft, notices=notices)

    def finish(self, drawn: Image.Image, request: ResolvedRequest) -> Image.Image:
        """The finished picture: pasted back into the source picture, whose unmasked part stays bit by bit."""
        if self.crop is not None:
            return self.crop.finish(drawn, request)
        return _pasted(drawn, self.image, self.mask, request)


@dataclass(frozen=True, eq=False)
class MaskedCrop:
    """The whole picture of an "only masked" run, and the part of it that is drawn.

    image, mask  at the picture's own size; the mask is blurred
    region       left, top, right, bottom of the part
    placement    of the part on the canvas that is drawn
    """

    image: Image.Image
    mask: Image.Image
    region: Box
    placement: Placement

    @property
    def part(self) -> tuple[float, float, float, float]:
        """The region as shares of the picture's sides."""
        left, top, right, bottom = self.region
        width, height = self.image.size
        return left / width, top / height, right / width, bottom / height

    def finish(self, drawn: Image.Image, request: ResolvedRequest) -> Image.Image:
        """The whole picture with the drawn part pasted back."""
        left, top, right, bottom = self.region
        part = self.placement.back(drawn, (right - left, bottom - top))
        part = _pasted(part, self.image.crop(self.region), self.mask.crop(self.region), request)
        whole = self.image.copy()
        whole.paste(part, (left, top))
        return whole


def _stretched(mask: Image.Image | None, image: Image.Image) -> tuple[Notice, ...]:
    if mask is None or mask.size == image.size:
        return ()
    sizes = f"the mask is {mask.width}x{mask.height}, the picture {image.width}x{image.height}"
    return (Notice(f"{sizes}: the mask was stretched to fit", code="mask_stretched", field="mask"),)


def _masked_crop(request: ResolvedRequest, image: Image.Image, mask: Image.Image) -> SourcePictures:
    """Only masked: the masked part and its padding, resized to the size that is drawn."""
    soft, canvas = _softened(mask, request), (request.width, request.height)
    region = masked_region(soft, request.mask.padding or 0, canvas)
    placement = Placement.of((region[2] - region[0], region[3] - region[1]), canvas, "fill")
    placed, small = placement.place(image.crop(region)), placement.place(soft.crop(region))
    return SourcePictures(placed, _content(request, placed, small), small, MaskedCrop(image, soft, region, placement))


def _softened(mask: Image.Image, request: ResolvedRequest) -> Image.Image:
    """The mask with its blur; the grey levels of differential diffusion are kept if the blur is 0."""
    if request.conventions.mask_blend == "differential" and request.mask.blur == 0:
        return mask
    return soften(mask, request.mask.blur)


def _pasted(
    drawn: Image.Image, image: Image.Image | None, mask: Image.Image | None, request: ResolvedRequest
) -> Image.Image:
    if not request.conventions.paste_back or image is None or mask is None:
        return drawn
    if (
        request.conventions.mask_blend == "differential"
    ):  # a dark grey place is drawn, too, from the picture's own colours
        mask = mask.point([min(FADE * level, 255) for level in range(256)])
    return paste_back(drawn, image, mask)


def _content(request: ResolvedRequest, image: Image.Image, mask: Image.Image) -> Image.Image:
    return image if request.mask.content == "original" else fill_masked(image, mask)


@dataclass(frozen=True, eq=False)
class Start:
    """The start of a run of B rows.

    x        [B, C, h, w] with noise of the first sigma
    noise    [B, C, h, w] the unit noise in it
    latents  [B, C, h, w] the source picture, or None
    mask     [1, 1, h, w] 0 or 1, or None; 1 is redrawn. In between: redrawn later, see `DifferentialDiffusion`
    concat   [B, K, h, w] extra channels of the UNet, or None
    level    int64 [B] noise level of the picture for an upscaler model, or None
    controls control networks with their hints, or None
    window   int64 [B, 4] position of a tile: its first row and column, then rows and columns of the whole
    """

    x: Tensor
    noise: Tensor
    latents: Tensor | None = None
    mask: Tensor | None = None
    concat: Tensor | None = None
    level: Tensor | None = None
    controls: RunControls | None = None
    window: Tensor | None = None

    def part(self, tile: Tile) -> "Start":
        """The inputs of one tile."""
        return replace(
            self,
            x=tile.of(self.x),
            concat=None if self.concat is None else tile.of(self.concat),
            controls=None if self.controls is None else self.controls.part(tile),
            window=torch.tensor([[tile.top, tile.left, *self.x.shape[-2:]]]).repeat(len(self.x), 1),
        )


def prepare(
    model: LoadedModel,
    request: ResolvedRequest,
    steps: Steps,
    pictures: SourcePictures,
    noise: NoiseSource,
    rows: int,
    variation: NoiseSource | None = None,
    latents: Tensor | None = None,
    controls: Controls = NO_CONTROLS,
    given_noise: Tensor | None = None,
) -> Start:
    """The start of a run of `rows` pictures.

    variation: noise that is mixed into the initial noise; controls: control networks
    latents: [rows, C, h, w] to start from in place of the source picture
    given_noise: [rows, C, h, w] in place of the first draw, which is made all the same, so that later ones stay
    Raises NotFiniteError if the VAE produces NaN or infinity, RequestError for a hint that cannot be made.
    """
    family, kind = model.family, model.family.concat
    scale = family.vae.downscale * family.output_scale
    shape = (family.vae.latent_channels, request.height // scale, request.width // scale)
    with torch.inference_mode():
        # The extra channels of an inpainting model show the picture already.
        from_noise = kind == "inpaint" and request.conventions.mask_blend == "x" and _from_noise(request)
        if request.source.strength is not None and pictures.content is not None and not from_noise:
            latents = encode(model, _at_scale(pictures.content, family), request, noise, rows)
        concat, level = None, None
        if kind == "upscale" and pictures.image is not None and request.source.noise_level is not None:
            concat, level = _noisy_picture(pictures.image, request.source.noise_level, steps, noise, rows)
        drawn = _first_noise(request, noise, shape, variation, scale)
        unit = (drawn if given_noise is None else given_noise.to(drawn)).to(model.device)
        if (
            pictures.mask is not None
            and kind == "none"
            and (request.conventions.mask_blend, request.conventions.vae_encode) == ("x", "sample")
        ):
            noise.draw(shape)  # diffusers encodes the masked picture for every model, but only some use it
        mask = None
        if pictures.mask is not None:
            mask = latent_mask(pictures.mask, shape[1], shape[2], request.conventions.mask_blend).to(model.device)
        if kind == "inpaint":
            concat = _masked_picture(model, request, pictures, noise, rows, shape)
        elif kind == "edit" and pictures.image is not None:
            mean = _encode(model, _at_scale(pictures.image, family), None)
            concat = (
                mean.expand(rows, -1, -1, -1) / family.vae.scaling_factor
            )  # InstructPix2Pix was trained on unscaled latents
        start = _first_x(request, steps, unit, _with_masked_content(request, mask, latents, unit))
    return Start(
        x=start,
        noise=unit,
        latents=latents,
        mask=mask,
        concat=_to_device(concat, model),
        level=_to_device(level, model),
        controls=controls.at(shape[1], shape[2], model.device),
    )


def _first_noise(
    request: ResolvedRequest,
    noise: NoiseSource,
    shape: tuple[int, int, int],
    variation: NoiseSource | None,
    scale: int,
) -> Tensor:
    """The initial noise: the next draw, with the variation seed and seed resize of the request."""
    sizes = request.variation.height, request.variation.width
    return first_noise(
        noise,
        shape,
        variation=variation,
        strength=request.variation.strength or 0.0,
        mix=slerp_a1111 if request.preset == "a1111" else slerp,
        resized_from=(sizes[0] // scale, sizes[1] // scale) if sizes[0] and sizes[1] else None,
    )


def _first_x(request: ResolvedRequest, steps: Steps, unit: Tensor, latents: Tensor | None) -> Tensor:
    if latents is None or steps.num_steps == 0:
        return unit * steps.noise_scale
    if _from_noise(request):
        return unit * steps.noise_scale
    return add_noise(latents, unit, steps.image_sigma) * steps.image_scale


def _with_masked_content(
    request: ResolvedRequest, mask: Tensor | None, latents: Tensor | None, unit: Tensor
) -> Tensor | None:
    """The latents of the picture, with the masked content "noise" or "nothing" where the mask is 1."""
    if latents is None or mask is None or request.mask.content not in ("noise", "nothing"):
        return latents
    return torch.where(mask > 0, unit if request.mask.content == "noise" else torch.zeros_like(unit), latents)


def _from_noise(request: ResolvedRequest) -> bool:
    """Whether an inpainting run starts from noise alone, as in diffusers at strength 1."""
    masked = request.mask.image is not None or request.source.outpaint is not None
    return request.conventions.strength_rule == "diffusers" and masked and request.source.strength == 1


def encode(model: LoadedModel, pixels: Tensor, request: ResolvedRequest, noise: NoiseSource, rows: int) -> Tensor:
    """Pixels [1, 3, H, W] -> latents [rows, C, h, w] in float32: the mean, or a sample with noise of its own a row."""
    if request.conventions.vae_encode == "mean":
        return _encode(model, pixels, None).expand(rows, -1, -1, -1)
    f = model.family.vae.downscale
    shape = (model.family.vae.latent_channels, pixels.shape[-2] // f, pixels.shape[-1] // f)
    return _encode(model, pixels.expand(rows, -1, -1, -1), noise.draw(shape))


def encode_mean(model: LoadedModel, image: Image.Image) -> Tensor:
    """A finished picture -> latents [1, C, h, w] in float32: the mean of the VAE's posterior."""
    return _encode(model, _at_scale(image, model.family), None)


def _encode(model: LoadedModel, pixels: Tensor, noise: Tensor | None) -> Tensor:
    return finite("vae", lambda model: model.encode_image(pixels, noise), model).value


def _at_scale(image: Image.Image, family: Family) -> Tensor:
    """Pixels at the size of the VAE, which is smaller than the picture if the model has an upscaler."""
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
    """[rows, 5, h, w]: the mask, then latents of the picture with grey under the mask; without a mask, all grey."""
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
    """[rows, 3, h, w] pixels with noise of a level, as in the model's training; int64 [rows]."""
    pixels = to_pixels(image)
    drawn = noise.draw(pixels.shape[1:])
    ab = per_row(steps.schedule.alphas_cumprod[level], drawn)
    noisy = ab.sqrt().to(pixels) * pixels + (1 - ab).sqrt().to(pixels) * drawn
    return noisy, torch.full((rows,), level, dtype=torch.int64)


def _to_device(tensor: Tensor | None, model: LoadedModel) -> Tensor | None:
    return tensor.to(model.device) if tensor is not None else None
