"""The one request: everything that decides a picture besides the model.

Command line, Python, HTTP, batch files and replay all build a `TextToImageRequest`; `resolve` fills what was left open
from the model's defaults and from a preset before any work starts. Text to image, image to image, inpainting, editing
and enlarging are fields of it. Pictures that go in are named by their SHA-256 and given beside it, so that a request
stays a few lines of JSON. This file imports no torch, so that a request can be built, checked and stored where no
model runs.
"""

import json
import math
import secrets
import unicodedata
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from difflib import get_close_matches
from itertools import pairwise
from typing import Any, Self

from gesso.errors import GessoError
from gesso.pipelines.presets import CHOICES, PRESETS

SCHEMA = "gesso.text-to-image"
VERSION = 2

MAX_PROMPT_CHARS = 32_000  # what the OpenAI surface accepts; tokenizers take milliseconds for it
MAX_SIDE = 4096
MAX_PIXELS = 2048 * 2048  # decoding takes about 10 GiB at this size in float32 at the widths of Stable Diffusion
MAX_STEPS = 1000
MAX_GUIDANCE = 100.0
MAX_IMAGES = 1000
MAX_INDEX = 2**31 - 1
MAX_SEED = 2**64 - 1  # the key of the noise has 64 bits
DRAWN_SEED_BITS = 32  # a seed that is drawn is one that other tools accept and people can copy
MAX_CLIP_SKIP = 32  # layers of the largest text tower
MAX_SIGMA = 1e6
MAX_MASK_BLUR = 256.0  # pixels
MAX_NOISE_LEVEL = 999
OWN_SCHEDULE = "own"  # the schedule of a request that brings its own sigmas
MAX_JSON_CHARS = 1_000_000


