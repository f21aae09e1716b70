"""`resolve`: fills in the fields that a request does not set, and checks it against the model.

Each kind of setting has a function that returns the values it fills in, by paths, and refuses invalid ones.
"""

import secrets
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from gesso.request import hires
from gesso.request.checks import MAX_NOISE_LEVEL, MAX_SIDE, RequestError, check_known, check_multiple, range_data
from gesso.request.fields import Preset
from gesso.request.groups import MASK_PADDING
from gesso.request.presets import PRESETS
from gesso.request.request import DRAWN_SEED_BITS, OWN_SCHEDULE, ROWS, ResolvedRequest, TextToImageRequest, flat, nested
from gesso.text.dialects import DIALECTS

MIN_TILE = 8  # latents a side
OUTPAINT_BLUR = 8.0  # pixels by which new borders run into the picture
WHERE_A_PICTURE_IS = ("source.strength", "source.outpaint", "source.resize", "mask.image")

Values = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """The defaults of a model, and what it accepts.

    preset, presets: its name, and a value for each field that a preset decides, as preset, sampler and model have it
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
    clip_skip: int = 1
    preset: Preset = "gesso"
    presets: Mapping[str, Any] = field(default_factory=lambda: PRESETS["gesso"])
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

    def of(self, path: str) -> Any:
        """The value of a field that was left open and may not stay so."""
        return self.presets[path] if path in self.presets else getattr(self, path)


def resolve(
    request: TextToImageRequest, defaults: Defaults, *, draw_seed: Callable[[], int] | None = None
) -> ResolvedRequest:
    """The same request with every field set, checked against the model. Raises RequestError.

    `draw_seed` gives a seed where none was asked for; by default a random one of 32 bits.
    """
    draw = draw_seed or (lambda: secrets.randbits(DRAWN_SEED_BITS))
    asked = flat(request)
    values = asked | (_own_steps(request, request.sigmas) if request.sigmas is not None else {})
    values |= {
        path: defaults.of(path)
        for path, value in values.items()
        if value is None and path not in ("seed", "eta") and not ROWS[path].field.optional
    }
    values |= {"seed": draw()} if request.seed is None else {}
    _check_model(values, defaults, own_schedule=request.sigmas is not None)
    values |= _sampler(values, defaults)
    values |= _source(values, defaults)
    values |= _edits(values, defaults)
    values |= _mask(values, defaults, asked)
    values |= _variation(values, defaults, draw)
    values |= _tiles(values, defaults)
    values |= _hires(values, defaults)
    return ResolvedRequest(**nested(values))


def _own_steps(request: TextToImageRequest, sigmas: tuple[float, ...]) -> dict[str, Any]:
    """Number of steps and name of the schedule for sigmas that the user brings."""
    steps = len(sigmas) - 1
    if request.num_steps not in (None, steps):
        raise RequestError(
            "sigmas", f"num_steps is {request.num_steps}, expected {steps} for {len(sigmas)} sigmas; leave it out"
        )
    if request.schedule not in (None, OWN_SCHEDULE):
        raise RequestError("sigmas", "`sigmas` and `schedule` exclude each other; leave one out")
    return {"num_steps": steps, "schedule": OWN_SCHEDULE, "conventions.timestep_spacing": "schedule"}


def _check_model(values: Values, defaults: Defaults, *, own_schedule: bool) -> None:
    """Names that are known, and what the model can draw."""
    check_known("sampler", values["sampler"], defaults.samplers)
    if not own_schedule:
        check_known("schedule", values["schedule"], defaults.schedules)
    check_known("noise", values["noise"], defaults.noises)
    check_known("syntax", values["conventions.syntax"], DIALECTS)
    for side in ("width", "height"):
        check_multiple(side, values[side], defaults.multiple)
    if values["clip_skip"] > defaults.max_clip_skip:
        raise RequestError(
            "clip_skip",
            f"clip_skip {values['clip_skip']}: expected at most {defaults.max_clip_skip} for this model",
            data=range_data(values["clip_skip"], 1, defaults.max_clip_skip),
        )


def _sampler(values: Values, defaults: Defaults) -> Values:
    """The sampler's own eta; refuses one that it does not have."""
    own = defaults.etas.get(values["sampler"])  # None: this sampler has no eta
    if values["eta"] and own is None:
        raise RequestError("eta", f"eta {values['eta']:g}: the sampler {values['sampler']} takes no eta; leave it out")
    return {"eta": own or 0.0} if values["eta"] is None else {}


def _source(values: Values, defaults: Defaults) -> Values:
    """The denoising strength; refuses settings that need a source picture, or that the model does not take."""
    with_image = values["source.image"] is not None
    if defaults.kind in ("edit", "upscale"):
        verb = "edits" if defaults.kind == "edit" else "upscales"
        if not with_image:
            raise RequestError("source.image", f"this model {verb} a picture; give one with `image`")
        for path, what in (("source.strength", "strength"), ("mask.image", "mask"), ("source.outpaint", "outpainting")):
            if values[path] is not None:
                raise RequestError(path, f"this model {verb} the whole picture and takes no {what}; leave it out")
    for path in WHERE_A_PICTURE_IS:
        if values[path] is not None and not with_image:
            raise RequestError(path, f"{path} needs a picture to start from; give one with `image`")
    if with_image and values["source.strength"] is None and defaults.kind not in ("edit", "upscale"):
        masked = values["mask.image"] is not None or values["source.outpaint"] is not None
        return {
            "source.strength": 1.0 if masked and defaults.kind == "inpaint" else defaults.presets["source.strength"]
        }
    return {}


