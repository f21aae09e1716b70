"""Seconds and memory to load a full-size checkpoint, beside plain safetensors and diffusers, in one run.

    python benchmarks/load.py --family sd15 --file /tmp/sd15.safetensors --repeats 3

The file is made where it is missing: names, shapes and size of the release, float16, random numbers. Then by turns,
each in a process of its own that has its imports behind it:

    plain      safetensors.torch.load_file, then every byte is looked at once
    copy       the same, and each tensor copied into memory of its own
    mapped     gesso, names and shapes checked, numbers left in the mapped file and not yet read
    stored     the same, all numbers read and checked to be finite
    bfloat16   gesso's engine: checked, converted, convolutions channels last, ready to compute
    float32    the same in float32, twice the size of the file
    diffusers-float16, -bfloat16, -float32
               from_single_file with that torch_dtype (no check, no channels last; float16 is only mapped, too); the
               configuration is local

A line of JSON for each: seconds (wall, and CPU of all threads), peak resident memory over that before loading, and that
by the size of the weights as they lie in memory then. --cold asks the system to forget the file before each turn. On a
shared machine read the CPU seconds and the ratios.
"""

import argparse
import gc
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

WAYS = (
    "plain",
    "copy",
    "mapped",
    "stored",
    "bfloat16",
    "float32",
    "diffusers-float16",
    "diffusers-bfloat16",
    "diffusers-float32",
)
BLOCK = 2**26  # numbers that all tensors are cut from; the largest tensor of SDXL has 63 million


def make(family_name: str, path: Path) -> None:
    """A file as the release has it, with random numbers."""
    import torch

    from gesso.families.parts import ModelParts, empty_networks, fill
    from gesso.families.registry import FAMILIES
    from gesso.families.saving import save_ldm
    from gesso.text.tokenizer import Tokenizer

    block = (torch.randn(BLOCK, generator=torch.Generator().manual_seed(0)) * 0.02).half()
    family = FAMILIES[family_name]
    networks: dict[str, Any] = {"upscaler": None, "text_2": None, **empty_networks(family, "benchmark")}
    for network in networks.values():
        if network is not None:
            weights = {name: block[: p.numel()].view(p.shape) for name, p in network.named_parameters()}
            fill(network, weights, "benchmark", device="cpu", dtype=None, check=False)
    save_ldm(path, ModelParts(family=family, tokenizer=Tokenizer.clip(), files=(), **networks))


def make_config(family_name: str, folder: Path) -> None:
    """What diffusers needs beside the file: configurations and tokenizers."""
    from gesso.families.diffusers_folder import folder_configs
    from gesso.families.registry import FAMILIES
    from gesso.text.tokenizer import Tokenizer

    for name, content in folder_configs(FAMILIES[family_name]).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    for tokenizer in ("tokenizer", "tokenizer_2"):
        (folder / tokenizer).mkdir(exist_ok=True)
        for name, text in Tokenizer.clip().folder_files().items():
            (folder / tokenizer / name).write_text(text, encoding="utf-8")


