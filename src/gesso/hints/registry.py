"""The preprocessors by name, with their parameters; `preprocess` runs one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches

from PIL import Image

from gesso.errors import GessoError
from gesso.hints import sizing
from gesso.hints.edges import canny, line_art, scribble, soft_edge
from gesso.hints.maps import depth, segmentation
from gesso.hints.rearranging import colour, inpaint, invert, shuffle, tile
from gesso.hints.sizing import Size
from gesso.registry import Registry

MASKED = 128  # level of a mask from which a pixel is in the hole

Settings = Mapping[str, float]


@dataclass(frozen=True)
class PreprocessorParameter:
    """A numeric parameter of a preprocessor: its default, range and help line."""

    default: float
    low: float
    high: float
    help: str
    whole: bool = False


@dataclass(frozen=True)
class Preprocessor:
    """A ControlNet preprocessor.

    make        (picture at the size of the hint, every parameter) -> hint of that size
    help        one line
    aliases     what other tools call it
    bring       how the picture is brought to that size
    needs_mask  it takes a mask, too: the picture is then RGBA, clear where the mask is white
    """

    make: Callable[[Image.Image, Settings], Image.Image]
    help: str
    parameters: Mapping[str, PreprocessorParameter] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()
    bring: Callable[[Image.Image, Size], Image.Image] = sizing.smooth
    needs_mask: bool = False

    @property
    def takes_map(self) -> bool:
        """Whether grey levels of 16 bits say more to it than 8."""
        return self.bring is sizing.deep


_BUILTIN = {
    "canny": Preprocessor(
        canny,
        "Thin edges, by OpenCV's Canny.",
        {
            "low": PreprocessorParameter(100, 0, 2040, "lower threshold: gradient above which an edge continues"),
            "high": PreprocessorParameter(200, 0, 2040, "upper threshold: gradient above which an edge begins"),
        },
    ),
    "softedge": Preprocessor(
        soft_edge,
        "Soft edges: how steeply the picture changes; in place of HED and PiDiNet.",
        {
            "sigma": PreprocessorParameter(1, 0.3, 32, "blur of the picture beforehand, in pixels"),
            "steps": PreprocessorParameter(0, 0, 255, "number of grey levels; 0: all", whole=True),
        },
        ("soft_edge",),
    ),
    "lineart": Preprocessor(
        line_art,
        "Lines darker than their surroundings: pencil, ink, contours.",
        {
            "sigma": PreprocessorParameter(6, 0.6, 64, "radius of the surroundings, in pixels"),
            "threshold": PreprocessorParameter(8, 0, 255, "levels darker than the surroundings that make a line"),
        },
        ("lineart_standard", "line_art"),
    ),
    "scribble": Preprocessor(
        scribble,
        "Broad strokes, black and white.",
        {
            "threshold": PreprocessorParameter(32, 1, 255, "contrast of a stroke; lower keeps more strokes"),
            "sigma": PreprocessorParameter(5, 0.6, 64, "about the width of a stroke, in pixels"),
        },
        ("scribble_xdog",),
    ),
    "tile": Preprocessor(
        tile,
        "The picture without its details, for a tile ControlNet to redraw them.",
        {"factor": PreprocessorParameter(1, 1, 64, "how far the picture is scaled down; 1: unchanged")},
        ("tile_resample",),
    ),
    "colour": Preprocessor(
        colour,
        "A grid of the picture's colours.",
        {"block": PreprocessorParameter(64, 1, 1024, "side of a square, in pixels", whole=True)},
        ("color", "t2ia_color_grid"),
    ),
    "inpaint": Preprocessor(
        inpaint,
        "The picture with its masked (white) part removed, for an inpaint ControlNet.",
        aliases=("inpaint_only",),
        needs_mask=True,
    ),
    "depth": Preprocessor(
        depth,
        "Passes on a ready depth map of 8 or 16 bits; near is white.",
        {
            "invert": PreprocessorParameter(0, 0, 1, "1: the map has near as black", whole=True),
            "stretch": PreprocessorParameter(
                0, 0, 1, "1: spread the levels from white (nearest) to black (farthest)", whole=True
            ),
        },
        bring=sizing.deep,
    ),
    "segmentation": Preprocessor(
        segmentation,
        "Passes on a ready segmentation map in the colours of ADE20K.",
        {
            "snap": PreprocessorParameter(0, 0, 1, "1: replace other colours by the nearest of ADE20K", whole=True),
            "any": PreprocessorParameter(0, 0, 1, "1: accept other colours", whole=True),
        },
        ("seg",),
        bring=sizing.nearest,
    ),
    "shuffle": Preprocessor(
        shuffle,
        "The picture's colours and textures, moved about.",
        {
            "seed": PreprocessorParameter(0, 0, 2**32 - 1, "seed of the displacement", whole=True),
            "waves": PreprocessorParameter(256, 4, 4096, "length of a wave, in pixels", whole=True),
        },
    ),
    "invert": Preprocessor(invert, "Inverts the picture: black on white becomes white on black."),
}

PREPROCESSORS: Registry[Preprocessor] = Registry(Preprocessor, "gesso.preprocessors", _BUILTIN)


def preprocess(
    name: str,
    image: Image.Image,
    size: Size | None = None,
    parameters: Settings | None = None,
    mask: Image.Image | None = None,
) -> Image.Image:
    """The hint (control image) that a preprocessor makes from a PIL image; `gesso.preprocess` takes more.

    name        key or alias in PREPROCESSORS
    image       any mode; grey levels of 16 bits count, what is transparent lies on white
    size        width and height of the hint, in pixels: the picture is brought to it before, so that lines are sharp
                and one pixel wide there. None: that of the picture
    parameters  what differs from the defaults
    mask        white is the hole, for those that need one
    -> RGB, 8 bits; RGBA that is clear in the hole where a mask is needed. The same for the same input.

    Raises GessoError for an unknown name or parameter, a value or a size out of range, a picture that the preprocessor
    does not take, a mask too many or missing, a package that is missing.
    """
    name = canonical(name)
    row = PREPROCESSORS[name]
    settings = _settings(name, row.parameters, parameters or {})
    size = size or image.size
    sizing.check_size(size)
    if row.needs_mask != (mask is not None):
        raise GessoError(
            f"{name}: a mask is {'missing' if row.needs_mask else 'given, but not used'}", code="unsuitable_hint"
        )
    try:
        brought = row.bring(image, size)
    except ValueError as error:
        raise GessoError(f"{name}: {error}", code="invalid_value") from error
    if mask is not None:
        hole = sizing.smooth(mask, size).convert("L").point(lambda level: 0 if level >= MASKED else 255)
        brought.putalpha(hole)
    with PREPROCESSORS.guard(name):
        hint = row.make(brought, settings)
        if hint.size != size:
            raise ValueError(f"the hint is {hint.width}x{hint.height}, expected {size[0]}x{size[1]}")
    return hint


def canonical(name: str) -> str:
    """The key in PREPROCESSORS for a name or an alias. Raises GessoError where there is none."""
    if (key := PREPROCESSORS.find(name)) is not None:
        return key
    if "pose" in name.lower():
        raise GessoError(
            f"{name[:64]}: skeletons are drawn from keypoints, not from a picture. The output of gesso preprocess "
            "openpose POSE.json is a hint already and needs no preprocessor",
            code="unsuitable_hint",
        )
    close = get_close_matches(name, PREPROCESSORS, n=1)
    meant = f" (did you mean {close[0]!r}?)" if close else ""
    raise GessoError(
        f"unknown preprocessor {name[:64]!r}{meant}. Known: {', '.join(PREPROCESSORS)}",
        code="unknown_name",
        data={"value": name[:64], "known": sorted(PREPROCESSORS), "nearest": close[0] if close else None},
    )


def _settings(name: str, known: Mapping[str, PreprocessorParameter], values: Settings) -> Settings:
    if unknown := sorted(values.keys() - known.keys()):
        there = f"known: {', '.join(known)}" if known else "it takes none"
        raise GessoError(f"{name}: unknown parameter {str(unknown[0])[:64]!r}, {there}", code="unknown_name")
    settings = {key: parameter.default for key, parameter in known.items()} | dict(values)
    for key, parameter in known.items():
        _check(f"{name}: {key}", settings[key], parameter)
    return settings


def _check(what: str, value: object, parameter: PreprocessorParameter) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        raise GessoError(f"{what} is {str(value)[:24]!r}, expected a number", code="invalid_value")
    if not parameter.low <= value <= parameter.high:
        raise GessoError(
            f"{what} is {str(value)[:24]}, expected {parameter.low:g} to {parameter.high:.10g}", code="invalid_value"
        )
    if parameter.whole and value != int(value):
        raise GessoError(f"{what} is {value:g}, expected a whole number", code="invalid_value")
