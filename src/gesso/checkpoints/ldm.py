"""The single-file layouts of Stable Diffusion 1, 2 and XL, with the names of CompVis' latent-diffusion ("LDM").

Blocks of the UNet are numbered in the order they run; which number holds what follows from the config, so that part of
the table is computed.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gesso.checkpoints.keymap import CONV1X1, Rule, nest, unknown_to
from gesso.checkpoints.safetensors_file import TensorInfo
from gesso.checkpoints.shared import clip_rules, openclip_rules, transformer_rules
from gesso.models.unet import UNetConfig
from gesso.models.vae import VAEConfig

UNET, VAE = "model.diffusion_model.", "first_stage_model."
EMA = "model_ema."
LOW_SCALE = "low_scale_model."  # x4 upscaler: the schedule of the noise on the small picture


@dataclass(frozen=True)
class Tower:
    """A text encoder in a single file: component text or text_2, prefix, and whose tensor names it uses."""

    component: str
    prefix: str
    openclip: bool


_CLIP_L = Tower("text", "cond_stage_model.transformer.", openclip=False)
_CLIP_L_XL = Tower("text", "conditioner.embedders.0.transformer.", openclip=False)
# Layout -> towers. "sd2" is for every release of SD 2, "refiner" for that of SDXL.
TOWERS: Mapping[str, tuple[Tower, ...]] = {
    "sd1": (_CLIP_L,),
    "sd2": (Tower("text", "cond_stage_model.model.", openclip=True),),
    "sdxl": (_CLIP_L_XL, Tower("text_2", "conditioner.embedders.1.model.", openclip=True)),
    "refiner": (Tower("text", "conditioner.embedders.0.model.", openclip=True),),
}

# The guidance embedding of a distilled model. latent-diffusion has no such tensor; files of distilled models keep the
# name that it has in diffusers.
GUIDANCE = "time_embedding.cond_proj.weight"

_RESNET = [
    Rule("in_layers.0.{p}", "norm1.{p}"),
    Rule("in_layers.2.{p}", "conv1.{p}"),
    Rule("emb_layers.1.{p}", "time.{p}"),
    Rule("out_layers.0.{p}", "norm2.{p}"),
    Rule("out_layers.3.{p}", "conv2.{p}"),
    Rule("skip_connection.{p}", "skip.{p}"),
]


def unet_rules(config: UNetConfig, *, linear: bool = False) -> list[Rule]:
    """The UNet without a prefix. linear: projections of the transformers are linear (SD 2, SDXL)."""
    transformer = transformer_rules(linear=linear)
    levels, count = len(config.channels), config.num_res_blocks
    rules = [
        Rule("time_embed.0.{p}", "time_embed.linear1.{p}"),
        Rule("time_embed.2.{p}", "time_embed.linear2.{p}"),
        Rule("input_blocks.0.0.{p}", "conv_in.{p}"),
        Rule("out.0.{p}", "norm_out.{p}"),
        Rule("out.2.{p}", "conv_out.{p}"),
        *nest(_RESNET, "middle_block.0.", "mid.block1."),
        *nest(transformer, "middle_block.1.", "mid.attention."),
        *nest(_RESNET, "middle_block.2.", "mid.block2."),
    ]
    if config.added_dim:
        rules.append(Rule("label_emb.0.0.{p}", "added_embed.linear1.{p}"))
        rules.append(Rule("label_emb.0.2.{p}", "added_embed.linear2.{p}"))
    if config.noise_levels:
        rules.append(Rule("label_emb.weight", "level_embed.weight"))
    if config.guidance_dim:
        rules.append(Rule(GUIDANCE, "guidance_embed.weight"))
    number = 1  # 0 is the first convolution
    for level in range(levels):
        for block in range(count):
            rules += nest(_RESNET, f"input_blocks.{number}.0.", f"down.{level}.blocks.{block}.")
            rules += nest(transformer, f"input_blocks.{number}.1.", f"down.{level}.attentions.{block}.")
            number += 1
        if level < levels - 1:
            rules.append(Rule(f"input_blocks.{number}.0.op.{{p}}", f"down.{level}.downsample.{{p}}"))
            number += 1
    number = 0
    for step, level in enumerate(reversed(range(levels))):
        for block in range(count + 1):
            rules += nest(_RESNET, f"output_blocks.{number}.0.", f"up.{step}.blocks.{block}.")
            rules += nest(transformer, f"output_blocks.{number}.1.", f"up.{step}.attentions.{block}.")
            number += 1
        if level > 0:  # the upsampling follows what there is: slot 1 after a residual block, slot 2 after a transformer
            slot = 2 if config.attention[level] else 1
            rules.append(Rule(f"output_blocks.{number - 1}.{slot}.conv.{{p}}", f"up.{step}.upsample.conv.{{p}}"))
    return rules


_VAE_RESNET = [
    Rule("norm1.{p}", "norm1.{p}"),
    Rule("conv1.{p}", "conv1.{p}"),
    Rule("norm2.{p}", "norm2.{p}"),
    Rule("conv2.{p}", "conv2.{p}"),
    Rule("nin_shortcut.{p}", "skip.{p}"),
]
_VAE_ATTENTION = (
    ("q", "to_q", False),
    ("k", "to_k", False),
    ("v", "to_v", False),
    ("proj_out", "to_out", False),
    ("to_q", "to_q", True),  # as some converters from diffusers leave them
    ("to_k", "to_k", True),
    ("to_v", "to_v", True),
    ("to_out.0", "to_out", True),
)
_VAE_MIDDLE = [
    *nest(_VAE_RESNET, "block_1.", "block1."),
    Rule("attn_1.norm.{p}", "attention.norm.{p}"),
    *(
        rule
        for file, native, load_only in _VAE_ATTENTION
        for rule in (
            Rule(f"attn_1.{file}.weight", f"attention.attention.{native}.weight", CONV1X1, load_only),
            Rule(f"attn_1.{file}.bias", f"attention.attention.{native}.bias", load_only=load_only),
        )
    ),
    *nest(_VAE_RESNET, "block_2.", "block2."),
]


def vae_rules(config: VAEConfig) -> list[Rule]:
    """The autoencoder without a prefix. The decoder's levels are numbered from the finest, here in running order."""
    last = len(config.channels) - 1
    rules = [
        Rule("encoder.conv_in.{p}", "encoder.conv_in.{p}"),
        *nest(_VAE_RESNET, "encoder.down.{level}.block.{i}.", "encoder.levels.{level}.blocks.{i}."),
        Rule("encoder.down.{level}.downsample.conv.{p}", "encoder.levels.{level}.downsample.conv.{p}"),
        *nest(_VAE_MIDDLE, "encoder.mid.", "encoder.mid."),
        Rule("encoder.norm_out.{p}", "encoder.norm_out.{p}"),
        Rule("encoder.conv_out.{p}", "encoder.conv_out.{p}"),
        Rule("quant_conv.{p}", "quant_conv.{p}"),
        Rule("post_quant_conv.{p}", "post_quant_conv.{p}"),
        Rule("decoder.conv_in.{p}", "decoder.conv_in.{p}"),
        *nest(_VAE_MIDDLE, "decoder.mid.", "decoder.mid."),
        Rule("decoder.norm_out.{p}", "decoder.norm_out.{p}"),
        Rule("decoder.conv_out.{p}", "decoder.conv_out.{p}"),
    ]
    for level in range(last + 1):
        file, native = f"decoder.up.{last - level}.", f"decoder.levels.{level}."
        rules += nest(_VAE_RESNET, f"{file}block.{{i}}.", f"{native}blocks.{{i}}.")
        rules.append(Rule(f"{file}upsample.conv.{{p}}", f"{native}upsample.conv.{{p}}"))
    return rules


