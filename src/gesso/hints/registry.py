"""All ways to make a hint, by name, with what can be set; `preprocess` is the one way in."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from PIL import Image

from gesso.errors import GessoError
from gesso.hints.edges import canny, line_art, scribble, soft_edge

MAX_SIDE = 8192
MAX_PIXELS = 4096 * 4096  # filters keep some float32 copies of the picture: about 1 GiB at this size

Settings = Mapping[str, float]


@dataclass(frozen=True)
class Parameter:
    """A number that can be set."""

    default: float
    low: float
    high: float
    help: str
    whole: bool = False


@dataclass(frozen=True)
class Preprocessor:
    """One way from a picture to a hint.

    make        (RGB picture at the size of the hint, every parameter) -> hint of that size
    help        one line
    aliases     what other tools call it
    """

    make: Callable[[Image.Image, Settings], Image.Image]
    help: str
    parameters: Mapping[str, Parameter]
    aliases: tuple[str, ...] = ()


PREPROCESSORS: Mapping[str, Preprocessor] = {
    "canny": Preprocessor(
        canny,
        "Thin edges, by OpenCV's Canny.",
        {
            "low": Parameter(100, 0, 2040, "gradient above which an edge goes on"),
            "high": Parameter(200, 0, 2040, "gradient above which an edge begins"),
        },
    ),
    "softedge": Preprocessor(
        soft_edge,
        "How steeply the picture changes; in place of HED and PiDiNet.",
        {
            "sigma": Parameter(1, 0.3, 32, "pixels by which the picture is smoothed before"),
            "steps": Parameter(0, 0, 255, "grey levels; 0: all", whole=True),
        },
        ("soft_edge",),
    ),
    "lineart": Preprocessor(
        line_art,
        "What is darker than its surroundings: pencil, ink, contours.",
        {
            "sigma": Parameter(6, 0.6, 64, "pixels around that count as surroundings"),
            "threshold": Parameter(8, 0, 255, "levels below the surroundings from which it counts as a line"),
        },
        ("lineart_standard", "line_art"),
    ),
    "scribble": Preprocessor(
        scribble,
        "Broad strokes, black and white.",
        {
            "threshold": Parameter(32, 1, 255, "contrast of a stroke; lower keeps more"),
            "sigma": Parameter(5, 0.6, 64, "pixels, about the width of a stroke"),
        },
        ("scribble_xdog",),
    ),
}


def preprocess(
    name: str, image: Image.Image, size: tuple[int, int] | None = None, parameters: Settings | None = None
) -> Image.Image:
    """The hint that a picture gives.

    name        key or alias in PREPROCESSORS
    size        width and height of the hint, in pixels: the picture is brought to it before, so that lines are sharp
                and one pixel wide there. None: that of the picture
    parameters  what differs from the defaults
    -> RGB, 8 bits. The same for the same input; draws no random numbers.

    Raises GessoError for an unknown name or parameter, a value or a size out of range, a picture that the preprocessor
    does not take, a package that is missing.
    """
    name = canonical(name)
    row = PREPROCESSORS[name]
    settings = _settings(name, row.parameters, parameters or {})
    width, height = size or image.size
    if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE and width * height <= MAX_PIXELS):
        raise GessoError(
            f"a hint of {width}x{height}: sides are 1 to {MAX_SIDE}, at most {MAX_PIXELS} pixels in all. "
            "Ask for the size of the picture that it steers"
        )
    rgb = image.convert("RGB")
    if rgb.size != (width, height):
        rgb = rgb.resize((width, height), Image.Resampling.LANCZOS)
    return row.make(rgb, settings)


def canonical(name: str) -> str:
    """The key in PREPROCESSORS for a name or an alias. Raises GessoError where there is none."""
    for key, row in PREPROCESSORS.items():
        if name.lower() in (key, *row.aliases):
            return key
    close = get_close_matches(name, PREPROCESSORS, n=1)
    meant = f", did you mean {close[0]!r}?" if close else ""
    raise GessoError(f"unknown preprocessor {name[:64]!r}{meant} Known: {', '.join(PREPROCESSORS)}")


def _settings(name: str, known: Mapping[str, Parameter], given: Settings) -> Settings:
    if unknown := sorted(given.keys() - known.keys()):
        there = f"known: {', '.join(known)}" if known else "it has none"
        raise GessoError(f"{name}: unknown parameter {str(unknown[0])[:64]!r}, {there}")
    settings = {key: parameter.default for key, parameter in known.items()} | dict(given)
    for key, parameter in known.items():
        _check(f"{name}: {key}", settings[key], parameter)
    return settings


def _check(what: str, value: object, parameter: Parameter) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise GessoError(f"{what} is {str(value)[:64]!r}, expected a number")
    if not parameter.low <= value <= parameter.high:
        raise GessoError(f"{what} is {value:g}, expected {parameter.low:g} to {parameter.high:g}")
    if parameter.whole and value != int(value):
        raise GessoError(f"{what} is {value:g}, expected a whole number")
