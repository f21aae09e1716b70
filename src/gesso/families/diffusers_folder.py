"""Config files of a diffusers folder (model_index.json, config.json): read into a family, written from one.

Nothing that a configuration names is ever imported: class names are compared with the few that gesso has, each
setting is either read, or must have the one value that gesso computes with, or concerns training only. A setting that
is not known here is refused unless it is switched off.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from gesso.checkpoints.config_json import from_json, read_object
from gesso.checkpoints.diffusers import INDEX, LIBRARIES, folders_of, layout_of, names_class, tokenizers_of
from gesso.checkpoints.errors import ModelFileError
from gesso.diffusion.denoiser import Prediction
from gesso.diffusion.diffusers_steps import COMMON_SETTINGS, spacing_of
from gesso.errors import short, shorten
from gesso.families.base import Concat, Family, Layout, ScheduleConfig, SchedulerConfig
from gesso.families.registry import release_like
from gesso.families.sd15 import SD15
from gesso.models.clip import CLIPTextConfig
from gesso.models.unet import UNetConfig
from gesso.models.vae import VAEConfig
from gesso.notices import Notice

# What a folder is written as: (has two towers, or is their refiner; what stands beside the latents) -> class.
_PIPELINES: Mapping[tuple[bool, Concat], str] = {
    (False, "none"): "StableDiffusionPipeline",
    (False, "inpaint"): "StableDiffusionInpaintPipeline",
    (False, "edit"): "StableDiffusionInstructPix2PixPipeline",
    (False, "upscale"): "StableDiffusionUpscalePipeline",
    (True, "none"): "StableDiffusionXLPipeline",
    (True, "inpaint"): "StableDiffusionXLInpaintPipeline",
}
_REFINER_PIPELINE = "StableDiffusionXLImg2ImgPipeline"
# What a folder may call itself besides; the parts are the same.
_ALSO = {False: ("StableDiffusionImg2ImgPipeline", "LatentConsistencyModelPipeline"), True: (_REFINER_PIPELINE,)}
# Pipelines of the same model that do more when they draw, with networks of their own beside it or other guidance.
_DOING_MORE = re.compile(
    r"StableDiffusion(?P<xl>XL)?(ControlNet(Union|PAG)?|Adapter|PAG|SAG|AttendAndExcite|Panorama|DiffEdit|Paradigms"
    r"|ModelEditing|Pix2PixZero)(Img2Img|Inpaint)?Pipeline"
    r"|LatentConsistencyModelImg2ImgPipeline|LEditsPPPipelineStableDiffusion(?P<leditsxl>XL)?"
)
# Parts of a folder that are read, or of which nothing is lost where a picture is drawn from text.
_USUAL_PARTS = frozenset(f"{part}{number}" for part in ("text_encoder", "tokenizer") for number in ("", "_2")) | {
    "unet",
    "vae",
    "scheduler",
    "low_res_scheduler",
    "safety_checker",
    "feature_extractor",
    "watermarker",
}
_CONCATS: Mapping[int, Concat] = {0: "none", 5: "inpaint", 4: "edit", 3: "upscale"}  # channels beside the latents
_TOKENIZERS = ("CLIPTokenizer", "CLIPTokenizerFast")

# Settings with the only value that gesso computes with, which is the library's default, too.
_UNET_FIXED: Mapping[str, Any] = {
    "_class_name": "UNet2DConditionModel",
    "act_fn": "silu",
    "attention_type": "default",
    "center_input_sample": False,
    "class_embeddings_concat": False,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "mid_block_scale_factor": 1,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "norm_eps": 1e-5,
    "resnet_out_scale_factor": 1.0,
    "resnet_time_scale_shift": "default",
    "time_embedding_type": "positional",
}
_UNET_READ = (
    "in_channels",
    "out_channels",
    "block_out_channels",
    "down_block_types",
    "up_block_types",
    "layers_per_block",
    "transformer_layers_per_block",
    "cross_attention_dim",
    "attention_head_dim",
    "num_attention_heads",
    "norm_num_groups",
    "sample_size",
    "use_linear_projection",
    "upcast_attention",
    "only_cross_attention",
    "num_class_embeds",
    "time_cond_proj_dim",
    "addition_embed_type",
    "addition_time_embed_dim",
    "projection_class_embeddings_input_dim",
)
# Without effect on what is computed here: dropout, widths of absent embeddings.
_UNET_IDLE = ("dropout", "addition_embed_type_num_heads")

_VAE_FIXED: Mapping[str, Any] = {
    "_class_name": "AutoencoderKL",
    "act_fn": "silu",
    "in_channels": 3,
    "out_channels": 3,
    "mid_block_add_attention": True,
    "use_quant_conv": True,
    "use_post_quant_conv": True,
}
_VAE_READ = (
    "block_out_channels",
    "down_block_types",
    "up_block_types",
    "layers_per_block",
    "latent_channels",
    "norm_num_groups",
    "scaling_factor",
)
_VAE_IDLE = ("sample_size", "force_upcast")

_PREDICTIONS: Mapping[str, Prediction] = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}


def read_family(folder: Path, release: Family | None = None) -> Family:
    """The family that a folder describes, at the sizes of its configs.

    release: what gives its name and default settings, which a folder does not say; the one that its parts look like
    where None. Raises ModelFileError.
    """
    index = read_object(folder / INDEX)
    layout: Layout = _layout(folder, index)
    folders = folders_of(layout)
    settings = _Settings(folder / folders["unet"] / "config.json", _UNET_FIXED, _UNET_READ, _UNET_IDLE)
    unet, sample_size = _unet(settings)
    vae = _vae(folder / folders["vae"] / "config.json")
    texts = {
        part: _text(folder / name / "config.json", projected=_projected(index, name))
        for part, name in folders.items()
        if part.startswith("text")
    }
    if layout == "sd1" and settings.values.get("use_linear_projection", False):
        layout = "sd2"
    schedule, prediction, scheduler = _schedule(folder / "scheduler" / "scheduler_config.json")
    concat = _concat(folder, unet, vae)
    family = replace(
        SD15,
        layout=layout,
        unet=unet,
        vae=vae,
        text=texts["text"],
        text_2=texts.get("text_2"),
        text_layer=1 if layout in ("sd1", "sd2") else 2,  # a folder of SD 2 lacks the layer that is not read
        text_norm=layout in ("sd1", "sd2"),
        concat=concat,
        schedule=schedule,
        prediction=prediction,
        scheduler=scheduler,
        native_size=sample_size * vae.downscale,
    )
    _check_widths(folder, family)
    try:
        like = release_like(family)
    except ValueError as error:
        raise ModelFileError("architecture_mismatch", folder, str(error)) from None
    if release is not None:
        if release.architecture != family.architecture:
            message = f"looks like {like.name!r}, not like {release.name!r}. Try: `family={like.name}`"
            raise ModelFileError("architecture_mismatch", folder, message)
        like = release
    return replace(
        family,
        name=like.name,
        max_level=_max_level(folder, index) if concat == "upscale" else None,
        zero_empty_negative=layout == "sdxl" and index.get("force_zeros_for_empty_prompt", True) is not False,
        clip_skip=like.clip_skip,
        defaults=like.defaults,
    )


def check_pipeline(folder: Path) -> None:
    """Raises ModelFileError where a folder's model_index.json names a pipeline, or parts, that gesso does not read."""
    if (folder / INDEX).is_file():
        _layout(folder, read_object(folder / INDEX))


