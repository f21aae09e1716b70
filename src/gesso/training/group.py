"""Synchronous data parallelism: processes that train one network together, each on its own pictures."""

import os
import signal
from collections.abc import Callable, Sequence
from multiprocessing import resource_tracker
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import spawn


class Group:
    """One process of a group; alone where nothing was started with `run_group` or torchrun."""

    def __init__(self) -> None:
        joined = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if joined else 0
        self.size = dist.get_world_size() if joined else 1

    @torch.no_grad()
    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its mean over the processes, in one exchange."""
        if self.size == 1:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(flat)
        flat /= self.size
        start = 0
        for tensor in tensors:
            tensor.copy_(flat[start : start + tensor.numel()].view_as(tensor))
            start += tensor.numel()

    def agree(self, value: bool) -> bool:
        """The first process's value for all, so that all stop at the same step."""
        if self.size == 1:
            return value
        flag = torch.tensor([float(value)])
        dist.broadcast(flag, 0)
        return bool(flag.item())

    def broadcast(self, value: float) -> float:
        """The first process's value."""
        if self.size == 1:
            return value
        shared = torch.tensor([value], dtype=torch.float64)
        dist.broadcast(shared, 0)
        return float(shared.item())


INTERRUPTED_WAIT = 60.0  # seconds for a process to end its step


def _member(rank: int, size: int, port: int, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    _ctrl_c(held=False)  # now it is quiet; while Python imported, it would have been a traceback
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=size)
    try:
        work(*arguments)
    finally:
        dist.destroy_process_group()


def run_group(size: int, work: Callable[..., None], *arguments: Any, port: int = 29541) -> None:
    """Run work(*arguments) in `size` processes of one thread each on this machine. work must be importable."""
    if size == 1:
        work(*arguments)
        return
    resource_tracker.ensure_running()  # which lets Ctrl-C through when it starts
    _ctrl_c(held=True)  # the processes start so, and let it through when they are ready
    try:
        members = spawn(_member, args=(size, port, work, arguments), nprocs=size, join=False)
    finally:
        _ctrl_c(held=False)
    assert members is not None
    try:
        while not members.join():
            pass
    except KeyboardInterrupt:  # a terminal sends it to them, too: they end their step and save
        for process in members.processes:
            process.join(INTERRUPTED_WAIT)
        raise


def _ctrl_c(*, held: bool) -> None:
    """Hold Ctrl-C back, or let it through; one that came meanwhile comes then. Nothing on systems without masks."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK if held else signal.SIG_UNBLOCK, {signal.SIGINT})
