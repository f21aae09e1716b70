"""The folder layout of the diffusers library: one safetensors file a part, in its names."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gesso.checkpoints.config_json import read_object
from gesso.checkpoints.errors import ModelFileError
from gesso.checkpoints.keymap import LINEAR, Rule, nest
from gesso.checkpoints.shared import clip_rules, transformer_rules
from gesso.errors import shorten
from gesso.models.unet import UNetConfig

INDEX = "model_index.json"
LIBRARIES = ("diffusers", "transformers")
VARIANTS = ("fp16", "bf16")  # of file names; the numbers say themselves what they are
# Part -> the stem of the file with its weights.
STEMS = {
    "unet": "diffusion_pytorch_model",
    "text": "model",
    "text_2": "model",
    "vae": "diffusion_pytorch_model",
}


def folders_of(layout: str) -> dict[str, str]:
    """Part -> folder of that part, for a layout of `ldm.TOWERS`. The refiner's only text encoder stands second."""
    text = {"sdxl": {"text": "text_encoder", "text_2": "text_encoder_2"}, "refiner": {"text": "text_encoder_2"}}
    return {"unet": "unet", **text.get(layout, {"text": "text_encoder"}), "vae": "vae"}


def tokenizers_of(layout: str) -> dict[str, str]:
    """Part -> folder of the tokenizer that goes with it."""
    folders = folders_of(layout)
    return {part: folder.replace("text_encoder", "tokenizer") for part, folder in folders.items() if part in _TEXTS}


_TEXTS = ("text", "text_2")


def names_class(index: Mapping[str, Any], part: str) -> str | None:
    """The class that a model_index.json names for a part.

    None where the part is absent or switched off, and where the class is of another library than `LIBRARIES`: there it
    would be foreign code, whatever it is called.
    """
    named = index.get(part)
    if not isinstance(named, list) or len(named) != 2 or named[0] not in LIBRARIES:
        return None
    return named[1] if isinstance(named[1], str) else None


def layout_of(index: Mapping[str, Any]) -> str:
    """sdxl or refiner; sd1 where there is one text encoder, which SD 2 has too."""
    if names_class(index, "text_encoder_2") is None:
        return "sd1"
    return "refiner" if names_class(index, "text_encoder") is None else "sdxl"


def weight_files(folder: Path) -> dict[str, Path]:
    """The weight file of each part: unet, text, text_2 where there is one, vae; or the index of its shards.

    Raises ModelFileError where the folder lacks one.
    """
    if not (folder / INDEX).is_file():
        raise ModelFileError("missing", folder, f"has no {INDEX}, so it is not a diffusers folder; give a model file")
    folders = folders_of(layout_of(read_object(folder / INDEX)))
    return {part: weight_file(folder / name, STEMS[part]) for part, name in folders.items()}


def weight_file(folder: Path, stem: str) -> Path:
    """The weights of one part, or the index of its shards. Full precision where there is a choice, PyTorch files last.

    Raises ModelFileError where there are none, naming the weights of another variant or kind that are there.
    """
    pickled = {"model": "pytorch_model"}.get(stem, stem)
    names = [f"{stem}.safetensors", f"{stem}.safetensors.index.json"]
    for variant in VARIANTS:
        names += [
            f"{stem}.{variant}.safetensors",
            f"{stem}.safetensors.index.{variant}.json",
            f"{stem}.{variant}.safetensors.index.json",
        ]
    names += [f"{pickled}.bin", f"{pickled}.bin.index.json"]
    for variant in VARIANTS:
        names += [f"{pickled}.{variant}.bin", f"{pickled}.bin.index.{variant}.json"]
    for name in names:
        if (folder / name).exists():
            return folder / name
    others = sorted(path.name for path in folder.glob(f"{pickled}*") if path.is_file()) if folder.is_dir() else []
    others += sorted(path.name for path in folder.glob(f"{stem}*") if path.is_file() and path.name not in others)
    there = f", only {', '.join(map(shorten, others[:3]))}, which gesso does not read" if others else ""
    raise ModelFileError(
        "missing", folder, f"has no {stem}.safetensors{there}; download it, or give the whole model as a single file"
    )


_RESNET = [
    Rule("norm1.{p}", "norm1.{p}"),
    Rule("conv1.{p}", "conv1.{p}"),
    Rule("norm2.{p}", "norm2.{p}"),
    Rule("conv2.{p}", "conv2.{p}"),
    Rule("conv_shortcut.{p}", "skip.{p}"),
]
_UNET_RESNET = [*_RESNET, Rule("time_emb_proj.{p}", "time.{p}")]


