"""How a step of Stable Diffusion 1.5 grows with the size of the picture and the batch, beside its FLOPs.

    python benchmarks/growth.py --folder /tmp/peers --threads 1

The weights are those of `peers.py prepare`. One warm call, then one timed call of each shape, in bfloat16 as the engine
computes. A line of JSON each: CPU seconds, FLOPs counted on shapes alone, FLOP/s, and that by the first shape's: what
stays near 1 grows as its FLOPs do.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from gesso.families.parts import empty_networks
from gesso.families.sd15 import SD15
from gesso.runtime.conditioning import Conditioning
from gesso.runtime.engine import Engine

SHAPES = ((256, 1), (256, 2), (256, 4), (384, 1), (384, 2), (512, 1), (512, 2), (640, 1), (768, 1))


def gflop(size: int, batch: int) -> float:
    unet: Any = empty_networks(SD15, "benchmark")["unet"]
    with FlopCounterMode(display=False) as counter, torch.no_grad(), torch.device("meta"):
        unet(torch.empty(batch, 4, size // 8, size // 8), torch.empty(batch), torch.empty(batch, 77, 768))
    return counter.get_total_flops() / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description="How a step grows with size and batch.")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = Engine("cpu", "bfloat16").load(arguments.folder / "model")

    def step(size: int, batch: int) -> float:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(batch, 4, size // 8, size // 8, generator=generator)
        words = Conditioning(context=torch.randn(batch, 77, 768, generator=generator))
        began = time.process_time()
        with torch.inference_mode():
            model.predict(x, torch.full((batch,), 500.0), words)
        return time.process_time() - began

    step(*SHAPES[0])
    first = None
    for size, batch in SHAPES:
        seconds, work = step(size, batch), gflop(size, batch)
        first = first or work / seconds
        line = {
            "size": size,
            "batch": batch,
            "threads": arguments.threads,
            "cpu_s": round(seconds, 2),
            "gflop": round(work),
            "gflop_a_cpu_s": round(work / seconds),
            "by_first": round(work / seconds / first, 2),
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
