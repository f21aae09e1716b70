"""Device and dtypes: which device computes, in which dtype each network runs there, how much memory is free."""

import os
import platform
from dataclasses import dataclass

import torch

from gesso.errors import GessoError, shorten
from gesso.runtime.int8 import can_multiply
from gesso.runtime.packing import can_pack

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Precision:
    """The dtype of each network. The sampler's own arithmetic is always float32."""

    unet: torch.dtype
    text: torch.dtype
    vae: torch.dtype  # and of the upscaler
    int8: bool = False  # the UNet's layers that bear it multiply in int8; what lies between them is bfloat16

    @property
    def name(self) -> str:
        """float32, bfloat16, float16 or int8: that of the UNet."""
        return "int8" if self.int8 else str(self.unet).removeprefix("torch.")

    def of(self, network: str) -> torch.dtype:
        """The dtype of a network by its name: unet, text, text_2, vae, upscaler."""
        return self.unet if network == "unet" else self.text if network.startswith("text") else self.vae


def choose_device(name: str | torch.device) -> torch.device:
    """auto, cpu, cuda, cuda:N or mps, or torch's own. auto: the first CUDA device, else the CPU. Raises GessoError."""
    name = str(name)
    if name == "auto":
        return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    device = named_device(name)
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        index = device.index or 0
        if index >= count:
            problem = f"found {count} CUDA device(s)" if count else "no CUDA device, or torch was built without CUDA"
            raise GessoError(f"`device` {name}: {problem}. Use `device=cpu`", code="device_missing", field="device")
        return torch.device("cuda", index)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise GessoError(
            "`device=mps`: no Metal device, or torch was built without MPS. Use `device=cpu`",
            code="device_missing",
            field="device",
        )
    return torch.device(device.type)


def named_device(name: str) -> torch.device:
    """The device of a name, whether the machine has it or not. Raises GessoError for a name that is none."""
    try:
        device = torch.device(name)
    except (RuntimeError, UnicodeError):
        device = None
    if device is None or device.type not in ("cpu", "cuda", "mps"):
        raise GessoError(
            f"`device` {shorten(name)}: unknown device. Known: auto, cpu, cuda, cuda:N, mps",
            code="device_missing",
            field="device",
        )
    return device


def choose_precision(name: str | torch.dtype, device: torch.device) -> Precision:
    """auto, float32, bfloat16, float16 or int8, or torch's own, for a device. Raises GessoError.

    auto is float16 on a GPU, and float32 on the CPU, where an engine takes bfloat16 for full-size models if it is
    faster there (`gesso.runtime.speed`). The text encoder and, under float16, the VAE stay in float32: the text encoder
    costs little compared to the UNet, and VAE decoders overflow float16. int8 is for the UNet on a CPU; the rest is
    as in bfloat16.
    """
    name = str(name).removeprefix("torch.")
    if name == "auto":
        name = "float32" if device.type == "cpu" else "float16"
    if name == "int8":
        return _int8(device)
    if name not in DTYPES:
        raise GessoError(
            f"`dtype` {name[:64]}: unknown dtype. Known: auto, {', '.join(DTYPES)}, int8",
            code="dtype_unsupported",
            field="dtype",
        )
    if name == "float16" and device.type == "cpu":
        raise GessoError(
            "`dtype=float16`: hundreds of times slower than float32 on a CPU. "
            "Use `dtype=bfloat16` (half the memory) or float32",
            code="dtype_unsupported",
            field="dtype",
        )
    dtype = DTYPES[name]
    return Precision(unet=dtype, text=torch.float32, vae=torch.float32 if name == "float16" else dtype)


def _int8(device: torch.device) -> Precision:
    problem = None
    if device.type != "cpu":
        problem = f"for CPUs only, found {device}"
    elif not (can_multiply() and can_pack()):
        problem = "this processor has no instructions for it (AVX512-VNNI), or this torch does not use them"
    if problem:
        raise GessoError(f"`dtype=int8`: {problem}. Use `dtype=auto`", code="dtype_unsupported", field="dtype")
    return Precision(unet=torch.bfloat16, text=torch.float32, vae=torch.bfloat16, int8=True)


def describe_device(device: torch.device) -> str:
    """What can change the last bits: "cpu x86_64 AVX512", "cuda NVIDIA H200"."""
    if device.type == "cuda":
        return f"cuda {torch.cuda.get_device_name(device)}"
    if device.type == "cpu":
        return f"cpu {platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    return f"{device.type} {platform.machine()}"


def usable_threads() -> int:
    """CPU cores that this process may use, a container's quota included; torch counts the machine's."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        with open("/sys/fs/cgroup/cpu.max", encoding="ascii") as file:
            quota, period = file.read().split()
        return max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError):  # no such limit
        return cores


def memory_used(device: torch.device) -> int:
    """Bytes that this process uses on a device; on the CPU its resident set size."""
    if device.type == "cuda":
        return int(torch.cuda.memory_reserved(device))
    return _field("/proc/self/status", "VmRSS") or 0


def memory_free(device: torch.device) -> int:
    """Bytes that this process may use in all: what it uses now and what is free, within a container's limit, less a
    tenth. Raises GessoError if the system does not say."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int((free + torch.cuda.memory_reserved(device)) * 0.9)
    available = _field("/proc/meminfo", "MemAvailable")
    if available is None:
        raise GessoError(
            "`memory=auto`: the system does not say how much memory is free. Give a size, such as 6GiB",
            code="memory_unknown",
            field="memory",
        )
    total = available + memory_used(device)
    try:
        with open("/sys/fs/cgroup/memory.max", encoding="ascii") as file:
            total = min(total, int(file.read()))
    except (OSError, ValueError):  # no such limit
        pass
    return int(total * 0.9)


def _field(path: str, name: str) -> int | None:
    """Bytes of a line such as "VmRSS:   1234 kB"."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            for line in file:
                if line.startswith(f"{name}:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None
