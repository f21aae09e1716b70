"""Groups of fields in a request: the source picture, the mask, variations of the noise, tiles.

A request always has every group; one in which nothing is set has no effect. Groups are frozen, checked on construction,
and JSON objects in a recipe.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta

from gesso.arguments import known_fields
from gesso.request.checks import MAX_GUIDANCE, MAX_NOISE_LEVEL, MAX_SEED, MAX_SIDE, RequestError, brief
from gesso.request.fields import WITH_PICTURE, Job, by_preset, choice, digest, plain, real, validate, whole

MAX_MASK_BLUR = 256.0  # pixels
MASK_PADDING = 32  # pixels around what is masked, where that alone is drawn; as in A1111

Content = Literal["original", "fill", "noise", "nothing"]
Area = Literal["whole", "masked"]
Resize = Literal["stretch", "crop", "fill"]
_Side = Annotated[int, Meta(ge=0, le=MAX_SIDE)]
_MASKED: tuple[Job, ...] = ("inpaint", "outpaint")


@known_fields(RequestError)
@dataclass(frozen=True, kw_only=True)
class Source:
    """The picture to start from (image to image), and how to use it. Raises RequestError."""

    image: Annotated[
        str | None,
        digest(
            label="Picture to start from",
            help="Picture to start from, as the SHA-256 of its pixels.",
            optional=True,
            jobs=WITH_PICTURE,
            options=("image", "init-image"),
            letter="i",
            a1111="init_images",
            diffusers="image",
            infotext="Init image hash",
        ),
    ] = None
    strength: Annotated[
        float | None,
        real(
            0.0,
            1.0,
            label="Strength",
            help="Denoising strength: how much of the picture is redrawn, 0 to 1.",
            unit="share",
            optional=True,
            presets=by_preset(0.75, 0.75, 0.8),
            open="inpainting models: 1",
            jobs=("image", *_MASKED),
            options=("strength", "denoise"),
            also=("denoising",),
            a1111="denoising_strength",
            comfyui="denoise",
            diffusers="strength",
            invokeai="strength",
            novelai="strength",
            infotext="Denoising strength",
        ),
    ] = None
    resize: Annotated[
        Resize | None,
        choice(
            label="Resize mode",
            help="Resize mode: how the picture is fitted to the size.",
            means={"stretch": "stretched", "crop": "cropped to shape", "fill": "extended at its edges"},
            open="stretch",
            optional=True,
            jobs=("image", *_MASKED),
            options=("resize-mode",),
            also=("resize",),
            a1111="resize_mode",
        ),
    ] = None
    outpaint: Annotated[
        tuple[_Side, _Side, _Side, _Side] | None,
        plain(
            label="Outpaint",
            group="Inpainting and outpainting",
            help="Pixels to extend the picture by, on the left, top, right and bottom.",
            unit="pixels",
            optional=True,
            jobs=("outpaint",),
            options=("outpaint",),
            metavar="PIXELS",
            expected="pixels on the left, top, right and bottom",
        ),
    ] = None
    guidance_scale: Annotated[
        float | None,
        real(
            0.0,
            MAX_GUIDANCE,
            label="Image guidance scale",
            help="Image CFG scale: how closely to follow the picture, for models that edit by instruction.",
            open="the model's default",
            optional=True,
            jobs=("edit",),
            options=("image-guidance",),
            also=("image_guidance_scale",),
            a1111="image_cfg_scale",
            diffusers="image_guidance_scale",
            infotext="Image CFG scale",
        ),
    ] = None
    noise_level: Annotated[
        int | None,
        whole(
            0,
            MAX_NOISE_LEVEL,
            label="Noise level",
            help="Noise to add to the picture, for upscaling models.",
            open="the model's default",
            optional=True,
            jobs=("upscale",),
            options=("noise-level",),
            diffusers="noise_level",
            infotext="Noise level",
        ),
    ] = None

    __repr__ = brief

    def __post_init__(self) -> None:
        validate(self, type(self), "source.")


@known_fields(RequestError)
@dataclass(frozen=True, kw_only=True)
class Mask:
    """The inpainting mask and its settings. Raises RequestError."""

    image: Annotated[
        str | None,
        digest(
            label="Mask",
            help="Inpainting mask, as the SHA-256 of a greyscale picture; white areas are redrawn.",
            optional=True,
            jobs=("inpaint",),
            options=("mask",),
            a1111="mask",
            diffusers="mask_image",
        ),
    ] = None
    content: Annotated[
        Content | None,
        choice(
            label="Masked content",
            help="Masked content: what is under the mask at the start.",
            means={
                "original": "the source picture",
                "fill": "its blurred surroundings",
                "noise": "latent noise",
                "nothing": "latent zeros",
            },
            open="original",
            optional=True,
            jobs=_MASKED,
            options=("mask-content", "inpainting-fill"),
            a1111="inpainting_fill",
            infotext="Masked content",
            words={"fill": "fill", "original": "original", "noise": "latent noise", "nothing": "latent nothing"},
        ),
    ] = None
    area: Annotated[
        Area | None,
        choice(
            label="Inpaint area",
            help="Inpaint area; masked crops to the mask, draws that at full size and pastes it back.",
            means={
                "whole": "the whole picture",
                "masked": "only the masked area, at full size, pasted back",
            },
            open="whole",
            optional=True,
            jobs=("inpaint",),
            options=("mask-area",),
            a1111="inpaint_full_res",
            infotext="Inpaint area",
            words={"whole": "Whole picture", "masked": "Only masked"},
        ),
    ] = None
    padding: Annotated[
        int | None,
        whole(
            0,
            MAX_SIDE,
            label="Mask padding",
            help="Only masked padding: pixels of context around the mask, if the inpaint area is masked.",
            unit="pixels",
            open=str(MASK_PADDING),
            optional=True,
            jobs=("inpaint",),
            options=("mask-padding",),
            a1111="inpaint_full_res_padding",
            infotext="Masked area padding",
        ),
    ] = None
    blur: Annotated[
        float | None,
        real(
            0.0,
            MAX_MASK_BLUR,
            label="Mask blur",
            help="Mask blur: pixels over which the edge of the mask is softened.",
            unit="pixels",
            options=("mask-blur",),
            a1111="mask_blur",
            infotext="Mask blur",
            jobs=("inpaint", "outpaint"),
            presets=by_preset(0.0, 4.0, 0.0),
            open="outpainting: at least 8",
        ),
    ] = None

    __repr__ = brief

    def __post_init__(self) -> None:
        validate(self, type(self), "mask.")


@dataclass(frozen=True, kw_only=True, repr=False)
class ResolvedMask(Mask):
    """The mask group of a resolved request; its blur is the preset's even without a mask."""

    blur: float


