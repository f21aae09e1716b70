"""From what OpenAI's client sends to a request: parameters, sizes, qualities, pictures and masks. Pure translators.

The parameters are those of the client; beside them stand gesso's own fields, by any name that people type for them
(`steps`, `num_inference_steps`, `guidance_scale`, `cfg_scale`, ...), which the client sends by `extra_body`.
"""

import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from PIL import Image

from gesso.api.checking import Facts
from gesso.api.problems import HttpError
from gesso.errors import GessoError, short
from gesso.request.checks import MAX_SIDE, MAX_STEPS, nearest, unknown_data
from gesso.request.fields import Row
from gesso.request.request import MAX_PIXELS, NAMED, ROWS, called_by, nested

Route = Literal["generations", "edits", "variations"]

DEFAULT_MODEL = "gesso-mini"
# Names of models that clients ask for by habit. They stand for the default model, which the answer says.
FOREIGN_MODEL = re.compile(r"dall-e-[23]|(chat)?gpt-image-[a-z0-9.-]+")
MAX_PROMPT = 32_000  # characters
MAX_PICTURES = 10
MAX_PARTIAL = 3
SIZE = re.compile(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})")
FORMATS = ("png", "jpeg", "webp")
# What a quality multiplies the model's own number of steps by.
QUALITIES = {
    "auto": 1.0,
    "standard": 1.0,
    "low": 0.5,
    "medium": 1.0,
    "high": 1.5,
    "hd": 1.5,
    "xhigh": 2.0,
    "max": 3.0,
}
MIN_STEPS = 4
FIDELITY = {"low": 0.75, "high": 0.5}  # how much of the picture is drawn again
VARIED = 0.7  # of a variation
MASK_BLUR = 4.0  # pixels over which what is drawn passes into what stays
MIN_SIDE = 16
_ALL: tuple[Route, ...] = ("generations", "edits", "variations")
_DRAWN: tuple[Route, ...] = ("generations", "edits")
# Parameters of the client -> the routes that take them.
PARAMETERS: Mapping[str, tuple[Route, ...]] = {
    "prompt": _DRAWN,
    "model": _ALL,
    "n": _ALL,
    "size": _ALL,
    "quality": _DRAWN,
    "style": ("generations",),
    "response_format": _ALL,
    "output_format": _DRAWN,
    "output_compression": _DRAWN,
    "background": _DRAWN,
    "moderation": _DRAWN,
    "stream": _DRAWN,
    "partial_images": _DRAWN,
    "user": _ALL,
    "safety_identifier": _DRAWN,
    "complexity": _DRAWN,
    "input_fidelity": ("edits",),
    "frame_count": _DRAWN,
    "frame_duration_ms": _DRAWN,
    "svg": _DRAWN,
}
PICTURES = ("image", "image[]", "mask", "markup")  # parts of a form
_NOT_HERE = {
    "frame_count": "animated pictures are not drawn here",
    "frame_duration_ms": "animated pictures are not drawn here",
    "svg": "vector graphics are not drawn here",
}
# Fields that parameters of the client, or the pictures, decide.
_TAKEN = {
    *("prompt", "width", "height", "num_images", "first_index", "source", "source.image", "source.outpaint"),
    *("mask", "mask.image"),
}


_GROUPS = ("variation", "tiles", "conventions")  # groups of fields that may be given whole


def _extras() -> Mapping[str, Row]:
    """gesso's own fields by their names here: those that people type, diffusers' names, and whole groups."""
    found = {name: row for name, row in NAMED.items() if row.path not in _TAKEN}
    found |= {name: ROWS[name] for name in _GROUPS}
    for name, row in called_by("diffusers"):
        if row.path not in _TAKEN and name not in ("scheduler", "generator", "image", "mask_image"):
            found.setdefault(name, row)
    return {name: row for name, row in found.items() if name not in PARAMETERS and name not in PICTURES}


