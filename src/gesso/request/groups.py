"""Groups of fields in a request: the picture to start from, the mask, variations of the noise, tiles.

A group is always there; where nothing of it is set, the request has no such part. Each is frozen and checked on
construction, and a JSON object of its fields in a recipe.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta

from gesso.request.checks import MAX_GUIDANCE, MAX_NOISE_LEVEL, MAX_SEED, MAX_SIDE, brief
from gesso.request.fields import WITH_PICTURE, Job, by_preset, choice, digest, plain, real, settle, whole

MAX_MASK_BLUR = 256.0  # pixels
MASK_PADDING = 32  # pixels around what is masked, where that alone is drawn; as in A1111

Content = Literal["original", "fill", "noise", "nothing"]
Area = Literal["whole", "masked"]
Resize = Literal["stretch", "crop", "fill"]
_Side = Annotated[int, Meta(ge=0, le=MAX_SIDE)]
_MASKED: tuple[Job, ...] = ("inpaint", "outpaint")


@dataclass(frozen=True, kw_only=True)
class Source:
    """The picture to start from, and what becomes of it. Raises RequestError."""

    image: Annotated[
        str | None,
        digest(
            label="Picture to start from",
            help="SHA-256 of the pixels of the picture to start from.",
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
            help="How much of the picture is drawn again, 0 to 1.",
            unit="share",
            optional=True,
            presets=by_preset(0.75, 0.75, 0.8),
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
            help="How the picture comes to size.",
            means={"stretch": "stretched", "crop": "cut to shape", "fill": "edges are added"},
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
            help="Pixels to add left, above, right and below the picture, and to draw.",
            unit="pixels",
            optional=True,
            jobs=("outpaint",),
            options=("outpaint",),
            metavar="PIXELS",
            expected="pixels left, above, right and below",
        ),
    ] = None
    guidance_scale: Annotated[
        float | None,
        real(
            0.0,
            MAX_GUIDANCE,
            label="Image guidance scale",
            help="How closely to follow the picture, for models that edit by instruction.",
            open="the model's own",
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
            help="Noise on the picture, for models that enlarge.",
            open="the model's own",
            optional=True,
            jobs=("upscale",),
            options=("noise-level",),
            diffusers="noise_level",
            infotext="Noise level",
        ),
    ] = None

    __repr__ = brief

    def __post_init__(self) -> None:
        settle(self, type(self), "source.")


@dataclass(frozen=True, kw_only=True)
class Mask:
    """What of the picture is drawn again. Raises RequestError."""

    image: Annotated[
        str | None,
        digest(
            label="Mask",
            help="SHA-256 of the mask, a grey picture; where it is white is drawn again.",
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
            help="What is under the mask at the start.",
            means={
                "original": "the picture",
                "fill": "its blurred neighbours",
                "noise": "noise",
                "nothing": "nothing",
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
            help="What is drawn of the picture; masked: crop to the mask, draw that at full size, paste it back.",
            means={
                "whole": "the whole picture",
                "masked": "crop to the mask, draw that at full size, paste it back",
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
            help="Pixels around the mask that are seen, too, where the inpaint area is masked.",
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
            help="Pixels by which the edge of the mask is softened.",
            unit="pixels",
            options=("mask-blur",),
            a1111="mask_blur",
            infotext="Mask blur",
            jobs=("inpaint", "outpaint"),
            presets=by_preset(0.0, 4.0, 0.0),
        ),
    ] = None

    __repr__ = brief

    def __post_init__(self) -> None:
        settle(self, type(self), "mask.")


@dataclass(frozen=True, kw_only=True, repr=False)
class ResolvedMask(Mask):
    """A mask of a resolved request; its blur is what the preset says also where there is no mask."""

    blur: float


@dataclass(frozen=True, kw_only=True)
class Variation:
    """Noise besides the seed's: a second one that is mixed in, and that of a picture of another size.

    Raises RequestError.
    """

    seed: Annotated[
        int | None,
        whole(
            0,
            MAX_SEED,
            label="Variation seed",
            help="Seed of a second noise; random where left out.",
            open="a random one of 32 bits",
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
            help="How much of the second noise is mixed in, 0 to 1.",
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
            label="Width of the seed's picture",
            help="Width of the picture whose noise goes into the middle of this one's.",
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
            label="Height of the seed's picture",
            help="Height of the picture whose noise goes into the middle of this one's.",
            unit="pixels",
            optional=True,
            also=("seed_height",),
            a1111="seed_resize_from_h",
            infotext="Seed resize from",
        ),
    ] = None

    __repr__ = brief

    def __post_init__(self) -> None:
        settle(self, type(self), "variation.")


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """Tiles in which a large picture is denoised. Raises RequestError."""

    size: Annotated[
        int | None,
        whole(
            8,
            MAX_SIDE,
            label="Tile size",
            help="Denoise a large picture in overlapping tiles of this size.",
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
            help="Pixels that neighbouring tiles share.",
            unit="pixels",
            open="a quarter of the tile",
            optional=True,
            options=("tile-overlap",),
            metavar="PIXELS",
        ),
    ] = None

    __repr__ = brief

    def __post_init__(self) -> None:
        settle(self, type(self), "tiles.")
