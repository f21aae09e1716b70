"""The configuration files of a diffusers folder: read into a family, written from one.

Nothing that a configuration names is ever imported: class names are compared with the few that gesso has, each
setting is either read, or must have the one value that gesso computes with, or concerns training only. A setting that
is not known here is refused unless it is switched off.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from gesso.checkpoints.config_json import from_json, read_object
from gesso.checkpoints.diffusers import FOLDERS, INDEX
from gesso.checkpoints.errors import ModelFileError, shown
from gesso.families.base import Family, ScheduleConfig
from gesso.families.sd15 import SD15
from gesso.models.clip import CLIPTextConfig
from gesso.models.unet import UNetConfig
from gesso.models.vae import VAEConfig

PIPELINE = "StableDiffusionPipeline"
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
    "use_linear_projection": False,  # True is how SD 2 and SDXL look
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
)
# Without effect on what is computed here: precision of intermediate results, dropout, widths of absent embeddings.
_UNET_IDLE = ("upcast_attention", "dropout", "addition_embed_type_num_heads")

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

_PREDICTIONS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}


def read_family(folder: Path) -> Family:
    """The family that a folder describes: Stable Diffusion 1 at the sizes of its configs. Raises ModelFileError."""
    _check_index(folder)
    unet, sample_size = _unet(folder / FOLDERS["unet"] / "config.json")
    vae = _vae(folder / FOLDERS["vae"] / "config.json")
    text = _text(folder / FOLDERS["text"] / "config.json")
    if text.dim != unet.context_dim or vae.latent_channels != unet.in_channels:
        found = f"{text.dim} wide text and {vae.latent_channels} latent channels"
        expected = f"its UNet takes {unet.context_dim} and {unet.in_channels}"
        raise ModelFileError("architecture_mismatch", folder, f"has {found}, {expected}")
    schedule, prediction = _schedule(folder / "scheduler" / "scheduler_config.json")
    return replace(
        SD15,
        unet=unet,
        vae=vae,
        text=text,
        schedule=schedule,
        prediction=prediction,
        native_size=sample_size * vae.downscale,
    )


def _check_index(folder: Path) -> None:
    index = read_object(folder / INDEX)
    if index.get("_class_name") != PIPELINE:
        found = shown(str(index.get("_class_name")))
        raise ModelFileError("architecture_mismatch", folder, f"is a {found}, expected a {PIPELINE}")
    expected = {
        "unet": ("UNet2DConditionModel",),
        "vae": ("AutoencoderKL",),
        "text_encoder": ("CLIPTextModel",),
        "tokenizer": _TOKENIZERS,
    }
    for part, classes in expected.items():
        named = index.get(part)
        if not isinstance(named, list) or len(named) != 2 or named[1] not in classes:
            message = f"{INDEX}: {part} is {shown(str(named))}, expected {classes[0]}"
            raise ModelFileError("architecture_mismatch", folder, message)


class _Settings:
    """One config file: every setting is asked for, or known to be idle, or refused."""

    def __init__(self, path: Path, fixed: Mapping[str, Any], read: tuple[str, ...], idle: tuple[str, ...]) -> None:
        self.path = path
        self.found = read_object(path)
        for key, value in fixed.items():
            if self.found.get(key, value) != value:
                self.refuse(f"{key} is {shown(str(self.found[key]))}, gesso computes with {value}")
        for key, value in self.found.items():
            if key not in (*fixed, *read, *idle) and not key.startswith("_") and value not in (None, False):
                self.refuse(f"{shown(key)} is {shown(str(value))}, a setting that gesso does not know")

    def refuse(self, message: str) -> NoReturn:
        raise ModelFileError("config", self.path, message)

    def list_of(self, key: str, length: int | None = None, default: Any = None) -> list[Any]:
        """A list; one value stands for all of them where a length is given."""
        value = self.found.get(key, default)
        if length is not None and isinstance(value, int):
            value = [value] * length
        if not isinstance(value, list) or not value or (length is not None and len(value) != length):
            self.refuse(f"{key} is {shown(str(value))}, expected a list{f' of {length}' if length else ''}")
        return value


def _unet(path: Path) -> tuple[UNetConfig, int]:
    settings = _Settings(path, _UNET_FIXED, _UNET_READ, _UNET_IDLE)
    found = settings.found
    channels = settings.list_of("block_out_channels")
    levels = len(channels)
    depths = settings.list_of("transformer_layers_per_block", levels, 1)
    down = settings.list_of("down_block_types", levels)
    up = settings.list_of("up_block_types", levels)
    with_text = [kind == "CrossAttnDownBlock2D" for kind in down]
    expected = ["CrossAttnUpBlock2D" if text else "UpBlock2D" for text in reversed(with_text)]
    if up != expected or not set(down) <= {"CrossAttnDownBlock2D", "DownBlock2D"}:
        settings.refuse("down_block_types and up_block_types are not those of Stable Diffusion")
    # The library's "attention_head_dim" is the number of heads for these models, a name that stuck.
    heads_key = "num_attention_heads" if found.get("num_attention_heads") is not None else "attention_head_dim"
    config = {
        "in_channels": found.get("in_channels", 4),
        "out_channels": found.get("out_channels", 4),
        "channels": channels,
        "attention": [depth if text else 0 for depth, text in zip(depths, with_text, strict=True)],
        "mid_attention": depths[-1],
        "num_heads": settings.list_of(heads_key, levels, 8),
        "num_res_blocks": found.get("layers_per_block", 2),
        "context_dim": found.get("cross_attention_dim"),
        "norm_groups": found.get("norm_num_groups", 32),
    }
    unet = from_json(UNetConfig, config, path, "the UNet")
    sample_size = found.get("sample_size") or 64
    if type(sample_size) is not int or not 1 <= sample_size <= 1024:
        settings.refuse(f"sample_size is {shown(str(sample_size))}, expected 1 to 1024")
    return unet, sample_size


def _vae(path: Path) -> VAEConfig:
    settings = _Settings(path, _VAE_FIXED, _VAE_READ, _VAE_IDLE)
    found = settings.found
    channels = settings.list_of("block_out_channels")
    for key, kind in (("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")):
        if settings.list_of(key, len(channels)) != [kind] * len(channels):
            settings.refuse(f"{key} are not {kind} throughout")
    config = {
        "channels": channels,
        "num_res_blocks": found.get("layers_per_block", 1),
        "latent_channels": found.get("latent_channels", 4),
        "scaling_factor": found.get("scaling_factor", 0.18215),  # the published SD 1.5 does not say it
        "norm_groups": found.get("norm_num_groups", 32),
    }
    return from_json(VAEConfig, config, path, "the VAE")


def _text(path: Path) -> CLIPTextConfig:
    found = read_object(path)
    if found.get("layer_norm_eps", 1e-5) != 1e-5:
        raise ModelFileError("config", path, "layer_norm_eps is not 1e-5, which gesso computes with")
    if found.get("model_type", "clip_text_model") != "clip_text_model":
        message = f"is a {shown(str(found['model_type']))}, expected a clip_text_model"
        raise ModelFileError("architecture_mismatch", path, message)
    vocab_size = found.get("vocab_size", 49408)
    eos = found.get("eos_token_id", 49407)
    if eos == 2:  # published configs say 2 and mean the greatest id, which is the last of the vocabulary
        eos = vocab_size - 1 if isinstance(vocab_size, int) else eos
    config = {
        "vocab_size": vocab_size,
        "max_length": found.get("max_position_embeddings", 77),
        "dim": found.get("hidden_size", 512),
        "num_layers": found.get("num_hidden_layers", 12),
        "num_heads": found.get("num_attention_heads", 8),
        "mlp_dim": found.get("intermediate_size", 2048),
        "activation": found.get("hidden_act", "quick_gelu"),
        "eos_id": eos,
    }
    return from_json(CLIPTextConfig, config, path, "the text encoder")


def _schedule(path: Path) -> tuple[ScheduleConfig, Any]:
    if not path.exists():
        return SD15.schedule, SD15.prediction
    found = read_object(path)
    if found.get("beta_schedule", "linear") != "scaled_linear" or found.get("trained_betas") is not None:
        raise ModelFileError("config", path, "the betas are not scaled_linear, which gesso computes with")
    prediction = found.get("prediction_type", "epsilon")
    if not isinstance(prediction, str) or prediction not in _PREDICTIONS:
        raise ModelFileError("config", path, f"prediction_type is {shown(str(prediction))}, gesso does not know it")
    config = {
        "beta_start": found.get("beta_start", 0.0001),
        "beta_end": found.get("beta_end", 0.02),
        "num_timesteps": found.get("num_train_timesteps", 1000),
        "zero_terminal_snr": found.get("rescale_betas_zero_snr", False),
    }
    schedule = from_json(ScheduleConfig, config, path, "the schedule")
    try:
        schedule.build()
    except ValueError as error:
        raise ModelFileError("config", path, str(error)) from None
    return schedule, _PREDICTIONS[prediction]


# ---------------------------------------------------------------------------------------------------------------------


def folder_configs(family: Family) -> dict[str, dict[str, Any]]:
    """Path in the folder -> contents, such that the diffusers library loads the folder and `read_family` inverts it.

    Raises ValueError for a family that the library has no classes for.
    """
    unet, vae, text = family.unet, family.vae, family.text
    depths = {depth for depth in unet.attention if depth} | {unet.mid_attention}
    if unet.added_dim or vae.patch_size != 1 or family.upscaler or vae.image_channels != 3 or len(depths) != 1:
        raise ValueError(f"a model of family {family.name!r} has no diffusers layout; save it as a native file")
    return {
        INDEX: {
            "_class_name": PIPELINE,
            "_diffusers_version": "0.6.0",
            "feature_extractor": [None, None],
            "requires_safety_checker": False,
            "safety_checker": [None, None],
            "scheduler": ["diffusers", "PNDMScheduler" if _is_plain(family) else "DDIMScheduler"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        },
        f"{FOLDERS['unet']}/config.json": _unet_json(unet, depths.pop(), family.native_size // vae.downscale),
        f"{FOLDERS['vae']}/config.json": {
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
        },
        f"{FOLDERS['text']}/config.json": {
            "architectures": ["CLIPTextModel"],
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
            "projection_dim": text.dim,
            "vocab_size": text.vocab_size,
        },
        "scheduler/scheduler_config.json": _scheduler_json(family),
    }


def _unet_json(unet: UNetConfig, depth: int, sample_size: int) -> dict[str, Any]:
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
        "sample_size": sample_size,
        "transformer_layers_per_block": depth,
        "up_block_types": ["CrossAttnUpBlock2D" if deep else "UpBlock2D" for deep in reversed(unet.attention)],
    }


def _is_plain(family: Family) -> bool:
    return family.prediction == "eps" and not family.schedule.zero_terminal_snr


def _scheduler_json(family: Family) -> dict[str, Any]:
    schedule = family.schedule
    common = {
        "beta_end": schedule.beta_end,
        "beta_schedule": "scaled_linear",
        "beta_start": schedule.beta_start,
        "clip_sample": False,
        "num_train_timesteps": schedule.num_timesteps,
        "prediction_type": next(name for name, own in _PREDICTIONS.items() if own == family.prediction),
        "set_alpha_to_one": False,
        "steps_offset": 1,
        "trained_betas": None,
    }
    if _is_plain(family):
        return {"_class_name": "PNDMScheduler", "skip_prk_steps": True, **common}
    own = {"rescale_betas_zero_snr": schedule.zero_terminal_snr, "timestep_spacing": "trailing"}
    return {"_class_name": "DDIMScheduler", **common, **own}
