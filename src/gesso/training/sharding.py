"""Weights, gradients and moments parted over processes (FSDP2), and states that any number of processes goes on from.

`Shards` parts networks, `PartedStates` keeps their states (DCP). A state is a folder below states/ and a JSON file that
names it, with the facts about it; the file is written last, so that a crash leaves the old state or the new one.
"""

import copy
import json
import shutil
import warnings
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from gesso.errors import GessoError
from gesso.files import atomic_file
from gesso.training.group import Group

STATES = "states"


@dataclass(frozen=True)
class Parting:
    """What is parted: networks by name, and in them the kinds of blocks that are gathered one after the other."""

    names: tuple[str, ...]
    units: tuple[type[nn.Module], ...]


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that is in this process; all of one that is not parted."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def is_parted(tensor: Tensor) -> bool:
    """Whether other processes have parts of it, too."""
    return hasattr(tensor, "to_local")


class Shards:
    """Networks of which each process trains a part of every weight; copies of the whole ones stand in for reports.

    modules: those of a task, by name; the parted ones take the places of the whole ones, which give their memory back
    """

    def __init__(self, modules: MutableMapping[str, nn.Module], parting: Parting) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        self.modules = modules
        self.wholes = {name: modules[name] for name in parting.names}
        self.parted: dict[str, nn.Module] = {}
        self._shapes: dict[nn.Parameter, torch.Size] = {}
        for name, whole in self.wholes.items():
            mesh = init_device_mesh(next(whole.parameters()).device.type, (dist.get_world_size(),))
            # FSDP parts weights that lie in order only.
            parted = copy.deepcopy(whole).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
            for module in reversed(list(parted.modules())):
                if isinstance(module, parting.units):
                    fully_shard(module, mesh=mesh)
            fully_shard(parted, mesh=mesh)
            self.parted[name] = modules[name] = parted
            for parameter in whole.parameters():
                self._shapes[parameter] = parameter.shape
        self._empty()

    def _empty(self) -> None:
        for parameter in self._shapes:
            parameter.data = parameter.data.new_empty(0)

    def _fill(self) -> None:
        for parameter, shape in self._shapes.items():
            parameter.data = parameter.data.new_empty(shape)

    def gathered(self, weights: Mapping[str, Mapping[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
        """Weights by module and name, whole and on the CPU in the first process; nothing in the others."""
        first, found = Group().rank == 0, dict[str, dict[str, Tensor]]()
        for name, tensors in weights.items():
            for key, value in tensors.items():
                whole = value.full_tensor() if is_parted(value) else value  # type: ignore[attr-defined]
                if first:
                    found.setdefault(name, {})[key] = whole.detach().cpu()
        return found

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Within, the whole networks are in their places, with any numbers."""
        self._fill()
        self.modules.update(self.wholes)
        try:
            yield
        finally:
            self.modules.update(self.parted)
            self._empty()

    def close(self) -> None:
        """Put the whole networks back, with any numbers."""
        self._fill()
        self.modules.update(self.wholes)


def clip_gradients(parameters: Sequence[nn.Parameter], limit: float) -> Tensor:
    """`clip_grad_norm_` for gradients of which some are parted.  -> the norm of all before"""
    with_gradient = [parameter for parameter in parameters if parameter.grad is not None]
    gradients = [local(parameter.grad) for parameter in with_gradient if parameter.grad is not None]
    squares = torch.zeros(2, dtype=torch.float64, device=gradients[0].device)  # of parted ones, and others
    for parameter, gradient in zip(with_gradient, gradients, strict=True):
        squares[0 if is_parted(parameter) else 1] += gradient.detach().double().square().sum()
    dist.all_reduce(squares[:1])
    norm = squares.sum().sqrt().float()
    factor = (limit / (norm + 1e-6)).clamp(max=1.0)
    torch._foreach_mul_(gradients, factor)
    return norm


class PartedStates:
    """The states of a training as DCP keeps them.  modules, optimizer, average: what they hold, loaded in place"""

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        optimizer: torch.optim.Optimizer,
        average: Mapping[str, Mapping[str, Tensor]],
    ) -> None:
        self.modules, self.optimizer, self.average = modules, optimizer, average
        self.group = Group()

    def _tensors(self, *, moments: bool) -> dict[str, Any]:
        from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

        found: dict[str, Any] = {
            "modules": {name: module.state_dict() for name, module in self.modules.items()},
            "average": dict(self.average),
        }
        if moments:  # of an optimiser without any, DCP would make some by a step, which then counts
            found["optimizer"] = get_optimizer_state_dict(nn.ModuleDict(dict(self.modules)), self.optimizer)
        return found

    def save(self, path: Path, facts: Mapping[str, Any]) -> None:
        """Write a state, which the JSON file at `path` names. All processes call it."""
        from torch.distributed.checkpoint.filesystem import FileSystemWriter
        from torch.distributed.checkpoint.state_dict_saver import save

        states = path.parent / STATES
        numbers = [int(one.name) for one in states.glob("*") if one.name.isdigit()]
        name = f"{int(self.group.broadcast(max(numbers, default=0) + 1)):06d}"
        writer = FileSystemWriter(states / name)
        moments = bool(self.optimizer.state)
        tensors = self._tensors(moments=moments)
        with _quiet():
            save(tensors, storage_writer=writer, no_dist=self.group.size == 1)
        if self.group.rank == 0:
            with atomic_file(path) as file:
                file.write(json.dumps({**facts, "state": name, "moments": moments}).encode())
            named = {read_facts(one)["state"] for one in path.parent.glob("*.json") if _names_state(one)}
            for one in states.iterdir():
                if one.name not in named:
                    shutil.rmtree(one, ignore_errors=True)
        self.group.wait()

    def load(self, path: Path) -> None:
        """Take over the state that a JSON file names, whatever number of processes wrote it. Raises RuntimeError."""
        from torch.distributed.checkpoint.filesystem import FileSystemReader
        from torch.distributed.checkpoint.state_dict import set_optimizer_state_dict
        from torch.distributed.checkpoint.state_dict_loader import load

        facts = read_facts(path)
        tensors = self._tensors(moments=facts["moments"])
        reader = FileSystemReader(path.parent / STATES / facts["state"])
        with _quiet():
            load(tensors, storage_reader=reader, no_dist=self.group.size == 1)
        if facts["moments"]:
            holder = nn.ModuleDict(dict(self.modules))
            set_optimizer_state_dict(holder, self.optimizer, optim_state_dict=tensors["optimizer"])
        else:
            self.optimizer.state.clear()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without DCP's warning that one process is alone, which it is meant to be."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)
        yield


def read_facts(path: Path) -> dict[str, Any]:
    """The facts of a state that is kept in parts. Raises GessoError."""
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(facts, dict) and isinstance(facts.get("state"), str) and facts["state"].isdigit():
            return facts
    except (OSError, ValueError):
        pass
    raise GessoError(
        f"{path}: not a training state of gesso. Remove it to start again", code="damaged", data={"path": str(path)}
    )


def _names_state(path: Path) -> bool:
    try:
        return bool(read_facts(path))
    except GessoError:
        return False


def read_average(path: Path) -> dict[str, dict[str, Tensor]]:
    """The averaged weights of a state that is kept in parts, whole, by module and name; by one process alone."""
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata
    from torch.distributed.checkpoint.state_dict_loader import load

    reader = FileSystemReader(path.parent / STATES / str(read_facts(path)["state"]))
    wanted = {
        key: torch.empty(about.size, dtype=about.properties.dtype)
        for key, about in reader.read_metadata().state_dict_metadata.items()
        if key.startswith("average.") and isinstance(about, TensorStorageMetadata)
    }
    with _quiet():
        load(wanted, storage_reader=reader, no_dist=True)
    found: dict[str, dict[str, Tensor]] = {}
    for whole, tensor in wanted.items():
        _, name, key = whole.split(".", 2)
        found.setdefault(name, {})[key] = tensor
    return found