def one(way: str, family_name: str, path: Path, config: Path) -> dict[str, Any]:
    """In a process of its own: imports, then the clock."""
    import torch

    torch.set_num_threads(1)
    kept: Any
    if way in ("plain", "copy"):
        from safetensors.torch import load_file

        def load() -> Any:
            tensors = load_file(path)
            for name, tensor in tensors.items():
                if tensor.nbytes % 4 == 0 and tensor.ndim:
                    tensor.reshape(-1).view(torch.int32).amax()
                if way == "copy":
                    tensors[name] = tensor.clone()
            return tensors

    elif way.startswith("diffusers"):
        import diffusers

        pipeline = getattr(diffusers, "StableDiffusionXLPipeline" if "xl" in family_name else "StableDiffusionPipeline")
        dtype = getattr(torch, way.partition("-")[2])
        extra = {} if "xl" in family_name else {"safety_checker": None}

        def load() -> Any:
            return pipeline.from_single_file(
                str(path), config=str(config), torch_dtype=dtype, local_files_only=True, **extra
            )

    elif way in ("mapped", "stored"):
        from gesso.families.loading import load_parts

        def load() -> Any:
            return load_parts(path, dtype=None, check=way == "stored")

    else:
        from gesso.runtime.engine import Engine

        engine = Engine("cpu", way)

        def load() -> Any:
            return engine.load(path)

    gc.collect()  # else the first full round over what the imports made falls into the load, or not, by chance
    reset_peak()
    before = status("VmRSS")
    wall, cpu = time.perf_counter(), time.process_time()
    kept = load()
    found = {
        "s": time.perf_counter() - wall,
        "cpu_s": time.process_time() - cpu,
        "peak": status("VmHWM") - before,
        "maxrss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    if way in ("bfloat16", "float32"):
        found["weights"] = kept.residency.onloaded_nbytes()  # the text encoders are float32 in both
    del kept
    return found


def reset_peak() -> None:
    """The peak of the imports is not the load's."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def status(name: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("this benchmark reads /proc and runs on Linux only")


def forget(path: Path) -> None:
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main() -> None:
    parser = argparse.ArgumentParser(description="Seconds and memory to load a full-size checkpoint.")
    parser.add_argument("--family", default="sd15", help="sd15, sdxl (default sd15)")
    parser.add_argument("--file", type=Path, required=True, help="made where it is missing")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cold", action="store_true", help="forget the file before each turn")
    parser.add_argument("--way", action="append", choices=WAYS, help="may be repeated (default: all)")
    parser.add_argument("--one", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--config", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(one(arguments.one, arguments.family, arguments.file, arguments.config)))
        return
    if not arguments.file.exists():
        make(arguments.family, arguments.file)
    ways = arguments.way or list(WAYS)
    found: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as config:
        make_config(arguments.family, Path(config))
        for turn in range(arguments.repeats):
            for way in ways if turn % 2 == 0 else reversed(ways):
                if arguments.cold:
                    forget(arguments.file)
                options = [
                    "--one",
                    way,
                    "--config",
                    config,
                    "--family",
                    arguments.family,
                    "--file",
                    str(arguments.file),
                ]
                child = subprocess.run(
                    [sys.executable, __file__, *options], capture_output=True, text=True, check=False
                )
                if child.returncode:
                    raise SystemExit(f"{way}: {child.stderr[-2000:]}")
                found[way].append(json.loads(child.stdout.splitlines()[-1]))
    report(arguments, found)


def report(arguments: argparse.Namespace, found: dict[str, list[dict[str, float]]]) -> None:
    import platform

    import torch

    nbytes = arguments.file.stat().st_size
    base = statistics.median(turn["cpu_s"] for turn in found["plain"]) if "plain" in found else None
    base_wall = statistics.median(turn["s"] for turn in found["plain"]) if "plain" in found else None
    for way, turns in found.items():
        s = statistics.median(turn["s"] for turn in turns)
        cpu = statistics.median(turn["cpu_s"] for turn in turns)
        peak = max(turn["peak"] for turn in turns)
        weights = turns[0].get("weights") or nbytes * (2 if way.endswith("float32") else 1)
        cache = "cold" if arguments.cold else "warm"
        line = {
            "what": f"load {arguments.family} float16, {nbytes / 2**30:.2f} GiB, {cache}",
            "way": way,
            "device": f"cpu {platform.machine()}",
            "torch": torch.__version__,
            "repeats": len(turns),
            "s_median": round(s, 3),
            "cpu_s_median": round(cpu, 3),
            "s_by_plain": round(s / base_wall, 2) if base_wall else None,
            "cpu_by_plain": round(cpu / base, 2) if base else None,
            "peak_mib": round(peak / 2**20),
            "peak_by_weights": round(peak / weights, 3),
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
