"""gesso beside diffusers on a GPU: milliseconds of a step, pictures a second, share of the measured matrix rate.

    python benchmarks/gpu.py --family sd15 --minutes 10
    python benchmarks/gpu.py --device cpu --size 64 --batch 1 --steps 2 --tiny      # a rehearsal without a GPU

Random weights of the release, the same for both; float32 outputs are compared before anything is timed. By turns: gesso
as its engine computes (channels last, torch's fused attention, its number format), gesso as one captured graph a shape,
diffusers as it is, and diffusers compiled. A line of JSON each; what is left of the time decides how many turns there
are. Nothing else should run on the GPU.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from gesso.checkpoints import keymap
from gesso.families.base import Family
from gesso.families.diffusers_folder import folder_configs
from gesso.families.parts import empty_networks, fill
from gesso.families.registry import FAMILIES
from gesso.families.saving import folder_rules

AGREE = 2e-4  # largest difference of the float32 outputs
Step = Callable[[Tensor, Tensor, Tensor, dict[str, Tensor]], Tensor]


def tiny(family: Family) -> Family:
    """The same architecture with few channels."""
    unet = replace(family.unet, channels=tuple(32 * (i + 1) for i in range(len(family.unet.channels))))
    return replace(family, unet=replace(unet, num_heads=tuple(2 for _ in unet.channels), norm_groups=8))


def build(family: Family, device: torch.device) -> tuple[nn.Module, nn.Module]:
    """Ours and theirs with the same float32 weights."""
    import diffusers

    from unet_step import random_weights

    ours = empty_networks(family, "benchmark")["unet"]
    weights = random_weights(keymap.shapes_of(ours.state_dict()))
    fill(ours, weights, "benchmark", device=str(device), dtype=torch.float32)
    settings = folder_configs(family)["unet/config.json"]
    settings["norm_num_groups"] = family.unet.norm_groups
    with torch.device("meta"):
        theirs = diffusers.UNet2DConditionModel.from_config(settings)
    renamed = keymap.save(folder_rules(family)["unet"], weights)
    theirs.load_state_dict({name: tensor.to(device) for name, tensor in renamed.items()}, strict=True, assign=True)
    return ours.to(device), theirs.eval().requires_grad_(False)


def inputs(
    family: Family, size: int, batch: int, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
    """Rows with guidance: two for each picture."""
    generator = torch.Generator().manual_seed(1)
    side, rows = size // family.vae.downscale, 2 * batch
    x = torch.randn(rows, family.unet.in_channels, side, side, generator=generator).to(device, dtype)
    context = torch.randn(rows, 77, family.unet.context_dim, generator=generator).to(device, dtype)
    added = {}
    if family.unet.added_dim is not None:
        pooled = torch.randn(rows, family.unet.added_dim - 6 * 256, generator=generator).to(device, dtype)
        sizes = torch.tensor([[size, size, 0, 0, size, size]] * rows, device=device, dtype=dtype)
        added = {"text_embeds": pooled, "time_ids": sizes}
    return x.contiguous(memory_format=torch.channels_last), torch.full((rows,), 500.0, device=device), context, added


def own(network: nn.Module) -> Step:
    from gesso.nn.embedding import sinusoid

    def step(x: Tensor, timestep: Tensor, context: Tensor, added: dict[str, Tensor]) -> Tensor:
        vector = None
        if added:
            sizes = sinusoid(added["time_ids"].flatten(), 256).reshape(len(x), -1)
            vector = torch.cat([added["text_embeds"], sizes.to(x.dtype)], dim=1)
        return network(x, timestep, context, vector)

    return step


def theirs_of(network: nn.Module) -> Step:
    return lambda x, timestep, context, added: network(
        x, timestep, context, added_cond_kwargs=added or None, return_dict=False
    )[0]


class Captured:
    """A step as one CUDA graph for each shape: no launch from Python but one."""

    def __init__(self, step: Step) -> None:
        self.step = step
        self.graphs: dict[Any, tuple[Any, tuple[Tensor, ...], Tensor]] = {}

    def __call__(self, x: Tensor, timestep: Tensor, context: Tensor, added: dict[str, Tensor]) -> Tensor:
        given = (x, timestep, context, *added.values())
        key = tuple(each.shape for each in given)
        if key not in self.graphs:
            held = tuple(each.clone(memory_format=torch.preserve_format) for each in given)
            arguments = (*held[:3], dict(zip(added, held[3:], strict=True)))
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(3):
                    self.step(*arguments)
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                output = self.step(*arguments)
            self.graphs[key] = (graph, held, output)
        graph, held, output = self.graphs[key]
        for to, value in zip(held, given, strict=True):
            to.copy_(value)
        graph.replay()
        return output


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matrix_rate(device: torch.device, dtype: torch.dtype, side: int) -> float:
    """FLOP/s of a product of square matrices."""
    a = torch.randn(side, side, device=device).to(dtype)
    best = float("inf")
    for _ in range(10):
        wait(device)
        began = time.perf_counter()
        a @ a
        wait(device)
        best = min(best, time.perf_counter() - began)
    return 2 * side**3 / best


def flops(step: Step, arguments: tuple[Any, ...]) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        step(*arguments)
    return counter.get_total_flops()


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description="gesso beside diffusers on a GPU.")
    parser.add_argument("--family", default="sd15", choices=("sd15", "sdxl"))
    parser.add_argument("--size", type=int, help="pixels a side (default: the release's)")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4, 16], help="pictures drawn at once")
    parser.add_argument("--steps", type=int, default=20, help="steps of a picture, for pictures a second")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--minutes", type=float, default=10.0, help="time for everything")
    parser.add_argument("--tiny", action="store_true", help="few channels: a rehearsal, no measurement")
    parser.add_argument("--no-compile", action="store_true", help="leave out torch.compile")
    arguments = parser.parse_args()
    end = time.monotonic() + 60 * arguments.minutes

    device = torch.device(arguments.device)
    dtype = torch.bfloat16
    family = tiny(FAMILIES[arguments.family]) if arguments.tiny else FAMILIES[arguments.family]
    size = arguments.size or family.native_size
    ours, theirs = build(family, device)
    small = inputs(family, 64 if arguments.tiny else 256, 1, device, torch.float32)
    gap = (own(ours)(*small) - theirs_of(theirs)(*small)).abs().max().item()
    if not gap < AGREE:
        raise SystemExit(f"float32 results differ by {gap:.1e}, allowed {AGREE:.0e}: nothing is timed")
    ours, theirs = (network.to(dtype, memory_format=torch.channels_last) for network in (ours, theirs))
    steps: dict[str, Step] = {"gesso": own(ours), "diffusers": theirs_of(theirs)}
    if device.type == "cuda":
        steps["gesso-graph"] = Captured(own(ours))
        if not arguments.no_compile:
            steps["diffusers-compiled"] = theirs_of(torch.compile(theirs, mode="max-autotune-no-cudagraphs"))
    rate = matrix_rate(device, dtype, 256 if arguments.tiny else 8192)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    for place, batch in enumerate(arguments.batch):
        given = inputs(family, size, batch, device, dtype)
        work = flops(steps["gesso"], given)
        share = (end - time.monotonic()) / (len(arguments.batch) - place)
        until = time.monotonic() + share
        times: dict[str, list[float]] = {who: [] for who in steps}
        for step in steps.values():
            step(*given)  # chooses kernels, compiles, captures
        while len(times["gesso"]) < 2 or (time.monotonic() < until and len(times["gesso"]) < 50):
            for who, step in steps.items():
                wait(device)
                began = time.perf_counter()
                step(*given)
                wait(device)
                times[who].append(time.perf_counter() - began)
        what = f"unet {arguments.family} {size}x{size}, {batch} with guidance{', tiny' * arguments.tiny}"
        for who, taken in times.items():
            median = statistics.median(taken)
            line = {
                "what": what,
                "who": who,
                "device": name,
                "torch": torch.__version__,
                "ms_a_step": round(1e3 * median, 3),
                "pictures_a_second_without_decode": round(batch / (arguments.steps * median), 3),
                "share_of_matrix_rate": round(work / median / rate, 3),
                "by_diffusers": round(median / statistics.median(times["diffusers"]), 3),
                "turns": len(taken),
                "matrix_tflops": round(rate / 1e12, 2),
                "max_gap_float32": gap,
            }
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