def _layout(folder: Path, index: Mapping[str, Any]) -> Layout:
    """sd1 (or 2), sdxl or refiner, and whether the classes that the index names are theirs."""
    layout: Any = layout_of(index)
    is_xl = layout != "sd1"
    known = [name for (xl, _), name in _PIPELINES.items() if xl == is_xl] + list(_ALSO[is_xl])
    class_name = shorten(str(index.get("_class_name")))
    if class_name not in known and not _does_more(class_name, is_xl):
        raise ModelFileError("architecture_mismatch", folder, f"is a {class_name}, expected a {known[0]}")
    folders = folders_of(layout)
    expected = {
        "unet": ("UNet2DConditionModel",),
        "vae": ("AutoencoderKL",),
        **{folders[part]: _text_classes(folders[part]) for part in folders if part.startswith("text")},
        **dict.fromkeys(tokenizers_of(layout).values(), _TOKENIZERS),
    }
    for part, classes in expected.items():
        if names_class(index, part) not in classes:
            expected_class = f"{classes[0]} of {' or '.join(LIBRARIES)}"
            message = f"{INDEX}: {part} is {shorten(str(index.get(part)))}, expected {expected_class}"
            raise ModelFileError("architecture_mismatch", folder, message)
    return layout


def _does_more(class_name: str, is_xl: bool) -> bool:
    match = _DOING_MORE.fullmatch(class_name)
    return match is not None and is_xl == bool(match["xl"] or match["leditsxl"])


