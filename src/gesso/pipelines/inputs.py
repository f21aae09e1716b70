"""What a run starts from: noise, the pictures that go in as latents, and what the network sees beside the latents.

The order of the draws from the noise source: the encoder's sample of the picture, where the request wants a sample; the
noise on a picture that is enlarged; the first noise; the encoder's sample of the masked picture.
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
from gesso.notices import Notice
from gesso.pipelines.framing import Box, Placement, border_mask, extend, inside_of, masked_region
from gesso.pipelines.masks import filled
from gesso.pipelines.source_images import fit, latent_mask, mask_pixels, paste_back, reach_of, soften, to_pixels
from gesso.pipelines.steering import NO_CONTROLS, Controls, Steering
from gesso.pipelines.steps import Steps
from gesso.request.request import ResolvedRequest
from gesso.runtime.engine import LoadedModel
from gesso.runtime.finite import finite

NONE = (0, 0, 0, 0)
FADE = 4  # times what is drawn shows more than a grey mask is light, where grey says when a place is freed


@dataclass(frozen=True, eq=False)
class SourcePictures:
    """The pictures that go in, as they are drawn, and what the result is put into.

    image    at the size that is drawn
    content  the same as the run starts from it: something else may stand under the mask
    mask     softened; grey, white is drawn again
    around   where only a part is drawn: the whole picture with its mask, and which part
    notices  what was made to fit
    """

    image: Image.Image | None = None
    content: Image.Image | None = None
    mask: Image.Image | None = None
    around: "Around | None" = None
    notices: tuple[Notice, ...] = ()

    @staticmethod
    def of(
        request: ResolvedRequest, family: Family, image: Image.Image | None, mask: Image.Image | None
    ) -> "SourcePictures":
        """Pictures as they were given -> as the run needs them; a picture that is enlarged keeps its size.

        A mask of another size than the picture is stretched to it, and that is told. Raises RequestError for a mask
        without white where only what is masked is drawn, and for borders that leave no room for the picture.
        """
        if image is None:
            return SourcePictures()
        image = image.convert("RGB")
        if family.concat == "upscale":
            return SourcePictures(image, image)
        notices = _stretched(mask, image)
        if mask is not None and request.mask.area == "masked":
            return replace(_one_part(request, image, fit(mask.convert("L"), *image.size)), notices=notices)
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
            whole = fit(mask.convert("L"), *image.size) if mode != "stretch" else mask.convert("L")
            drawn.paste(placement.place(whole), sides[:2])
        if any(sides):
            drawn = ImageChops.lighter(drawn, border_mask(canvas, sides, reach_of(request.mask.blur)))
        soft = _softened(drawn, request)
        return SourcePictures(placed, _content(request, placed, soft), soft, notices=notices)

    def finish(self, drawn: Image.Image, request: ResolvedRequest) -> Image.Image:
        """The finished picture of what was drawn: in its place, what is not masked bit by bit as it was."""
        if self.around is not None:
            return self.around.finish(drawn, request)
        return _pasted(drawn, self.image, self.mask, request)


@dataclass(frozen=True, eq=False)
class Around:
    """The picture that a part was taken out of.

    image, mask  at the picture's own size; the mask softened
    region       left, top, right, bottom of the part
    placement    of the part on what is drawn
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
        """What was drawn back in its place."""
        left, top, right, bottom = self.region
        part = self.placement.back(drawn, (right - left, bottom - top))
        part = _pasted(part, self.image.crop(self.region), self.mask.crop(self.region), request)
        whole = self.image.copy()
        whole.paste(part, (left, top))
        return whole


def _stretched(mask: Image.Image | None, image: Image.Image) -> tuple[Notice, ...]:
    if mask is None or mask.size == image.size:
        return ()
    sizes = f"the mask has {mask.width}x{mask.height} pixels, the picture {image.width}x{image.height}"
    return (Notice(f"{sizes}: the mask is stretched over the whole picture", code="mask_stretched", field="mask"),)


def _one_part(request: ResolvedRequest, image: Image.Image, mask: Image.Image) -> SourcePictures:
    """What is masked and a little around it, at the size that is drawn."""
    soft, canvas = _softened(mask, request), (request.width, request.height)
    region = masked_region(soft, request.mask.padding or 0, canvas)
    placement = Placement.of((region[2] - region[0], region[3] - region[1]), canvas, "fill")
    placed, small = placement.place(image.crop(region)), placement.place(soft.crop(region))
    return SourcePictures(placed, _content(request, placed, small), small, Around(image, soft, region, placement))