def unet_rules(config: UNetConfig, *, linear: bool = False) -> list[Rule]:
    """unet/: linear as in its config ("use_linear_projection")."""
    transformer = transformer_rules(linear=linear)
    rules = [
        Rule("time_embedding.linear_1.{p}", "time_embed.linear1.{p}"),
        Rule("time_embedding.linear_2.{p}", "time_embed.linear2.{p}"),
        Rule("conv_in.{p}", "conv_in.{p}"),
        *nest(_UNET_RESNET, "down_blocks.{level}.resnets.{i}.", "down.{level}.blocks.{i}."),
        *nest(transformer, "down_blocks.{level}.attentions.{i}.", "down.{level}.attentions.{i}."),
        Rule("down_blocks.{level}.downsamplers.0.conv.{p}", "down.{level}.downsample.{p}"),
        *nest(_UNET_RESNET, "mid_block.resnets.0.", "mid.block1."),
        *nest(transformer, "mid_block.attentions.0.", "mid.attention."),
        *nest(_UNET_RESNET, "mid_block.resnets.1.", "mid.block2."),
        *nest(_UNET_RESNET, "up_blocks.{step}.resnets.{i}.", "up.{step}.blocks.{i}."),
        *nest(transformer, "up_blocks.{step}.attentions.{i}.", "up.{step}.attentions.{i}."),
        Rule("up_blocks.{step}.upsamplers.0.conv.{p}", "up.{step}.upsample.conv.{p}"),
        Rule("conv_norm_out.{p}", "norm_out.{p}"),
        Rule("conv_out.{p}", "conv_out.{p}"),
    ]
    if config.added_dim:
        rules.append(Rule("add_embedding.linear_1.{p}", "added_embed.linear1.{p}"))
        rules.append(Rule("add_embedding.linear_2.{p}", "added_embed.linear2.{p}"))
    if config.noise_levels:
        rules.append(Rule("class_embedding.weight", "level_embed.weight"))
    if config.guidance_dim:
        rules.append(Rule("time_embedding.cond_proj.weight", "guidance_embed.weight"))
    return rules


def _attention(file: str, native: str, *, load_only: bool = False) -> list[Rule]:
    return [
        Rule(f"attentions.0.{file}.weight", f"attention.attention.{native}.weight", LINEAR, load_only),
        Rule(f"attentions.0.{file}.bias", f"attention.attention.{native}.bias", load_only=load_only),
    ]


_VAE_MIDDLE = [
    *nest(_RESNET, "resnets.0.", "block1."),
    Rule("attentions.0.group_norm.{p}", "attention.norm.{p}"),
    *_attention("to_q", "to_q"),
    *_attention("to_k", "to_k"),
    *_attention("to_v", "to_v"),
    *_attention("to_out.0", "to_out"),
    # The names of 2022, which the published SD 1.5 still has.
    *_attention("query", "to_q", load_only=True),
    *_attention("key", "to_k", load_only=True),
    *_attention("value", "to_v", load_only=True),
    *_attention("proj_attn", "to_out", load_only=True),
    *nest(_RESNET, "resnets.1.", "block2."),
]


def vae_rules() -> list[Rule]:
    """vae/: levels in running order on both sides."""
    return [
        Rule("encoder.conv_in.{p}", "encoder.conv_in.{p}"),
        *nest(_RESNET, "encoder.down_blocks.{level}.resnets.{i}.", "encoder.levels.{level}.blocks.{i}."),
        Rule("encoder.down_blocks.{level}.downsamplers.0.conv.{p}", "encoder.levels.{level}.downsample.conv.{p}"),
        *nest(_VAE_MIDDLE, "encoder.mid_block.", "encoder.mid."),
        Rule("encoder.conv_norm_out.{p}", "encoder.norm_out.{p}"),
        Rule("encoder.conv_out.{p}", "encoder.conv_out.{p}"),
        Rule("quant_conv.{p}", "quant_conv.{p}"),
        Rule("post_quant_conv.{p}", "post_quant_conv.{p}"),
        Rule("decoder.conv_in.{p}", "decoder.conv_in.{p}"),
        *nest(_VAE_MIDDLE, "decoder.mid_block.", "decoder.mid."),
        *nest(_RESNET, "decoder.up_blocks.{level}.resnets.{i}.", "decoder.levels.{level}.blocks.{i}."),
        Rule("decoder.up_blocks.{level}.upsamplers.0.conv.{p}", "decoder.levels.{level}.upsample.conv.{p}"),
        Rule("decoder.conv_norm_out.{p}", "decoder.norm_out.{p}"),
        Rule("decoder.conv_out.{p}", "decoder.conv_out.{p}"),
    ]


def text_rules() -> list[Rule]:
    """text_encoder/: with the prefix "text_model." in files, without it in state dicts of transformers 5."""
    return [*clip_rules(), Rule("text_projection.weight", "projection.weight")]