def unused_parts(folder: Path) -> tuple[Notice, ...]:
    """What of a folder gesso does not draw with: networks beside the model, and a pipeline that does more."""
    index = read_object(folder / INDEX)
    class_name = shorten(str(index.get("_class_name")))
    beside = [
        shorten(part)
        for part, named in index.items()
        if part not in _USUAL_PARTS and isinstance(named, list) and any(name is not None for name in named)
    ]
    if not beside and not _DOING_MORE.fullmatch(class_name):
        return ()
    parts = f"; not used: {', '.join(beside[:8])}" if beside else ""
    control = ". Give a ControlNet or T2I-Adapter with --control" if {"controlnet", "adapter"} & set(beside) else ""
    text = f"{folder.name}: was saved as a {class_name}; gesso draws with its model alone{parts}{control}"
    return (Notice(text, code="pipeline_reduced", data={"class": class_name, "parts": beside}),)


def _text_classes(folder: str) -> tuple[str, ...]:
    return (_TOWER_2,) if folder.endswith("_2") else ("CLIPTextModel",)


_TOWER_2 = "CLIPTextModelWithProjection"


def _projected(index: Mapping[str, Any], folder: str) -> bool:
    return names_class(index, folder) == _TOWER_2


def _concat(folder: Path, unet: UNetConfig, vae: VAEConfig) -> Concat:
    extra = unet.in_channels - vae.latent_channels
    if unet.out_channels != vae.latent_channels or extra not in _CONCATS:
        problem = f"its UNet takes {unet.in_channels} channels and gives {unet.out_channels}"
        raise ModelFileError(
            "architecture_mismatch", folder, f"has {vae.latent_channels} latent channels, {problem}; no release does"
        )
    return _CONCATS[extra]


def _check_widths(folder: Path, family: Family) -> None:
    wide = family.text.dim + (family.text_2.dim if family.text_2 else 0)
    if wide != family.unet.context_dim:
        message = f"its text encoder is {wide} wide, its UNet takes {family.unet.context_dim}"
        raise ModelFileError("architecture_mismatch", folder, message)
    pooled = (family.text_2 or family.text).projection_dim or 0
    sizes = (family.unet.added_dim or 0) - pooled if family.num_sizes else 0
    if bool(family.unet.added_dim) != bool(family.num_sizes) or sizes != family.size_dim * family.num_sizes:
        message = f"the vector added to the time is {family.unet.added_dim} wide, its pooled text {pooled}"
        raise ModelFileError("architecture_mismatch", folder, message)


def _max_level(folder: Path, index: Mapping[str, Any]) -> int:
    max_level = index.get("max_noise_level", 350)
    if type(max_level) is not int or not 0 <= max_level < 1000:
        raise ModelFileError(
            "config", folder / INDEX, f"max_noise_level is {shorten(str(max_level))}, expected 0 to 999"
        )
    return max_level


class _Settings:
    """One config file: every setting is read, known to have no effect, or refused."""

    def __init__(self, path: Path, fixed: Mapping[str, Any], read: tuple[str, ...], idle: tuple[str, ...]) -> None:
        self.path = path
        self.values = read_object(path)
        for key, value in fixed.items():
            if self.values.get(key, value) != value:
                self.refuse(f"{key} is {shorten(str(self.values[key]))}, gesso computes with {value}")
        for key, value in self.values.items():
            if key not in (*fixed, *read, *idle) and not key.startswith("_") and value not in (None, False):
                self.refuse(f"{shorten(key)} is {shorten(str(value))}, an unknown setting")

    def refuse(self, message: str) -> NoReturn:
        raise ModelFileError("config", self.path, message)

    def list_of(self, key: str, length: int | None = None, default: Any = None) -> list[Any]:
        """A list; one value stands for all of them where a length is given."""
        value = self.values.get(key, default)
        if length is not None and isinstance(value, int):
            value = [value] * length
        if not isinstance(value, list) or not value or (length is not None and len(value) != length):
            self.refuse(f"{key} is {shorten(str(value))}, expected a list{f' of {length}' if length else ''}")
        return value


