"""Memory-mapped weight files, and blocks of memory for the tensors that are copied out of them.

Steps that the system does not offer (madvise is Linux) are skipped; that costs memory or time and changes no weight.
"""

import ctypes
import mmap
import sys
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_POPULATE_READ = 22  # of Linux 5.14; mmap does not name it
_ALIGNMENT = 64  # bytes: a cache line, and the widest vector


@dataclass(frozen=True)
class MappedFiles:
    """Address ranges of this process that are mapped from a file.

    Only there may pages be given back: elsewhere they hold the only copy of the numbers.
    """

    starts: tuple[int, ...]
    ends: tuple[int, ...]

    @classmethod
    def now(cls) -> "MappedFiles":
        """The present mappings; none where the system does not list them."""
        starts, ends = [], []
        try:
            lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            lines = []
        for line in lines:
            addresses, _mode, _offset, _device, inode, *path = line.split(maxsplit=5)
            # /dev/zero is how shared anonymous memory looks; it comes back as zeros.
            if inode != "0" and path and not path[0].startswith("/dev/"):
                start, end = (int(number, 16) for number in addresses.split("-"))
                starts.append(start)
                ends.append(end)
        return cls(tuple(starts), tuple(ends))

    def shows(self, tensor: Tensor) -> bool:
        """Whether the memory of a tensor is mapped from a file."""
        if tensor.device.type != "cpu":
            return False
        begin, end = _span(tensor)
        place = bisect_right(self.starts, begin) - 1
        return place >= 0 and end <= self.ends[place]

    def fetch(self, tensor: Tensor) -> None:
        """Reads the pages of a tensor in one go; touching them one by one costs more."""
        if self.shows(tensor):
            begin, end = _span(tensor)
            _advise(begin // mmap.PAGESIZE * mmap.PAGESIZE, end, _POPULATE_READ)

    def release(self, tensor: Tensor) -> None:
        """Gives the pages of a tensor back; touched again they are read from the file again.

        Pages shared with a neighbour stay. Where the mapped numbers were written to, the change is lost.
        """
        if self.shows(tensor):
            begin, end = _span(tensor)
            begin = -(-begin // mmap.PAGESIZE) * mmap.PAGESIZE
            end = end // mmap.PAGESIZE * mmap.PAGESIZE
            if begin < end:
                _advise(begin, end, getattr(mmap, "MADV_DONTNEED", 4))


def _span(tensor: Tensor) -> tuple[int, int]:
    """First byte and the byte after the last; a transposed tensor lies within."""
    last = sum((side - 1) * stride for side, stride in zip(tensor.shape, tensor.stride(), strict=True))
    begin = tensor.data_ptr()
    return begin, begin + (last + 1) * tensor.itemsize if tensor.numel() else begin


@cache
def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def _advise(begin: int, end: int, advice: int) -> None:
    """madvise; a refusal (an older kernel) changes nothing that counts."""
    if (libc := _libc()) is not None:
        libc.madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), advice)


def return_memory_promptly() -> None:
    """Makes the C library give memory of 1 MiB or more back as soon as it is freed, for the whole process.

    Otherwise glibc raises that limit to 32 MiB as it learns, and tensors below it leave holes that nothing else can
    use: of 110 MiB that a tiled decoder needs at most, 100 stayed with the process. Costs the pages' first touch again.
    """
    global _is_prompt
    _is_prompt = True
    _set(M_MMAP_THRESHOLD, 2**20)
    _set(M_TRIM_THRESHOLD, 2**17)  # as it is from the beginning


def keep_freed_memory() -> None:
    """Makes the C library use freed memory again, for the whole process, unless it was told to give it back promptly.

    Otherwise it gives every block of 32 MiB and more back to the system, and what it gets instead must be cleared by
    the kernel page by page: 5 % of a step of SD 1.5 at 512 pixels. Up to 1 GiB is kept.
    """
    if not _is_prompt:
        _set(M_MMAP_THRESHOLD, 2**30)
        _set(M_TRIM_THRESHOLD, 2**30)


def give_back_freed_memory() -> None:
    """What was freed goes back to the system where it is kept (`keep_freed_memory`), between what is in use, too."""
    trim = getattr(_libc(), "malloc_trim", None)
    if trim is not None and not _is_prompt:
        trim(0)


_is_prompt = False
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h


def _set(what: int, value: int) -> None:
    mallopt = getattr(_libc(), "mallopt", None)
    if mallopt is not None:
        mallopt(what, value)


class MemoryBlock:
    """One piece of memory for many tensors; it goes back to the system when the last tensor in it is gone."""

    def __init__(self, tensors: Iterable[tuple[int, torch.dtype]]) -> None:
        """tensors: number of elements and dtype of each, in the order in which they will be taken."""
        nbytes = sum(_padded(count * dtype.itemsize) for count, dtype in tensors)
        self._at = 0
        self._memory: Any = None
        if nbytes and hasattr(mmap, "MAP_PRIVATE"):
            # No huge pages: on a machine whose memory is full of cached files, making them took seconds a GiB.
            self._memory = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)

    def take(self, count: int, dtype: torch.dtype) -> Tensor:
        """The next `count` elements, flat and uninitialised."""
        if self._memory is None or not count:
            return torch.empty(count, dtype=dtype)
        taken = torch.frombuffer(self._memory, dtype=dtype, count=count, offset=self._at)
        self._at += _padded(count * dtype.itemsize)
        return taken


def _padded(nbytes: int) -> int:
    return -(-nbytes // _ALIGNMENT) * _ALIGNMENT
