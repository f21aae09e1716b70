"""The web UI's options: which there are here, what each says in a request, and what somebody has set.

Every option is shown with its value, and may be set to that value. What else it may be set to stands in the table; the
rest is refused by name, since a setting that is taken and does nothing is worse than none.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from gesso.errors import short
from gesso.request.checks import nearest
from gesso.request.request import ROWS, called_by
from gesso.surfaces.a1111.errors import refusal

MODEL = "sd_model_checkpoint"
FORMAT = "samples_format"
QUALITY = "jpeg_quality"
FORMATS = {"png": "png", "jpg": "jpeg", "jpeg": "jpeg", "webp": "webp", "avif": "avif"}
NO_VAE = ("Automatic", "None", "", None)
MAX_OWNERS = 1000

# Options that a request has a field for: name -> default there.
DEFAULTS: Mapping[str, Any] = {
    "CLIP_stop_at_last_layers": 1,
    "randn_source": "GPU",
    "emphasis": "Original",
    "eta_noise_seed_delta": 0,
    "pad_cond_uncond": False,
    "sgm_noise_multiplier": False,
    "enable_quantization": False,
    "always_discard_next_to_last_sigma": False,
    "tiling": False,
}
# Options that clients read, and that are as they are here.
FIXED: Mapping[str, Any] = {
    "sd_vae": "Automatic",
    "sd_vae_overrides_per_model_preferences": True,
    "comma_padding_backtrack": 20,
    "show_progress_every_n_steps": 10,
    "live_previews_enable": True,
    "live_previews_image_format": "jpeg",
    "enable_pnginfo": True,
    "save_txt": False,
    "samples_save": True,
    "grid_save": False,
    "return_grid": False,
    "face_restoration_model": "None",
    "face_restoration": False,
    "sd_hypernetwork": "None",
    "sd_lora": "None",
    "img2img_fix_steps": False,
    "img2img_color_correction": False,
    "img2img_background_color": "#ffffff",
    "initial_noise_multiplier": 1.0,
    "inpainting_mask_weight": 1.0,
    "upscaler_for_img2img": "None",
    "eta_ddim": 0.0,
    "eta_ancestral": 1.0,
    "s_min_uncond": 0.0,
    "s_churn": 0.0,
    "s_tmin": 0.0,
    "s_noise": 1.0,
    "use_old_emphasis_implementation": False,
    "use_old_karras_scheduler_sigmas": False,
    "use_old_hires_fix_width_height": False,
    "use_old_scheduling": False,
    "no_dpmpp_sde_batch_determinism": False,
    "token_merging_ratio": 0.0,
    "token_merging_ratio_img2img": 0.0,
    "token_merging_ratio_hr": 0.0,
    "sd_unet": "None",
    "fp8_storage": "Disable",
    "sdxl_clip_l_skip": False,
    "control_net_unit_count": 3,
}
_RANDN = {"GPU": "nv", "NV": "nv", "CPU": "cpu"}
_EMPHASIS = {"Original": "original", "No norm": "no_norm", "Ignore": "ignore"}
_PATHS = {name: row.path for name, row in called_by("a1111")}


def known_options() -> tuple[str, ...]:
    """All names."""
    return (MODEL, FORMAT, QUALITY, *DEFAULTS, *FIXED)


@dataclass(frozen=True)
class Settings:
    """What options say, in gesso's words.

    values  fields of a request by their paths
    model   title or name; None: the default
    output  format of the files
    notes   what has no effect
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    model: str | None = None
    output: Mapping[str, Any] = field(default_factory=lambda: {"format": "png"})
    notes: tuple[str, ...] = ()


