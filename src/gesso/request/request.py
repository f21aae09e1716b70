"""The one request: everything that decides a picture besides the model.

Command line, Python, HTTP, batch files and replay all build a `TextToImageRequest`; `resolve` fills what was left open
from the model's defaults and from a preset before any work starts. Text to image, image to image, inpainting, editing
and enlarging are fields of it. Pictures that go in are named by their SHA-256 and given beside it, so that a request
stays a few lines of JSON. This file imports no torch, so that a request can be built, checked and stored where no
model runs.
"""

import json
import secrets
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Any, Self

from gesso.request import hires
from gesso.request.checks import (
    MAX_GUIDANCE,
    MAX_SIDE,
    MAX_STEPS,
    RequestError,
    brief,
    check_bool,
    check_digest,
    check_float,
    check_int,
    check_known,
    check_multiple,
    check_name,
    check_sigmas,
    check_text,
    nearest,
    parse_json_object,
    short,
)
from gesso.request.parts import (
    PARTS,
    ControlUse,
    HiresPass,
    LoraUse,
    check_parts,
    parts_from_json,
    parts_to_json,
)
from gesso.request.presets import CHOICES, PRESETS
from gesso.text.dialects import DIALECTS

SCHEMA = "gesso.text-to-image"
VERSION = 3

MAX_PIXELS = 2048 * 2048  # decoding takes about 10 GiB at this size in float32 at the widths of Stable Diffusion
MAX_IMAGES = 1000
MAX_INDEX = 2**31 - 1
MAX_SEED = 2**64 - 1  # the key of the noise has 64 bits
DRAWN_SEED_BITS = 32  # a seed that is drawn is one that other tools accept and people can copy
MAX_CLIP_SKIP = 32  # layers of the largest text tower
MAX_MASK_BLUR = 256.0  # pixels
MAX_NOISE_LEVEL = 999
MASK_PADDING = 32  # pixels around what is masked, where that alone is drawn; as in A1111
MIN_TILE = 8  # latents a side
OUTPAINT_BLUR = 8.0  # pixels by which new borders run into the picture
OWN_SCHEDULE = "own"  # the schedule of a request that brings its own sigmas


