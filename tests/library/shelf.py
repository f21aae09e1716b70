"""Small files of every kind for the tests of the library."""

from pathlib import Path

import torch
from safetensors.torch import save_file

from gesso.library import Library
from tiny_models import save_tiny_mini


def library_at(folder: Path) -> Library:
    return Library(folder / "library")


def checkpoint(path: Path, seed: int = 0) -> Path:
    """A whole model of some hundred kilobytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return save_tiny_mini(path, seed=seed)


def embedding(path: Path, seed: int = 0, metadata: dict[str, str] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    save_file({"emb_params": torch.randn(2, 768)}, path, metadata)
    return path


def lora(path: Path, metadata: dict[str, str] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    stem = "lora_unet_mid_block_attentions_0_proj_in"
    tensors = {f"{stem}.lora_down.weight": torch.randn(2, 8), f"{stem}.lora_up.weight": torch.randn(8, 2)}
    save_file(tensors, path, metadata)
    return path


def upscaler(path: Path) -> Path:
    """No header tells an upscaler; the folder does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"model.0.weight": torch.zeros(3, 3, 3, 3)}, path)
    return path


def with_nan(path: Path, dtype: torch.dtype = torch.float32) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"emb_params": torch.tensor([[1.0, float("nan")]]).to(dtype)}, path)
    return path


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, but for the index."""
    files = (file for file in sorted(folder.rglob("*")) if file.is_file() and "sqlite" not in file.name)
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}