class RequestError(GessoError, ValueError):
    """A value of the request that cannot be; `field` names it. A GessoError to the user, a ValueError to code."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


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
    mask_content: str | None = None  # what stands under the mask at the start: original
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

    def __post_init__(self) -> None:
        _check_text("prompt", self.prompt)
        _check_text("negative_prompt", self.negative_prompt)
        _check_int("width", self.width, 8, MAX_SIDE)
        _check_int("height", self.height, 8, MAX_SIDE)
        if self.width is not None and self.height is not None and self.width * self.height > MAX_PIXELS:
            raise RequestError("width", f"size {self.width}x{self.height}: at most {MAX_PIXELS} pixels in all")
        _check_int("num_steps", self.num_steps, 1, MAX_STEPS)
        _check_float("guidance_scale", self.guidance_scale, 0.0, MAX_GUIDANCE)
        _check_float("guidance_rescale", self.guidance_rescale, 0.0, 1.0)
        _check_name("sampler", self.sampler)
        _check_name("schedule", self.schedule)
        _check_float("eta", self.eta, 0.0, 1.0)
        _check_int("seed", self.seed, 0, MAX_SEED)
        _check_name("noise", self.noise)
        _check_int("num_images", self.num_images, 1, MAX_IMAGES, optional=False)
        _check_int("first_index", self.first_index, 0, MAX_INDEX - self.num_images, optional=False)
        _check_int("clip_skip", self.clip_skip, 1, MAX_CLIP_SKIP)
        _check_sigmas(self.sigmas)
        _check_digest("image", self.image)
        _check_digest("mask", self.mask)
        _check_float("strength", self.strength, 0.0, 1.0)
        _check_float("image_guidance_scale", self.image_guidance_scale, 0.0, MAX_GUIDANCE)
        _check_int("noise_level", self.noise_level, 0, MAX_NOISE_LEVEL)
        _check_float("refiner_switch_at", self.refiner_switch_at, 0.0, 1.0)
        _check_float("mask_blur", self.mask_blur, 0.0, MAX_MASK_BLUR)
        _check_int("ensd", self.ensd, -(2**32), 2**32)
        for name in ("round_timesteps", "discard_penultimate_sigma", "paste_back", "clip_skip_everywhere"):
            _check_bool(name, getattr(self, name))
        if self.preset is not None:
            check_known("preset", self.preset, PRESETS)
        for name, choices in CHOICES.items():
            _check_name(name, getattr(self, name))
            if getattr(self, name) is not None:
                check_known(name, getattr(self, name), choices)

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
        for side in ("width", "height"):
            _check_multiple(side, values[side], defaults.multiple)
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
        return ResolvedRequest(**values)

    def to_json(self) -> str:
        """The request as one line of JSON; `from_json` gives an equal request."""
        return json.dumps(self.to_dict(), ensure_ascii=False)

    def to_dict(self) -> dict[str, Any]:
        """Schema, version and every field."""
        values = {name: getattr(self, name) for name in FIELDS}
        if self.sigmas is not None:
            values["sigmas"] = list(self.sigmas)
        return {"schema": SCHEMA, "version": VERSION} | values

    @classmethod
    def from_json(cls, text: str) -> Self:
        """What `to_json` wrote. Raises RequestError for a key too many, twice or missing, or a value out of range."""
        return cls.from_dict(parse_json_object(text, "request"))

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Self:
        """What `to_dict` gave; fields that have a default may be missing. Raises RequestError.

        Version 1 knew text to image alone; its fields are read as they are, see ResolvedRequest for the others.
        """
        version = found.get("version")
        if found.get("schema") != SCHEMA or version not in (1, VERSION) or isinstance(version, bool):
            raise RequestError(
                "schema",
                f"request of schema {_short(found.get('schema'))}, version {_short(version)}; "
                f"expected {SCHEMA!r}, version {VERSION} or 1. A newer gesso may be able to read it",
            )
        values = {key: value for key, value in found.items() if key not in ("schema", "version")}
        known = FIELDS if version == VERSION else FIELDS_OF_VERSION_1
        if unknown := sorted(values.keys() - set(known)):
            raise RequestError(
                str(unknown[0])[:64], f"request: unknown field {_short(unknown[0])}{_nearest(unknown[0], known)}"
            )
        if version == 1:
            values = cls._version_1() | values
        if isinstance(sigmas := values.get("sigmas"), list):
            values["sigmas"] = tuple(sigmas)
        if missing := sorted(name for name in _required(cls) if name not in values):
            raise RequestError(missing[0], f"request: field {missing[0]!r} is missing")
        return cls(**values)

    @classmethod
    def _version_1(cls) -> dict[str, Any]:
        """What version 1 did where it had no field."""
        return {}


@dataclass(frozen=True, kw_only=True)
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
FIELDS_OF_VERSION_1 = FIELDS[: FIELDS.index("clip_skip") + 1]
# What a picture may do without: None in a resolved request says that the request has no such part.
MAY_STAY_OPEN = frozenset(
    {"sigmas", "image", "strength", "mask", "mask_content", "image_guidance_scale", "noise_level", "refiner_switch_at"}
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
        if values["mask"] is not None:
            raise RequestError("mask", f"this model {verb} the whole picture and takes no mask; leave it out")
    elif with_image and values["strength"] is None:
        values["strength"] = 1.0 if values["mask"] is not None and defaults.kind == "inpaint" else defaults.strength
    for name in ("strength", "mask"):
        if values[name] is not None and not with_image:
            raise RequestError(name, f"{name} needs a picture to start from: give one with --image")
    if values["mask"] is not None:
        values["mask_content"] = values["mask_content"] or "original"
    elif values["mask_content"] is not None:
        raise RequestError("mask_content", "mask_content needs a mask: give one with --mask")
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


def check_known(field: str, value: str, known: Collection[str]) -> None:
    """Raises RequestError, naming the nearest and all known, unless `value` is among `known`."""
    if value not in known:
        raise RequestError(
            field, f"unknown {field} {_short(value)}{_nearest(value, known)}. Known: {', '.join(sorted(known))}"
        )


def parse_json_object(text: str, what: str) -> dict[str, Any]:
    """A JSON object, read strictly: no key twice, no NaN or infinity, bounded size. Raises RequestError."""
    if len(text) > MAX_JSON_CHARS:
        raise RequestError(what, f"{what}: {len(text)} characters of JSON, at most {MAX_JSON_CHARS} are read")
    try:
        found = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise RequestError(what, f"{what}: not valid JSON ({str(error)[:200] or 'nested too deeply'})") from error
    if not isinstance(found, dict):
        raise RequestError(what, f"{what}: a JSON {type(found).__name__}, expected an object")
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key comes twice")
    return found


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _required(cls: type[TextToImageRequest]) -> list[str]:
    return [field.name for field in fields(cls) if field.default is MISSING]


def _check_text(field: str, value: object) -> None:
    if not isinstance(value, str):
        raise RequestError(field, f"{field} is a {type(value).__name__}, expected text")
    if len(value) > MAX_PROMPT_CHARS:
        raise RequestError(field, f"{field} has {len(value)} characters, at most {MAX_PROMPT_CHARS} are read")
    if "\0" in value:
        raise RequestError(field, f"{field} contains a NUL character; remove it")
    if any(unicodedata.category(char) == "Cs" for char in value):
        raise RequestError(field, f"{field} is not valid Unicode text (a broken UTF-8 byte or a lone surrogate)")


def _check_int(field: str, value: object, low: int, high: int, *, optional: bool = True) -> None:
    if value is None and optional:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise RequestError(field, f"{field} is {_short(value)}, expected a whole number")
    if not low <= value <= high:
        raise RequestError(field, f"{field} is {_short(value)}, expected {low} to {high}")


def _check_float(field: str, value: object, low: float, high: float) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise RequestError(field, f"{field} is {_short(value)}, expected a number")
    if not low <= value <= high:
        raise RequestError(field, f"{field} is {_short(value)}, expected {low:g} to {high:g}")


def _check_bool(field: str, value: object) -> None:
    if value is not None and not isinstance(value, bool):
        raise RequestError(field, f"{field} is {_short(value)}, expected true or false")


def _check_digest(field: str, value: object) -> None:
    if value is None:
        return
    if not (isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")):
        raise RequestError(field, f"{field} is {_short(value)}, expected the 64 digits of a SHA-256")


def _check_sigmas(value: object) -> None:
    """Two or more finite numbers that fall and end at 0 or above."""
    if value is None:
        return
    if not isinstance(value, tuple) or not 2 <= len(value) <= MAX_STEPS + 1:
        raise RequestError("sigmas", f"sigmas are {_short(value)}, expected a list of 2 to {MAX_STEPS + 1} numbers")
    for sigma in value:
        _check_float("sigmas", sigma, 0.0, MAX_SIGMA)
        if sigma is None:
            raise RequestError("sigmas", "sigmas: a number is missing")
    if not all(a > b for a, b in pairwise(value)):
        raise RequestError("sigmas", "sigmas must fall from the noisiest to the last, which is usually 0")


def _check_name(field: str, value: object) -> None:
    if value is not None and not (isinstance(value, str) and 0 < len(value) <= 64):
        raise RequestError(field, f"{field} is {_short(value)}, expected a short name")


def _check_multiple(side: str, value: int, multiple: int) -> None:
    if value % multiple:
        below = value // multiple * multiple
        near = [size for size in (below, below + multiple) if multiple <= size <= MAX_SIDE]
        raise RequestError(
            side, f"{side} {value}: this model draws multiples of {multiple}. Try {' or '.join(map(str, near))}"
        )


def _nearest(value: object, known: Collection[str]) -> str:
    near = get_close_matches(str(value).lower()[:64], known, n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 64 else f"{text[:60]}..."
