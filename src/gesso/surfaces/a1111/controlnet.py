"""Units of the ControlNet extension as the controls of a request. Pure translators."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from typing import Any

from PIL import Image

from gesso.api.preprocessors import Module, modules
from gesso.errors import short
from gesso.request.checks import nearest
from gesso.surfaces.a1111.errors import refusal

NO_MODEL = ("none", "")
MODELS_AT, MODULES_AT = (f"GET /controlnet/{name}_list lists them" for name in ("model", "module"))
MAX_UNITS = 16
MODES = ("Balanced", "My prompt is more important", "ControlNet is more important")
_MODE_WORDS = ("balanced", "prompt", "control")
RESIZES = ("Just Resize", "Crop and Resize", "Resize and Fill")
_RESIZE_ALIASES = {
    "Inner Fit (Scale to Fit)": "Crop and Resize",
    "Scale to Fit (Inner Fit)": "Crop and Resize",
    "Outer Fit (Shrink to Fit)": "Resize and Fill",
    "Envelope (Outer Fit)": "Resize and Fill",
}
_ALIASES = {"input_image": "image", "mask_image": "mask", "lowvram": "low_vram", "guidance": "guidance_end"}
UNION_TYPES = {
    "openpose": "openpose",
    "depth": "depth",
    "soft edge": "softedge",
    "hard edge": "canny",
    "normal map": "normal",
    "segmentation": "segmentation",
    "tile": "tile",
    "inpaint": "inpaint",
}
# What the extension calls preprocessors that gesso has by other names, or does not need.
MODULE_ALIASES: Mapping[str, str] = {
    "invert (from white bg & black line)": "invert",
    "inpaint_global_harmonious": "inpaint",
}
# Which preprocessors go with which kind of ControlNet, by the extension's names of kinds.
CONTROL_TYPES: Mapping[str, tuple[str, ...]] = {
    "Canny": ("canny",),
    "Depth": ("depth",),
    "IP-Adapter": (),
    "Inpaint": ("inpaint",),
    "Lineart": ("lineart",),
    "OpenPose": (),
    "Scribble": ("scribble",),
    "Segmentation": ("segmentation",),
    "Shuffle": ("shuffle",),
    "SoftEdge": ("softedge",),
    "T2I-Adapter": ("colour",),
    "Tile": ("tile",),
}
_HASH = re.compile(r" \[[0-9a-fA-F]+\]$")


@dataclass(frozen=True, kw_only=True)
class Units:
    """The controls of a request.

    controls  as a request has them, without their images
    images    those, in the same order
    notes     what is done otherwise than there
    """

    controls: tuple[Mapping[str, Any], ...] = ()
    images: tuple[Image.Image, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(kw_only=True)
class _Unit:
    values: Mapping[str, Any]
    field: str
    notes: list[str] = dataclass_field(default_factory=list)

    def get(self, name: str, default: Any) -> Any:
        value = self.values.get(name)
        return default if value is None else value

    def number(self, name: str, default: float) -> float:
        value = self.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.bad(name, f"{name} is {short(value)}, expected a number")
        return float(value)

    def one_of(self, name: str, known: Sequence[str], default: str, aliases: Mapping[str, str]) -> int:
        value = self.get(name, default)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(known):
            return value
        value = aliases.get(value, value) if isinstance(value, str) else value
        for index, word in enumerate(known):
            if isinstance(value, str) and value.lower() == word.lower():
                return index
        raise self.bad(name, f"{name} is {short(value)}, expected one of {', '.join(known)}")

    def bad(self, name: str, detail: str) -> Exception:
        return refusal(f"{self.field}: {detail}", f"{self.field}.{name}", code="invalid_value")


def read_units(
    args: Any,
    *,
    size: tuple[int, int],
    init_image: Image.Image | None,
    models: Mapping[str, str],
    decode: Callable[[Any, str], Image.Image],
    has_hires: bool = False,
) -> Units:
    """The units of a request that are switched on. Raises HttpError.

    size        of the picture that is drawn
    init_image  of image to image, for units without an image of their own
    models      names of control networks in gesso -> their kinds: controlnet, t2i_adapter, ip_adapter
    decode      (Base64, field) -> picture
    """
    if not isinstance(args, list) or len(args) > MAX_UNITS:
        raise refusal(f"alwayson_scripts.controlnet.args: expected a list of up to {MAX_UNITS} units", "controlnet")
    controls: list[Mapping[str, Any]] = []
    images: list[Image.Image] = []
    notes: list[str] = []
    for number, values in enumerate(args):
        where = f"controlnet unit {number}"
        if isinstance(values, bool) or values is None:
            continue
        if not isinstance(values, dict):
            raise refusal(f"{where}: expected an object, found {short(values)}", "controlnet")
        unit = _Unit(values={_ALIASES.get(str(key), str(key)): value for key, value in values.items()}, field=where)
        if not unit.get("enabled", True):
            continue
        control, image = _read(unit, size, init_image, models, decode, has_hires)
        controls.append(control)
        images.append(image)
        notes += unit.notes
    return Units(controls=tuple(controls), images=tuple(images), notes=tuple(notes))


def _read(
    unit: _Unit,
    size: tuple[int, int],
    init_image: Image.Image | None,
    models: Mapping[str, str],
    decode: Callable[[Any, str], Image.Image],
    has_hires: bool,
) -> tuple[Mapping[str, Any], Image.Image]:
    for name in ("advanced_weighting", "effective_region_mask", "ipadapter_input"):
        if unit.values.get(name):
            raise unit.bad(name, f"{name} is not supported")
    if has_hires and unit.get("hr_option", "Both") not in ("Both", 0, "HiResFixOption.BOTH"):
        raise unit.bad("hr_option", "hr_option: control networks act in both passes; leave it at Both")
    model = find_model(str(unit.get("model", "None")), models, unit)
    module = find_module(str(unit.get("module", "none")), unit, is_prompt=models[model] == "ip_adapter")
    image = _image(unit, init_image, decode, needs_mask=module is not None and module.needs_mask)
    image = fitted(image, size, RESIZES[unit.one_of("resize_mode", RESIZES, RESIZES[1], _RESIZE_ALIASES)])
    control: dict[str, Any] = {
        "model": model,
        "weight": unit.number("weight", 1.0),
        "start": unit.number("guidance_start", 0.0),
        "end": unit.number("guidance_end", 1.0),
        "mode": _MODE_WORDS[unit.one_of("control_mode", MODES, MODES[0], {})],
    }
    if module is not None:
        control["preprocessor"] = module.name
        control["parameters"] = parameters_of(module, unit.number("threshold_a", -1), unit.number("threshold_b", -1))
        if not unit.get("pixel_perfect", False) and unit.number("processor_res", -1) > 0:
            unit.notes.append(f"{unit.field}: the hint is made at the picture's size, as with pixel_perfect")
        if unit.get("save_detected_map", True):
            unit.notes.append(f"{unit.field}: the hint is not among the images; POST /controlnet/detect makes it")
    kind = str(unit.get("union_control_type", "Unknown")).lower()
    if kind in UNION_TYPES:
        control["kind"] = UNION_TYPES[kind]
    elif kind != "unknown":
        raise unit.bad("union_control_type", f"union_control_type {short(kind)} is not supported")
    return control, image


def _image(
    unit: _Unit, init_image: Image.Image | None, decode: Callable[[Any, str], Image.Image], *, needs_mask: bool
) -> Image.Image:
    given: Any = unit.values.get("image")
    mask: Any = unit.values.get("mask")
    if isinstance(given, list) and given and isinstance(given[0], dict):
        if len(given) > 1:
            raise unit.bad("image", "several images in one unit are not supported; use a unit for each")
        given = given[0]
    match given:
        case dict():
            given, mask = given.get("image"), given.get("mask") or mask
        case [image, second, *_]:
            given, mask = image, second
        case list():
            given = given[0] if given else None
    image = decode(given, f"{unit.field}.image") if given else init_image
    if image is None:
        raise unit.bad("image", "image is missing, and there is no picture to start from in its place")
    if needs_mask:
        if not mask:
            raise unit.bad("mask", "mask is missing: this preprocessor wants to know where something is missing")
        hole = decode(mask, f"{unit.field}.mask").convert("L").resize(image.size)
        image = image.convert("RGBA")
        image.putalpha(hole.point(lambda level: 0 if level >= 128 else 255))
    elif mask:
        unit.notes.append(f"{unit.field}: the mask is not used; only the preprocessor inpaint takes one")
    return image


def find_model(name: str, models: Mapping[str, str], unit: _Unit) -> str:
    """A control network by the name that clients know: with a hash, with an ending, in any case. Raises HttpError."""
    plain = _HASH.sub("", name.strip())
    if plain.lower() in NO_MODEL:
        raise unit.bad("model", "model is None: preprocessors that work without a network are not supported")
    stem = re.sub(r"\.(safetensors|pth|pt|ckpt|bin)$", "", plain.rpartition("/")[2]).lower()
    for known in models:
        if known.lower() in (plain.lower(), stem) or known.lower().removesuffix(".safetensors") == stem:
            return known
    raise unit.bad("model", f"no control network is called {short(plain)}{nearest(plain, models)}; {MODELS_AT}")


def find_module(name: str, unit: _Unit, *, is_prompt: bool = False) -> Module | None:
    """A preprocessor by the extension's name or gesso's; None for none. Raises HttpError."""
    plain = name.strip().lower()
    if plain in NO_MODEL or (is_prompt and plain.startswith("ip-adapter")):
        return None  # an IP-Adapter sees through its own encoder
    found = module_of(plain)
    if found is None:
        raise unit.bad("module", f"no preprocessor is called {short(name)}{nearest(plain, modules())}; {MODULES_AT}")
    return found


def module_of(name: str) -> Module | None:
    """A preprocessor by the extension's name or gesso's, in lower case; None where there is none."""
    name = MODULE_ALIASES.get(name) or name
    return next((one for key, one in modules().items() if name in (key, *one.aliases)), None)


def parameters_of(module: Module, a: float, b: float) -> list[list[Any]]:
    """The first two parameters of a preprocessor; what is below zero or out of range is the default, as there."""
    return [
        [slider.name, int(value) if slider.whole else value]
        for slider, value in zip(module.sliders, (a, b), strict=False)
        if value >= 0 and slider.low <= value <= slider.high
    ]


def fitted(image: Image.Image, size: tuple[int, int], how: str) -> Image.Image:
    """A control image in the shape of the picture. What is cropped is left as it is: gesso crops hints by itself."""
    width, height = size
    if how == "Crop and Resize" or image.width * height == image.height * width:
        return image
    if how == "Just Resize":
        return image.resize(size, Image.Resampling.LANCZOS)
    scale = min(width / image.width, height / image.height)
    inner = image.resize((max(round(image.width * scale), 1), max(round(image.height * scale), 1)))
    canvas = Image.new(inner.mode, size, border_colour(inner))
    canvas.paste(inner, ((width - inner.width) // 2, (height - inner.height) // 2))
    return canvas


def border_colour(image: Image.Image) -> Any:
    """The median of the outermost pixels, as the extension fills the rest."""
    import numpy as np

    pixels = np.asarray(image)
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    middle = np.median(edge, axis=0)
    return tuple(int(level) for level in middle) if middle.ndim else int(middle)
