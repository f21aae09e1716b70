"""Seconds per step of the Stable Diffusion 1.5 UNet beside diffusers, on the same random weights in one run.

    python benchmarks/unet_step.py --size 512 --dtype bfloat16 --dtype float32

First both are compared in float32; then they are timed by turns, so that whatever else the machine does hits both. Both
run as a careful user would run them without compiling: channels_last, inference mode, torch's fused attention (the
default of both). A line of JSON for each dtype. On a shared machine read the CPU seconds (of all threads of this
process) and the ratios; the wall clock tells how busy the machine was.
"""

import argparse
import json
import math
import platform
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
from torch import Tensor, nn

from gesso.checkpoints import diffusers as layout
from gesso.checkpoints import keymap
from gesso.families.diffusers_folder import folder_configs
from gesso.families.parts import empty_networks, fill
from gesso.families.sd15 import SD15

AGREE = 1e-4  # largest difference in float32; tests/models/test_parity.py tells what to expect
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

Step = Callable[[Tensor, Tensor, Tensor], Tensor]


def random_weights(shapes: Mapping[str, keymap.Shape]) -> dict[str, Tensor]:
    """Numbers that keep activations near 1: norms near 1, biases small, the others scaled by their fan-in."""
    block = torch.randn(2**22, generator=torch.Generator().manual_seed(0))  # repeated: drawing 860 million takes long
    weights = {}
    for name, shape in shapes.items():
        count = math.prod(shape)
        numbers = block.repeat(-(-count // len(block)))[:count].reshape(shape)
        if len(shape) == 1:
            weights[name] = (1 + 0.1 * numbers) if name.endswith("weight") else 0.05 * numbers
        else:
            weights[name] = numbers / math.sqrt(math.prod(shape[1:]))
    return weights


def build() -> tuple[nn.Module, nn.Module]:
    """Ours and theirs with the same float32 weights, sharing their memory."""
    ours = empty_networks(SD15, "benchmark")["unet"]
    weights = random_weights(keymap.shapes_of(ours.state_dict()))
    fill(ours, weights, "benchmark", device="cpu", dtype=torch.float32)
    with torch.device("meta"):
        theirs = diffusers.UNet2DConditionModel.from_config(folder_configs(SD15)["unet/config.json"])
    theirs.load_state_dict(keymap.save(layout.unet_rules(SD15.unet), weights), strict=True, assign=True)
    return ours, theirs.eval().requires_grad_(False)


def inputs(size: int, batch: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    side = size // SD15.vae.downscale
    x = torch.randn(batch, 4, side, side, generator=generator)
    context = torch.randn(batch, SD15.text.max_length, SD15.unet.context_dim, generator=generator)
    return x, torch.full((batch,), 500), context


@dataclass
class Times:
    wall: list[float]
    cpu: list[float]


def measure(steps: Mapping[str, Step], arguments: tuple[Tensor, Tensor, Tensor], repeats: int) -> dict[str, Times]:
    """Each step once to warm up, then all by turns."""
    times = {name: Times([], []) for name in steps}
    for turn in range(repeats + 1):
        # The order changes from turn to turn, so that no one always finds the caches of the other.
        for name in sorted(steps, reverse=bool(turn % 2)):
            wall, cpu = time.perf_counter(), time.process_time()
            steps[name](*arguments)
            if turn:
                times[name].wall.append(time.perf_counter() - wall)
                times[name].cpu.append(time.process_time() - cpu)
    return times


def figures(times: Times) -> dict[str, Any]:
    ordered = sorted(times.wall)
    tenth = (len(ordered) - 1) // 10
    return {
        "s_median": round(statistics.median(times.wall), 3),
        "s_p10_p90": [round(ordered[tenth], 3), round(ordered[-1 - tenth], 3)],
        "cpu_s_median": round(statistics.median(times.cpu), 3),
    }


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description="Seconds per UNet step of SD 1.5 beside diffusers.")
    parser.add_argument("--size", type=int, default=512, help="pixels a side of the picture (default 512)")
    parser.add_argument("--batch", type=int, default=2, help="rows of one call: 2 is one picture with guidance")
    parser.add_argument("--dtype", action="append", choices=DTYPES, help="may be repeated (default bfloat16)")
    parser.add_argument("--threads", type=int, default=0, help="torch's threads (default: torch's own choice)")
    parser.add_argument("--repeats", type=int, default=5, help="timed calls of each (default 5)")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)

    ours, theirs = build()
    small = inputs(128, 1)
    expected = ours(*small)
    gap = (expected - theirs(*small).sample).abs().max().item()
    if not gap < AGREE:
        raise SystemExit(f"float32 results differ by {gap:.1e}, allowed {AGREE:.0e}: nothing is timed")

    # float32 comes first: a network that was rounded stays rounded.
    for name in sorted(arguments.dtype or ["bfloat16"], key=lambda name: -DTYPES[name].itemsize):
        dtype = DTYPES[name]
        networks = [network.to(dtype=dtype, memory_format=torch.channels_last) for network in (ours, theirs)]

        def cast(values: tuple[Tensor, Tensor, Tensor], dtype: torch.dtype = dtype) -> tuple[Tensor, Tensor, Tensor]:
            x, timestep, context = values
            return x.to(dtype, memory_format=torch.channels_last), timestep, context.to(dtype)

        steps: dict[str, Step] = {"gesso": networks[0], "diffusers": lambda *a: networks[1](*a).sample}  # noqa: B023
        rounding = {who: (step(*cast(small)).float() - expected).abs().max().item() for who, step in steps.items()}
        times = measure(steps, cast(inputs(arguments.size, arguments.batch)), arguments.repeats)
        found = {who: figures(times[who]) | {"max_gap_to_float32": round(rounding[who], 6)} for who in steps}
        line = {
            "what": f"unet sd15 {arguments.size}x{arguments.size} batch {arguments.batch}",
            "dtype": name,
            "device": f"cpu {platform.machine()}, {torch.get_num_threads()} threads",
            "torch": torch.__version__,
            "diffusers_version": diffusers.__version__,
            "repeats": arguments.repeats,
            **found,
            "ratio_s": round(found["gesso"]["s_median"] / found["diffusers"]["s_median"], 3),
            "ratio_cpu_s": round(found["gesso"]["cpu_s_median"] / found["diffusers"]["cpu_s_median"], 3),
            "max_gap_gesso_diffusers_float32": gap,
            "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
