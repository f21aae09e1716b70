"""The one request: everything that decides a picture besides the model.

Command line, Python, HTTP, batch files and replay all build a `TextToImageRequest`; `resolve` fills what was left open
from the model's defaults and from a preset before any work starts. Text to image, image to image, inpainting, editing
and enlarging are fields of it. Pictures that go in are named by their SHA-256 and given beside it, so that a request
stays a few lines of JSON. This file imports no torch, so that a request can be built, checked and stored where no
model runs.
"""

import secrets
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self, TypeVar

import msgspec
from msgspec import Meta

from gesso.request import hires
from gesso.request.checks import (
    MAX_GUIDANCE,
    MAX_SIDE,
    MAX_SIGMA,
    MAX_STEPS,
    RequestError,
    brief,
    check_known,
    check_multiple,
    nearest,
    parse_json_object,
    short,
)
from gesso.request.conventions import (
    Chunks,
    ControlRule,
    Conventions,
    Emphasis,
    EmptyNegative,
    InitialNoise,
    Levels,
    LoraMode,
    MaskBlend,
    Preset,
    PromptTiming,
    RefinerRule,
    SdeNoise,
    SigmaTable,
    StrengthRule,
    TimestepSpacing,
    UnevenChunks,
    VaeEncode,
)
from gesso.request.fields import (
    WITH_PICTURE,
    Job,
    Row,
    Tool,
    all_rows,
    choice,
    digest,
    listed,
    named,
    part,
    plain,
    real,
    rows,
    settle,
    text,
    whole,
)
from gesso.request.migrations import SCHEMA, VERSION, migrated
from gesso.request.parts import MAX_CONTROLS, MAX_LORAS, ControlUse, HiresPass, LoraUse
from gesso.request.presets import PRESETS, by_preset
from gesso.text.dialects import DIALECTS

MAX_PIXELS = 2048 * 2048  # decoding takes about 10 GiB at this size in float32 at the widths of Stable Diffusion
MAX_IMAGES = 1000
MAX_INDEX = 2**31 - 1
MAX_SEED = 2**64 - 1  # the key of the noise has 64 bits
DRAWN_SEED_BITS = 32  # a seed that is drawn is one that other tools accept and people can copy
MAX_CLIP_SKIP = 32  # layers of the largest text tower
MAX_NOISE_LEVEL = 999
MASK_PADDING = 32  # pixels around what is masked, where that alone is drawn; as in A1111
MIN_TILE = 8  # latents a side
OUTPAINT_BLUR = 8.0  # pixels by which new borders run into the picture
OWN_SCHEDULE = "own"  # the schedule of a request that brings its own sigmas

MaskContent = Literal["original", "fill", "noise", "nothing"]
MaskArea = Literal["whole", "masked"]
Resize = Literal["stretch", "crop", "fill"]
Tiling = Literal["x", "y", "xy"]
_Side = Annotated[int, Meta(ge=0, le=MAX_SIDE)]
_Sigma = Annotated[float, Meta(ge=0.0, le=MAX_SIGMA)]
_MASKED: tuple[Job, ...] = ("inpaint", "outpaint")

R = TypeVar("R", bound="TextToImageRequest")


def _falls(path: str, sigmas: tuple[float, ...]) -> None:
    if not all(a > b for a, b in pairwise(sigmas)):
        raise RequestError(path, f"{path} must fall from the noisiest to the last, which is usually 0")


