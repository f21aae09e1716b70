"""What putting a LoRA on a resident Stable Diffusion 1.5 takes, beside one step at 512 px of the same random weights.

    python benchmarks/lora_switch.py --dtype bfloat16 --rank 32

A rank-32 LoRA on every linear layer and convolution of UNet and text encoder. First run time and merging are compared
in their result. "switch" is attaching, the first call's placing of the tensors and detaching, without reading the file;
"read" is reading it, from the page cache. A line of JSON, in CPU seconds of all threads of this process.
"""

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from gesso.adapters.attaching import attach
from gesso.adapters.lora import read_lora
from gesso.adapters.names import Target
from gesso.checkpoints import keymap
from gesso.checkpoints.weight_file import open_weights
from gesso.families.parts import empty_networks, fill
from gesso.families.sd15 import SD15
from unet_step import random_weights

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def cpu_seconds(run: Callable[[], object], repeats: int) -> float:
    """The median."""
    found = []
    for _ in range(repeats):
        begin = time.process_time()
        run()
        found.append(time.process_time() - begin)
    return sorted(found)[len(found) // 2]


def lora_tensors(target: Target, rank: int) -> dict[str, torch.Tensor]:
    tensors = {}
    for component, network in target.networks.items():
        if component not in ("unet", "text"):
            continue
        for name, module in network.named_modules():
            if isinstance(module, nn.Linear | nn.Conv2d) and name != "projection":
                out, into, *kernel = module.weight.shape
                stem = target.stem_of(component, name)
                ends = [1, 1] if target.is_pointwise(component, name) else []
                down = torch.randn(rank, into, *(kernel or ends), dtype=torch.float16)
                tensors[f"{stem}.lora_down.weight"] = down * 0.01
                tensors[f"{stem}.lora_up.weight"] = torch.randn(out, rank, *[1] * len(kernel or ends)).half() * 0.01
    return tensors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    dtype = DTYPES[options.dtype]
    networks = {name: net for name, net in empty_networks(SD15, "benchmark").items() if name in ("unet", "text")}
    for network in networks.values():
        fill(network, random_weights(keymap.shapes_of(network.state_dict())), "benchmark", device="cpu", dtype=dtype)
        network.to(memory_format=torch.channels_last)
    target = Target(SD15.name, SD15.layout, networks)
    with torch.inference_mode():
        measure(options, target)


def measure(options: argparse.Namespace, target: Target) -> None:
    """Prints the line."""
    networks, dtype = target.networks, DTYPES[options.dtype]
    unet = networks["unet"]
    z = torch.randn(2, 4, options.size // 8, options.size // 8).to(dtype)
    context, timestep = torch.randn(2, 77, 768).to(dtype), torch.tensor([500.0, 500.0])

    def step() -> torch.Tensor:
        found: torch.Tensor = unet(z, timestep, context)
        return found

    small = torch.randn(1, 4, 8, 8).to(dtype)

    def call() -> torch.Tensor:
        found: torch.Tensor = unet(small, timestep[:1], context[:1])
        return found

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lora.safetensors"
        save_file(lora_tensors(target, options.rank), path)
        lora = read_lora(open_weights(path), target)
        with attach(networks, [(lora, 1.0, 1.0)]):
            run = call()
        with attach(networks, [(lora, 1.0, 1.0)], merged=True):
            merged = call()
        gap = ((run - merged).abs().max() / merged.abs().max()).item()

        def switch(*, merged: bool = False) -> None:
            with attach(networks, [(lora, 1.0, 1.0)], merged=merged):
                call()

        plain = cpu_seconds(call, options.repeats)
        on = cpu_seconds(switch, options.repeats) - plain
        merging = cpu_seconds(lambda: switch(merged=True), options.repeats) - plain
        reading = cpu_seconds(lambda: read_lora(open_weights(path), target), options.repeats)
        whole = cpu_seconds(step, options.repeats)
        with attach(networks, [(lora, 1.0, 1.0)]):
            step()
            with_lora = cpu_seconds(step, options.repeats)
    print(
        json.dumps(
            {
                "what": f"lora switch sd15 {options.size}px guided rank {options.rank}",
                "dtype": options.dtype,
                "torch": str(torch.__version__),
                "device": platform.processor() or platform.machine(),
                "threads": torch.get_num_threads(),
                "step_s": round(whole, 3),
                "switch_s": round(on, 3),
                "switch_share_of_step": round(on / whole, 4),
                "merge_s": round(merging, 3),
                "read_s": round(reading, 3),
                "step_with_lora_over_step": round(with_lora / whole, 3),
                "largest_gap_of_merged": gap,
            }
        )
    )


if __name__ == "__main__":
    main()