def check_options(given: Mapping[str, Any], shown: Mapping[str, Any], where: str = "options") -> dict[str, Any]:
    """The options that are set, of all that are given. Raises HttpError for an unknown one, and for a wrong value.

    shown  what GET /sdapi/v1/options says now: some clients send all of it back
    """
    changed: dict[str, Any] = {}
    for name, value in given.items():
        if name in shown and shown[name] == value:
            if name in DEFAULTS or name in (MODEL, FORMAT, QUALITY):
                changed[name] = value
            continue
        if name == "sd_vae" and value in NO_VAE:
            continue
        if name == "forge_additional_modules" and value in ([], None):
            continue
        if name in FIXED:
            raise refusal(f"{where}: {name} is {short(FIXED[name])} here and cannot be {short(value)}", name)
        if name not in known_options():
            raise refusal(f"{where}: unknown option {short(name)}{nearest(name, known_options())}", name[:64])
        _check(name, value, where)
        changed[name] = value
    return changed


def _check(name: str, value: Any, where: str) -> None:
    def expect(is_so: bool, what: str) -> None:
        if not is_so:
            raise refusal(f"{where}: {name} is {short(value)}, expected {what}", name, code="invalid_value")

    if name == FORMAT:
        expect(value in FORMATS, ", ".join(FORMATS))
    elif name == QUALITY:
        expect(type(value) is int and 1 <= value <= 100, "1 to 100")
    elif name == "randn_source":
        expect(value in _RANDN, ", ".join(_RANDN))
    elif name == "emphasis":
        expect(value in _EMPHASIS, ", ".join(_EMPHASIS))
    elif name in ("CLIP_stop_at_last_layers", "eta_noise_seed_delta"):
        expect(type(value) is int and value >= 0, "a whole number")
    elif name == MODEL:
        expect(isinstance(value, str) and bool(value), "the title of a model")
    else:
        expect(isinstance(value, bool), "true or false")


# Option -> what its value is in a request.
_MEANINGS: Mapping[str, Callable[[Any], Any]] = {
    "CLIP_stop_at_last_layers": lambda value: value if value > 1 else None,
    "randn_source": lambda value: _RANDN[value],
    "emphasis": lambda value: _EMPHASIS[value],
    "eta_noise_seed_delta": lambda value: value,
    "pad_cond_uncond": lambda value: "padded" if value else "apart",
    "sgm_noise_multiplier": lambda value: "variance" if value else None,
    "enable_quantization": lambda value: value,
    "always_discard_next_to_last_sigma": lambda value: value,
    "tiling": lambda value: "xy" if value else None,
}


def settings_of(options: Mapping[str, Any]) -> Settings:
    """What checked options say."""
    values = {_PATHS[name]: mean(options[name]) for name, mean in _MEANINGS.items() if name in options}
    values = {path: value for path, value in values.items() if value is not None}
    assert all(path in ROWS for path in values)
    format = FORMATS[options.get(FORMAT, "png")]
    output = {"format": format} if format == "png" else {"format": format, "quality": options.get(QUALITY, 80)}
    return Settings(values=values, model=options.get(MODEL), output=output)


class OptionStore:
    """What each key has set, as long as the server runs. Any thread may use it."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._set: dict[str, dict[str, Any]] = {}

    def of(self, owner: str) -> dict[str, Any]:
        """What a key has set."""
        with self._lock:
            return dict(self._set.get(owner, {}))

    def put(self, owner: str, changed: Mapping[str, Any]) -> None:
        """Set some."""
        with self._lock:
            held = self._set.pop(owner, {})
            self._set[owner] = held | dict(changed)
            if len(self._set) > MAX_OWNERS:
                del self._set[next(iter(self._set))]


def shown_options(set_here: Mapping[str, Any], title: str, checkpoint_hash: str | None) -> dict[str, Any]:
    """All options with their values.  title, checkpoint_hash: of the model that is chosen"""
    return {
        FORMAT: "png",
        QUALITY: 80,
        **DEFAULTS,
        **FIXED,
        **set_here,
        MODEL: title,
        "sd_checkpoint_hash": checkpoint_hash or "",
    }
