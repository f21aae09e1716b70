"""From what clients of the web UI send to a request. Pure translators.

Every field of txt2img and img2img is here: it becomes a field of the request, or it is refused by name, or a note in
`info` says that it has no effect. Fields that the web UI does not have either are left alone, as it does.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from PIL import Image, ImageOps

from gesso.diffusion.sampler_table import SAMPLERS
from gesso.errors import GessoError, short
from gesso.frontends.styles import Style, apply_styles
from gesso.metadata.a1111 import from_infotext
from gesso.pictures.infotext_reading import read_infotext
from gesso.request.names import with_canonical_names
from gesso.request.request import TextToImageRequest, flat, nested
from gesso.surfaces.a1111.controlnet import Units, read_units
from gesso.surfaces.a1111.errors import refusal
from gesso.surfaces.a1111.options import Settings

COMMON: Mapping[str, Any] = {
    "prompt": "",
    "negative_prompt": "",
    "styles": None,
    "seed": -1,
    "subseed": -1,
    "subseed_strength": 0,
    "seed_resize_from_h": -1,
    "seed_resize_from_w": -1,
    "sampler_name": None,
    "scheduler": None,
    "batch_size": 1,
    "n_iter": 1,
    "steps": 50,
    "cfg_scale": 7.0,
    "width": 512,
    "height": 512,
    "restore_faces": None,
    "tiling": None,
    "do_not_save_samples": False,
    "do_not_save_grid": False,
    "eta": None,
    "denoising_strength": None,
    "s_min_uncond": None,
    "s_churn": None,
    "s_tmax": None,
    "s_tmin": None,
    "s_noise": None,
    "override_settings": None,
    "override_settings_restore_afterwards": True,
    "refiner_checkpoint": None,
    "refiner_switch_at": None,
    "disable_extra_networks": False,
    "firstpass_image": None,
    "comments": None,
    "sampler_index": "Euler",
    "script_name": None,
    "script_args": [],
    "send_images": True,
    "save_images": False,
    "alwayson_scripts": {},
    "force_task_id": None,
    "infotext": None,
}
TXT2IMG: Mapping[str, Any] = {
    **COMMON,
    "enable_hr": False,
    "firstphase_width": 0,
    "firstphase_height": 0,
    "hr_scale": 2.0,
    "hr_upscaler": None,
    "hr_second_pass_steps": 0,
    "hr_resize_x": 0,
    "hr_resize_y": 0,
    "hr_checkpoint_name": None,
    "hr_sampler_name": None,
    "hr_scheduler": None,
    "hr_prompt": "",
    "hr_negative_prompt": "",
}
IMG2IMG: Mapping[str, Any] = {
    **COMMON,
    "denoising_strength": 0.75,
    "init_images": None,
    "resize_mode": 0,
    "image_cfg_scale": None,
    "mask": None,
    "mask_blur_x": 4,
    "mask_blur_y": 4,
    "mask_blur": None,
    "mask_round": True,
    "inpainting_fill": 0,
    "inpaint_full_res": True,
    "inpaint_full_res_padding": 0,
    "inpainting_mask_invert": 0,
    "initial_noise_multiplier": None,
    "latent_mask": None,
    "include_init_images": False,
}
RESIZES = ("stretch", "crop", "fill")
FILLS = ("fill", "original", "noise", "nothing")
HIRES_STRENGTH = 0.75
MAX_SEED = 2**64 - 1
_SAME = ("", "None", "Use same sampler", "Use same scheduler", "Use same checkpoint")
_NUMBER = re.compile(r"[+-]?[0-9]{1,20}(?:\.[0-9]{1,20})?")
_NETWORK = re.compile(r"<\w+:[^>]+>")
# Fields of a request -> what clients call them, for errors.
NAMES: Mapping[str, str] = {
    "num_steps": "steps",
    "guidance_scale": "cfg_scale",
    "sampler": "sampler_name",
    "schedule": "scheduler",
    "num_images": "batch_size",
    "source.strength": "denoising_strength",
    "hires.upscaler": "hr_upscaler",
    "hires.scale": "hr_scale",
}


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A request as it can be accepted.

    request     JSON of a request
    pictures    role -> picture
    settings    options that count for this request
    model       what clients of stable-diffusion.cpp say in place of an option; None: nothing
    parameters  the body with all its defaults, to be given back
    notes       what has no effect, or another one
    styles      names of the styles in the prompts
    """

    request: Mapping[str, Any]
    pictures: Mapping[str, Image.Image]
    settings: Settings
    parameters: Mapping[str, Any]
    model: str | None = None
    send_images: bool = True
    task: str | None = None
    notes: tuple[str, ...] = ()
    styles: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Known:
    """What a translation has to know.

    options   (override_settings) -> what counts, with what the key has set before
    styles    by their names
    controls  names of control networks -> their kinds
    decode    (Base64, field) -> picture
    is_edit   (title of the model, or None) -> whether it edits by instruction, and takes image_cfg_scale
    size      (title of the model, or None) -> the side at which it draws best, for a body that names neither side
    """

    options: Callable[[Mapping[str, Any]], Settings]
    decode: Callable[[Any, str], Image.Image]
    styles: Mapping[str, Style] = field(default_factory=dict)
    controls: Mapping[str, str] = field(default_factory=dict)
    is_edit: Callable[[str | None], bool] = lambda title: False
    size: Callable[[str | None], int] = lambda title: 512