@dataclass(frozen=True, kw_only=True)
class TextToImageRequest:
    """What to draw. None means: the model's own default, or for the seed a fresh one.

    Every value is checked on construction; raises RequestError. What depends on the model (multiples of the size, names
    of samplers, clip_skip beyond its layers) is checked by `resolve`.
    """

    prompt: str
    negative_prompt: str = ""  # guidance leads away from it; "" is the unconditional text
    width: int | None = None  # of the finished picture, in pixels
    height: int | None = None
    num_steps: int | None = None
    guidance_scale: float | None = None  # w in uncond + w * (cond - uncond); 1.0 switches it off
    guidance_rescale: float | None = None  # 0..1, arXiv:2305.08891 section 3.4
    sampler: str | None = None
    schedule: str | None = None
    eta: float | None = None  # 0..1, noise put back by the stochastic samplers; None: the sampler's own
    seed: int | None = None
    noise: str | None = None  # where noise comes from: philox, cpu, nv
    num_images: int = 1
    first_index: int = 0  # index of the first picture; picture i is the same in any run that draws index i
    clip_skip: int | None = None  # as A1111 counts: 1 is the last layer, 2 the one before
    sigmas: tuple[float, ...] | None = None  # own noise levels, falling; in place of schedule and num_steps

    # Pictures that go in; see `source_images.picture_digest`.
    image: str | None = None  # SHA-256 of the pixels of the picture to start from
    strength: float | None = None  # 0..1: share of the schedule that is drawn again
    mask: str | None = None  # SHA-256 of the mask; white is drawn again
    mask_content: str | None = None  # what stands under the mask at the start: original, fill, noise, nothing
    image_guidance_scale: float | None = None  # how strongly the picture leads, for models that edit by instruction
    noise_level: int | None = None  # noise on the picture that is enlarged, for models that enlarge
    refiner_switch_at: float | None = None  # 0..1: share of the steps after which the refiner takes over

    # Conventions in which tools differ. Left open, the preset decides each; see `presets` for what they mean.
    preset: str | None = None
    initial_noise: str | None = None
    timestep_spacing: str | None = None
    round_timesteps: bool | None = None
    discard_penultimate_sigma: bool | None = None
    sigma_table: str | None = None
    strength_rule: str | None = None
    vae_encode: str | None = None
    mask_blend: str | None = None
    mask_blur: float | None = None
    paste_back: bool | None = None
    refiner_rule: str | None = None
    sde_noise: str | None = None
    syntax: str | None = None
    emphasis: str | None = None
    chunks: str | None = None
    empty_negative: str | None = None
    clip_skip_everywhere: bool | None = None
    levels: str | None = None
    ensd: int | None = None  # joins the seed for every draw after the first one

    # Noise besides the seed's.
    variation_seed: int | None = None  # of a second noise that is mixed into the first
    variation_strength: float | None = None  # 0..1: how much of it
    seed_width: int | None = None  # size whose noise is laid into the middle of this picture's
    seed_height: int | None = None
    tiling: str | None = None  # x, y, xy: sides that continue each other

    # How pictures that go in are brought to size, and what of them is drawn.
    resize: str | None = None  # stretch, crop, fill
    outpaint: tuple[int, int, int, int] | None = None  # pixels added left, above, right, below, and drawn
    mask_area: str | None = None  # whole: the picture; masked: what is masked alone, at the size that is drawn
    mask_padding: int | None = None  # pixels around what is masked that are seen, too

    hires: HiresPass | None = None
    tile: int | None = None  # pixels a side of the tiles in which a large picture is denoised
    tile_overlap: int | None = None

    loras: tuple[LoraUse, ...] = ()
    controls: tuple[ControlUse, ...] = ()

    prompt_timing: str | None = None  # conventions that came with version 3
    lora_mode: str | None = None
    uneven_chunks: str | None = None
    control_rule: str | None = None

    def __post_init__(self) -> None:
        check_text("prompt", self.prompt)
        check_text("negative_prompt", self.negative_prompt)
        check_int("width", self.width, 8, MAX_SIDE)
        check_int("height", self.height, 8, MAX_SIDE)
        if self.width is not None and self.height is not None and self.width * self.height > MAX_PIXELS:
            raise RequestError("width", f"size {self.width}x{self.height}: at most {MAX_PIXELS} pixels in all")
        check_int("num_steps", self.num_steps, 1, MAX_STEPS)
        check_float("guidance_scale", self.guidance_scale, 0.0, MAX_GUIDANCE)
        check_float("guidance_rescale", self.guidance_rescale, 0.0, 1.0)
        check_name("sampler", self.sampler)
        check_name("schedule", self.schedule)
        check_float("eta", self.eta, 0.0, 1.0)
        check_int("seed", self.seed, 0, MAX_SEED)
        check_name("noise", self.noise)
        check_name("syntax", self.syntax)
        check_int("num_images", self.num_images, 1, MAX_IMAGES, optional=False)
        check_int("first_index", self.first_index, 0, MAX_INDEX - self.num_images, optional=False)
        check_int("clip_skip", self.clip_skip, 1, MAX_CLIP_SKIP)
        check_sigmas(self.sigmas)
        check_digest("image", self.image)
        check_digest("mask", self.mask)
        check_float("strength", self.strength, 0.0, 1.0)
        check_float("image_guidance_scale", self.image_guidance_scale, 0.0, MAX_GUIDANCE)
        check_int("noise_level", self.noise_level, 0, MAX_NOISE_LEVEL)
        check_float("refiner_switch_at", self.refiner_switch_at, 0.0, 1.0)
        check_float("mask_blur", self.mask_blur, 0.0, MAX_MASK_BLUR)
        check_int("ensd", self.ensd, -(2**32), 2**32)
        for name in ("round_timesteps", "discard_penultimate_sigma", "paste_back", "clip_skip_everywhere"):
            check_bool(name, getattr(self, name))
        check_int("variation_seed", self.variation_seed, 0, MAX_SEED)
        check_float("variation_strength", self.variation_strength, 0.0, 1.0)
        check_int("seed_width", self.seed_width, 8, MAX_SIDE)
        check_int("seed_height", self.seed_height, 8, MAX_SIDE)
        _check_outpaint(self.outpaint)
        check_int("mask_padding", self.mask_padding, 0, MAX_SIDE)
        check_int("tile", self.tile, 8, MAX_SIDE)
        check_int("tile_overlap", self.tile_overlap, 0, MAX_SIDE)
        for name in PARTS:
            check_parts(name, getattr(self, name))
        if self.preset is not None:
            check_known("preset", self.preset, PRESETS)
        for name, choices in CHOICES.items():
            check_name(name, getattr(self, name))
            if getattr(self, name) is not None:
                check_known(name, getattr(self, name), choices)

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
        return json.dumps(self.to_dict(), ensure_ascii=False)

    def to_dict(self) -> dict[str, Any]:
        """Schema, version and every field."""
        values = {name: getattr(self, name) for name in FIELDS}
        for name in ("sigmas", "outpaint"):
            if values[name] is not None:
                values[name] = list(values[name])
        for name in PARTS:
            values[name] = parts_to_json(values[name])
        return {"schema": SCHEMA, "version": VERSION} | values

    @classmethod
    def from_json(cls, text: str) -> Self:
        """What `to_json` wrote. Raises RequestError for a key too many, twice or missing, or a value out of range."""
        return cls.from_dict(parse_json_object(text, "request"))

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Self:
        """What `to_dict` gave; fields that have a default may be missing. Raises RequestError.

        Version 1 knew text to image alone, version 2 neither adapters nor a second pass; their fields are read as they
        are, see ResolvedRequest for the others.
        """
        version = found.get("version")
        if found.get("schema") != SCHEMA or version not in (1, 2, VERSION) or isinstance(version, bool):
            raise RequestError(
                "schema",
                f"request of schema {short(found.get('schema'))}, version {short(version)}; "
                f"expected {SCHEMA!r}, version 1 to {VERSION}. A newer gesso may be able to read it",
            )
        values = {key: value for key, value in found.items() if key not in ("schema", "version")}
        known = FIELDS_OF_VERSION.get(version, FIELDS)
        if unknown := sorted(values.keys() - set(known)):
            raise RequestError(
                str(unknown[0])[:64], f"request: unknown field {short(unknown[0])}{nearest(unknown[0], known)}"
            )
        if version == 1:
            values = cls._version_1() | values
        for name in ("sigmas", "outpaint"):
            if isinstance(numbers := values.get(name), list):
                values[name] = tuple(numbers)
        for name in PARTS:
            if name in values:
                values[name] = parts_from_json(name, values[name])
        if missing := sorted(name for name in _required(cls) if name not in values):
            raise RequestError(missing[0], f"request: field {missing[0]!r} is missing")
        return cls(**values)

    @classmethod
    def _version_1(cls) -> dict[str, Any]:
        """What version 1 did where it had no field."""
        return {}


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
    preset: str
    initial_noise: str
    timestep_spacing: str
    round_timesteps: bool
    discard_penultimate_sigma: bool
    sigma_table: str
    strength_rule: str
    vae_encode: str
    mask_blend: str
    mask_blur: float
    paste_back: bool
    refiner_rule: str
    sde_noise: str
    syntax: str
    emphasis: str
    chunks: str
    empty_negative: str
    clip_skip_everywhere: bool
    levels: str
    ensd: int
    prompt_timing: str = "steps"  # versions 1 and 2 had no prompts that change,
    lora_mode: str = "run"  # no LoRA,
    uneven_chunks: str = "padded"  # this alone,
    control_rule: str = "a1111"  # and no control networks

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in FIELDS:
            if getattr(self, name) is None and name not in MAY_STAY_OPEN:
                raise RequestError(name, f"request: {name} is left open in a resolved request")

    @classmethod
    def _version_1(cls) -> dict[str, Any]:
        return {"preset": "gesso", **PRESETS["gesso"], "syntax": "plain", "emphasis": "ignore", "chunks": "first"}

    def picture(self, offset: int) -> "ResolvedRequest":
        """The request for the picture at `offset` alone: same index, so the same picture."""
        if not 0 <= offset < self.num_images:
            raise ValueError(f"offset {offset}, the request has {self.num_images} pictures")
        return replace(self, num_images=1, first_index=self.first_index + offset)


FIELDS = tuple(field.name for field in fields(TextToImageRequest))
FIELDS_OF_VERSION = {1: FIELDS[: FIELDS.index("clip_skip") + 1], 2: FIELDS[: FIELDS.index("ensd") + 1]}
# What a picture may do without: None in a resolved request says that the request has no such part.
MAY_STAY_OPEN = frozenset(
    {"sigmas", "image", "strength", "mask", "mask_content", "image_guidance_scale", "noise_level", "refiner_switch_at"}
    | {"variation_seed", "variation_strength", "seed_width", "seed_height", "tiling", "resize", "outpaint"}
    | {"mask_area", "mask_padding", "hires", "tile", "tile_overlap"}
)


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


def _required(cls: type[TextToImageRequest]) -> list[str]:
    return [field.name for field in fields(cls) if field.default is MISSING]


def _check_outpaint(value: object) -> None:
    if value is None:
        return
    if not isinstance(value, tuple) or len(value) != 4:
        raise RequestError("outpaint", f"outpaint is {short(value)}, expected pixels left, above, right and below")
    for pixels in value:
        check_int("outpaint", pixels, 0, MAX_SIDE, optional=False)