# What a single file holds beside the weights: dropped on purpose when loading.
_SCHEDULE_NAMES = (
    "betas",
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod",
    "posterior_variance",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
)
_LOW_SCALE_NAMES = tuple(name for name in _SCHEDULE_NAMES if not name.startswith("posterior"))
V_PREDICTION, ZERO_TERMINAL_SNR = "v_pred", "ztsnr"  # marks that some SDXL files carry: tensors that are only there
DROPPED = [
    *(Rule(name, None) for name in _SCHEDULE_NAMES),  # they follow from the family's schedule
    *(Rule(LOW_SCALE + name, None) for name in _LOW_SCALE_NAMES),
    Rule("lvlb_weights", None),  # weights of the loss, and a learned one
    Rule("logvar", None),
    Rule("scale_factor", None),
    Rule("denoiser.sigmas", None),  # SDXL's schedule
    Rule(V_PREDICTION, None),
    Rule(ZERO_TERMINAL_SNR, None),
    Rule("model_ema.{name}", None),  # the moving average of the training, and its decay and num_updates
    Rule("first_stage_model.loss.{rest*}", None),  # the discriminator and the perceptual loss of the VAE's training
    Rule("first_stage_model.model_ema.{name}", None),
    # Left over in merged files: the temperature and the projection of CLIP, which SD reads from no tower but SDXL's
    # second.
    *(
        Rule(f"{prefix}{name}", None)
        for prefix in ("cond_stage_model.", "conditioner.embedders.0.", _CLIP_L.prefix, _CLIP_L_XL.prefix)
        for name in ("logit_scale", "text_projection", "text_projection.weight")
    ),
]


