"""Writes what was trained: a whole model, or an embedding. LoRA files: `lora_file`."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from gesso.adapters.rewriting import SPEC
from gesso.checkpoints.native import save_native
from gesso.checkpoints.safetensors_file import write_safetensors
from gesso.errors import GessoError
from gesso.families.base import Family
from gesso.families.gesso_mini import config_of
from gesso.families.parts import ModelParts
from gesso.families.saving import ldm_tensors

DTYPE = torch.float16


def save_embedding(
    path: Path, vectors: Mapping[str, Tensor], family: Family, about: Mapping[str, str], training: Mapping[str, str]
) -> None:
    """Vectors [N, D] by text encoder as A1111, ComfyUI and diffusers read them; the same arguments give the same bytes.

    about     ModelSpec keys without "modelspec.". training: further metadata
    """
    tensors = embedding_tensors(vectors)
    metadata = spec_metadata(family, "textual-inversion", about) | dict(training)
    write_safetensors(path, tensors, metadata, hash_key="modelspec.hash_sha256")


def embedding_tensors(vectors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Vectors [N, D] by text encoder, by their names in a file."""
    names = {"text": "clip_l", "text_2": "clip_g"} if len(vectors) > 1 else dict.fromkeys(vectors, "emb_params")
    return {names[part]: value.detach().float().cpu().contiguous() for part, value in vectors.items()}


def save_model(path: Path, parts: ModelParts, about: Mapping[str, str], training: Mapping[str, str]) -> None:
    """A whole model in half precision: LDM names, or gesso's own layout for a model that has no others.

    Raises GessoError for a number that half precision cannot hold.
    """
    family = parts.family
    for name, network in parts.networks.items():
        check_fits({f"{name}.{key}": value for key, value in network.state_dict().items()})
        network.to(DTYPE)
    if family.scheduler is None:
        known = {key: value for key, value in about.items() if key != "architecture"}
        save_native(path, parts.networks, config_of(family), parts.tokenizer.to_json(), known, training=training)
        return
    metadata = {"format": "pt", **spec_metadata(family, "", about), **training}
    write_safetensors(path, ldm_tensors(parts), metadata, hash_key="modelspec.hash_sha256")


def check_fits(tensors: Mapping[str, Tensor], dtype: torch.dtype = DTYPE) -> None:
    """Raises GessoError for a number that the file's type cannot hold."""
    for name, tensor in tensors.items():
        if not bool(tensor.to(dtype).isfinite().all()):
            raise GessoError(
                f"{name}: {float(tensor.abs().max()):g} does not fit into {dtype}; the training went astray. Lower the "
                "learning rate",
                code="overflow",
            )


def spec_metadata(family: Family, kind: str, about: Mapping[str, str]) -> dict[str, str]:
    """ModelSpec 1.0.1."""
    base = family.name if family.scheduler is None else SPEC[family.layout][1]
    known = {f"modelspec.{key}": value for key, value in about.items()}
    return {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": f"{base}/{kind}" if kind else base,
        "modelspec.implementation": "gesso",
        **known,
    }
