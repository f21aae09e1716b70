"""Values inside a request: adapters that are put on the model, networks that steer it, and a second, larger pass.

Each is frozen, checked on construction, and becomes a JSON object of its fields; `part_from_dict` is the way back.
Files are named here and found by a `Finder`; pictures are named by their SHA-256 and given beside the request.
"""

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, TypeVar

from gesso.request.checks import (
    MAX_FILE_NAME,
    MAX_GUIDANCE,
    MAX_PROMPT_CHARS,
    MAX_SIDE,
    MAX_STEPS,
    RequestError,
    brief,
    check_digest,
    check_float,
    check_int,
    check_name,
    check_text,
    nearest,
    short,
)
from gesso.text.grammar import MAX_POINTS

MAX_STRENGTH = 100.0  # of an adapter or of a network that steers; far above, numbers overflow and no picture is left
MAX_LORAS = 32
MAX_CONTROLS = 16
MAX_PARAMETERS = 16  # of a preprocessor
MAX_PARAMETER = 2.0**32
MAX_SCALE = 16.0
CONTROL_MODES = ("balanced", "prompt", "control")

P = TypeVar("P")


@dataclass(frozen=True, kw_only=True)
class LoraUse:
    """A LoRA or one of its relatives on the model.

    name         by which the `Finder` knows the file
    weight       strength in the UNet
    text_weight  strength in the text models; None: that in the UNet
    points       strength over the run: pairs of a share of the steps, rising in 0..1, and a factor; between two points
                 the factor goes in a straight line, before the first and after the last it stays. Empty: 1 throughout
    """

    name: str
    weight: float = 1.0
    text_weight: float | None = None
    points: tuple[tuple[float, float], ...] = ()

    __repr__ = brief

    def __post_init__(self) -> None:
        check_file_name("loras", self.name)
        _check_needed("loras", self.weight, -MAX_STRENGTH, MAX_STRENGTH)
        check_float("loras", self.text_weight, -MAX_STRENGTH, MAX_STRENGTH)
        _check_pairs("loras", f"{self.name}: points of strength", self.points, MAX_POINTS)
        last = -1.0
        for share, factor in self.points:
            _check_needed("loras", share, 0.0, 1.0)
            _check_needed("loras", factor, -MAX_STRENGTH, MAX_STRENGTH)
            if share <= last:
                raise RequestError(
                    "loras", f"{self.name}: the points of strength must rise in their share of the steps"
                )
            last = share


@dataclass(frozen=True, kw_only=True)
class ControlUse:
    """A network that steers by a picture: ControlNet, T2I-Adapter, IP-Adapter; which one, its file tells.

    model         by which the `Finder` knows the file
    image         SHA-256 of the picture
    preprocessor  by which the picture becomes the hint; None: it is the hint already
    parameters    of the preprocessor, where they are not its defaults: pairs of a name and a number
    weight        strength
    start, end    share of the steps before it begins and after which it ends
    mode          balanced; prompt: the prompt is more important; control: the picture is
    encoder       of an IP-Adapter: by which the `Finder` knows the image encoder; None: the first that fits
    kind          of a ControlNet Union: what the hint is, such as canny; None: what the preprocessor makes
    """

    model: str
    image: str
    preprocessor: str | None = None
    parameters: tuple[tuple[str, float], ...] = ()
    weight: float = 1.0
    start: float = 0.0
    end: float = 1.0
    mode: str = "balanced"
    encoder: str | None = None
    kind: str | None = None

    __repr__ = brief

    def __post_init__(self) -> None:
        check_file_name("controls", self.model)
        if self.encoder is not None:
            check_file_name("controls", self.encoder)
        check_digest("controls", self.image)
        check_name("controls", self.preprocessor)
        check_name("controls", self.kind)
        self._check_parameters()
        _check_needed("controls", self.weight, 0.0, MAX_STRENGTH)
        _check_needed("controls", self.start, 0.0, 1.0)
        _check_needed("controls", self.end, 0.0, 1.0)
        if self.start > self.end:
            raise RequestError("controls", f"{self.model}: starts at {self.start:g}, after its end {self.end:g}")
        if self.mode not in CONTROL_MODES:
            raise RequestError(
                "controls", f"{self.model}: mode is {short(self.mode)}, expected {', '.join(CONTROL_MODES)}"
            )

    def _check_parameters(self) -> None:
        _check_pairs("controls", f"{self.model}: parameters", self.parameters, MAX_PARAMETERS)
        if self.parameters and self.preprocessor is None:
            raise RequestError("controls", f"{self.model}: parameters without a preprocessor that they are for")
        for name, value in self.parameters:
            if not isinstance(name, str):
                raise RequestError("controls", f"{self.model}: {short(name)} is no name of a parameter")
            check_name("controls", name)
            _check_needed("controls", value, -MAX_PARAMETER, MAX_PARAMETER)
        if len({name for name, _ in self.parameters}) != len(self.parameters):
            raise RequestError("controls", f"{self.model}: a parameter is said twice")