@dataclass(frozen=True, kw_only=True)
class TextToImageRequest(Conventions):
    """What to draw. None means: the model's own default, or for the seed a fresh one.

    Every value is checked on construction; raises RequestError. What depends on the model (multiples of the size, names
    of samplers, clip_skip beyond its layers) is checked by `resolve`.
    """

    prompt: Annotated[str, text(label="Prompt", help="What to draw.", a1111="prompt", invokeai="positive_prompt")]
    negative_prompt: Annotated[
        str,
        text(
            label="Negative prompt",
            help="What to avoid.",
            options=("negative-prompt",),
            also=("negative",),
            a1111="negative_prompt",
            diffusers="negative_prompt",
            invokeai="negative_prompt",
            novelai="uc",
            metavar="TEXT",
        ),
    ] = ""
    width: Annotated[
        int | None,
        whole(
            8,
            MAX_SIDE,
            label="Width",
            help="Width in pixels.",
            unit="pixels",
            open="the model's own size, or that of the picture to start from",
            options=("width",),
            letter="W",
            a1111="width",
            comfyui="width",
            diffusers="width",
            invokeai="width",
            novelai="width",
            infotext="Size",
        ),
    ] = None
    height: Annotated[
        int | None,
        whole(
            8,
            MAX_SIDE,
            label="Height",
            help="Height in pixels.",
            unit="pixels",
            open="as the width",
            options=("height",),
            letter="H",
            a1111="height",
            comfyui="height",
            diffusers="height",
            invokeai="height",
            novelai="height",
            infotext="Size",
        ),
    ] = None
    num_steps: Annotated[
        int | None,
        whole(
            1,
            MAX_STEPS,
            label="Steps",
            help="Sampling steps.",
            open="the model's own",
            options=("steps",),
            letter="s",
            a1111="steps",
            comfyui="steps",
            diffusers="num_inference_steps",
            invokeai="steps",
            novelai="steps",
            infotext="Steps",
        ),
    ] = None
    guidance_scale: Annotated[
        float | None,
        real(
            0.0,
            MAX_GUIDANCE,
            label="Guidance scale",
            help="How closely to follow the prompt (CFG scale); 1 turns guidance off.",
            open="the model's own",
            options=("guidance", "cfg-scale"),
            also=("cfg",),
            a1111="cfg_scale",
            comfyui="cfg",
            diffusers="guidance_scale",
            invokeai="cfg_scale",
            novelai="scale",
            infotext="CFG scale",
        ),
    ] = None
    guidance_rescale: Annotated[
        float | None,
        real(
            0.0,
            1.0,
            label="Guidance rescale",
            help="Against washed-out colours at high guidance, 0 to 1 (arXiv:2305.08891, section 3.4).",
            open="0",
            options=("guidance-rescale",),
            diffusers="guidance_rescale",
            invokeai="cfg_rescale_multiplier",
            novelai="cfg_rescale",
            infotext="CFG rescale",
        ),
    ] = None
    sampler: Annotated[
        str | None,
        named(
            label="Sampler",
            help="euler, euler_ancestral, heun, ddim, dpmpp_2m, dpmpp_2m_sde, ...; any name of A1111 or ComfyUI.",
            open="the model's own",
            registry="samplers",
            options=("sampler",),
            a1111="sampler_name",
            comfyui="sampler_name",
            diffusers="scheduler",
            invokeai="scheduler",
            novelai="sampler",
            infotext="Sampler",
        ),
    ] = None
    schedule: Annotated[
        str | None,
        named(
            label="Schedule",
            help="Spacing of the steps: uniform, karras, ...",
            open="the model's own",
            registry="schedules",
            options=("schedule", "scheduler"),
            a1111="scheduler",
            comfyui="scheduler",
            novelai="noise_schedule",
            infotext="Schedule type",
        ),
    ] = None
    eta: Annotated[
        float | None,
        real(
            0.0,
            1.0,
            label="Eta",
            help="Noise that ancestral samplers put back, 0 to 1.",
            open="the sampler's own",
            options=("eta",),
            a1111="eta",
            diffusers="eta",
            infotext="Eta",
        ),
    ] = None
    seed: Annotated[
        int | None,
        whole(
            0,
            MAX_SEED,
            label="Seed",
            help="Seed of the noise; a random one where left out or -1.",
            open="a random one of 32 bits",
            options=("seed",),
            letter="S",
            minus_one=True,
            a1111="seed",
            comfyui="seed",
            diffusers="generator",
            invokeai="seed",
            novelai="seed",
            infotext="Seed",
        ),
    ] = None
    noise: Annotated[
        str | None,
        named(
            label="Noise source",
            help="Source of the noise: philox, or cpu and nv as other tools have it.",
            presets=by_preset("noise"),
            registry="noises",
            options=("noise",),
            a1111="randn_source",
            invokeai="rand_device",
            infotext="RNG",
        ),
    ] = None
    num_images: Annotated[
        int,
        whole(
            1,
            MAX_IMAGES,
            label="Number of pictures",
            help="How many pictures.",
            options=("number",),
            letter="n",
            a1111=("batch_size", "n_iter"),
            comfyui="batch_size",
            diffusers="num_images_per_prompt",
        ),
    ] = 1
    first_index: Annotated[
        int,
        whole(
            0,
            MAX_INDEX,
            label="Index of the first picture",
            help="Index of the first picture; picture 3 of a run can so be drawn alone, the same bit for bit.",
            options=("index",),
            infotext="Picture index",
        ),
    ] = 0
    clip_skip: Annotated[
        int | None,
        whole(
            1,
            MAX_CLIP_SKIP,
            label="CLIP skip",
            help="Layer of the text encoder, from the end: 1 is the last.",
            open="the model's own",
            options=("clip-skip",),
            a1111="CLIP_stop_at_last_layers",
            comfyui="stop_at_clip_layer",
            diffusers="clip_skip",
            invokeai="clip_skip",
            infotext="Clip skip",
        ),
    ] = None
    sigmas: Annotated[
        tuple[_Sigma, ...] | None,
        listed(
            2,
            MAX_STEPS + 1,
            label="Sigmas",
            help="Own noise levels such as 14.6,7,3,1,0, in place of a schedule and a number of steps.",
            optional=True,
            options=("sigmas",),
            comfyui="sigmas",
            diffusers="sigmas",
            infotext="Sigmas",
            metavar="LIST",
            rule=_falls,
        ),
    ] = None

    image: Annotated[
        str | None,
        digest(
            label="Picture to start from",
            help="SHA-256 of the pixels of the picture to start from.",
            group="source",
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
            group="source",
            optional=True,
            presets=by_preset("strength"),
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
    mask: Annotated[
        str | None,
        digest(
            label="Mask",
            help="SHA-256 of the mask, a grey picture; where it is white is drawn again.",
            group="mask",
            optional=True,
            jobs=("inpaint",),
            options=("mask",),
            a1111="mask",
            diffusers="mask_image",
        ),
    ] = None
    mask_content: Annotated[
        MaskContent | None,
        choice(
            label="Masked content",
            help="What is under the mask at the start.",
            means={
                "original": "the picture",
                "fill": "its blurred neighbours",
                "noise": "noise",
                "nothing": "nothing",
            },
            group="mask",
            open="original",
            optional=True,
            jobs=_MASKED,
            options=("mask-content", "inpainting-fill"),
            a1111="inpainting_fill",
            infotext="Masked content",
            words={"fill": "fill", "original": "original", "noise": "latent noise", "nothing": "latent nothing"},
        ),
    ] = None
    image_guidance_scale: Annotated[
        float | None,
        real(
            0.0,
            MAX_GUIDANCE,
            label="Image guidance scale",
            help="How closely to follow the picture, for models that edit by instruction.",
            group="source",
            open="the model's own",
            optional=True,
            jobs=("edit",),
            options=("image-guidance",),
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
            group="source",
            open="the model's own",
            optional=True,
            jobs=("upscale",),
            options=("noise-level",),
            diffusers="noise_level",
            infotext="Noise level",
        ),
    ] = None
    refiner_switch_at: Annotated[
        float | None,
        real(
            0.0,
            1.0,
            label="Switch to the refiner at",
            help="Share of the steps before the refiner takes over, 0 to 1.",
            unit="share",
            open="0.8 with a refiner",
            optional=True,
            options=("refiner-switch-at",),
            a1111="refiner_switch_at",
            diffusers="denoising_end",
            infotext="Refiner switch at",
        ),
    ] = None
    preset: Annotated[
        Preset | None,
        choice(
            label="Preset",
            help="Whose conventions to follow where tools differ.",
            means={
                "gesso": "our own, exact where there is a choice",
                "a1111": "AUTOMATIC1111's web UI and its forks",
                "diffusers": "the library of that name",
            },
            open="gesso",
            options=("preset",),
            infotext="Preset",
        ),
    ] = None

    variation_seed: Annotated[
        int | None,
        whole(
            0,
            MAX_SEED,
            label="Variation seed",
            help="Seed of a second noise; random where left out.",
            group="variation",
            open="a random one of 32 bits",
            optional=True,
            options=("variation-seed", "subseed"),
            also=("var_seed",),
            minus_one=True,
            a1111="subseed",
            infotext="Variation seed",
        ),
    ] = None
    variation_strength: Annotated[
        float | None,
        real(
            0.0,
            1.0,
            label="Variation strength",
            help="How much of the second noise is mixed in, 0 to 1.",
            unit="share",
            group="variation",
            open="no variation",
            optional=True,
            options=("variation-strength", "subseed-strength"),
            also=("var_strength",),
            a1111="subseed_strength",
            infotext="Variation seed strength",
        ),
    ] = None
    seed_width: Annotated[
        int | None,
        whole(
            8,
            MAX_SIDE,
            label="Width of the seed's picture",
            help="Width of the picture whose noise goes into the middle of this one's.",
            unit="pixels",
            group="variation",
            optional=True,
            a1111="seed_resize_from_w",
            infotext="Seed resize from",
        ),
    ] = None
    seed_height: Annotated[
        int | None,
        whole(
            8,
            MAX_SIDE,
            label="Height of the seed's picture",
            help="Height of the picture whose noise goes into the middle of this one's.",
            unit="pixels",
            group="variation",
            optional=True,
            a1111="seed_resize_from_h",
            infotext="Seed resize from",
        ),
    ] = None
    tiling: Annotated[
        Tiling | None,
        choice(
            label="Tiling",
            help="Sides that continue each other, for patterns.",
            means={"x": "left and right", "y": "top and bottom", "xy": "both"},
            optional=True,
            options=("tiling",),
            a1111="tiling",
            invokeai=("seamless_x", "seamless_y"),
            infotext="Tiling",
            words={"xy": "True"},
            metavar="AXES",
        ),
    ] = None

    resize: Annotated[
        Resize | None,
        choice(
            label="Resize mode",
            help="How the picture comes to size.",
            means={"stretch": "stretched", "crop": "cut to shape", "fill": "edges are added"},
            group="source",
            open="stretch",
            optional=True,
            jobs=("image", *_MASKED),
            options=("resize-mode",),
            a1111="resize_mode",
        ),
    ] = None
    outpaint: Annotated[
        tuple[_Side, _Side, _Side, _Side] | None,
        plain(
            label="Outpaint",
            help="Pixels to add left, above, right and below the picture, and to draw.",
            unit="pixels",
            group="source",
            optional=True,
            jobs=("outpaint",),
            options=("outpaint",),
            metavar="PIXELS",
            expected="pixels left, above, right and below",
        ),
    ] = None
    mask_area: Annotated[
        MaskArea | None,
        choice(
            label="Inpaint area",
            help="What is drawn.",
            means={
                "whole": "the whole picture",
                "masked": "crop to the mask, draw that at full size, paste it back",
            },
            group="mask",
            open="whole",
            optional=True,
            jobs=("inpaint",),
            options=("mask-area",),
            a1111="inpaint_full_res",
            infotext="Inpaint area",
            words={"whole": "Whole picture", "masked": "Only masked"},
        ),
    ] = None
    mask_padding: Annotated[
        int | None,
        whole(
            0,
            MAX_SIDE,
            label="Mask padding",
            help="Pixels around the mask that are seen, too, where the inpaint area is masked.",
            unit="pixels",
            group="mask",
            open=str(MASK_PADDING),
            optional=True,
            jobs=("inpaint",),
            options=("mask-padding",),
            a1111="inpaint_full_res_padding",
            infotext="Masked area padding",
        ),
    ] = None

    hires: Annotated[
        HiresPass | None,
        part(
            label="Second pass", help="Draw small, enlarge, draw again (hires fix).", optional=True, a1111="enable_hr"
        ),
    ] = None
    tile: Annotated[
        int | None,
        whole(
            8,
            MAX_SIDE,
            label="Tile size",
            help="Denoise a large picture in overlapping tiles of this size.",
            unit="pixels",
            group="tiles",
            optional=True,
            options=("tile",),
            metavar="PIXELS",
        ),
    ] = None
    tile_overlap: Annotated[
        int | None,
        whole(
            0,
            MAX_SIDE,
            label="Tile overlap",
            help="Pixels that neighbouring tiles share.",
            unit="pixels",
            group="tiles",
            open="a quarter of the tile",
            optional=True,
            options=("tile-overlap",),
            metavar="PIXELS",
        ),
    ] = None

    loras: Annotated[
        tuple[LoraUse, ...],
        listed(most=MAX_LORAS, label="LoRA", help="LoRA and their relatives on the model.", options=("lora",)),
    ] = ()
    controls: Annotated[
        tuple[ControlUse, ...],
        listed(
            most=MAX_CONTROLS,
            label="Control",
            help="Networks that steer by a picture: ControlNet, T2I-Adapter, IP-Adapter.",
            options=("control",),
        ),
    ] = ()

    def __post_init__(self) -> None:
        settle(self, TextToImageRequest)
        if self.width is not None and self.height is not None and self.width * self.height > MAX_PIXELS:
            raise RequestError("width", f"size {self.width}x{self.height}: at most {MAX_PIXELS} pixels in all")
        if self.first_index > (last := MAX_INDEX - self.num_images):
            raise RequestError("first_index", f"first_index is {self.first_index}, expected 0 to {last}")

    def __repr__(self) -> str:
        """The fields that are set; of conventions those that differ from the preset's."""
        return brief(self, {**PRESETS[self.preset], "preset": "gesso"} if self.preset else None)

    def resolve(self, defaults: "Defaults", *, draw_seed: Callable[[], int] | None = None) -> "ResolvedRequest":
        """The same request with nothing left open, checked against the model. Raises RequestError.

        `draw_seed` gives a seed where none was asked for; by default a random one of 32 bits.
        """
        values = {name: getattr(self, name) for name in FIELDS}
        if self.sigmas is not None:
            values |= _own_steps(self, self.sigmas)
        for name in FIELDS:
            if values[name] is None and name not in ("seed", "eta"):
                values[name] = defaults.of(name)
        if values["seed"] is None:
            values["seed"] = draw_seed() if draw_seed else secrets.randbits(DRAWN_SEED_BITS)
        check_known("sampler", values["sampler"], defaults.samplers)
        if self.sigmas is None:
            check_known("schedule", values["schedule"], defaults.schedules)
        check_known("noise", values["noise"], defaults.noises)
        check_known("syntax", values["syntax"], DIALECTS)
        for side in ("width", "height"):
            check_multiple(side, values[side], defaults.multiple)
        if values["clip_skip"] > defaults.max_clip_skip:
            raise RequestError(
                "clip_skip", f"clip_skip {values['clip_skip']}: the model's text encoder has {defaults.max_clip_skip}"
            )
        own_eta = defaults.etas.get(values["sampler"])  # None: this sampler has no eta
        if self.eta and own_eta is None:
            raise RequestError(
                "eta", f"eta {self.eta:g}: the sampler {values['sampler']} puts no noise back; leave it out"
            )
        if self.eta is None:
            values["eta"] = own_eta or 0.0
        _check_jobs(values, defaults)
        _check_pictures_in(values, defaults, self)
        _check_noise(values, defaults, draw_seed)
        _check_tiles(values, defaults)
        _check_hires(values, defaults)
        return ResolvedRequest(**values)

    def to_json(self) -> str:
        """The request as one line of JSON; `from_json` gives an equal request."""
        return msgspec.json.encode(self._with_version()).decode()

    def to_dict(self) -> dict[str, Any]:
        """Schema, version and every field, as plain values."""
        return dict(msgspec.to_builtins(self._with_version()))

    def _with_version(self) -> dict[str, Any]:
        return {"schema": SCHEMA, "version": VERSION} | {key: getattr(self, key) for key in FIELDS}

    @classmethod
    def from_json(cls, text: str) -> Self:
        """What `to_json` wrote. Raises RequestError for a key too many, twice or missing, or a value out of range."""
        return cls.from_dict(parse_json_object(text, "request"))

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Self:
        """What `to_dict` gave, in this version or an earlier one; fields that have a default may be missing.

        Raises RequestError.
        """
        values = migrated(found, resolved=issubclass(cls, ResolvedRequest))
        if unknown := sorted(map(str, values.keys() - set(FIELDS))):
            raise RequestError(
                unknown[0][:64], f"request: unknown field {short(unknown[0])}{nearest(unknown[0], FIELDS)}"
            )
        if "prompt" not in values:
            raise RequestError("prompt", "request: field 'prompt' is missing")
        return cls(**values)


@dataclass(frozen=True, kw_only=True, repr=False)
class ResolvedRequest(TextToImageRequest):
    """A request with nothing left open: together with the model's bytes it decides the picture."""

    width: int
    height: int
    num_steps: int
    guidance_scale: float
    guidance_rescale: float
    sampler: str
    schedule: str
    eta: float
    seed: int
    noise: str
    clip_skip: int
    preset: Preset
    initial_noise: InitialNoise
    timestep_spacing: TimestepSpacing
    round_timesteps: bool
    discard_penultimate_sigma: bool
    sigma_table: SigmaTable
    strength_rule: StrengthRule
    vae_encode: VaeEncode
    mask_blend: MaskBlend
    mask_blur: float
    paste_back: bool
    refiner_rule: RefinerRule
    sde_noise: SdeNoise
    syntax: str
    emphasis: Emphasis
    chunks: Chunks
    prompt_timing: PromptTiming
    lora_mode: LoraMode
    uneven_chunks: UnevenChunks
    control_rule: ControlRule
    empty_negative: EmptyNegative
    clip_skip_everywhere: bool
    levels: Levels
    ensd: int

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in FIELDS:
            if getattr(self, name) is None and name not in MAY_STAY_OPEN:
                raise RequestError(name, f"request: {name} is left open in a resolved request")

    def picture(self, offset: int) -> "ResolvedRequest":
        """The request for the picture at `offset` alone: same index, so the same picture."""
        if not 0 <= offset < self.num_images:
            raise ValueError(f"offset {offset}, the request has {self.num_images} pictures")
        return replace(self, num_images=1, first_index=self.first_index + offset)


ROWS: Mapping[str, Row] = MappingProxyType({row.path: row for row in all_rows(TextToImageRequest)})
FIELDS = tuple(rows(TextToImageRequest))
# What a picture may do without: None in a resolved request says that the request has no such part.
MAY_STAY_OPEN = frozenset(key for key, row in rows(TextToImageRequest).items() if row.field.optional)
# Whatever a field may be called in a grid or a batch file -> its row.
NAMED: Mapping[str, Row] = MappingProxyType({called: row for row in ROWS.values() for called in row.names})


def called_by(tool: Tool) -> Iterator[tuple[str, Row]]:
    """The names that a tool has for fields of a request, with their rows; those of its second pass are left out."""
    for row in rows(TextToImageRequest).values():
        for called in row.field.tools.get(tool, ()):
            yield called, row


def with_values(request: R, values: Mapping[str, Any]) -> R:
    """The request with other values, by their paths: num_steps, hires.strength. Raises RequestError.

    A part that the request lacks is begun with its defaults.
    """
    whole = {path: value for path, value in values.items() if "." not in path}
    inner: dict[str, dict[str, Any]] = {}
    for path, value in values.items():
        group, dot, key = path.partition(".")
        if dot:
            inner.setdefault(group, {})[key] = value
    for group, some in inner.items():
        held, kind = whole.get(group, getattr(request, group)), ROWS[group].part
        assert kind is not None
        whole[group] = kind(**some) if held is None else replace(held, **some)
    return replace(request, **whole)


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """What a model fills in, and what it accepts.

    conventions: a value for each named setting in which tools differ, as preset, sampler and model have it
    kind: what the model takes besides text: none, inpaint (mask and masked picture), edit (picture), upscale (picture)
    max_noise_level: the noisiest picture that a model which enlarges was trained with
    has_refiner: whether one is given beside the request
    """

    width: int
    height: int
    num_steps: int
    guidance_scale: float
    guidance_rescale: float = 0.0
    sampler: str
    schedule: str
    noise: str = "philox"
    clip_skip: int = 1
    conventions: Mapping[str, Any] = field(default_factory=lambda: {"preset": "gesso", **PRESETS["gesso"]})
    strength: float = 0.75
    hires_upscaler: str = "lanczos"
    hires_strength: float = 0.3
    image_guidance_scale: float = 1.5
    noise_level: int = 20
    max_noise_level: int = MAX_NOISE_LEVEL
    refiner_switch_at: float = 0.8
    kind: str = "none"
    has_refiner: bool = False
    multiple: int  # width and height are multiples of it
    max_clip_skip: int
    samplers: Collection[str]
    schedules: Collection[str]
    noises: Collection[str]
    etas: Mapping[str, float]  # the samplers that have an eta, with the one they take when none is asked for

    def of(self, name: str) -> Any:
        """The value of a field that was left open; None for parts that are filled in by `_check_jobs` or not at all."""
        if name in self.conventions:
            return self.conventions[name]
        return None if name in MAY_STAY_OPEN else getattr(self, name)


def _own_steps(request: TextToImageRequest, sigmas: tuple[float, ...]) -> dict[str, Any]:
    """Number of steps and name of the schedule for sigmas that the user brings."""
    steps = len(sigmas) - 1
    if request.num_steps not in (None, steps):
        raise RequestError("sigmas", f"{len(sigmas)} sigmas are {steps} steps; leave num_steps {request.num_steps} out")
    if request.schedule not in (None, OWN_SCHEDULE):
        raise RequestError("sigmas", f"own sigmas take the place of the schedule {request.schedule}; leave one out")
    return {"num_steps": steps, "schedule": OWN_SCHEDULE, "timestep_spacing": "schedule"}


def _check_jobs(values: dict[str, Any], defaults: "Defaults") -> None:
    """Fills in the settings of the job at hand and refuses those of jobs that are not asked for."""
    with_image, editing, enlarging = values["image"] is not None, defaults.kind == "edit", defaults.kind == "upscale"
    if defaults.kind in ("edit", "upscale"):
        verb = "edits" if editing else "enlarges"
        if not with_image:
            raise RequestError("image", f"this model {verb} a picture: give it one with --image")
        if values["strength"] is not None:
            raise RequestError("strength", f"this model {verb} the whole picture and takes no strength; leave it out")
        for name in ("mask", "outpaint"):
            if values[name] is not None:
                raise RequestError(name, f"this model {verb} the whole picture and takes no {name}; leave it out")
    elif with_image and values["strength"] is None:
        masked = values["mask"] is not None or values["outpaint"] is not None
        values["strength"] = 1.0 if masked and defaults.kind == "inpaint" else defaults.strength
    for name in ("strength", "mask", "outpaint", "resize"):
        if values[name] is not None and not with_image:
            raise RequestError(name, f"{name} needs a picture to start from: give one with --image")
    for name, has, what in (
        ("image_guidance_scale", editing, "edits by instruction"),
        ("noise_level", enlarging, "enlarges"),
    ):
        if has and values[name] is None:
            values[name] = getattr(defaults, name)
        elif values[name] is not None and not has:
            raise RequestError(name, f"{name} is for a model that {what}; leave it out")
    if enlarging and values["noise_level"] > defaults.max_noise_level:
        found, most = values["noise_level"], defaults.max_noise_level
        raise RequestError("noise_level", f"noise_level is {found}, this model was trained up to {most}")
    if defaults.has_refiner and values["refiner_switch_at"] is None:
        values["refiner_switch_at"] = defaults.refiner_switch_at
    elif values["refiner_switch_at"] is not None and not defaults.has_refiner:
        raise RequestError("refiner_switch_at", "refiner_switch_at needs a refiner: give one with --refiner")


def _check_pictures_in(values: dict[str, Any], defaults: "Defaults", asked: TextToImageRequest) -> None:
    """Fills in how a picture that goes in is brought to size and masked; refuses what has nothing to work on."""
    masked = values["mask"] is not None or values["outpaint"] is not None
    if defaults.kind == "upscale" and values["resize"] is not None:
        raise RequestError("resize", "this model enlarges the picture as it is; leave resize out")
    if masked:
        values["mask_content"] = values["mask_content"] or "original"
    elif values["mask_content"] is not None:
        raise RequestError("mask_content", "mask_content needs a mask: give one with --mask")
    if values["mask_area"] is not None and values["mask"] is None:
        raise RequestError("mask_area", "mask_area needs a mask: give one with --mask")
    one_part = values["mask_area"] == "masked"
    if one_part and values["outpaint"] is not None:
        raise RequestError("mask_area", "mask_area masked draws a part of the picture, outpaint more: leave one out")
    if one_part and values["resize"] is not None:
        raise RequestError("resize", "mask_area masked keeps the picture's size; leave resize out")
    if one_part and values["mask_padding"] is None:
        values["mask_padding"] = MASK_PADDING
    elif values["mask_padding"] is not None and not one_part:
        raise RequestError("mask_padding", "mask_padding goes with mask_area masked")
    if values["outpaint"] is not None and not any(values["outpaint"]):
        raise RequestError("outpaint", "outpaint adds 0 pixels at every side; say how many at which")
    if values["outpaint"] is not None and asked.mask_blur is None:
        values["mask_blur"] = max(values["mask_blur"], OUTPAINT_BLUR)


def _check_noise(values: dict[str, Any], defaults: "Defaults", draw_seed: Callable[[], int] | None) -> None:
    """Fills in the seed of a variation; refuses half of a size, and a seed that nothing is taken of."""
    if values["variation_strength"] is None and values["variation_seed"] is not None:
        raise RequestError("variation_seed", "variation_seed needs variation_strength: how much of it, 0 to 1")
    if values["variation_strength"] is not None and values["variation_seed"] is None:
        values["variation_seed"] = draw_seed() if draw_seed else secrets.randbits(DRAWN_SEED_BITS)
    if (values["seed_width"] is None) != (values["seed_height"] is None):
        raise RequestError("seed_width", "seed_width and seed_height go together")
    for side in ("seed_width", "seed_height"):
        if values[side] is not None:
            check_multiple(side, values[side], defaults.multiple)


def _check_tiles(values: dict[str, Any], defaults: "Defaults") -> None:
    """Fills in how far tiles overlap; refuses tiles that the model cannot draw, and those that cost without end."""
    tile, overlap = values["tile"], values["tile_overlap"]
    if tile is None:
        if overlap is not None:
            raise RequestError("tile_overlap", "tile_overlap goes with tile: the size of the tiles")
        return
    if values["tiling"] is not None:
        raise RequestError("tile", "tile draws in parts, which see their own edges; tiling wants none: leave one out")
    if defaults.kind == "upscale":
        raise RequestError("tile", "this model enlarges the picture at once; leave tile out")
    check_multiple("tile", tile, defaults.multiple)
    if tile < MIN_TILE * defaults.multiple:
        raise RequestError("tile", f"tile {tile}: at least {MIN_TILE * defaults.multiple} for this model")
    if overlap is None:
        overlap = values["tile_overlap"] = tile // 4 // defaults.multiple * defaults.multiple
    check_multiple("tile_overlap", overlap, defaults.multiple)
    if overlap > tile // 2:
        raise RequestError("tile_overlap", f"tile_overlap {overlap}: at most half of the tile, {tile // 2}")


def _check_hires(values: dict[str, Any], defaults: "Defaults") -> None:
    """Fills in the second pass; refuses one over a picture of which parts are kept."""
    if values["hires"] is None:
        return
    for name in ("mask", "outpaint"):
        if values[name] is not None:
            raise RequestError("hires", f"hires draws the whole picture again and takes no {name}; leave one out")
    if defaults.kind in ("edit", "upscale"):
        raise RequestError("hires", "this model works on a picture as it is; leave hires out")
    values["hires"] = hires.filled(
        values["hires"],
        values,
        multiple=defaults.multiple,
        max_pixels=MAX_PIXELS,
        defaults={
            "upscaler": defaults.hires_upscaler,
            "strength": defaults.hires_strength,
            "schedule": defaults.schedule,
            "samplers": defaults.samplers,
            "schedules": defaults.schedules,
        },
    )
