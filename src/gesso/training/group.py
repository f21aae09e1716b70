"""Synchronous data parallelism: processes that train one network together, each on its own pictures."""

import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing import resource_tracker
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn

T = TypeVar("T")


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

    @torch.no_grad()
    def average_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """The mean of gradients over the processes. One that some process has and another has not counts as 0 there."""
        if self.size == 1 or not parameters:
            return
        has = torch.tensor([parameter.grad is not None for parameter in parameters], dtype=torch.int32)
        dist.all_reduce(has, dist.ReduceOp.MAX)
        learning = [parameter for parameter, is_there in zip(parameters, has.tolist(), strict=True) if is_there]
        for parameter in learning:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self.average([parameter.grad for parameter in learning if parameter.grad is not None])

    def mean(self, figures: Mapping[str, Tensor | float]) -> Mapping[str, Tensor | float]:
        """The mean of figures over the processes, which have the same ones."""
        if self.size == 1 or not figures:
            return figures
        names = sorted(figures)
        values = torch.tensor([float(figures[name]) for name in names], dtype=torch.float64)
        dist.all_reduce(values)
        return dict(zip(names, (values / self.size).tolist(), strict=True))

    def first(self, work: Callable[[], T]) -> T:
        """What `work` returns, in the first process and then in the others, for work that leaves files behind."""
        if self.rank > 0:
            self.wait()
        result = work()
        if self.rank == 0:
            self.wait()
        return result

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            dist.barrier()

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


LONGEST_WAIT = timedelta(hours=6)  # of processes for the first one, which reports and draws samples


@contextmanager
def joined() -> Iterator[Group]:
    """One of the processes that torchrun started, joined to the others within the block; alone without torchrun."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield Group()
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, timeout=LONGEST_WAIT)
    try:
        yield Group()
    finally:
        dist.destroy_process_group()


def local_rank() -> int:
    """Which of the processes on this machine this one is."""
    return int(os.environ.get("LOCAL_RANK", "0"))


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