EXTRAS = _extras()


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a client asks for.

    values      fields of a request by their paths, without sizes, steps of a quality and pictures
    names       path -> the name that the client used
    size        width and height; None: whatever fits
    quality     a key of QUALITIES
    compression 0 to 100, of JPEG and WebP
    as_url      pictures as addresses in place of Base64
    partial     pictures on the way, in a stream
    user        whom the client draws for, given back
    notes       what was asked for and has no effect
    """

    model: str | None
    values: Mapping[str, Any]
    names: Mapping[str, str]
    count: int = 1
    size: tuple[int, int] | None = None
    quality: str = "auto"
    format: str = "png"
    compression: int = 100
    as_url: bool = False
    stream: bool = False
    partial: int = 0
    fidelity: str | None = None
    user: str | None = None
    notes: tuple[str, ...] = ()


def read_form(items: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """The text parts of a form as JSON has them. Raises HttpError."""
    values: dict[str, Any] = {}
    for name, text in items:
        if name in values:
            raise _bad(name, f"{name} is given twice")
        values[name] = _typed(name, text)
    return values


def _typed(name: str, text: str) -> Any:
    if name in ("n", "output_compression", "partial_images", "frame_count", "frame_duration_ms"):
        return int(text) if re.fullmatch(r"-?[0-9]{1,9}", text) else text
    if name == "stream":
        return {"true": True, "false": False}.get(text, text)
    row = EXTRAS.get(name)
    if row is None or row.kind in ("text", "choice"):
        return text
    try:
        return row.read(text, name) if row.is_single else json.loads(text)
    except (ValueError, GessoError):
        return text  # and what reads it says what it expects


def read_parameters(route: Route, given: Mapping[str, Any]) -> Asked:
    """The parameters of a call. Raises HttpError, which names the parameter."""
    values: dict[str, Any] = {}
    names: dict[str, str] = {"width": "size", "height": "size", "num_images": "n"}
    for name, value in given.items():
        if value is None or (name in PARAMETERS and route in PARAMETERS[name]):
            continue
        row = EXTRAS.get(name)
        if row is None:
            known = [key for key, routes in PARAMETERS.items() if route in routes] + list(EXTRAS)
            raise HttpError(
                400,
                "unknown_name",
                f"Unknown parameter: {short(name)}{nearest(name, known)}",
                field=name[:64],
                data=unknown_data(name, known),
            )
        if row.path in values:
            raise _bad(name, f"{name} and {names[row.path]} are the same; give one of them")
        values[row.path], names[row.path] = value, name
    for name, why in _NOT_HERE.items():
        if given.get(name) is not None:
            raise _bad(name, f"{name}: {why}")
    prompt = _text(given, "prompt", "") if route != "variations" else ""
    if route != "variations" and not prompt.strip():
        raise _bad("prompt", "prompt is missing or empty")
    if len(prompt) > MAX_PROMPT:
        raise _bad("prompt", f"prompt has {len(prompt)} characters, expected at most {MAX_PROMPT}")
    format = _choice(given, "output_format", (*FORMATS, "jpg", "gif", "svg"), "png").replace("jpg", "jpeg")
    if format not in FORMATS:
        raise _bad("output_format", f"output_format {format!r} is not drawn here, expected one of {', '.join(FORMATS)}")
    compression = _whole(given, "output_compression", 0, 100, 100)
    if format == "png" and compression != 100:
        raise _bad("output_compression", "output_compression is for jpeg and webp; PNG loses nothing")
    if _choice(given, "background", ("auto", "opaque", "transparent"), "auto") == "transparent":
        raise _bad("background", "background 'transparent': pictures are opaque here; leave it out")
    stream = _flag(given, "stream")
    partial = _whole(given, "partial_images", 0, MAX_PARTIAL, 0)
    if partial and not stream:
        raise _bad("partial_images", "partial_images needs stream=true")
    as_url = _choice(given, "response_format", ("b64_json", "url"), "b64_json") == "url"
    if as_url and stream:
        raise _bad("response_format", "response_format 'url' is not for streams, whose pictures are b64_json")
    _choice(given, "moderation", ("auto", "low"), "auto")
    user = given.get("safety_identifier") or given.get("user")
    return Asked(
        model=_text(given, "model", "") or None,
        values={"prompt": prompt, **values},
        names=names,
        count=_whole(given, "n", 1, MAX_PICTURES, 1),
        size=read_size(_text(given, "size", "auto") or "auto"),
        quality=_choice(given, "quality", tuple(QUALITIES), "auto"),
        format=format,
        compression=compression,
        as_url=as_url,
        stream=stream,
        partial=partial,
        fidelity=_choice(given, "input_fidelity", tuple(FIDELITY), "") or None,
        user=_text({"user": user}, "user", "") or None,
        notes=_notes(given),
    )


def _notes(given: Mapping[str, Any]) -> tuple[str, ...]:
    """What has no effect: said, since it is accepted."""
    notes = []
    if _choice(given, "style", ("vivid", "natural"), "") != "":
        notes.append("style has no effect: gesso has no such setting; say it in the prompt")
    if _choice(given, "complexity", ("low", "medium", "high"), "") != "":
        notes.append("complexity has no effect: nothing is planned before the picture is drawn")
    return tuple(notes)


def read_size(text: str) -> tuple[int, int] | None:
    """Width and height; None for auto. Raises HttpError."""
    if text == "auto":
        return None
    match = SIZE.fullmatch(text)
    if match is None:
        raise _bad("size", f"size is {short(text)}, expected auto or WIDTHxHEIGHT, such as 1024x1024")
    width, height = int(match[1]), int(match[2])
    if not MIN_SIDE <= min(width, height) <= max(width, height) <= MAX_SIDE or width * height > MAX_PIXELS:
        raise _bad("size", f"size {text}: expected {MIN_SIDE} to {MAX_SIDE} pixels a side and {MAX_PIXELS} in all")
    return width, height


def _text(given: Mapping[str, Any], name: str, default: str) -> str:
    value = given.get(name)
    if value is None:
        return default
    if not isinstance(value, str):
        raise _bad(name, f"{name} is {short(value)}, expected text")
    return value


def _choice(given: Mapping[str, Any], name: str, known: Collection[str], default: str) -> str:
    value = _text(given, name, default)
    if value != default and value not in known:
        raise _bad(name, f"{name} is {short(value)}, expected one of {', '.join(known)}")
    return value


def _whole(given: Mapping[str, Any], name: str, low: int, high: int, default: int) -> int:
    value = given.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise _bad(name, f"{name} is {short(value)}, expected {low} to {high}")
    return value


def _flag(given: Mapping[str, Any], name: str) -> bool:
    value = given.get(name)
    if value is not None and not isinstance(value, bool):
        raise _bad(name, f"{name} is {short(value)}, expected true or false")
    return bool(value)


def _bad(name: str, detail: str) -> HttpError:
    return HttpError(400, "invalid_value", detail, field=name)


# ---- models ----------------------------------------------------------------------------------------------------------


def model_of(name: str | None, known: Collection[str]) -> tuple[str, tuple[str, ...]]:
    """The model that a name stands for, and what is to be said of it."""
    if name is None:
        return DEFAULT_MODEL, ()
    if name not in known and FOREIGN_MODEL.fullmatch(name):
        return DEFAULT_MODEL, (f"model {name} is not here; drawn with {DEFAULT_MODEL}",)
    return name, ()


# ---- requests --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The pictures of a call, decoded.

    images  the first is drawn from; the others are the control images of `controls`, in their order
    mask    of the size of the first: what is clear in it is drawn again
    markup  is laid over the first
    """

    images: tuple[Image.Image, ...] = ()
    mask: Image.Image | None = None
    markup: Image.Image | None = None


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A request, its pictures by their roles, and its size."""

    request: Mapping[str, Any]
    size: tuple[int, int]
    pictures: Mapping[str, Image.Image] = field(default_factory=dict)


def to_request(route: Route, asked: Asked, facts: Facts, inputs: Inputs) -> Drawn:
    """A request for a model. Raises HttpError."""
    values = dict(asked.values)
    pictures = _pictures(route, asked, inputs, values)
    size = asked.size or _own_size(facts, pictures.get("image"))
    if (factor := QUALITIES[asked.quality]) != 1 and "num_steps" not in values and "sigmas" not in values:
        values["num_steps"] = min(max(round(facts.num_steps * factor), MIN_STEPS), MAX_STEPS)
    if "image" in pictures and facts.kind not in ("edit", "upscale"):
        whole = VARIED if route == "variations" else FIDELITY.get(asked.fidelity or "low", FIDELITY["low"])
        values.setdefault("source.strength", 1.0 if "mask" in pictures else whole)
        values.setdefault("source.resize", "crop")
        if "mask" in pictures:
            values.setdefault("mask.content", "fill")
            values.setdefault("mask.blur", MASK_BLUR)
    values |= {"num_images": asked.count}
    if facts.kind != "upscale":
        values |= {"width": size[0], "height": size[1]}
    return Drawn(request=nested(_grouped(values)), size=size, pictures=pictures)


def _grouped(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of groups that were given whole, one by one."""
    flat: dict[str, Any] = {}
    for path, value in values.items():
        if path in _GROUPS and isinstance(value, dict):
            flat |= {f"{path}.{key}": one for key, one in value.items()}
        else:
            flat[path] = value
    return flat