def file_rules(layout: str, unet: UNetConfig, vae: VAEConfig) -> list[Rule]:
    """The whole single file of a layout of TOWERS; parameters are named "unet.", "vae.", "text.", "text_2." and on."""
    rules = [
        *nest(unet_rules(unet, linear=layout != "sd1"), UNET, "unet."),
        *nest(vae_rules(vae), VAE, "vae."),
    ]
    for tower in TOWERS[layout]:
        rules += nest(openclip_rules() if tower.openclip else clip_rules(), tower.prefix, f"{tower.component}.")
    return [*rules, *DROPPED]


def extra_tensors(layout: str, rules: Sequence[Rule], files: Iterable[str]) -> list[str]:
    """The tensors of a file that belong to none of the model's networks, such as an embedding manager of a training."""
    networks = (UNET, VAE, *(tower.prefix for tower in TOWERS[layout]))
    dropped = [rule for rule in rules if not rule.natives]
    return unknown_to(dropped, (name for name in files if not name.startswith(networks)))


def position_ids(layout: str) -> list[str]:
    """Where a file of this layout has 0, 1, 2, ... written down: its reader looks for them."""
    towers = (tower for tower in TOWERS[layout] if not tower.openclip)
    return [f"{tower.prefix}text_model.embeddings.position_ids" for tower in towers]


def logit_scales(layout: str) -> list[str]:
    """Where a file of this layout has the temperature of CLIP's training."""
    return [f"{tower.prefix}logit_scale" for tower in TOWERS[layout] if tower.openclip]


def average_names(files: Mapping[str, TensorInfo]) -> dict[str, str]:
    """Where a file holds the training's moving average: name of each UNet tensor -> name of its average.

    The average's name is that of the tensor without "model." and without any dot, so it can only be built forward.
    Empty unless every UNet tensor has an average of its shape.
    """
    names = [name for name in files if name.startswith(UNET)]
    pairs = {name: EMA + name.removeprefix("model.").replace(".", "") for name in names}
    whole = all(average in files and files[average].shape == files[name].shape for name, average in pairs.items())
    return pairs if whole else {}


def schedule_buffers(alphas_cumprod: Tensor, *, low_scale: bool = False) -> dict[str, Tensor]:
    """The twelve float32 tables of a single file, computed as latent-diffusion does: in float64, rounded at the end.

    alphas_cumprod float64 [T] -> each [T]. low_scale: also the eight of the noise on a picture to enlarge, which has
    the same schedule.
    """
    cumprod = alphas_cumprod.to("cpu", torch.float64).numpy()
    previous = np.append(1.0, cumprod[:-1])
    betas = 1 - cumprod / previous
    variance = betas * (1 - previous) / (1 - cumprod)
    tables: Mapping[str, np.ndarray] = {
        "betas": betas,
        "alphas_cumprod": cumprod,
        "alphas_cumprod_prev": previous,
        "sqrt_alphas_cumprod": np.sqrt(cumprod),
        "sqrt_one_minus_alphas_cumprod": np.sqrt(1 - cumprod),
        "log_one_minus_alphas_cumprod": np.log(1 - cumprod),
        "sqrt_recip_alphas_cumprod": np.sqrt(1 / cumprod),
        "sqrt_recipm1_alphas_cumprod": np.sqrt(1 / cumprod - 1),
        "posterior_variance": variance,
        "posterior_log_variance_clipped": np.log(np.maximum(variance, 1e-20)),
        "posterior_mean_coef1": betas * np.sqrt(previous) / (1 - cumprod),
        "posterior_mean_coef2": (1 - previous) * np.sqrt(1 - betas) / (1 - cumprod),
    }
    buffers = {name: torch.from_numpy(table.astype(np.float32)) for name, table in tables.items()}
    return buffers | ({LOW_SCALE + name: buffers[name] for name in _LOW_SCALE_NAMES} if low_scale else {})
