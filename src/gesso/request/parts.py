"""Parts of a request: LoRA, ControlNet (also T2I-Adapter and IP-Adapter), and hires fix.

Parts are frozen, checked on construction, and JSON objects in a recipe. They name files, which a `Finder` finds, and
pictures by their SHA-256; the pictures are passed with the request.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Literal

from msgspec import Meta

from gesso.arguments import known_fields
from gesso.request.checks import MAX_GUIDANCE, MAX_NAME, MAX_SIDE, MAX_STEPS, RequestError, brief, range_data
from gesso.request.fields import by_preset, choice, digest, file_name, listed, named, real, text, validate, whole
from gesso.text.grammar import MAX_POINTS

MAX_STRENGTH = 100.0  # of a LoRA or a ControlNet; far above, numbers overflow and no picture is left
MAX_LORAS = 32
MAX_CONTROLS = 16
MAX_PARAMETERS = 16  # of a preprocessor
MAX_PARAMETER = 2.0**32
MAX_SCALE = 16.0

ControlMode = Literal["balanced", "prompt", "control"]
_Share = Annotated[float, Meta(ge=0.0, le=1.0)]
_Strength = Annotated[float, Meta(ge=-MAX_STRENGTH, le=MAX_STRENGTH)]
_Parameter = Annotated[str, Meta(min_length=1, max_length=MAX_NAME)]
_Number = Annotated[float, Meta(ge=-MAX_PARAMETER, le=MAX_PARAMETER)]


@known_fields(RequestError)
@dataclass(frozen=True, kw_only=True)
class LoraUse:
    """A LoRA, LyCORIS or similar adapter on the model. Raises RequestError.

    points: pairs of a fraction of the steps, rising in 0..1, and a factor of the weight. The factor is linear between
    points and constant before the first and after the last.
    """

    name: Annotated[str, file_name(label="LoRA", help="Name of the LoRA file.")]
    weight: Annotated[float, real(-MAX_STRENGTH, MAX_STRENGTH, label="Weight", help="Strength in the UNet.")] = 1.0
    text_weight: Annotated[
        float | None,
        real(
            -MAX_STRENGTH,
            MAX_STRENGTH,
            label="Weight in the text encoder",
            help="Strength in the text encoder.",
            open="same as in the UNet",
        ),
    ] = None
    points: Annotated[
        tuple[tuple[_Share, _Strength], ...],
        listed(
            most=MAX_POINTS,
            label="Points",
            help="Strength over the steps: pairs of a fraction of the steps, rising, and a factor of the weight.",
        ),
    ] = ()

    __repr__ = brief

    def __post_init__(self) -> None:
        validate(self, LoraUse, "loras.")
        if any(share >= after for (share, _), (after, _) in pairwise(self.points)):
            raise RequestError(
                "loras.points", f"{self.name}: the points must be in rising order of their fraction of the steps"
            )


@known_fields(RequestError)
@dataclass(frozen=True, kw_only=True)
class ControlUse:
    """A ControlNet, T2I-Adapter or IP-Adapter and its control image. The file says which it is. Raises RequestError.

    parameters may be passed as a mapping, too, as `gesso.preprocess` takes them: {"low": 50}
    """

    model: Annotated[
        str, file_name(label="Control model", help="Name of the ControlNet, T2I-Adapter or IP-Adapter file.")
    ]
    image: Annotated[str, digest(label="Control image", help="Control image, as the SHA-256 of its pixels.")]
    preprocessor: Annotated[
        str | None,
        named(
            label="Preprocessor",
            help="Preprocessor that makes the hint from the control image, such as canny.",
            open="none: the control image is the hint",
        ),
    ] = None
    parameters: Annotated[
        tuple[tuple[_Parameter, _Number], ...],
        listed(
            most=MAX_PARAMETERS,
            label="Parameters",
            help="Parameters of the preprocessor other than its defaults: pairs of a name and a number.",
        ),
    ] = ()
    weight: Annotated[
        float, real(0.0, MAX_STRENGTH, label="Weight", help="Control weight: strength of the network.")
    ] = 1.0
    start: Annotated[
        float, real(0.0, 1.0, label="Start", help="Starting control step, as a fraction of the steps.")
    ] = 0.0
    end: Annotated[float, real(0.0, 1.0, label="End", help="Ending control step, as a fraction of the steps.")] = 1.0
    mode: Annotated[
        ControlMode,
        choice(
            label="Control mode",
            help="Control mode: whether the prompt or the control image is more important.",
            words={
                "balanced": "Balanced",
                "prompt": "My prompt is more important",
                "control": "ControlNet is more important",
            },
        ),
    ] = "balanced"
    encoder: Annotated[
        str | None,
        file_name(
            label="Image encoder",
            help="For an IP-Adapter: name of the image encoder file.",
            open="the first one that fits",
        ),
    ] = None
    kind: Annotated[
        str | None,
        named(
            label="Control type",
            help="For a ControlNet Union: type of the hint, such as canny.",
            open="that of the preprocessor",
        ),
    ] = None

    __repr__ = brief

    def __post_init__(self) -> None:
        if isinstance(self.parameters, Mapping):
            object.__setattr__(self, "parameters", tuple(self.parameters.items()))
        validate(self, ControlUse, "controls.")
        if self.parameters and self.preprocessor is None:
            raise RequestError("controls.parameters", f"{self.model}: parameters need a preprocessor")
        if len({key for key, _ in self.parameters}) != len(self.parameters):
            raise RequestError("controls.parameters", f"{self.model}: a parameter is given twice")
        if self.start > self.end:
            raise RequestError(
                "controls.start",
                f"{self.model}: start is {self.start:g}, expected at most the end, {self.end:g}",
                data=range_data(self.start, 0.0, self.end),
            )


@known_fields(RequestError)
@dataclass(frozen=True, kw_only=True)
class HiresPass:
    """Hires fix, a second pass: the picture is upscaled and redrawn at a strength. Raises RequestError.

    Its size is set by scale, or by width, height or both.
    """

    scale: Annotated[
        float | None,
        real(
            1.0,
            MAX_SCALE,
            label="Upscale by",
            help="Factor by which to upscale width and height.",
            open="2, unless a size is given",
            a1111="hr_scale",
            infotext="Hires upscale",
        ),
    ] = None
    width: Annotated[
        int | None,
        whole(
            8,
            MAX_SIDE,
            label="Width",
            help="Width of the final picture.",
            unit="pixels",
            open="from the scale",
            a1111="hr_resize_x",
            infotext="Hires resize",
        ),
    ] = None
    height: Annotated[
        int | None,
        whole(
            8,
            MAX_SIDE,
            label="Height",
            help="Height of the final picture.",
            unit="pixels",
            open="from the scale",
            a1111="hr_resize_y",
            infotext="Hires resize",
        ),
    ] = None
    upscaler: Annotated[
        str | None,
        file_name(
            label="Upscaler",
            help="Upscaler of the second pass: lanczos, bicubic, nearest, latent_bilinear, latent_nearest_exact, ..., "
            "or an upscaler model by name (on the command line, also by file).",
            presets=by_preset("lanczos", "latent_bilinear", "lanczos"),
            options=("hires-upscaler",),
            a1111="hr_upscaler",
            invokeai="hrf_method",
            infotext="Hires upscaler",
            metavar="UPSCALER",
        ),
    ] = None
    strength: Annotated[
        float | None,
        real(
            0.0,
            1.0,
            label="Strength",
            help="Denoising strength of the second pass, 0 to 1.",
            unit="share",
            presets=by_preset(0.3, 0.7, 0.3),
            options=("hires-strength",),
            invokeai="hrf_strength",
        ),
    ] = None
    num_steps: Annotated[
        int | None,
        whole(
            1,
            MAX_STEPS,
            label="Steps",
            help="Sampling steps of the second pass.",
            open="as in the first pass",
            options=("hires-steps",),
            a1111="hr_second_pass_steps",
            infotext="Hires steps",
        ),
    ] = None
    sampler: Annotated[
        str | None,
        named(
            label="Sampler",
            help="Sampler of the second pass.",
            open="as in the first pass",
            registry="samplers",
            options=("hires-sampler",),
            a1111="hr_sampler_name",
            infotext="Hires sampler",
        ),
    ] = None
    schedule: Annotated[
        str | None,
        named(
            label="Schedule",
            help="Schedule of the second pass.",
            open="as in the first pass",
            registry="schedules",
            options=("hires-schedule",),
            a1111="hr_scheduler",
            infotext="Hires schedule type",
        ),
    ] = None
    guidance_scale: Annotated[
        float | None,
        real(
            0.0,
            MAX_GUIDANCE,
            label="Guidance scale",
            help="CFG scale of the second pass.",
            open="as in the first pass",
            options=("hires-guidance",),
            a1111="hr_cfg",
            infotext="Hires CFG Scale",
        ),
    ] = None
    prompt: Annotated[
        str | None,
        text(
            label="Prompt",
            help="Prompt of the second pass.",
            open="as in the first pass",
            options=("hires-prompt",),
            a1111="hr_prompt",
            infotext="Hires prompt",
            metavar="TEXT",
        ),
    ] = None
    negative_prompt: Annotated[
        str | None,
        text(
            label="Negative prompt",
            help="Negative prompt of the second pass.",
            open="as in the first pass",
            options=("hires-negative-prompt",),
            a1111="hr_negative_prompt",
            infotext="Hires negative prompt",
            metavar="TEXT",
        ),
    ] = None

    __repr__ = brief

    def __post_init__(self) -> None:
        validate(self, HiresPass, "hires.")
