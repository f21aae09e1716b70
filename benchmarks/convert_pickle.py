"""Seconds to turn a PyTorch checkpoint into safetensors through the confined child, beside torch and safetensors.

    python benchmarks/convert_pickle.py --mib 2048

A file of random float16 tensors with the names and shapes of the Stable Diffusion 1.5 UNet, as many as fit. Theirs is
`torch.load(weights_only=True)` and `save_file`, in a process of its own like ours, without hashes; ours includes the
SHA-256 of both files, which alone is timed as well. Both results are compared first. One line of JSON.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from gesso.checkpoints.hashing import sha256_of
from gesso.checkpoints.pickle_file import Limits, convert_pickle
from gesso.checkpoints.safetensors_file import open_safetensors, tensor_data_sha256
from gesso.families.parts import empty_networks
from gesso.families.sd15 import SD15

THEIRS = """
import sys, torch
from safetensors.torch import save_file
save_file(torch.load(sys.argv[1], weights_only=True, map_location="cpu")["state_dict"], sys.argv[2])
"""


def checkpoint(path: Path, mib: int) -> int:
    """Writes the file, the same one every time -> number of tensors."""
    block = torch.randn(2**24, generator=torch.Generator().manual_seed(0)).half()
    tensors, room = {}, mib * 2**19  # float16 numbers
    for name, tensor in empty_networks(SD15, "benchmark")["unet"].state_dict().items():
        if tensor.numel() <= min(room, len(block)):
            tensors[name] = block[: tensor.numel()].reshape(tensor.shape).clone()
            room -= tensor.numel()
    torch.save({"state_dict": tensors, "epoch": 1}, path)
    return len(tensors)


def clocks() -> tuple[float, float]:
    """Wall clock, and CPU seconds of this process and its ended children."""
    times = os.times()
    return times.elapsed, sum(times[:4])


def since(before: tuple[float, float]) -> tuple[float, float]:
    """Seconds of both clocks."""
    wall, cpu = clocks()
    return round(wall - before[0], 2), round(cpu - before[1], 2)


def main() -> None:
    """Prints the line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--mib", type=int, default=2048)
    parser.add_argument("--memory-mib", type=int, default=128, help="address space that the child may take")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        source, ours, theirs = (
            Path(name, "model.ckpt"),
            Path(name, "ours.safetensors"),
            Path(name, "theirs.safetensors"),
        )
        count = checkpoint(source, wanted.mib)
        begin = clocks()
        found = convert_pickle(source, ours, limits=Limits(memory=wanted.memory_mib * 2**20))
        ours_s = since(begin)
        begin = clocks()
        subprocess.run([sys.executable, "-c", THEIRS, source, theirs], check=True)
        theirs_s = since(begin)
        if tensor_data_sha256(open_safetensors(ours)) != tensor_data_sha256(open_safetensors(theirs)):
            raise SystemExit("the two results differ")
        begin = clocks()
        sha256_of(theirs)
        hash_s = since(begin)
        line = {
            "what": "convert a .ckpt",
            "tensors": count,
            "mib": round(source.stat().st_size / 2**20),
            "confined": found.confined,
            "torch": torch.__version__,
            "gesso_wall_cpu_s": ours_s,
            "child_mib_allowed": wanted.memory_mib,
            "torch_wall_cpu_s": theirs_s,
            "one_sha256_wall_cpu_s": hash_s,
        }
        print(json.dumps(line))


if __name__ == "__main__":
    main()