def _unet(settings: _Settings) -> tuple[UNetConfig, int]:
    values = settings.values
    channels = settings.list_of("block_out_channels")
    levels = len(channels)
    depths = settings.list_of("transformer_layers_per_block", levels, 1)
    down = settings.list_of("down_block_types", levels)
    up = settings.list_of("up_block_types", levels)
    with_text = [kind == "CrossAttnDownBlock2D" for kind in down]
    expected = ["CrossAttnUpBlock2D" if text else "UpBlock2D" for text in reversed(with_text)]
    if up != expected or any(kind not in ("CrossAttnDownBlock2D", "DownBlock2D") for kind in down):
        settings.refuse("down_block_types and up_block_types are not those of Stable Diffusion")
    # The library's "attention_head_dim" is the number of heads for these models, a name that stuck.
    heads_key = "num_attention_heads" if values.get("num_attention_heads") is not None else "attention_head_dim"
    config = {
        "in_channels": values.get("in_channels", 4),
        "out_channels": values.get("out_channels", 4),
        "channels": channels,
        "attention": [depth if text else 0 for depth, text in zip(depths, with_text, strict=True)],
        "mid_attention": depths[-1],
        "cross_only": _cross_only(settings, levels),
        "noise_levels": values.get("num_class_embeds"),
        "guidance_dim": values.get("time_cond_proj_dim"),
        "upcast_attention": values.get("upcast_attention") or False,
        "added_dim": _added_dim(settings),
        "num_heads": settings.list_of(heads_key, levels, 8),
        "num_res_blocks": values.get("layers_per_block", 2),
        "context_dim": values.get("cross_attention_dim"),
        "norm_groups": values.get("norm_num_groups", 32),
    }
    unet = from_json(UNetConfig, config, settings.path, "the UNet")
    sample_size = values.get("sample_size") or 64
    if type(sample_size) is not int or not 1 <= sample_size <= 1024:
        settings.refuse(f"sample_size is {shorten(str(sample_size))}, expected 1 to 1024")
    return unet, sample_size


def _cross_only(settings: _Settings, levels: int) -> list[bool] | None:
    levels_only = settings.values.get("only_cross_attention")
    if levels_only in (None, False):
        return None
    if (
        not isinstance(levels_only, list)
        or len(levels_only) != levels
        or not all(type(value) is bool for value in levels_only)
    ):
        settings.refuse(f"only_cross_attention is {shorten(str(levels_only))}, expected a list of {levels}")
    return levels_only if any(levels_only) else None


def _added_dim(settings: _Settings) -> Any:
    """Width of the vector of pooled text and sizes: None, or as SDXL has it."""
    kind = settings.values.get("addition_embed_type")
    if kind not in (None, "text_time"):
        settings.refuse(f"addition_embed_type is {shorten(str(kind))}, gesso knows text_time")
    return settings.values.get("projection_class_embeddings_input_dim") if kind else None


def _vae(path: Path) -> VAEConfig:
    settings = _Settings(path, _VAE_FIXED, _VAE_READ, _VAE_IDLE)
    values = settings.values
    channels = settings.list_of("block_out_channels")
    for key, kind in (("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")):
        if settings.list_of(key, len(channels)) != [kind] * len(channels):
            settings.refuse(f"{key} are not {kind} throughout")
    config = {
        "channels": channels,
        "num_res_blocks": values.get("layers_per_block", 1),
        "latent_channels": values.get("latent_channels", 4),
        "scaling_factor": values.get("scaling_factor", 0.18215),  # the published SD 1.5 does not say it
        "norm_groups": values.get("norm_num_groups", 32),
    }
    return from_json(VAEConfig, config, path, "the VAE")


