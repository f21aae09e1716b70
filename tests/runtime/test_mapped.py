"""Mapped files and blocks of memory: which pages are asked for or given back, and where tensors lie."""

import mmap
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from gesso.runtime import mapped
from gesso.runtime.mapped import MappedFiles, MemoryBlock

PAGE = mmap.PAGESIZE
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="madvise and /proc are Linux's")


@pytest.fixture
def advised(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, int]]:
    """Begin, length and kind of each advice that is given to the kernel."""
    calls: list[tuple[int, int, int]] = []

    def madvise(begin: Any, nbytes: Any, advice: int) -> None:
        calls.append((begin.value, nbytes.value, advice))

    monkeypatch.setattr(mapped, "_libc", lambda: SimpleNamespace(madvise=madvise))
    return calls


def of_file(path: Path, count: int = 4 * PAGE) -> torch.Tensor:
    path.write_bytes(bytes(count))
    return torch.from_file(str(path), size=count, dtype=torch.uint8)


def test_only_tensors_within_one_mapping_of_a_file_are_shown(tmp_path: Path):
    whole = of_file(tmp_path / "a")
    now = MappedFiles.now()
    assert len(now.starts) == len(now.ends) and list(now.starts) == sorted(now.starts)
    assert now.shows(whole) and now.shows(whole[PAGE:]) and now.shows(whole[:1]) and now.shows(whole[-1:])
    assert not now.shows(torch.zeros(4 * PAGE)) and not now.shows(torch.empty(1, device="meta"))
    begin = whole.data_ptr()
    exact = MappedFiles((begin,), (begin + len(whole),))
    assert exact.shows(whole)
    assert not MappedFiles((begin,), (begin + len(whole) - 1,)).shows(whole)
    assert not MappedFiles((begin + 1,), (begin + len(whole),)).shows(whole)
    assert not MappedFiles((), ()).shows(whole)
    two = MappedFiles((begin, begin + 2 * PAGE), (begin + PAGE, begin + 4 * PAGE))
    assert [two.shows(part) for part in (whole[:PAGE], whole[PAGE : 2 * PAGE], whole[2 * PAGE :])] == [
        True,
        False,
        True,
    ]


def test_the_pages_of_a_tensor_are_asked_for_whole(tmp_path: Path, advised: list[tuple[int, int, int]]):
    whole = of_file(tmp_path / "a")
    begin, now = whole.data_ptr(), MappedFiles.now()
    now.fetch(whole[PAGE + 5 : 2 * PAGE + 7])
    assert advised == [(begin + PAGE, PAGE + 7, 22)]  # from the start of its first page
    now.fetch(torch.zeros(3 * PAGE, dtype=torch.uint8))
    assert len(advised) == 1


def test_pages_that_a_neighbour_shares_are_kept(tmp_path: Path, advised: list[tuple[int, int, int]]):
    whole = of_file(tmp_path / "a")
    begin, now = whole.data_ptr(), MappedFiles.now()
    now.release(whole[5 : 3 * PAGE + 7])
    now.release(whole[PAGE : 2 * PAGE])
    assert advised == [(begin + PAGE, 2 * PAGE, 4), (begin + PAGE, PAGE, 4)]
    now.release(whole[5 : PAGE + 7])  # no page of its own
    now.release(whole[5:9])
    now.release(torch.zeros(3 * PAGE, dtype=torch.uint8))
    assert len(advised) == 2


def test_a_transposed_tensor_lies_where_its_numbers_do(tmp_path: Path, advised: list[tuple[int, int, int]]):
    whole = of_file(tmp_path / "a").view(torch.float32).view(4, -1)
    now = MappedFiles.now()
    now.fetch(whole.t()[:, 1:3])
    assert advised == [(whole.data_ptr() + PAGE, 2 * PAGE, 22)]
    now.fetch(whole[:0])  # nothing
    assert advised[1:] in ([], [(whole.data_ptr(), 0, 22)])


def test_given_back_pages_read_as_the_file_says(tmp_path: Path):
    path = tmp_path / "a"
    path.write_bytes(bytes(range(256)) * (4 * PAGE // 256))
    whole = torch.from_file(str(path), size=4 * PAGE, dtype=torch.uint8)
    now = MappedFiles.now()
    now.fetch(whole)
    now.release(whole)
    assert whole.numpy().tobytes() == path.read_bytes()


def test_the_allocator_keeps_freed_memory_until_a_limit_is_stated(monkeypatch: pytest.MonkeyPatch):
    told: list[tuple[int, int]] = []
    library = SimpleNamespace(mallopt=lambda *values: told.append(values))
    monkeypatch.setattr(mapped, "_libc", lambda: library)
    monkeypatch.setattr(mapped, "_is_prompt", False)
    mapped.keep_freed_memory()
    assert told == [(-3, 2**30), (-1, 2**30)]  # M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of malloc.h
    mapped.return_memory_promptly()
    assert told[2:] == [(-3, 2**20), (-1, 2**17)]
    mapped.keep_freed_memory()  # another engine of the process has no limit
    monkeypatch.setattr(mapped, "_libc", lambda: SimpleNamespace())
    mapped.return_memory_promptly()
    assert len(told) == 4


def test_freed_memory_goes_back_where_it_is_kept(monkeypatch: pytest.MonkeyPatch):
    told: list[int] = []
    monkeypatch.setattr(mapped, "_libc", lambda: SimpleNamespace(malloc_trim=told.append))
    for prompt in (False, True):
        monkeypatch.setattr(mapped, "_is_prompt", prompt)
        mapped.give_back_freed_memory()
    assert told == [0]
    monkeypatch.setattr(mapped, "_libc", lambda: None)
    monkeypatch.setattr(mapped, "_is_prompt", False)
    mapped.give_back_freed_memory()


def test_tensors_of_a_block_lie_side_by_side_on_cache_lines():
    sizes = [(3, torch.float32), (16, torch.float32), (0, torch.float32), (5, torch.bfloat16), (1, torch.int64)]
    block = MemoryBlock(sizes)
    taken = [block.take(count, dtype) for count, dtype in sizes]
    for number, tensor in enumerate(taken):
        tensor.fill_(number + 1)
    assert [tensor.tolist() for tensor in taken] == [[n + 1] * count for n, (count, _) in enumerate(sizes)]
    starts = [tensor.data_ptr() for tensor in taken if len(tensor)]
    assert [start - starts[0] for start in starts] == [0, 64, 128, 192]
    assert starts[0] % 64 == 0
    with pytest.raises(ValueError, match="offset"):
        block.take(10 * PAGE, torch.float32)  # more than it was made for
    assert len(MemoryBlock([]).take(3, torch.float32)) == 3
