"""Saves a whole model: one file with LDM names, or a diffusers folder. gesso's own layout: `checkpoints.native`."""

import json
import math
import os
import shutil
from pathlib import Path

import torch
from torch import Tensor

from gesso.checkpoints import diffusers, keymap, ldm
from gesso.checkpoints.errors import ModelFileError
from gesso.checkpoints.keymap import Rule
from gesso.checkpoints.safetensors_file import write_safetensors
from gesso.families.base import Family
from gesso.families.diffusers_folder import folder_configs, folder_text
from gesso.families.parts import ModelParts
from gesso.files import hidden_name, sync_folder

_FORMAT = {"format": "pt"}  # what other loaders look for
_LOGIT_SCALE = math.log(100)  # where the temperature of CLIP's training was held


def save_ldm(path: str | Path, parts: ModelParts) -> None:
    """One safetensors file with the names of latent-diffusion, as the releases of SD 1, SD 2 and SDXL are.

    Loading it again gives the same bits; so does saving what was loaded. The numbers keep their dtype; the tables of
    the schedule, position_ids and logit_scale are written too, since older tools look for them. Tokenizers have no
    place in this layout. Raises ValueError for a family that has no LDM names, ModelFileError where the file cannot be
    written.
    """
    write_safetensors(path, ldm_tensors(parts), _FORMAT)


def ldm_tensors(parts: ModelParts) -> dict[str, Tensor]:
    """What `save_ldm` writes, by the names there. Raises ValueError for a family that has no LDM names."""
    family = parts.family
    if family.scheduler is None or family.vae.patch_size != 1 or family.upscaler:
        raise ValueError(
            f"a model of family {family.name!r} cannot be saved in the LDM layout; save it as a native file"
        )
    params = {
        f"{part}.{name}": tensor
        for part, network in parts.networks.items()
        for name, tensor in network.state_dict().items()
    }
    tensors = keymap.save(ldm.file_rules(family.layout, family.unet, family.vae), params)
    return tensors | _extra_tensors(parts) | dict(parts.scalars)


def _extra_tensors(parts: ModelParts) -> dict[str, Tensor]:
    """Tensors of a single file besides the weights."""
    family = parts.family
    tensors: dict[str, Tensor] = {}
    if family.num_sizes == 0:  # the files of SDXL have no tables
        cumprod = family.schedule.build().alphas_cumprod
        tensors |= ldm.schedule_buffers(cumprod, low_scale=family.concat == "upscale")
    for name in ldm.position_ids(family.layout):
        tensors[name] = torch.arange(family.text.max_length)[None]
    for name in ldm.logit_scales(family.layout):
        tensors[name] = torch.tensor(_LOGIT_SCALE, dtype=parts.text.norm.weight.dtype)
    if family.num_sizes and family.prediction == "v":
        tensors[ldm.V_PREDICTION] = torch.zeros(())
        if family.schedule.zero_terminal_snr:
            tensors[ldm.ZERO_TERMINAL_SNR] = torch.zeros(())
    return tensors


def save_diffusers(folder: str | Path, parts: ModelParts) -> None:
    """A folder that the diffusers library loads. The folder appears whole or not at all; it may not exist before.

    Of SD 2 it holds the text encoder without its last layer, which nothing reads: that library has no place for it.
    Raises ValueError for a family that the library has no classes for, ModelFileError where it cannot be written.
    """
    folder = Path(folder)
    family = parts.family
    configs = folder_configs(family)
    if folder.exists():
        raise ModelFileError("unwritable", folder, "already exists; give the name of a new folder")
    tokenizers = {"text": parts.tokenizer, "text_2": parts.tokenizer_2 or parts.tokenizer}
    temporary = hidden_name(folder)
    try:
        for name, content in configs.items():
            _write_text(temporary / name, json.dumps(content, indent=2) + "\n")
        for part, place in diffusers.tokenizers_of(family.layout).items():
            for name, text in tokenizers[part].folder_files().items():
                _write_text(temporary / place / name, text)
        for part, place in diffusers.folders_of(family.layout).items():
            file = temporary / place / f"{diffusers.STEMS[part]}.safetensors"
            write_safetensors(file, folder_tensors(parts, part), _FORMAT)
        os.replace(temporary, folder)
        sync_folder(folder.parent)
    except OSError as error:
        raise ModelFileError("unwritable", folder, f"cannot be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def folder_rules(family: Family) -> dict[str, list[Rule]]:
    """The table of each part of a diffusers folder."""
    text = diffusers.text_rules()
    unet = diffusers.unet_rules(family.unet, linear=family.layout != "sd1")
    return {"unet": unet, "text": text, "text_2": text, "vae": diffusers.vae_rules()}


def folder_tensors(parts: ModelParts, part: str) -> dict[str, Tensor]:
    """What `save_diffusers` writes of one part, by the names there."""
    family, params = parts.family, parts.networks[part].state_dict()
    if part == "text" and folder_text(family) != family.text:
        left_out = range(folder_text(family).num_layers, family.text.num_layers)
        dropped = (*(f"layers.{layer}." for layer in left_out), "projection.")
        params = {name: tensor for name, tensor in params.items() if not name.startswith(dropped)}
    return keymap.save(folder_rules(family)[part], params)


def _write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