def _text(path: Path, *, projected: bool) -> CLIPTextConfig:
    values = read_object(path)
    if values.get("hidden_act", "quick_gelu") not in ("quick_gelu", "gelu"):
        acts = shorten(str(values["hidden_act"]))
        raise ModelFileError("config", path, f"hidden_act is {acts}, gesso computes with quick_gelu or gelu")
    if values.get("layer_norm_eps", 1e-5) != 1e-5:
        raise ModelFileError("config", path, "layer_norm_eps is not 1e-5, which gesso computes with")
    if values.get("model_type", "clip_text_model") != "clip_text_model":
        message = f"is a {shorten(str(values['model_type']))}, expected a clip_text_model"
        raise ModelFileError("architecture_mismatch", path, message)
    vocab_size = values.get("vocab_size", 49408)
    eos = values.get("eos_token_id", 49407)
    if eos == 2:  # published configs say 2 and mean the greatest id, which is the last of the vocabulary
        eos = vocab_size - 1 if isinstance(vocab_size, int) else eos
    config = {
        "vocab_size": vocab_size,
        "max_length": values.get("max_position_embeddings", 77),
        "dim": values.get("hidden_size", 512),
        "num_layers": values.get("num_hidden_layers", 12),
        "num_heads": values.get("num_attention_heads", 8),
        "mlp_dim": values.get("intermediate_size", 2048),
        "activation": values.get("hidden_act", "quick_gelu"),
        "eos_id": eos,
        "projection_dim": values.get("projection_dim", 512) if projected else None,
    }
    return from_json(CLIPTextConfig, config, path, "the text encoder")


# Schedulers of the library that have no use_karras_sigmas and its like.
_WITHOUT_WAYS = ("PNDMScheduler", "DDIMScheduler", "LCMScheduler")


def _schedule(path: Path) -> tuple[ScheduleConfig, Prediction, SchedulerConfig | None]:
    if not path.exists():
        return SD15.schedule, SD15.prediction, SD15.scheduler
    values = read_object(path, infinite=True)  # lambda_min_clipped of DPM-Solver and SA-Solver
    if values.get("beta_schedule", "linear") != "scaled_linear" or values.get("trained_betas") is not None:
        kind = shorten(str(values.get("_class_name", "a scheduler")))
        betas = f"beta_schedule {shorten(str(values.get('beta_schedule')))}"
        betas = "trained_betas" if values.get("trained_betas") is not None else betas
        raise ModelFileError("config", path, f"is a {kind} with {betas}, gesso computes with scaled_linear betas")
    prediction = values.get("prediction_type", "epsilon")
    if not isinstance(prediction, str) or prediction not in _PREDICTIONS:
        raise ModelFileError(
            "config", path, f"prediction_type is {shorten(str(prediction))}, which gesso does not know"
        )
    config = {
        "beta_start": values.get("beta_start", 0.0001),
        "beta_end": values.get("beta_end", 0.02),
        "num_timesteps": values.get("num_train_timesteps", 1000),
        "zero_terminal_snr": values.get("rescale_betas_zero_snr", False),
    }
    schedule = from_json(ScheduleConfig, config, path, "the schedule")
    try:
        schedule.build()
    except ValueError as error:
        raise ModelFileError("config", path, str(error)) from None
    return schedule, _PREDICTIONS[prediction], _scheduler(path, values)


def _scheduler(path: Path, values: Mapping[str, Any]) -> SchedulerConfig:
    name = values.get("_class_name", "PNDMScheduler")
    if not isinstance(name, str):
        raise ModelFileError("config", path, f"_class_name is {short(name)}, expected the name of a scheduler")
    spacing = spacing_of(name)
    config = {
        "name": name,
        "timestep_spacing": values.get("timestep_spacing", spacing),
        "steps_offset": values.get("steps_offset", 0),
    }
    config["set_alpha_to_one"] = values.get("set_alpha_to_one")
    if name not in _WITHOUT_WAYS:
        config["use_karras_sigmas"] = values.get("use_karras_sigmas") or False
    if name == "PNDMScheduler":
        config["skip_prk_steps"] = values.get("skip_prk_steps", False)
    stated = {
        key: value
        for key, value in values.items()
        if key in COMMON_SETTINGS and key not in config and value is not None and value != COMMON_SETTINGS[key]
    }
    if values.get("timestep_spacing") == spacing:
        stated["timestep_spacing"] = spacing
    if values.get("steps_offset") == 0:
        stated["steps_offset"] = 0  # see pipelines.steps: some of diffusers' pipelines replace it
    return from_json(SchedulerConfig, config, path, "the scheduler", stated=stated)


