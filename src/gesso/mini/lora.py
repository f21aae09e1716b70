"""Training of a LoRA (Hu et al. 2021, arXiv:2106.09685): low-rank factors beside frozen layers.

The factors are added to the layers' outputs by hooks, as `gesso.adapters` adds those of a file at run time, and are
written in kohya's spelling, which every tool reads. Shapes: O out, I in, k of a convolution's kernel, R rank.
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gesso.adapters.changes import LowRank
from gesso.adapters.lora import ModuleChange
from gesso.adapters.names import Target
from gesso.adapters.rewriting import file_metadata, file_tensors
from gesso.checkpoints.safetensors_file import write_safetensors
from gesso.diffusion.denoiser import Prediction
from gesso.diffusion.schedule import NoiseSchedule
from gesso.mini.denoising import DenoisingTask
from gesso.mini.pools import Pool
from gesso.models.clip import CLIPTextModel
from gesso.models.unet import UNet


class Factors(nn.Module):
    """down [R, I(, k, k)] and up [O, R(, 1, 1)] of one layer; the change starts at zero.

    A layer narrower than the rank gets as many as it is wide.
    """

    def __init__(self, layer: nn.Linear | nn.Conv2d, rank: int) -> None:
        super().__init__()
        out, into, *kernel = layer.weight.shape
        rank = min(rank, out, into * math.prod(kernel))
        self.down = nn.Parameter(torch.empty(rank, into, *kernel))
        self.up = nn.Parameter(torch.zeros(out, rank, *(1 for _ in kernel)))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, layer: nn.Linear | nn.Conv2d, x: Tensor) -> Tensor:
        """What is added to the layer's output."""
        if isinstance(layer, nn.Linear):
            return F.linear(F.linear(x, self.down), self.up)
        return F.conv2d(F.conv2d(x, self.down, None, layer.stride, layer.padding, layer.dilation), self.up)


class LoraFactors(nn.Module):
    """Factors beside every linear layer and convolution of networks, in effect from now on.

    networks: by component name as in an adapter's `Target`: unet, text.
    """

    def __init__(self, networks: Mapping[str, nn.Module], rank: int) -> None:
        super().__init__()
        self.names = dict[str, str]()  # of a layer, by its name here, which may hold no dots
        self.layers = nn.ModuleDict()
        for name, layer in _layers(networks):
            self.names[key := name.replace(".", "/")] = name
            factors = Factors(layer, rank)
            self.layers[key] = factors
            layer.register_forward_hook(lambda layer, args, output, added=factors: output + added(layer, args[0]))

    def changes(self) -> dict[str, ModuleChange]:
        """The factors as weight changes, as `adapters.lora` reads them from a file."""
        changes = {}
        for key, factors in self.layers.items():
            assert isinstance(factors, Factors)
            change = LowRank(factors.up.detach(), factors.down.detach(), 1.0)
            changes[self.names[key]] = ModuleChange(change)
        return changes


def _layers(networks: Mapping[str, nn.Module]) -> Iterator[tuple[str, nn.Linear | nn.Conv2d]]:
    for component, network in networks.items():
        for name, module in network.named_modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                yield f"{component}.{name}", module


class LoraTask(DenoisingTask):
    """The base model's own training with everything frozen but the factors beside the UNet's layers."""

    def __init__(
        self,
        unet: UNet,
        text: CLIPTextModel,
        pool: Pool,
        schedule: NoiseSchedule,
        prediction: Prediction,
        *,
        rank: int,
        report_pictures: int = 96,
    ) -> None:
        super().__init__(unet, text, pool, schedule, prediction, report_pictures=report_pictures)
        unet.requires_grad_(False)
        text.requires_grad_(False)
        self.factors = LoraFactors({"unet": unet}, rank)
        self.modules: Mapping[str, nn.Module] = {"factors": self.factors}

    def parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        return [{"params": list(self.factors.parameters()), "lr": learning_rate}]


def save_lora(
    path: Path, changes: Mapping[str, ModuleChange], target: Target, about: Mapping[str, str], *, base: str
) -> None:
    """Write factors as a LoRA file of half precision in kohya's spelling; the same arguments give the same bytes.

    about: ModelSpec keys without "modelspec.", title among them. base: the model that it was trained for.
    """
    known = {f"modelspec.{key}": value for key, value in about.items()}
    kept = {"ss_base_model_version": base, "ss_output_name": path.stem, **known}
    metadata = file_metadata(target, changes, "kohya", kept)
    metadata |= {"modelspec.architecture": f"{base}/lora", "modelspec.implementation": "gesso"}
    tensors = file_tensors(changes, target, "kohya", torch.float16)
    write_safetensors(path, tensors, metadata, hash_key="modelspec.hash_sha256")
