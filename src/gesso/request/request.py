"""The request: everything that decides a picture, apart from the model.

The command line, Python, HTTP, batch files and replay all build a `TextToImageRequest`; `resolving.resolve` fills in
fields that are not set from the model's defaults and the preset before any work starts. Text to image, image to image,
inpainting, editing and enlarging are fields of it. Pictures that go in are named by their SHA-256 and given beside it,
so that a request stays a few lines of JSON. Each field is declared once, here or in the group that it belongs to; see
`fields`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from itertools import pairwise
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self, TypeVar

import msgspec
from msgspec import Meta

from gesso.arguments import known_fields
from gesso.errors import short
from gesso.request.checks import (
    MAX_GUIDANCE,
    MAX_SEED,
    MAX_SIDE,
    MAX_SIGMA,
    MAX_STEPS,
    RequestError,
    brief,
    nearest,
    parse_json_object,
    range_data,
    unknown_data,
)
from gesso.request.conventions import Conventions, ResolvedConventions
from gesso.request.fields import (
    Preset,
    Row,
    Tool,
    all_rows,
    by_preset,
    choice,
    listed,
    named,
    part,
    real,
    rows,
    text,
    validate,
    whole,
)
from gesso.request.groups import Mask, ResolvedMask, Source, Tiles, Variation
from gesso.request.migrations import MOVED, SCHEMA, VERSION, migrated
from gesso.request.parts import MAX_CONTROLS, MAX_LORAS, ControlUse, HiresPass, LoraUse

MAX_PIXELS = 2048 * 2048  # decoding takes about 10 GiB at this size in float32 at the widths of Stable Diffusion
MAX_IMAGES = 1000
MAX_INDEX = 2**31 - 1
DRAWN_SEED_BITS = 32  # a seed that is drawn is one that other tools accept and people can copy
MAX_CLIP_SKIP = 32  # layers of the largest text tower
OWN_SCHEDULE = "own"  # the schedule of a request that brings its own sigmas

Tiling = Literal["x", "y", "xy"]
_SOURCE, _MASK, _VARIATION, _TILES, _CONVENTIONS = Source(), Mask(), Variation(), Tiles(), Conventions()
_Sigma = Annotated[float, Meta(ge=0.0, le=MAX_SIGMA)]

R = TypeVar("R", bound="TextToImageRequest")


def _falls(path: str, sigmas: tuple[float, ...]) -> None:
    if not all(a > b for a, b in pairwise(sigmas)):
        raise RequestError(path, f"{path} must decrease from the noisiest level to the last, which is usually 0")


def _as_called_here(name: str) -> str | None:
    """The field that another tool calls so, as it is written here."""
    row = NAMED.get(name)
    if row is None:
        return None
    group, dot, key = row.path.partition(".")
    return f"{group}={ROWS[group].part.__name__}({key}=...)" if dot else row.path  # type: ignore[union-attr]


@known_fields(RequestError, _as_called_here)
@dataclass(frozen=True, kw_only=True)
class TextToImageRequest:
    """What to draw. None means the model's default, or a random seed.

        TextToImageRequest(prompt="a red car", seed=7, source=Source(strength=0.6), mask=Mask(content="fill"))

    Every value is checked on construction; raises RequestError. What depends on the model (multiples of the size, names
    of samplers, clip_skip beyond its layers) is checked by `resolving.resolve`.
    """

    prompt: Annotated[
        str, text(label="Prompt", group="Prompt", help="What to draw.", a1111="prompt", invokeai="positive_prompt")
    ]
    negative_prompt: Annotated[
        str,
        text(
            label="Negative prompt",
            group="Prompt",
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
            group="Size and sampling",
            help="Width in pixels.",
            unit="pixels",
            open="the source picture's width, else the model's default",
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
            group="Size and sampling",
            help="Height in pixels.",
            unit="pixels",
            open="the source picture's height, else the model's default",
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
            group="Size and sampling",
            help="Sampling steps.",
            open="the model's default",
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
            group="Size and sampling",
            help="How closely to follow the prompt (CFG scale); 1 turns guidance off.",
            open="the model's default",
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
            group="Size and sampling",
            help="Counter washed-out colours at high guidance, 0 to 1 (arXiv:2305.08891, section 3.4).",
            open="0",
            options=("guidance-rescale",),
            diffusers="guidance_rescale",
            invokeai="cfg_rescale_multiplier",
            novelai="cfg_rescale",
            infotext="CFG rescale",
        ),
    ] = None
    guidance_until: Annotated[
        float | None,
        real(
            0.0,
            1.0,
            label="Guidance until",
            group="Size and sampling",
            help="Guide in the first share of the steps alone, 0 to 1: a step without guidance takes half the time.",
            unit="share",
            open="to the end",
            optional=True,
            options=("guidance-until",),
            infotext="Guidance until",
        ),
    ] = None
    deep_cache: Annotated[
        int | None,
        whole(
            2,
            10,
            label="Keep deep features",
            group="Size and sampling",
            help="Compute the UNet's deep levels in every N-th call alone, 2 to 10 (DeepCache): faster, less exact.",
            open="every call",
            optional=True,
            options=("deep-cache",),
            infotext="Deep cache",
        ),
    ] = None
    sampler: Annotated[
        str | None,
        named(
            label="Sampler",
            group="Size and sampling",
            help="Sampler: euler, euler_ancestral, ddim, dpmpp_2m, dpmpp_2m_sde, ..., or any name of A1111 or ComfyUI.",
            open="the model's default",
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
            group="Size and sampling",
            help="Schedule type (spacing of the steps): uniform, karras, ...",
            open="the model's default",
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
            group="Size and sampling",
            help="How much noise a stochastic sampler adds back at each step, 0 to 1.",
            open="the sampler's default",
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
            group="Size and sampling",
            help="Seed of the noise; random by default.",
            open="random (32 bits)",
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
            group="Settings of other tools",
            help="Random number generator: philox, or cpu or nv to match other tools.",
            presets=by_preset("philox", "nv", "cpu"),  # nv: A1111's GPU source, to the last bit or two
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
            group="Size and sampling",
            help="Number of pictures.",
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
            group="Size and sampling",
            help="Index of the first picture, to redraw a single picture of a run bit for bit.",
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
            group="Prompt",
            help="Layer of the text encoder to use, counted from the end; 1 is the last.",
            open="the model's default",
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
            group="Size and sampling",
            help="Custom noise levels such as 14.6,7,3,1,0, instead of a schedule and a number of steps.",
            optional=True,
            options=("sigmas",),
            comfyui="sigmas",
            diffusers="sigmas",
            infotext="Sigmas",
            metavar="LIST",
            rule=_falls,
        ),
    ] = None
    refiner_switch_at: Annotated[
        float | None,
        real(
            0.0,
            1.0,
            label="Switch to the refiner at",
            group="Model",
            help="Fraction of the steps after which the refiner takes over, 0 to 1.",
            unit="share",
            open="0.8 with a refiner",
            optional=True,
            options=("refiner-switch-at",),
            a1111="refiner_switch_at",
            diffusers="denoising_end",
            infotext="Refiner switch at",
        ),
    ] = None
    tiling: Annotated[
        Tiling | None,
        choice(
            label="Tiling",
            group="Size and sampling",
            help="Seamless tiling: opposite edges match.",
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
    source: Annotated[
        Source,
        part(
            label="Source picture",
            group="Image to image",
            help="The picture to start from (image to image), and how to use it.",
        ),
    ] = _SOURCE
    mask: Annotated[
        Mask,
        part(
            label="Mask",
            group="Inpainting and outpainting",
            help="The inpainting mask and its settings.",
            expected="Mask(image=...)",
        ),
    ] = _MASK
    variation: Annotated[
        Variation,
        part(label="Variation", group="Variations", help="Variations of the noise: a variation seed, and seed resize."),
    ] = _VARIATION
    hires: Annotated[
        HiresPass | None,
        part(
            label="Hires fix",
            group="Hires fix and large pictures",
            help="Hires fix: draw small, upscale, redraw.",
            optional=True,
            a1111="enable_hr",
        ),
    ] = None
    tiles: Annotated[
        Tiles, part(label="Tiles", group="Hires fix and large pictures", help="Tiled diffusion, for large pictures.")
    ] = _TILES
    loras: Annotated[
        tuple[LoraUse, ...],
        listed(
            most=MAX_LORAS,
            label="LoRA",
            group="LoRA, embeddings and ControlNet",
            help="LoRA, LyCORIS and similar adapters.",
            options=("lora",),
        ),
    ] = ()
    controls: Annotated[
        tuple[ControlUse, ...],
        listed(
            most=MAX_CONTROLS,
            label="Control",
            group="LoRA, embeddings and ControlNet",
            help="ControlNet, T2I-Adapter and IP-Adapter, with their control images.",
            options=("control",),
        ),
    ] = ()
    preset: Annotated[
        Preset | None,
        choice(
            label="Preset",
            group="Settings of other tools",
            help="Follow this tool's conventions.",
            means={
                "gesso": "gesso's own, exact where there is a choice",
                "a1111": "AUTOMATIC1111's web UI and its forks",
                "diffusers": "the diffusers library",
            },
            open="gesso",
            options=("preset",),
            infotext="Preset",
        ),
    ] = None
    conventions: Annotated[
        Conventions,
        part(label="Conventions", group="Settings of other tools", help="Conventions that override the preset."),
    ] = _CONVENTIONS

    def __new__(cls, *args: Any, **values: Any) -> Self:
        """Raises RequestError for fields that were not in a group up to version 3, and names their new place."""
        if moved := [key for key in values if key in MOVED]:
            raise RequestError(moved[0], has_moved(moved[0]))
        return super().__new__(cls)

    def __post_init__(self) -> None:
        validate(self, type(self))
        if self.width is not None and self.height is not None and self.width * self.height > MAX_PIXELS:
            raise RequestError(
                "width",
                f"size {self.width}x{self.height}: expected at most {MAX_PIXELS} pixels in all",
                data=range_data(self.width, 8, MAX_PIXELS // self.height),
            )
        if self.first_index > (last := MAX_INDEX - self.num_images):
            raise RequestError(
                "first_index",
                f"first_index is {self.first_index}, expected 0 to {last}",
                data=range_data(self.first_index, 0, last),
            )

    def __repr__(self) -> str:
        """The fields that are set; of those that a preset decides, what is not as the preset has it."""
        hidden = {} if self.preset is None else {path: row.field.presets[self.preset] for path, row in PRESET_ROWS}
        shown = []
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in GROUPS:
                words = brief(value, {path.partition(".")[2]: one for path, one in hidden.items() if "." in path})
                shown += [] if words.endswith("()") else [f"{field.name}={words}"]
            elif value not in (field.default, hidden.get(field.name, field.default)):
                shown.append(f"{field.name}={short(value)}")
        return f"{type(self).__name__}({', '.join(shown)})"

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
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """What `to_dict` gave, in this version or an earlier one; fields that have a default may be missing.

        Raises RequestError.
        """
        if not isinstance(values, Mapping):
            raise RequestError("request", f"request: `values` is {short(values)}, expected a dict of fields")
        values = migrated(values, resolved=issubclass(cls, ResolvedRequest))
        if unknown := sorted(map(str, values.keys() - set(FIELDS))):
            name = unknown[0]
            words = has_moved(name) if name in MOVED else f"unknown field {short(name)}{nearest(name, FIELDS)}"
            raise RequestError(name[:64], f"request: {words}", data=unknown_data(name, FIELDS))
        if "prompt" not in values:
            raise RequestError("prompt", "request: field 'prompt' is missing")
        return cls(**values)


def has_moved(name: str) -> str:
    """The error message for a field that was not in a group up to version 3."""
    group, _, key = MOVED[name].partition(".")
    return f"{name} is now {group}.{key}: {group}={ROWS[group].part.__name__}({key}=...)"  # type: ignore[union-attr]


@dataclass(frozen=True, kw_only=True, repr=False)
class ResolvedRequest(TextToImageRequest):
    """A request in which every field is set: together with the model's bytes it decides the picture."""

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
    mask: ResolvedMask
    conventions: ResolvedConventions

    def __post_init__(self) -> None:
        for name, row in rows(TextToImageRequest).items():
            if getattr(self, name) is None and not row.field.optional:
                raise RequestError(name, f"request: {name} is not set in a resolved request")
        super().__post_init__()

    def picture(self, offset: int) -> "ResolvedRequest":
        """The request for the picture at `offset` alone: same index, so the same picture."""
        if not 0 <= offset < self.num_images:
            raise ValueError(f"offset {offset}, the request has {self.num_images} pictures")
        return replace(self, num_images=1, first_index=self.first_index + offset)


