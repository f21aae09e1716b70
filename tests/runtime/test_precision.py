"""What the machine has: cores, memory, the device's name; files of the kernel stand in for other machines."""

import builtins
import io
import os
import platform
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from gesso.errors import GessoError
from gesso.runtime import precision
from gesso.runtime.precision import describe_device, memory_free, memory_used, usable_threads

CPU = torch.device("cpu")
Files = Callable[[dict[str, str]], None]


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> Files:
    """Files of the kernel with other contents; those of /sys and /proc that are not given are not there."""

    def pretend(contents: dict[str, str]) -> None:
        real = builtins.open

        def opened(path: Any, *arguments: Any, **options: Any) -> Any:
            if isinstance(path, str) and path.startswith(("/sys/", "/proc/")):
                if path not in contents:
                    raise FileNotFoundError(path)
                return io.StringIO(contents[path])
            return real(path, *arguments, **options)

        monkeypatch.setattr(builtins, "open", opened)

    return pretend


@pytest.mark.parametrize(
    ("quota", "cores"),
    [
        (None, 8),
        ("max 100000", 8),
        ("200000 100000", 2),
        ("250000 100000", 2),  # whole ones
        ("50000 100000", 1),
        ("1600000 100000", 8),
        ("", 8),
    ],
)
def test_cores_within_a_containers_quota(quota: str | None, cores: int, files: Files, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    files({} if quota is None else {"/sys/fs/cgroup/cpu.max": quota})
    assert usable_threads() == cores


def test_cores_of_a_system_without_affinity(files: Files, monkeypatch: pytest.MonkeyPatch):
    files({})
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    for count, cores in ((6, 6), (None, 1)):
        monkeypatch.setattr(os, "cpu_count", lambda count=count: count)
        assert usable_threads() == cores


STATUS = "Name:\tpython\nVmHWM:\t  9999 kB\nVmRSS:\t  1000 kB\n"
MEMORY = "MemTotal:  8000000 kB\nMemAvailable:  9000 kB\n"


@pytest.mark.parametrize(
    ("limit", "kilobytes"), [(None, 10_000), ("max", 10_000), (str(5000 * 1024), 5000), (str(2**50), 10_000)]
)
def test_nine_tenths_of_what_is_free_and_used_within_a_containers_limit(
    limit: str | None, kilobytes: int, files: Files
):
    limits = {} if limit is None else {"/sys/fs/cgroup/memory.max": limit}
    files({"/proc/self/status": STATUS, "/proc/meminfo": MEMORY} | limits)
    assert memory_used(CPU) == 1000 * 1024
    assert memory_free(CPU) == int(kilobytes * 1024 * 0.9)


def test_a_system_that_does_not_say_how_much_is_free(files: Files):
    files({})
    assert memory_used(CPU) == 0
    with pytest.raises(GessoError, match="`memory=auto`: the system does not say how much memory is free") as error:
        memory_free(CPU)
    assert (error.value.code, error.value.field) == ("memory_unknown", "memory")


def test_the_memory_of_a_gpu(monkeypatch: pytest.MonkeyPatch):
    """What torch has reserved may be used as well as what is free."""
    card = torch.device("cuda")
    pretended = SimpleNamespace(
        memory_reserved=lambda device: 1000,
        mem_get_info=lambda device: (9000, 80_000),
        get_device_name=lambda device: "NVIDIA H200",
    )
    monkeypatch.setattr(precision.torch, "cuda", pretended)
    assert (memory_used(card), memory_free(card)) == (1000, 9000)
    assert describe_device(card) == "cuda NVIDIA H200"


def test_the_names_of_devices():
    assert describe_device(CPU) == f"cpu {platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    assert describe_device(torch.device("meta")) == f"meta {platform.machine()}"