def _softened(mask: Image.Image, request: ResolvedRequest) -> Image.Image:
    """Grey levels that say when a place is freed are left as they are unless the request blurs them."""
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
    return image if request.mask.content == "original" else filled(image, mask)


@dataclass(frozen=True, eq=False)
class Start:
    """Where B rows start.

    x        [B, C, h, w] holding noise of the first sigma
    noise    [B, C, h, w] the unit noise in it
    latents  [B, C, h, w] the picture that came in, or None
    mask     [1, 1, h, w] 0 or 1, or None; 1 is drawn again. In between: freed later, see `Differential`
    concat   [B, K, h, w] channels beside the latents, or None
    level    int64 [B] noise level of the picture that is enlarged, or None
    steering networks that steer, with their hints, or None
    window   int64 [B, 4] where in the whole a tile is: its first row and column, and the whole's numbers of them
    """

    x: Tensor
    noise: Tensor
    latents: Tensor | None = None
    mask: Tensor | None = None
    concat: Tensor | None = None
    level: Tensor | None = None
    steering: Steering | None = None
    window: Tensor | None = None

    def part(self, tile: Tile) -> "Start":
        """What a network that sees one tile alone is shown."""
        return replace(
            self,
            x=tile.of(self.x),
            concat=None if self.concat is None else tile.of(self.concat),
            steering=None if self.steering is None else self.steering.part(tile),
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
) -> Start:
    """The start of `rows` pictures; variation: what is mixed into the first noise; controls: what steers them.

    latents: [rows, C, h, w] to start from in place of the pictures

    Raises NotFiniteError where the encoder gives numbers that are not finite, RequestError for a hint that cannot be
    made.
    """
    family, kind = model.family, model.family.concat
    scale = family.vae.downscale * family.output_scale
    shape = (family.vae.latent_channels, request.height // scale, request.width // scale)
    with torch.inference_mode():
        unseen = (
            kind == "inpaint" and request.conventions.mask_blend == "x" and _from_noise(request)
        )  # the concat shows enough of it
        if request.source.strength is not None and pictures.content is not None and not unseen:
            latents = encode(model, _at_scale(pictures.content, family), request, noise, rows)
        concat, level = None, None
        if kind == "upscale" and pictures.image is not None and request.source.noise_level is not None:
            concat, level = _noisy_picture(pictures.image, request.source.noise_level, steps, noise, rows)
        unit = _first_noise(request, noise, shape, variation, scale).to(model.device)
        if (
            pictures.mask is not None
            and kind == "none"
            and (request.conventions.mask_blend, request.conventions.vae_encode) == ("x", "sample")
        ):
            noise.draw(shape)  # diffusers encodes the masked picture for every model and uses it for some
        mask = None
        if pictures.mask is not None:
            mask = latent_mask(pictures.mask, shape[1], shape[2], request.conventions.mask_blend).to(model.device)
        if kind == "inpaint":
            concat = _masked_picture(model, request, pictures, noise, rows, shape)
        elif kind == "edit" and pictures.image is not None:
            mean = _encode(model, _at_scale(pictures.image, family), None)
            concat = mean.expand(rows, -1, -1, -1) / family.vae.scaling_factor  # this family saw them unscaled
        start = _first_x(request, steps, unit, _under(request, mask, latents, unit))
    return Start(
        x=start,
        noise=unit,
        latents=latents,
        mask=mask,
        concat=_there(concat, model),
        level=_there(level, model),
        steering=controls.at(shape[1], shape[2], model.device),
    )


def _first_noise(
    request: ResolvedRequest,
    noise: NoiseSource,
    shape: tuple[int, int, int],
    variation: NoiseSource | None,
    scale: int,
) -> Tensor:
    """The next draw, with a variation mixed in and noise of another size in its middle, as the request asks."""
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


def _under(request: ResolvedRequest, mask: Tensor | None, latents: Tensor | None, unit: Tensor) -> Tensor | None:
    """The latents of the picture, with what the request asks for under the mask."""
    if latents is None or mask is None or request.mask.content not in ("noise", "nothing"):
        return latents
    return torch.where(mask > 0, unit if request.mask.content == "noise" else torch.zeros_like(unit), latents)


def _from_noise(request: ResolvedRequest) -> bool:
    """Whether an inpainting run starts without the picture."""
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
    """A finished picture -> latents [1, C, h, w] in float32, as the encoder holds most likely."""
    return _encode(model, _at_scale(image, model.family), None)


def _encode(model: LoadedModel, pixels: Tensor, noise: Tensor | None) -> Tensor:
    return finite("vae", lambda model: model.encode_image(pixels, noise), model).value


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
