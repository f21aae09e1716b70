"""Writes a trained LoRA in kohya's spelling, which every tool reads, with ModelSpec and ss_* metadata."""

from collections.abc import Mapping
from pathlib import Path

import torch

from gesso.adapters.lora import ModuleChange
from gesso.adapters.names import Target
from gesso.adapters.rewriting import file_metadata, file_tensors
from gesso.checkpoints.safetensors_file import write_safetensors


def save_lora(
    path: Path,
    changes: Mapping[str, ModuleChange],
    target: Target,
    about: Mapping[str, str],
    *,
    base: str | None = None,
    training: Mapping[str, str] | None = None,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write factors as a LoRA file; the same arguments give the same bytes.

    about     ModelSpec keys without "modelspec.", title among them
    base      the model that it was trained for, where it is no release of Stable Diffusion; None: the target's release
    training  further metadata: ss_* keys
    """
    known = {f"modelspec.{key}": value for key, value in about.items()}
    kept = {"ss_output_name": path.stem, **known}
    if base is not None:
        kept["ss_base_model_version"] = base
    metadata = file_metadata(target, changes, "kohya", kept)
    if base is not None:
        metadata["modelspec.architecture"] = f"{base}/lora"
    metadata["modelspec.implementation"] = "gesso"
    metadata |= training or {}
    tensors = file_tensors(changes, target, "kohya", dtype)
    write_safetensors(path, tensors, metadata, hash_key="modelspec.hash_sha256")