@known_fields(RequestError)
@dataclass(frozen=True, kw_only=True)
class Variation:
    """Variations of the noise: a variation seed, and seed resize. Raises RequestError."""

    seed: Annotated[
        int | None,
        whole(
            0,
            MAX_SEED,
            label="Variation seed",
            help="Seed of the variation noise; random by default.",
            open="random (32 bits)",
            optional=True,
            options=("variation-seed", "subseed"),
            also=("var_seed",),
            minus_one=True,
            a1111="subseed",
            infotext="Variation seed",
        ),
    ] = None
    strength: Annotated[
        float | None,
        real(
            0.0,
            1.0,
            label="Variation strength",
            help="How much of the variation noise is mixed in, 0 to 1.",
            unit="share",
            open="no variation",
            optional=True,
            options=("variation-strength", "subseed-strength"),
            also=("var_strength",),
            a1111="subseed_strength",
            infotext="Variation seed strength",
        ),
    ] = None
    width: Annotated[
        int | None,
        whole(
            8,
            MAX_SIDE,
            label="Seed resize width",
            help="Resize seed from a picture of this width: its noise is put in the middle.",
            unit="pixels",
            optional=True,
            also=("seed_width",),
            a1111="seed_resize_from_w",
            infotext="Seed resize from",
        ),
    ] = None
    height: Annotated[
        int | None,
        whole(
            8,
            MAX_SIDE,
            label="Seed resize height",
            help="Resize seed from a picture of this height: its noise is put in the middle.",
            unit="pixels",
            optional=True,
            also=("seed_height",),
            a1111="seed_resize_from_h",
            infotext="Seed resize from",
        ),
    ] = None

    __repr__ = brief

    def __post_init__(self) -> None:
        validate(self, type(self), "variation.")


@known_fields(RequestError)
@dataclass(frozen=True, kw_only=True)
class Tiles:
    """Tiled diffusion: a large picture is denoised in overlapping tiles. Raises RequestError."""

    size: Annotated[
        int | None,
        whole(
            8,
            MAX_SIDE,
            label="Tile size",
            help="Tiled diffusion: denoise a large picture in overlapping tiles of this size.",
            unit="pixels",
            optional=True,
            options=("tile",),
            metavar="PIXELS",
        ),
    ] = None
    overlap: Annotated[
        int | None,
        whole(
            0,
            MAX_SIDE,
            label="Tile overlap",
            help="Pixels by which neighbouring tiles overlap.",
            unit="pixels",
            open="a quarter of the tile",
            optional=True,
            options=("tile-overlap",),
            metavar="PIXELS",
        ),
    ] = None

    __repr__ = brief

    def __post_init__(self) -> None:
        validate(self, type(self), "tiles.")
