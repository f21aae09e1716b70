"""The one request: everything that decides a picture besides the model.

Command line, Python, HTTP, batch files and replay all build a `TextToImageRequest`; `resolve` fills what was left open
from the model's defaults before any work starts. This file imports no torch, so that a request can be built, checked
and stored where no model runs.
"""

import json
import math
import secrets
import unicodedata
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, dataclass, fields, replace
from difflib import get_close_matches
from typing import Any, Self

from gesso.errors import GessoError

SCHEMA = "gesso.text-to-image"
VERSION = 1

MAX_PROMPT_CHARS = 32_000  # what the OpenAI surface accepts; tokenizers take milliseconds for it
MAX_SIDE = 4096
MAX_PIXELS = 2048 * 2048  # decoding takes about 10 GiB at this size in float32 at the widths of Stable Diffusion
MAX_STEPS = 1000
MAX_GUIDANCE = 100.0
MAX_IMAGES = 1000
MAX_INDEX = 2**31 - 1
MAX_SEED = 2**64 - 1  # the key of the noise has 64 bits
DRAWN_SEED_BITS = 32  # a seed that is drawn is one that other tools accept and people can copy
MAX_CLIP_SKIP = 12
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

    def resolve(self, defaults: "Defaults", *, draw_seed: Callable[[], int] | None = None) -> "ResolvedRequest":
        """The same request with nothing left open, checked against the model. Raises RequestError.

        `draw_seed` gives a seed where none was asked for; by default a random one of 32 bits.
        """
        values = {name: getattr(self, name) for name in FIELDS}
        for name in FIELDS:
            if values[name] is None and name not in ("seed", "eta"):
                values[name] = getattr(defaults, name)
        if values["seed"] is None:
            values["seed"] = draw_seed() if draw_seed else secrets.randbits(DRAWN_SEED_BITS)
        check_known("sampler", values["sampler"], defaults.samplers)
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
        return ResolvedRequest(**values)

    def to_json(self) -> str:
        """The request as one line of JSON; `from_json` gives an equal request."""
        return json.dumps(self.to_dict(), ensure_ascii=False)

    def to_dict(self) -> dict[str, Any]:
        """Schema, version and every field."""
        return {"schema": SCHEMA, "version": VERSION} | {name: getattr(self, name) for name in FIELDS}

    @classmethod
    def from_json(cls, text: str) -> Self:
        """What `to_json` wrote. Raises RequestError for a key too many, twice or missing, or a value out of range."""
        return cls.from_dict(parse_json_object(text, "request"))

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Self:
        """What `to_dict` gave; fields that have a default may be missing. Raises RequestError."""
        if found.get("schema") != SCHEMA or found.get("version") != VERSION or isinstance(found.get("version"), bool):
            raise RequestError(
                "schema",
                f"request of schema {_short(found.get('schema'))}, version {_short(found.get('version'))}; "
                f"expected {SCHEMA!r}, version {VERSION}. A newer gesso may be able to read it",
            )
        values = {key: value for key, value in found.items() if key not in ("schema", "version")}
        if unknown := sorted(values.keys() - set(FIELDS)):
            raise RequestError(
                str(unknown[0])[:64], f"request: unknown field {_short(unknown[0])}{_nearest(unknown[0], FIELDS)}"
            )
        if missing := sorted(name for name in _required(cls) if name not in values):
            raise RequestError(missing[0], f"request: field {missing[0]!r} is missing")
        return cls(**values)


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

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in FIELDS:
            if getattr(self, name) is None:
                raise RequestError(name, f"request: {name} is left open in a resolved request")

    def picture(self, offset: int) -> "ResolvedRequest":
        """The request for the picture at `offset` alone: same index, so the same picture."""
        if not 0 <= offset < self.num_images:
            raise ValueError(f"offset {offset}, the request has {self.num_images} pictures")
        return replace(self, num_images=1, first_index=self.first_index + offset)


FIELDS = tuple(field.name for field in fields(TextToImageRequest))


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """What a model fills in, and what it accepts."""

    width: int
    height: int
    num_steps: int
    guidance_scale: float
    guidance_rescale: float = 0.0
    sampler: str
    schedule: str
    noise: str = "philox"
    clip_skip: int = 1
    multiple: int  # width and height are multiples of it
    max_clip_skip: int
    samplers: Collection[str]
    schedules: Collection[str]
    noises: Collection[str]
    etas: Mapping[str, float]  # the samplers that have an eta, with the one they take when none is asked for


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