# ---------------------------------------------------------------------------------------------------------------------


def folder_text(family: Family) -> CLIPTextConfig:
    """The first text encoder as a folder has it: of SD 2 without the layer and the projection that are not read."""
    if family.layout != "sd2":
        return family.text
    return replace(family.text, num_layers=family.text.num_layers + 1 - family.text_layer, projection_dim=None)


def folder_configs(family: Family) -> dict[str, dict[str, Any]]:
    """Path in the folder -> contents, such that the diffusers library loads the folder and `read_family` inverts it.

    Raises ValueError for a family that the library has no classes for.
    """
    vae = family.vae
    if family.scheduler is None or vae.patch_size != 1 or family.upscaler or vae.image_channels != 3:
        raise ValueError(
            f"a model of family {family.name!r} cannot be saved as a diffusers folder; save it as a native file"
        )
    folders = folders_of(family.layout)
    configs = {
        INDEX: _index(family),
        f"{folders['unet']}/config.json": _unet_json(family),
        f"{folders['vae']}/config.json": {
            "_class_name": "AutoencoderKL",
            "act_fn": "silu",
            "block_out_channels": list(vae.channels),
            "down_block_types": ["DownEncoderBlock2D"] * len(vae.channels),
            "in_channels": 3,
            "latent_channels": vae.latent_channels,
            "layers_per_block": vae.num_res_blocks,
            "norm_num_groups": vae.norm_groups,
            "out_channels": 3,
            "sample_size": family.native_size,
            "scaling_factor": vae.scaling_factor,
            "up_block_types": ["UpDecoderBlock2D"] * len(vae.channels),
            **({"force_upcast": True} if family.num_sizes else {}),
        },
        "scheduler/scheduler_config.json": _scheduler_json(family, family.scheduler),
    }
    for part, text in (("text", folder_text(family)), ("text_2", family.text_2)):
        if text is not None:
            configs[f"{folders[part]}/config.json"] = _text_json(text)
    if family.concat == "upscale":
        low = replace(family, prediction="eps")
        configs["low_res_scheduler/scheduler_config.json"] = _scheduler_json(low, _LOW_RES)
    return configs


_LOW_RES = SchedulerConfig(
    name="DDPMScheduler", timestep_spacing="leading", steps_offset=0, stated={"timestep_spacing": "leading"}
)


