"""A whole model to files: one file of LDM names, or a diffusers folder. gesso's own layout: `checkpoints.native`."""

import json
import os
import secrets
import shutil
from pathlib import Path

import torch
from torch import Tensor, nn

from gesso.checkpoints import diffusers, keymap, ldm
from gesso.checkpoints.errors import ModelFileError
from gesso.checkpoints.safetensors_file import write_safetensors
from gesso.families.diffusers_folder import folder_configs
from gesso.families.parts import Parts

_FORMAT = {"format": "pt"}  # what other loaders look for


def save_ldm(path: str | Path, parts: Parts) -> None:
    """One safetensors file with the names of latent-diffusion, as the SD 1.x releases are.

    Loading it again gives the same bits; so does saving what was loaded. The numbers keep their dtype; the tables of
    the schedule and position_ids are written too, since older tools look for them. Tokenizers have no place in this
    layout. Raises ValueError for a family that has no LDM names, ModelFileError where the file cannot be written.
    """
    family = parts.family
    if family.unet.added_dim or family.vae.patch_size != 1 or family.upscaler:
        raise ValueError(f"a model of family {family.name!r} has no LDM layout; save it as a native file")
    tensors = keymap.save(ldm.sd1_rules(family.unet, family.vae), _parameters(parts))
    tensors |= ldm.schedule_buffers(family.schedule.build().alphas_cumprod)
    tensors[f"{ldm.TEXT}text_model.embeddings.position_ids"] = torch.arange(family.text.max_length)[None]
    write_safetensors(path, tensors, _FORMAT)


def save_diffusers(folder: str | Path, parts: Parts) -> None:
    """A folder that the diffusers library loads. The folder appears whole or not at all; it may not exist before.

    Raises ValueError for a family that the library has no classes for, ModelFileError where it cannot be written.
    """
    folder = Path(folder)
    configs = folder_configs(parts.family)
    if folder.exists():
        raise ModelFileError("unwritable", folder, "exists already; give the name of a new folder")
    unet = diffusers.unet_rules(parts.family.unet)
    rules = {"unet": unet, "vae": diffusers.vae_rules(), "text": diffusers.text_rules()}
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.part")
    try:
        for name, content in configs.items():
            _write_text(temporary / name, json.dumps(content, indent=2) + "\n")
        for name, text in parts.tokenizer.folder_files().items():
            _write_text(temporary / "tokenizer" / name, text)
        for part, network in _networks(parts).items():
            file = temporary / diffusers.FOLDERS[part] / f"{diffusers.STEMS[part]}.safetensors"
            write_safetensors(file, keymap.save(rules[part], network.state_dict()), _FORMAT)
        os.replace(temporary, folder)
    except OSError as error:
        raise ModelFileError("unwritable", folder, f"cannot be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _networks(parts: Parts) -> dict[str, nn.Module]:
    return {"unet": parts.unet, "vae": parts.vae, "text": parts.text}


def _parameters(parts: Parts) -> dict[str, Tensor]:
    return {
        f"{part}.{name}": tensor
        for part, network in _networks(parts).items()
        for name, tensor in network.state_dict().items()
    }