@dataclass(frozen=True, kw_only=True)
class HiresPass:
    """A second pass: the picture is enlarged and drawn again at strength. None: as in the first pass.

    scale          by which width and height grow; or
    width, height  of the finished picture, in pixels
    upscaler       how it is enlarged: a way of interpolating, of the latents or of the picture, or a network's name
    """

    scale: float | None = None
    width: int | None = None
    height: int | None = None
    upscaler: str | None = None
    strength: float | None = None
    num_steps: int | None = None
    sampler: str | None = None
    schedule: str | None = None
    guidance_scale: float | None = None
    prompt: str | None = None
    negative_prompt: str | None = None

    __repr__ = brief

    def __post_init__(self) -> None:
        check_float("hires", self.scale, 1.0, MAX_SCALE)
        check_int("hires", self.width, 8, MAX_SIDE)
        check_int("hires", self.height, 8, MAX_SIDE)
        if self.upscaler is not None:
            check_file_name("hires", self.upscaler)
        check_float("hires", self.strength, 0.0, 1.0)
        check_int("hires", self.num_steps, 1, MAX_STEPS)
        check_name("hires", self.sampler)
        check_name("hires", self.schedule)
        check_float("hires", self.guidance_scale, 0.0, MAX_GUIDANCE)
        for text in (self.prompt, self.negative_prompt):
            if text is not None:
                check_text("hires", text)


# The fields of a request that hold such values: field -> class, and how many there may be; None: one alone.
PARTS: Mapping[str, tuple[type[Any], int | None]] = {
    "loras": (LoraUse, MAX_LORAS),
    "controls": (ControlUse, MAX_CONTROLS),
    "hires": (HiresPass, None),
}


def check_parts(field: str, value: object) -> None:
    """A part of the right class, or a tuple of so many; None for one alone. Raises RequestError."""
    cls, most = PARTS[field]
    if most is None:
        if value is not None and not isinstance(value, cls):
            raise RequestError(field, f"{field} is a {type(value).__name__}, expected a {cls.__name__}")
        return
    if not isinstance(value, tuple) or not all(isinstance(part, cls) for part in value):
        raise RequestError(field, f"{field} is {short(value)}, expected a tuple of {cls.__name__}")
    if len(value) > most:
        raise RequestError(field, f"{field}: {len(value)} of them, at most {most}")


def parts_to_json(value: Any) -> Any:
    """A part, or a tuple of parts, as objects and lists."""
    if isinstance(value, tuple):
        return [parts_to_json(part) for part in value]
    return None if value is None else asdict(value)


def parts_from_json(field: str, value: object) -> Any:
    """What `parts_to_json` made of a field. Raises RequestError for anything else."""
    cls, most = PARTS[field]
    if most is None:
        return None if value is None else part_from_dict(field, cls, value)
    if not isinstance(value, list) or len(value) > most:
        raise RequestError(field, f"{field} is {short(value)}, expected a list of at most {most}")
    return tuple(part_from_dict(field, cls, part) for part in value)


def part_from_dict(field: str, cls: type[P], found: object) -> P:
    """One part from a JSON object; fields that have a default may be missing. Raises RequestError."""
    if not isinstance(found, dict):
        raise RequestError(field, f"{field} holds {short(found)}, expected an object")
    known = {item.name: item for item in fields(cls)}  # type: ignore[arg-type]
    if unknown := sorted(found.keys() - known.keys()):
        raise RequestError(field, f"{field}: unknown field {short(unknown[0])}{nearest(unknown[0], known)}")
    if missing := sorted(name for name, item in known.items() if item.default is MISSING and name not in found):
        raise RequestError(field, f"{field}: field {missing[0]!r} is missing")
    return cls(**{name: _tuples(field, value) for name, value in found.items()})


def check_file_name(field: str, value: object) -> None:
    """The name of a file that a `Finder` looks up. Raises RequestError."""
    if not isinstance(value, str) or not value.strip() or len(value) > MAX_FILE_NAME or not value.isprintable():
        raise RequestError(field, f"{field}: {short(value)} is no name of a file that could be found")


def _tuples(field: str, value: object, depth: int = 0) -> Any:
    """Lists as tuples, two deep at most."""
    if not isinstance(value, list):
        return value
    if depth == 2 or len(value) > MAX_PROMPT_CHARS:
        raise RequestError(field, f"{field} holds {short(value)}, a list too deep or too long")
    return tuple(_tuples(field, item, depth + 1) for item in value)


def _check_pairs(field: str, what: str, value: object, most: int) -> None:
    if not isinstance(value, tuple) or not all(isinstance(pair, tuple) and len(pair) == 2 for pair in value):
        raise RequestError(field, f"{what} are {short(value)}, expected pairs")
    if len(value) > most:
        raise RequestError(field, f"{what}: {len(value)}, at most {most}")


def _check_needed(field: str, value: object, low: float, high: float) -> None:
    if value is None:
        raise RequestError(field, f"{field}: a number is missing")
    check_float(field, value, low, high)
