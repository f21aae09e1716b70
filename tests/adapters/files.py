"""Random adapters in the spelling of each trainer, for the tiny models of tiny_sd."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from gesso.adapters.lora import Lora, read_lora
from gesso.adapters.names import Target
from gesso.checkpoints.detect import detect
from gesso.checkpoints.weight_file import open_weights
from gesso.families.base import Family
from tiny_sd import tiny_parts

SIZE = 0.2  # of the factors' numbers: large enough that the change is plain to see, small enough to stay finite


def target_of(family: Family) -> Target:
    return Target(family.name, family.layout, tiny_parts(family).networks)


def layers(target: Target, *kinds: type[nn.Module]) -> Iterator[tuple[str, str, nn.Module]]:
    """Component, name and module of every layer of these kinds that adapters change."""
    for component in ("unet", "text", "text_2"):
        if component in target.networks:
            for name, module in target.networks[component].named_modules():
                if isinstance(module, kinds) and name != "projection":
                    yield component, name, module


def kohya(
    target: Target, make: Callable[[nn.Module], Mapping[str, Tensor]], *kinds: type[nn.Module]
) -> dict[str, Tensor]:
    """A file with parts for every layer of the kinds, named as kohya's trainer does."""
    found = {}
    for component, name, module in layers(target, *(kinds or (nn.Linear, nn.Conv2d))):
        for part, tensor in make(module).items():
            if target.is_pointwise(component, name) and part.startswith("lora_"):
                tensor = tensor[:, :, None, None]
            found[f"{target.stem_of(component, name)}.{part}"] = tensor
    return found


def randn(*shape: int) -> Tensor:
    return SIZE * torch.randn(*shape)


def lora_parts(module: nn.Module, *, rank: int = 3, alpha: float = 2.0) -> dict[str, Tensor]:
    weight = module.weight
    out, into, *kernel = weight.shape
    return {
        "lora_down.weight": randn(rank, into, *kernel),
        "lora_up.weight": randn(out, rank, *[1] * len(kernel)),
        "alpha": torch.tensor(alpha),
    }


def saved(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> Path:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, dict(metadata or {}))
    return path


def read(path: Path, tensors: Mapping[str, Tensor], target: Target, metadata: Mapping[str, str] | None = None) -> Lora:
    """The adapter; whatever is read as one must be told as one by its header, too, or no library takes it in."""
    file = open_weights(saved(path, tensors, metadata))
    lora = read_lora(file, target)
    assert detect(file).what in ("a LoRA", "a LyCORIS adapter"), list(tensors)[:3]
    return lora
