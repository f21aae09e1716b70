"""Factors of a LoRA in training (Hu et al. 2021, arXiv:2106.09685): low-rank matrices beside frozen layers.

The factors are added to the layers' outputs by hooks, as `gesso.adapters` adds those of a file at run time. Shapes:
O out, I in, k of a convolution's kernel, R rank.
"""

import math
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gesso.adapters.changes import LowRank
from gesso.adapters.lora import ModuleChange
from gesso.nn.attention import SpatialTransformer
from gesso.nn.resblock import ResBlock
from gesso.training.task import generator_for

Layer = nn.Linear | nn.Conv2d
ChooseRank = Callable[[str, Layer], int]  # (name of a layer, layer) -> its rank; 0: it is left alone
ChooseAlpha = Callable[[str, Layer], float]


class Factors(nn.Module):
    """down [R, I(, k, k)] and up [O, R(, 1, 1)] of one layer; the change, up @ down * scale, starts at zero.

    A layer narrower than the rank gets as many as it is wide. generator: of the start values; None: torch's own.
    """

    def __init__(
        self, layer: Layer, rank: int, *, scale: float = 1.0, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        out, into, *kernel = layer.weight.shape
        rank = min(rank, out, into * math.prod(kernel))
        device = layer.weight.device
        self.down = nn.Parameter(torch.empty(rank, into, *kernel, device=device))
        self.up = nn.Parameter(torch.zeros(out, rank, *(1 for _ in kernel), device=device))
        self.scale = scale
        if generator is None:
            nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))
        else:  # the same distribution
            bound = 1 / math.sqrt(into * math.prod(kernel))
            start = torch.empty(self.down.shape).uniform_(-bound, bound, generator=generator)
            self.down = nn.Parameter(start.to(device))

    def forward(self, layer: Layer, x: Tensor) -> Tensor:
        """What is added to the layer's output."""
        down, up = self.down.to(x.dtype), self.up.to(x.dtype)
        if isinstance(layer, nn.Linear):
            added = F.linear(F.linear(x, down), up)
        else:
            added = F.conv2d(F.conv2d(x, down, None, layer.stride, layer.padding, layer.dilation), up)
        return added if self.scale == 1 else added * self.scale


class LoraFactors(nn.Module):
    """Factors beside layers of networks, in effect from now on.

    networks   by component name as in an adapter's `Target`: unet, text, text_2
    rank       of every linear layer and convolution, or a function that chooses
    alpha      the change is scaled by alpha / rank; None: by 1
    dropout    share of a layer's inputs that its factors do not see in training; which, follows from `step_seed`
    generator  of the start values; None: torch's own
    """

    def __init__(
        self,
        networks: Mapping[str, nn.Module],
        rank: int | ChooseRank,
        *,
        alpha: float | ChooseAlpha | None = None,
        dropout: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.names = dict[str, str]()  # of a layer, by its name here, which may hold no dots
        self.layers = nn.ModuleDict()
        self.dropout = dropout
        self.step_seed: tuple[int, int] = (0, 0)  # of the masks of the dropout
        for name, layer in layers_of(networks):
            size = rank(name, layer) if callable(rank) else rank
            if size == 0:
                continue
            size_alpha = alpha(name, layer) if callable(alpha) else alpha
            scale = 1.0 if size_alpha is None else size_alpha / size
            self.names[key := name.replace(".", "/")] = name
            factors = Factors(layer, size, scale=scale, generator=generator)
            self.layers[key] = factors
            layer.register_forward_hook(self._hook(len(self.names), factors))

    def _hook(self, number: int, factors: Factors) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        def added(layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            x = args[0]
            if self.dropout and factors.training and torch.is_grad_enabled():
                # From (seed, step, layer) and nothing else: a checkpointed layer computes again with the same mask.
                generator = generator_for(*self.step_seed, number, device=x.device)
                kept = torch.rand(x.shape, generator=generator, device=x.device) >= self.dropout
                x = x * kept.to(x.dtype) / (1 - self.dropout)
            assert isinstance(layer, nn.Linear | nn.Conv2d)
            return output + factors(layer, x)

        return added

    def changes(self) -> dict[str, ModuleChange]:
        """The factors as weight changes, as `adapters.lora` reads them from a file."""
        changes = {}
        for key, factors in self.layers.items():
            assert isinstance(factors, Factors)
            change = LowRank(factors.up.detach(), factors.down.detach(), factors.scale)
            changes[self.names[key]] = ModuleChange(change)
        return changes

    def of(self, component: str) -> list[nn.Parameter]:
        """The factors' parameters beside one network: unet, or text for all text encoders."""
        return [
            parameter
            for key, factors in self.layers.items()
            if self.names[key].partition(".")[0].startswith(component)
            for parameter in factors.parameters()
        ]


def layers_of(networks: Mapping[str, nn.Module]) -> Iterator[tuple[str, Layer]]:
    """Every linear layer and convolution of networks, with "<component>.<module>"."""
    for component, network in networks.items():
        for name, module in network.named_modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                yield f"{component}.{name}", module


def chooser(rank: int, conv_rank: int, networks: Mapping[str, nn.Module]) -> Callable[[str, nn.Module], int]:
    """Which layers get factors, by the rules of kohya's trainer.

    rank       of linear layers of transformers (attention, feed-forward, projections) and of text encoders
    conv_rank  of 3 x 3 convolutions of residual blocks and between levels; where it is not 0, the linear layers of
               residual blocks get `rank` as well
    """
    attention, others = list[str](), list[str]()
    for component, network in networks.items():
        for name, module in network.named_modules():
            if component != "unet":
                continue
            whole = f"unet.{name}."
            if isinstance(module, SpatialTransformer) or name == "draft":
                attention.append(whole)
            elif isinstance(module, ResBlock) or name.endswith(("downsample", "upsample")):
                others.append(whole)

    def choose(name: str, layer: nn.Module) -> int:
        if not name.startswith("unet."):
            return 0 if name.endswith(".projection") else rank
        if any(name.startswith(one) for one in attention):
            return rank
        if conv_rank and any(f"{name}.".startswith(one) for one in others):
            return conv_rank if isinstance(layer, nn.Conv2d) and layer.kernel_size != (1, 1) else rank
        return 0

    return choose