def _index(family: Family) -> dict[str, Any]:
    is_xl = family.layout in ("sdxl", "refiner")
    name = _REFINER_PIPELINE if family.is_refiner else _PIPELINES.get((is_xl, family.concat))
    if name is None or family.scheduler is None:
        raise ValueError(
            f"a model of family {family.name!r} cannot be saved as a diffusers folder; save it as a native file"
        )
    folders, tokenizers = folders_of(family.layout), tokenizers_of(family.layout)
    parts: dict[str, Any] = {
        "scheduler": ["diffusers", family.scheduler.name],
        **{name: ["transformers", "CLIPTokenizer"] for name in tokenizers.values()},
        **{folders[part]: ["transformers", _text_classes(folders[part])[0]] for part in tokenizers},
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    if family.is_refiner:
        parts |= {"text_encoder": [None, None], "tokenizer": [None, None], "requires_aesthetics_score": True}
    if is_xl:
        parts |= {"force_zeros_for_empty_prompt": family.zero_empty_negative}
    else:
        parts |= {"feature_extractor": [None, None], "safety_checker": [None, None]}
    if family.concat == "upscale":
        parts |= {"low_res_scheduler": ["diffusers", _LOW_RES.name], "watermarker": [None, None]}
        parts |= {"max_noise_level": family.max_level}
    elif not is_xl:
        parts |= {"requires_safety_checker": False}
    return {"_class_name": name, "_diffusers_version": "0.6.0", **dict(sorted(parts.items()))}


def _text_json(text: CLIPTextConfig) -> dict[str, Any]:
    return {
        "architectures": [_TOWER_2 if text.projection_dim else "CLIPTextModel"],
        "bos_token_id": text.eos_id - 1,
        "eos_token_id": text.eos_id,
        "hidden_act": text.activation,
        "hidden_size": text.dim,
        "intermediate_size": text.mlp_dim,
        "layer_norm_eps": 1e-5,
        "max_position_embeddings": text.max_length,
        "model_type": "clip_text_model",
        "num_attention_heads": text.num_heads,
        "num_hidden_layers": text.num_layers,
        "pad_token_id": 1,
        "projection_dim": text.projection_dim or text.dim,
        "vocab_size": text.vocab_size,
    }


def _unet_json(family: Family) -> dict[str, Any]:
    unet = family.unet
    # A level that does not look at the text has a depth all the same; that of the last is the middle's.
    depths = [depth or 1 for depth in unet.attention[:-1]] + [unet.attention[-1] or unet.mid_attention]
    if depths[-1] != unet.mid_attention or unet.draft_size is not None:
        raise ValueError(
            f"a model of family {family.name!r} cannot be saved as a diffusers folder; save it as a native file"
        )
    more: dict[str, Any] = {}
    if family.layout != "sd1":
        more["use_linear_projection"] = True
    if unet.upcast_attention:
        more["upcast_attention"] = True
    if unet.cross_only is not None:
        more["only_cross_attention"] = list(unet.cross_only)
    if unet.noise_levels is not None:
        more["num_class_embeds"] = unet.noise_levels
    if unet.guidance_dim is not None:
        more["time_cond_proj_dim"] = unet.guidance_dim
    if unet.added_dim is not None:
        more["addition_embed_type"] = "text_time"
        more["addition_time_embed_dim"] = family.size_dim
        more["projection_class_embeddings_input_dim"] = unet.added_dim
    return {
        "_class_name": "UNet2DConditionModel",
        "act_fn": "silu",
        "attention_head_dim": list(unet.num_heads),  # the number of heads, see above
        "block_out_channels": list(unet.channels),
        "cross_attention_dim": unet.context_dim,
        "down_block_types": ["CrossAttnDownBlock2D" if deep else "DownBlock2D" for deep in unet.attention],
        "downsample_padding": 1,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": unet.in_channels,
        "layers_per_block": unet.num_res_blocks,
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-5,
        "norm_num_groups": unet.norm_groups,
        "out_channels": unet.out_channels,
        "sample_size": family.native_size // family.vae.downscale,
        "transformer_layers_per_block": depths[0] if len(set(depths)) == 1 else depths,
        "up_block_types": ["CrossAttnUpBlock2D" if deep else "UpBlock2D" for deep in reversed(unet.attention)],
        **more,
    }


def _scheduler_json(family: Family, scheduler: SchedulerConfig) -> dict[str, Any]:
    schedule = family.schedule
    values: dict[str, Any] = {
        "_class_name": scheduler.name,
        "beta_end": schedule.beta_end,
        "beta_schedule": "scaled_linear",
        "beta_start": schedule.beta_start,
        "num_train_timesteps": schedule.num_timesteps,
        "prediction_type": next(name for name, own in _PREDICTIONS.items() if own == family.prediction),
        "steps_offset": scheduler.steps_offset,
        "trained_betas": None,
    }
    # Where it goes without saying it is not said, as in the published files: a user of the library who takes another
    # scheduler for the folder then gets that one's own spacing.
    if scheduler.timestep_spacing != spacing_of(scheduler.name):
        values["timestep_spacing"] = scheduler.timestep_spacing
    values |= scheduler.stated
    if scheduler.name != _LOW_RES.name and scheduler.set_alpha_to_one is not None:
        values["set_alpha_to_one"] = scheduler.set_alpha_to_one
    if scheduler.name not in (*_WITHOUT_WAYS, _LOW_RES.name):
        values["use_karras_sigmas"] = scheduler.use_karras_sigmas
    if scheduler.name == "PNDMScheduler":
        values["skip_prk_steps"] = scheduler.skip_prk_steps
    else:
        values.setdefault("clip_sample", False)
    if schedule.zero_terminal_snr:
        values["rescale_betas_zero_snr"] = True
    return values