def _own_size(facts: Facts, image: Image.Image | None) -> tuple[int, int]:
    """The model's own size; with a picture, as many pixels in its shape."""
    if image is None:
        return facts.size, facts.size
    shrink = facts.size / math.sqrt(image.width * image.height)
    width, height = (
        min(max(round(side * shrink / facts.multiple), 1) * facts.multiple, MAX_SIDE) for side in image.size
    )
    return width, height


def _pictures(route: Route, asked: Asked, inputs: Inputs, values: dict[str, Any]) -> dict[str, Image.Image]:
    if route == "generations":
        return {}
    if not inputs.images:
        raise _bad("image", "image is missing; send a PNG, JPEG or WebP file")
    if inputs.mask is not None and inputs.markup is not None:
        raise _bad("markup", "mask and markup exclude each other")
    first, *others = inputs.images
    if inputs.mask is not None and inputs.mask.size != first.size:
        detail = f"mask is {inputs.mask.width}x{inputs.mask.height}, the image {first.width}x{first.height}"
        raise _bad("mask", f"{detail}; they have to be of one size")
    if inputs.mask is not None and "A" not in inputs.mask.getbands():
        raise _bad("mask", "mask has no transparency; what is clear in it is drawn again")
    controls = values.get("controls", [])
    if len(others) != (len(controls) if isinstance(controls, list | tuple) else 0):
        raise _bad(
            "image",
            f"{len(inputs.images)} images: a model here draws from one; more are control images, one a control",
        )
    mask = clear_parts(inputs.mask) if inputs.mask is not None else clear_parts(first) if route == "edits" else None
    if inputs.markup is not None:
        first = marked(first, inputs.markup)
    found = {"image": first} if mask is None else {"image": first, "mask": mask}
    return found | {f"hint:{number}": image for number, image in enumerate(others)}


def clear_parts(image: Image.Image) -> Image.Image | None:
    """A mask in gesso's sense of what is fully clear in a picture: white is drawn again. None where nothing is."""
    if "A" not in image.getbands():
        return None
    mask = image.getchannel("A").point([255] + [0] * 255)
    return mask if mask.getbbox() is not None else None


def marked(image: Image.Image, markup: Image.Image) -> Image.Image:
    """A picture with a drawing over it. Raises HttpError."""
    if "A" not in markup.getbands():
        raise _bad("markup", "markup has no transparency, and would cover the whole image")
    if markup.size != image.size:
        detail = f"markup is {markup.width}x{markup.height}, the image {image.width}x{image.height}"
        raise _bad("markup", f"{detail}; they have to be of one size")
    laid = Image.alpha_composite(image.convert("RGBA"), markup.convert("RGBA"))
    return laid.convert("RGB") if "A" not in image.getbands() else laid