def _edits(values: Values, defaults: Defaults) -> Values:
    """Settings of editing and upscaling models and of a refiner; refuses those that do not apply."""
    filled: dict[str, Any] = {}
    for path, has, default, what in (
        ("source.guidance_scale", defaults.kind == "edit", defaults.image_guidance_scale, "edit by instruction"),
        ("source.noise_level", defaults.kind == "upscale", defaults.noise_level, "upscale"),
    ):
        if has and values[path] is None:
            filled[path] = default
        elif values[path] is not None and not has:
            raise RequestError(path, f"{path} is only for models that {what}; leave it out")
    level = filled.get("source.noise_level", values["source.noise_level"])
    if level is not None and level > defaults.max_noise_level:
        raise RequestError(
            "source.noise_level",
            f"source.noise_level is {level}, expected at most {defaults.max_noise_level} for this model",
            data=range_data(level, 0, defaults.max_noise_level),
        )
    if defaults.has_refiner and values["refiner_switch_at"] is None:
        filled["refiner_switch_at"] = defaults.refiner_switch_at
    elif values["refiner_switch_at"] is not None and not defaults.has_refiner:
        raise RequestError("refiner_switch_at", "refiner_switch_at needs a refiner; give one with `refiner`")
    return filled


def _mask(values: Values, defaults: Defaults, asked: Values) -> Values:
    """Content, padding and blur of the mask; refuses settings that need a mask without one."""
    has_mask, outpaint = values["mask.image"] is not None, values["source.outpaint"]
    if defaults.kind == "upscale" and values["source.resize"] is not None:
        raise RequestError("source.resize", "this model upscales the picture as it is; leave source.resize out")
    if values["mask.content"] is not None and not has_mask and outpaint is None:
        raise RequestError("mask.content", "mask.content needs a mask; give one with `mask`")
    if values["mask.area"] is not None and not has_mask:
        raise RequestError("mask.area", "mask.area needs a mask; give one with `mask`")
    one_part = values["mask.area"] == "masked"
    if one_part and outpaint is not None:
        raise RequestError(
            "mask.area", "mask.area masked draws only part of the picture, source.outpaint extends it; leave one out"
        )
    if one_part and values["source.resize"] is not None:
        raise RequestError("source.resize", "mask.area masked keeps the picture's size; leave source.resize out")
    if values["mask.padding"] is not None and not one_part:
        raise RequestError("mask.padding", "mask.padding needs mask.area masked")
    if outpaint is not None and not any(outpaint):
        raise RequestError("source.outpaint", "source.outpaint adds no pixels; give a number for at least one side")
    filled: dict[str, Any] = {}
    if has_mask or outpaint is not None:
        filled["mask.content"] = values["mask.content"] or "original"
    if one_part and values["mask.padding"] is None:
        filled["mask.padding"] = MASK_PADDING
    if outpaint is not None and asked["mask.blur"] is None:
        filled["mask.blur"] = max(values["mask.blur"], OUTPAINT_BLUR)
    return filled


def _variation(values: Values, defaults: Defaults, draw_seed: Callable[[], int]) -> Values:
    """The variation seed; refuses half of a size, and a seed without a strength."""
    if values["variation.strength"] is None and values["variation.seed"] is not None:
        raise RequestError(
            "variation.seed", "variation.seed needs variation.strength, how much of it to mix in (0 to 1)"
        )
    if (values["variation.width"] is None) != (values["variation.height"] is None):
        raise RequestError("variation.width", "give both variation.width and variation.height, or neither")
    for path in ("variation.width", "variation.height"):
        if values[path] is not None:
            check_multiple(path, values[path], defaults.multiple)
    if values["variation.strength"] is not None and values["variation.seed"] is None:
        return {"variation.seed": draw_seed()}
    return {}


def _tiles(values: Values, defaults: Defaults) -> Values:
    """The overlap of tiles; refuses tiles that the model cannot draw, and tiles that are too small."""
    size, overlap = values["tiles.size"], values["tiles.overlap"]
    if size is None:
        if overlap is not None:
            raise RequestError("tiles.overlap", "tiles.overlap needs tiles.size")
        return {}
    if values["tiling"] is not None:
        raise RequestError("tiles.size", "tiles.size and `tiling` exclude each other; leave one out")
    if defaults.kind == "upscale":
        raise RequestError("tiles.size", "this model upscales the whole picture at once; leave tiles.size out")
    check_multiple("tiles.size", size, defaults.multiple)
    if size < MIN_TILE * defaults.multiple:
        raise RequestError(
            "tiles.size",
            f"tiles.size {size}: expected at least {MIN_TILE * defaults.multiple} for this model",
            data=range_data(size, MIN_TILE * defaults.multiple, MAX_SIDE),
        )
    if overlap is None:
        overlap = size // 4 // defaults.multiple * defaults.multiple
    check_multiple("tiles.overlap", overlap, defaults.multiple)
    if overlap > size // 2:
        raise RequestError(
            "tiles.overlap",
            f"tiles.overlap {overlap}: expected at most half of the tile, {size // 2}",
            data=range_data(overlap, 0, size // 2),
        )
    return {"tiles.overlap": overlap}


def _hires(values: Values, defaults: Defaults) -> Values:
    """Hires fix; refuses it together with inpainting and outpainting."""
    if values["hires"] is None:
        return {}
    for path, what in (("mask.image", "mask"), ("source.outpaint", "outpainting")):
        if values[path] is not None:
            raise RequestError("hires", f"`hires` redraws the whole picture and takes no {what}; leave one out")
    if defaults.kind in ("edit", "upscale"):
        raise RequestError("hires", "`hires` is not for models that edit or upscale a picture; leave it out")
    return {
        "hires": hires.filled(
            values["hires"],
            values,
            multiple=defaults.multiple,
            presets=defaults.presets,
            schedule=defaults.schedule,
            samplers=defaults.samplers,
            schedules=defaults.schedules,
        )
    }