class _Body:
    """The fields of a body, each of a type. Raises HttpError for another."""

    def __init__(self, given: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
        self.given = {name: value for name, value in given.items() if name in defaults and value is not None}
        self.defaults = defaults
        self.whole = {**defaults, **{name: value for name, value in given.items() if name in defaults}}

    def with_size(self, side: int) -> None:
        """Take this for width and height where the body names neither of them."""
        if not {"width", "height"} & self.given.keys():
            self.defaults = {**self.defaults, "width": side, "height": side}
            self.whole |= {"width": side, "height": side}

    def value(self, name: str) -> Any:
        return self.given.get(name, self.defaults[name])

    def text(self, name: str) -> str:
        return str(self._of(name, str, "text") or "")

    def flag(self, name: str) -> bool:
        value = self.value(name)
        if value is not None and not isinstance(value, bool) and value not in (0, 1):
            raise self.bad(name, "true or false")
        return bool(value)

    def number(self, name: str) -> float:
        value = _numeric(self.value(name))
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self.bad(name, "a number")
        return float(value)

    def int(self, name: str, low: int, high: int) -> int:
        value = _numeric(self.value(name))
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.bad(name, f"a whole number, {low} to {high}")
        return value

    def _of(self, name: str, kind: type, what: str) -> Any:
        value = self.value(name)
        if value is not None and not isinstance(value, kind):
            raise self.bad(name, what)
        return value

    def object(self, name: str) -> dict[str, Any]:
        return dict(self._of(name, dict, "an object") or {})

    def list(self, name: str) -> list[Any]:
        return list(self._of(name, list, "a list") or [])

    def bad(self, name: str, expected: str) -> Exception:
        return refusal(f"{name} is {short(self.value(name))}, expected {expected}", name, code="invalid_value")


def _numeric(value: Any) -> Any:
    """A number that came as a text, as that: the web UI takes "-1" for -1, and forms send it so."""
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        return float(value) if "." in value else int(value)
    return value


def read_body(given: Mapping[str, Any], known: Known, *, is_img2img: bool) -> Asked:
    """A body of txt2img or img2img. Raises HttpError."""
    body = _Body(given, IMG2IMG if is_img2img else TXT2IMG)
    settings = known.options(body.object("override_settings"))
    notes = [*settings.notes, *_no_effect(body)]
    model = given["model"] if isinstance(given.get("model"), str) and given["model"] else None
    body.with_size(known.size(settings.model or model))
    _refuse(body)
    base = _pasted(body, notes)
    values: dict[str, Any] = {**base, "preset": "a1111", **settings.values}
    _stable_diffusion_cpp(given, values)
    styles = _prompts(body, known, values)
    _sampling(body, values, notes)
    _noise(body, values)
    pictures: dict[str, Image.Image] = {}
    if is_img2img:
        pictures = _source(body, known, values, settings)
        _mask(body, known, values, pictures, notes)
    else:
        _hires(body, values)
    units = _controls(body, known, values, pictures)
    if units.controls:
        values["controls"] = list(units.controls)
        pictures |= {f"hint:{number}": image for number, image in enumerate(units.images)}
        notes += units.notes
    return Asked(
        request=nested(values),
        pictures=pictures,
        settings=settings,
        parameters=_echo(body, is_img2img),
        model=model,
        send_images=body.flag("send_images"),
        task=body.text("force_task_id") or None,
        notes=tuple(dict.fromkeys(notes)),
        styles=styles,
    )


def _stable_diffusion_cpp(given: Mapping[str, Any], values: dict[str, Any]) -> None:
    """The field by which clients of stable-diffusion.cpp, which has the same API, say what is an option there."""
    skip = given.get("clip_skip")
    if type(skip) is int and skip > 1:
        values.setdefault("clip_skip", skip)


def _refuse(body: _Body) -> None:
    """What is asked for and cannot be had."""
    for name, off, why in (
        ("restore_faces", (None, False), "there is no face restoration here"),
        ("refiner_checkpoint", (None, "", "None"), "there are no refiners here"),
        ("firstpass_image", (None, ""), "the first pass cannot be given"),
        ("script_name", (None, "", "None"), "there is no script of this name"),
        ("latent_mask", (None, ""), "a mask of latents cannot be given; use mask"),
        ("initial_noise_multiplier", (None, 1, 1.0), "extra noise is not supported"),
        ("mask_round", (None, True, 1), "soft masks are not supported here; gesso's own API has them"),
        ("s_churn", (None, 0, 0.0), "churn is not supported"),
        ("s_noise", (None, 1, 1.0), "scaled noise is not supported"),
        ("s_min_uncond", (None, 0, 0.0), "leaving out the negative prompt is not supported"),
        ("hr_checkpoint_name", (None, *_SAME), "both passes are drawn with one model"),
    ):
        if name in body.defaults and body.value(name) not in off:
            raise refusal(f"{name} {short(body.value(name))}: {why}", name)
    for name, value in body.object("alwayson_scripts").items():
        args = value.get("args", []) if isinstance(value, dict) else value
        is_off = not args or (isinstance(args, list) and args[0] is False)
        if name.lower() != "controlnet" and not is_off:
            raise refusal(f"always on script {short(name)} not found", "alwayson_scripts")


def _no_effect(body: _Body) -> list[str]:
    notes = []
    if body.flag("save_images"):
        notes.append("save_images: pictures are kept with their job, not in a folder")
    if body.value("comments"):
        notes.append("comments are not written into the picture")
    return notes


def _pasted(body: _Body, notes: list[str]) -> dict[str, Any]:
    """The settings of a pasted infotext, which count where the body sets nothing."""
    text = body.text("infotext")
    if not text:
        return {}
    found = from_infotext(read_infotext(text))
    notes += [str(notice) for notice in found.notices]
    nothing = flat(TextToImageRequest(prompt=""))
    base = {path: value for path, value in flat(found.request).items() if value != nothing[path]}
    for path in ("source.image", "mask.image", "source.strength", "hires", "loras", "controls"):
        if base.pop(path, None) and path == "hires":
            notes.append("infotext: hires fix is not read from it; set enable_hr")
    return base


def _prompts(body: _Body, known: Known, values: dict[str, Any]) -> tuple[str, ...]:
    for name in ("prompt", "negative_prompt"):
        if name in body.given or name not in values:
            values[name] = body.text(name)
    names = tuple(str(name) for name in body.list("styles"))
    missing = [name for name in names if name not in known.styles]
    if missing:
        raise refusal(
            f"styles: no style is called {short(missing[0])}; GET /sdapi/v1/prompt-styles lists them", "styles"
        )
    try:
        chosen = [known.styles[name] for name in names]
        values["prompt"], values["negative_prompt"] = apply_styles(values["prompt"], values["negative_prompt"], chosen)
    except GessoError as error:
        raise refusal(error.one_line, "styles", code=error.code) from None
    if body.flag("disable_extra_networks"):
        values["prompt"] = _NETWORK.sub("", values["prompt"])
    return names


def _sampling(body: _Body, values: dict[str, Any], notes: list[str]) -> None:
    for name, path, read in (
        ("width", "width", lambda: body.int("width", 8, 16_384)),
        ("height", "height", lambda: body.int("height", 8, 16_384)),
        ("steps", "num_steps", lambda: body.int("steps", 1, 10_000)),
        ("cfg_scale", "guidance_scale", lambda: body.number("cfg_scale")),
    ):
        if name in body.given or path not in values:
            values[path] = read()
    if "sampler_name" in body.given or "sampler" not in values:
        values["sampler"] = body.text("sampler_name") or body.text("sampler_index")
    if body.text("scheduler"):
        values["schedule"] = body.text("scheduler")
    sampler = canonical(values)
    count = body.int("batch_size", 1, 1000) * body.int("n_iter", 1, 1000)
    values["num_images"] = count
    if body.flag("tiling"):
        values["tiling"] = "xy"
    elif "tiling" in body.given:
        values.pop("tiling", None)
    if "eta" in body.given:
        eta = body.number("eta")
        if takes_eta(sampler):
            values["eta"] = eta
        elif eta not in (0.0, 1.0):  # clients send these two with every sampler
            notes.append(f"eta has no effect on {values['sampler']}")


def canonical(values: Mapping[str, Any]) -> str:
    """gesso's name of the sampler. Raises HttpError: 404 for a sampler that is none, as there."""
    try:
        named = with_canonical_names(
            TextToImageRequest(prompt="", sampler=values["sampler"], schedule=values.get("schedule"))
        )
    except GessoError as error:
        is_sampler = error.field != "schedule"
        detail = f"Sampler not found: {error.one_line}" if is_sampler else error.one_line
        name = "sampler_name" if is_sampler else "scheduler"
        raise refusal(detail, name, status=404 if is_sampler else 422, code="unknown_name") from None
    return str(named.sampler)


def takes_eta(sampler: str) -> bool:
    """Whether a sampler has an eta."""
    from gesso.api.checking import table

    return sampler in SAMPLERS and sampler in table()["etas"]


def _noise(body: _Body, values: dict[str, Any]) -> None:
    seed = body.int("seed", -(2**63), MAX_SEED)
    if "seed" in body.given or "seed" not in values:
        values["seed"] = seed if seed >= 0 else None
    strength = body.number("subseed_strength")
    if "subseed_strength" in body.given:
        values.pop("variation.strength", None)
        values.pop("variation.seed", None)
    if strength > 0:
        subseed = body.int("subseed", -(2**63), MAX_SEED)
        values["variation.strength"] = strength
        values["variation.seed"] = subseed if subseed >= 0 else None
    width, height = (body.int(f"seed_resize_from_{side}", -1, 16_384) for side in "wh")
    if width > 0 and height > 0:
        values |= {"variation.width": width, "variation.height": height}


def _hires(body: _Body, values: dict[str, Any]) -> None:
    if not body.flag("enable_hr"):
        return
    across, down = body.int("hr_resize_x", 0, 16_384), body.int("hr_resize_y", 0, 16_384)
    first = [body.int(f"firstphase_{side}", 0, 16_384) for side in ("width", "height")]
    if any(first):  # how it was before December 2022: the size is the final one
        if not all(first):
            raise refusal("firstphase_width and firstphase_height: give both or neither", "firstphase_width")
        across, down = values["width"], values["height"]
        values |= {"width": first[0], "height": first[1]}
    strength = body.number("denoising_strength") if "denoising_strength" in body.given else HIRES_STRENGTH
    sampler, schedule = body.text("hr_sampler_name"), body.text("hr_scheduler")
    hires: dict[str, Any] = {
        "upscaler": body.text("hr_upscaler") or "Latent",
        "strength": strength,
        "num_steps": body.int("hr_second_pass_steps", 0, 10_000) or None,
        "sampler": None if sampler in _SAME else sampler,
        "schedule": None if schedule in _SAME else schedule,
        "prompt": body.text("hr_prompt") or None,
        "negative_prompt": body.text("hr_negative_prompt") or None,
    }
    if across or down:
        hires |= {"width": across or None, "height": down or None}
    else:
        hires["scale"] = body.number("hr_scale")
    values["hires"] = {name: value for name, value in hires.items() if value is not None}


def _source(body: _Body, known: Known, values: dict[str, Any], settings: Settings) -> dict[str, Image.Image]:
    given = body.list("init_images")
    if not given:
        raise refusal("Init image not found", "init_images", status=404)
    if len(given) > 1:
        raise refusal(f"init_images: {len(given)} pictures; send one, and each in a request of its own", "init_images")
    image = known.decode(given[0], "init_images")
    if known.is_edit(settings.model):
        if "image_cfg_scale" in body.given:
            values["source.guidance_scale"] = body.number("image_cfg_scale")
        return {"image": image}
    values["source.strength"] = body.number("denoising_strength")
    mode = body.int("resize_mode", 0, 3)
    if mode == 3:
        raise refusal("resize_mode 3 (latent upscale) is not supported; use 0, 1 or 2", "resize_mode")
    values["source.resize"] = RESIZES[mode]
    return {"image": image}


def _mask(
    body: _Body, known: Known, values: dict[str, Any], pictures: dict[str, Image.Image], notes: list[str]
) -> None:
    if not body.text("mask"):
        return
    image = pictures["image"]
    mask = mask_levels(known.decode(body.text("mask"), "mask"))
    if mask.size != image.size:
        notes.append(f"the mask, {mask.width}x{mask.height}, was brought to the size of the picture")
        mask = mask.resize(image.size)
    if body.int("inpainting_mask_invert", 0, 1):
        mask = ImageOps.invert(mask)
    pictures["mask"] = mask
    blurs = [body.number(f"mask_blur_{side}") for side in "xy"]
    if "mask_blur" in body.given:
        blurs = [body.number("mask_blur")] * 2
    if blurs[0] != blurs[1]:
        raise refusal(f"mask_blur_x {blurs[0]:g} and mask_blur_y {blurs[1]:g}: they have to be the same", "mask_blur_x")
    values["mask.blur"] = blurs[0]
    values["mask.content"] = FILLS[body.int("inpainting_fill", 0, 3)]
    if body.flag("inpaint_full_res"):
        values["mask.area"] = "masked"
        values["mask.padding"] = body.int("inpaint_full_res_padding", 0, 16_384)
        del values["source.resize"]  # the picture keeps its size


def mask_levels(image: Image.Image) -> Image.Image:
    """A mask as the web UI reads one: where something is transparent its opaque part, else its grey levels."""
    if "A" in image.getbands() and image.getchannel("A").getextrema() != (255, 255):
        return image.getchannel("A").point(lambda level: 255 if level > 128 else 0)
    return image.convert("L")


def _controls(body: _Body, known: Known, values: Mapping[str, Any], pictures: Mapping[str, Image.Image]) -> Units:
    for name, value in body.object("alwayson_scripts").items():
        if name.lower() == "controlnet":
            args = value.get("args", []) if isinstance(value, dict) else value
            return read_units(
                args,
                size=(values["width"], values["height"]),
                init_image=pictures.get("image"),
                models=known.controls,
                decode=known.decode,
                has_hires="hires" in values,
            )
    return Units()


def _echo(body: _Body, is_img2img: bool) -> dict[str, Any]:
    """The body as the web UI gives it back: with all defaults, and without the pictures unless they are wanted."""
    echo = dict(body.whole)
    if is_img2img and not body.flag("include_init_images"):
        echo |= {"init_images": None, "mask": None}
    scripts = echo.get("alwayson_scripts")
    if isinstance(scripts, dict):
        echo["alwayson_scripts"] = {name: _without_pictures(value) for name, value in scripts.items()}
    return echo


def _without_pictures(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: None if key in ("image", "mask", "input_image", "mask_image") else _without_pictures(one)
            for key, one in value.items()
        }
    return [_without_pictures(one) for one in value] if isinstance(value, list) else value
