"""Prefetching: numbered pieces of work that worker processes do ahead of their use."""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import DataLoader

T = TypeVar("T")


class Ahead(Generic[T]):
    """make(number) for numbers that are asked for mostly one after the other.

    make must follow from its number alone and be picklable; with workers, processes make the numbers to come while the
    caller uses the last one. What comes back does not depend on the number of workers: 0 makes each when asked.
    """

    def __init__(self, make: Callable[[int], T], workers: int = 0, *, depth: int = 4) -> None:
        """depth: numbers that each worker is ahead by at most."""
        self.make, self.depth = make, depth
        self.workers = min(workers, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else workers)
        self._next = 0
        self._coming: Iterator[T] | None = None

    def __call__(self, number: int) -> T:
        if self.workers == 0:
            return self.make(number)
        if self._coming is None or number != self._next:
            self.close()
            self._coming = self._start(number)
        self._next = number + 1
        return next(self._coming)

    def close(self) -> None:
        """End the workers; asking again starts new ones."""
        self._coming = None  # the loader's iterator ends its processes when it goes

    def _start(self, number: int) -> Iterator[T]:
        loader: DataLoader[Any] = DataLoader(
            _Numbered(self.make),  # type: ignore[arg-type]
            sampler=_From(number),
            batch_size=None,
            collate_fn=_as_it_is,
            num_workers=self.workers,
            worker_init_fn=_start_worker,
            prefetch_factor=self.depth,
            multiprocessing_context="spawn",  # a forked process cannot use what CUDA and threads left behind
            generator=torch.Generator(),
        )
        return iter(loader)


class _Numbered(Generic[T]):
    """The pieces as a data set without an end."""

    def __init__(self, make: Callable[[int], T]) -> None:
        self.make = make

    def __getitem__(self, number: int) -> T:
        return self.make(number)


class _From(Sequence[int]):
    """first, first + 1, first + 2, ..."""

    def __init__(self, first: int) -> None:
        self.first = first

    def __getitem__(self, index: Any) -> Any:
        return self.first + index

    def __len__(self) -> int:
        return 2**62


def _as_it_is(piece: T) -> T:
    return piece


def _start_worker(worker: int) -> None:
    """The workers are the parallelism: none of them starts threads of its own. Ctrl-C, which a terminal sends to them
    too, is for the process that trains: it needs their pieces to the end of its step, and ends them afterwards."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
