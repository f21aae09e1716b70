"""Muon: momentum whose update of each matrix is made orthogonal (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon).

An update then moves all directions of a weight alike, where Adam's is dominated by few. The size of an update is scaled
to what AdamW's usually has, so that both share a learning rate (Liu et al. 2025, arXiv:2502.16982, section 2.2).
Weights of convolutions are matrices of [out, in * height * width]. What is no matrix (norms, biases) and what looks
numbers up or stands at an end (embeddings, first and last layers) goes to AdamW.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

STEPS, COEFFICIENTS = 5, (3.4445, -4.7750, 2.0315)  # of the quintic iteration; from the first source
RMS = 0.2  # of AdamW's usual update, from the second


def orthogonal(matrices: Tensor) -> Tensor:
    """The nearest matrices whose singular values are all about 1 (0.7 to 1.2).  [N, rows, columns] -> the same"""
    a, b, c = COEFFICIENTS
    x = matrices.bfloat16() if matrices.is_cuda else matrices
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(STEPS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum for parameters of two or more dimensions.

    Matrices of one shape are updated together. Raises ValueError for a parameter that is no matrix.
    """

    def __init__(self, params: Iterable[Any], lr: float = 1e-3, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.ndim < 2:
                    raise ValueError(f"a parameter of shape {list(parameter.shape)} is no matrix; give it to AdamW")

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        if closure is not None:
            raise ValueError("Muon takes no closure")
        for group in self.param_groups:
            alike: dict[tuple[int, ...], list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    alike[tuple(parameter.shape)].append(parameter)
            for shape, parameters in alike.items():
                gradients = [p.grad for p in parameters if p.grad is not None]  # all of them
                momenta = [self._momentum(p) for p in parameters]
                torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
                ahead = torch._foreach_lerp(gradients, momenta, group["momentum"])
                flat = torch.stack([one.reshape(shape[0], -1) for one in ahead])
                scale = RMS * max(flat.shape[-2:]) ** 0.5
                updates = [one.reshape(shape) for one in orthogonal(flat).unbind()]
                torch._foreach_add_(parameters, updates, alpha=-group["lr"] * scale)

    def _momentum(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum: Tensor = state["momentum"]
        return momentum


class MuonAndAdamW(torch.optim.Optimizer):
    """Muon for the matrices inside of a network, AdamW for the rest, as one optimiser.

    groups: as an optimiser takes them, each with "params", "lr" and "muon" (bool).
    """

    def __init__(self, groups: list[dict[str, Any]], betas: tuple[float, float], weight_decay: float) -> None:
        super().__init__(groups, {"muon": False})
        self.muon = Muon([g for g in self.param_groups if g["muon"]] or [{"params": []}])
        self.adam = torch.optim.AdamW(
            [g for g in self.param_groups if not g["muon"]] or [{"params": []}],
            betas=betas,
            weight_decay=weight_decay,
            fused=True,
        )
        self.param_groups = [*self.muon.param_groups, *self.adam.param_groups]

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.muon.step(closure)
        self.adam.step()

    def state_dict(self) -> dict[str, Any]:
        return {"muon": self.muon.state_dict(), "adam": self.adam.state_dict()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self.muon.load_state_dict(state_dict["muon"])
        self.adam.load_state_dict(state_dict["adam"])
        self.param_groups = [*self.muon.param_groups, *self.adam.param_groups]


def split_groups(network: nn.Module, learning_rate: float, ends: Iterable[nn.Module] = ()) -> list[dict[str, Any]]:
    """A network's parameters as two groups for `MuonAndAdamW`; ends: its first and last layers, which AdamW takes."""
    apart = {id(p) for module in ends for p in module.parameters()}
    apart |= {id(p) for m in network.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    matrices: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for parameter in network.parameters():
        if parameter.requires_grad:
            (matrices if parameter.ndim >= 2 and id(parameter) not in apart else rest).append(parameter)
    return [
        {"params": matrices, "lr": learning_rate, "muon": True},
        {"params": rest, "lr": learning_rate, "muon": False},
    ]
