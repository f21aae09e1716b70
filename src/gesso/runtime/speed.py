"""How much faster bfloat16 computes than float32 on this CPU: measured in a fraction of a second, and kept in a file.

Which one wins is no question of the instructions that a CPU lists: bfloat16 was measured at 3.7 times the speed of
float32 where it has matrix units, at twice with AVX512-BF16, and at half where a hypervisor hides them (docs/log.md).
"""

import json
import platform
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gesso.files import atomic_file

WIDTH = 640  # channels of the middle level of Stable Diffusion 1.5 and SDXL
TRIES = 3  # of each dtype in turn, so that other work on the machine meets both; the best counts


def bfloat16_gain(kept: Path | None = None) -> float:
    """Speed of bfloat16 over float32 in what a full-size UNet does, with torch's CPU threads as they are set.

    kept: file of earlier measurements, where the answer is looked for and added; one that cannot be read is replaced,
    and one that cannot be written is done without. Two processes may measure at once: either's figure is as good.
    """
    key = describe_cpu()
    known = _read(kept) if kept is not None else _MEASURED
    if key not in known:
        known[key] = round(measured_gain(), 2)
        if kept is not None:
            with suppress(OSError):
                kept.parent.mkdir(parents=True, exist_ok=True)
                with atomic_file(kept) as file:
                    file.write(json.dumps(known, indent=1, sort_keys=True).encode())
    return known[key]


def describe_cpu() -> str:
    """What the figure depends on: processor, instructions that torch takes, threads, torch."""
    name, amx = platform.processor() or platform.machine(), False
    with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        pairs = [line.partition(":") for line in file.read().partition("\n\n")[0].splitlines()]
        fields = {key.strip(): value.strip() for key, _, value in pairs}
        name = fields.get("model name", name)
        amx = "amx_bf16" in fields.get("flags", "").split()
    level = torch.backends.cpu.get_cpu_capability() + (" AMX" if amx else "")
    return f"{name}, {level}, threads: {torch.get_num_threads()}, torch {torch.__version__}"


@torch.inference_mode()
def measured_gain() -> float:
    """Time a convolution, a matrix product and an attention of a full-size UNet in both dtypes."""
    works = {dtype: _work(dtype) for dtype in (torch.float32, torch.bfloat16)}
    for work in works.values():
        work()  # the first call also chooses kernels
    best = dict.fromkeys(works, float("inf"))
    for _ in range(TRIES):
        for dtype, work in works.items():
            started = time.perf_counter()
            work()
            best[dtype] = min(best[dtype], time.perf_counter() - started)
    return best[torch.float32] / best[torch.bfloat16]


def _work(dtype: torch.dtype) -> Callable[[], object]:
    """A sixteenth of the sizes at 512 pixels, in about the shares that a step has: 38 : 21 : 36."""
    picture = torch.ones(1, WIDTH, 16, 16, dtype=dtype).to(memory_format=torch.channels_last)
    kernel = torch.ones(WIDTH, WIDTH, 3, 3, dtype=dtype).to(memory_format=torch.channels_last)
    rows, matrix = torch.ones(256, WIDTH, dtype=dtype), torch.ones(4 * WIDTH, WIDTH, dtype=dtype)
    heads = torch.ones(1, 4, 1024, 80, dtype=dtype)

    def work() -> tuple[Tensor, ...]:
        return (
            F.conv2d(picture, kernel, padding=1),
            F.linear(rows, matrix),
            F.scaled_dot_product_attention(heads, heads, heads),
        )

    return work


_MEASURED: dict[str, float] = {}  # of this process, where no file keeps them


def _read(path: Path) -> dict[str, float]:
    try:
        found: Any = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {str(key): float(one) for key, one in found.items() if isinstance(one, int | float) and 0 < one < 1000}
