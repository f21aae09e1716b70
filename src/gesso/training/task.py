"""`Task`: the networks, loss and report of a training, for the training loop; and the random numbers of a step."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

Figures = Mapping[str, Tensor | float]
Enter = Callable[[], AbstractContextManager[object]]


class Task(Protocol):
    """The networks, loss and report of a training."""

    modules: Mapping[str, nn.Module]  # every trained module by name
    precision: Enter  # entered around the networks' forward passes: autocast, or nothing

    def parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]: ...

    def networks(self) -> list[nn.Module]:
        """The modules to compile: all that a step calls."""
        ...

    def loss(self, step: int, batch_size: int, seed: int) -> tuple[Tensor, Figures]:
        """Loss of one batch and figures worth logging. Everything random follows from (seed, step)."""
        ...

    def report(self, modules: Mapping[str, nn.Module]) -> dict[str, float]:
        """Slower figures about the moving average, taken now and then."""
        ...


def generator_for(seed: int, *key: int, device: str | torch.device = "cpu") -> torch.Generator:
    """A generator that belongs to one place in the run and no other; devices draw different numbers from a seed."""
    mixed = seed
    for part in key:
        mixed = (mixed * 6364136223846793005 + part * 1442695040888963407 + 1) % 2**63
    return torch.Generator(device).manual_seed(mixed)