FIELDS = tuple(rows(TextToImageRequest))
GROUPS = ("source", "mask", "variation", "tiles", "conventions")  # those that are always there
# Path -> row, of all fields: num_steps, source, source.strength, ...
ROWS: Mapping[str, Row] = MappingProxyType({row.path: row for row in all_rows(TextToImageRequest)})
PRESET_ROWS = tuple((path, row) for path, row in ROWS.items() if row.field.presets)
# Whatever a field may be called where people type -> its row; a group is none: "mask" is its picture.
NAMED: Mapping[str, Row] = MappingProxyType(
    {called: row for row in ROWS.values() if row.path not in GROUPS for called in row.names}
)


def called_by(tool: Tool) -> Iterator[tuple[str, Row]]:
    """A tool's names for the fields of a request, with their rows; without those of the second pass."""
    for row in ROWS.values():
        for called in () if row.path.startswith("hires.") else row.field.tools.get(tool, ()):
            yield called, row


def flat(request: TextToImageRequest) -> dict[str, Any]:
    """All values by their paths, those of groups one by one; parts that may be absent or many stay whole."""
    values: dict[str, Any] = {}
    for key in FIELDS:
        value = getattr(request, key)
        if key in GROUPS:
            values |= {path: getattr(value, name) for name, path in _paths(key, type(value))}  # type: ignore[arg-type]
        else:
            values[key] = value
    return values


@cache
def _paths(group: str, kind: Any) -> tuple[tuple[str, str], ...]:
    """The fields of a group, with their paths."""
    return tuple((one.name, f"{group}.{one.name}") for one in fields(kind))


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by their paths as arguments of a request: the inverse of `flat`."""
    groups: dict[str, Any] = {}
    for path, value in values.items():
        group, key = _split(path)
        if key:
            groups.setdefault(group, {})[key] = value
        else:
            groups[group] = value
    return groups


@cache
def _split(path: str) -> tuple[str, str]:
    group, _, key = path.partition(".")
    return group, key


def with_values(request: R, values: Mapping[str, Any]) -> R:
    """The request with other values, by their paths: num_steps, source.strength, hires.scale. Raises RequestError.

    A second pass that the request lacks is begun with its defaults.
    """
    changed = nested(values)
    for key, value in changed.items():
        if isinstance(value, dict) and (held := getattr(request, key)) is not None:
            changed[key] = replace(held, **value)
    return replace(request, **changed)
