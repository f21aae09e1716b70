"""Writes a trained LoRA in kohya's spelling, which every tool reads, with ModelSpec and ss_* metadata."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gesso.adapters.dialects import BUNDLED
from gesso.adapters.lora import ModuleChange
from gesso.adapters.names import Target
from gesso.adapters.rewriting import file_metadata, file_tensors
from gesso.checkpoints.safetensors_file import write_safetensors
from gesso.tuning.files import check_fits, embedding_tensors
from gesso.tuning.settings import TuningSettings


def save_lora(
    path: Path,
    changes: Mapping[str, ModuleChange],
    target: Target,
    about: Mapping[str, str],
    *,
    base: str | None = None,
    training: Mapping[str, str] | None = None,
    word: tuple[str, Mapping[str, Tensor]] | None = None,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write factors as a LoRA file; the same arguments give the same bytes.

    about     ModelSpec keys without "modelspec.", title among them
    base      the model that it was trained for, where it is no release of Stable Diffusion; None: the target's release
    training  further metadata: ss_* keys
    word      that the file carries, and its vectors [N, D] by text encoder
    Raises GessoError for a number that dtype cannot hold.
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
    check_fits(tensors, dtype)
    if word is not None:
        name, vectors = word
        tensors |= {f"{BUNDLED}{name}.{part}": value for part, value in embedding_tensors(vectors).items()}
    write_safetensors(path, tensors, metadata, hash_key="modelspec.hash_sha256")


def network_metadata(settings: TuningSettings) -> dict[str, Any]:
    """ss_network_module and ss_network_args, as kohya's trainer and LyCORIS write them."""
    s = settings
    arguments: dict[str, str] = {}
    if s.conv_rank:
        arguments |= {"conv_dim": str(s.conv_rank), "conv_alpha": str(s.conv_alpha)}
    if s.algorithm == "lokr":
        arguments |= {"algo": "lokr", "factor": str(s.lokr_factor or -1)}
        arguments |= {"full_matrix": "True"} if s.lokr_whole else {}
    if s.dora:
        arguments["dora_wd"] = "True"
    if s.rslora:
        arguments["rs_lora"] = "True"
    if s.loraplus:
        arguments["loraplus_lr_ratio"] = str(s.loraplus)
    for key, texts in (("gesso_block_ranks", s.block_ranks), ("gesso_block_rates", s.block_rates)):
        if texts:
            arguments[key] = ",".join(texts)
    is_lycoris = s.algorithm == "lokr" or s.dora or s.rslora
    found: dict[str, Any] = {"ss_network_args": arguments} if arguments else {}
    return found | ({"ss_network_module": "lycoris.kohya"} if is_lycoris else {})
