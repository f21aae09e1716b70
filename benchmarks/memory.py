"""What a memory plan says beside what the process really takes, phase by phase.

    python benchmarks/memory.py --model sd15.safetensors --size 256 --dtype float32

Each phase runs once in a process of its own: text, UNet (guided), decode, decode in tiles, encode. Counted is the
growth of the resident memory from the ready model to the phase's peak. A line of JSON each; `ratio` is what the plan
says, with its allowance for scratch space, by what was measured: above 1 the plan keeps its word.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

PHASES = ("text", "unet", "decode", "tiles", "encode")


def one(phase: str, model_path: str, size: int, dtype: str, rows: int) -> dict[str, object]:
    import torch

    from gesso.runtime.conditioning import Conditioning
    from gesso.runtime.engine import Engine
    from gesso.runtime.plan import Workload

    torch.set_num_threads(1)
    engine = Engine("cpu", dtype, memory="64GiB")
    model = engine.load(model_path)
    plan = engine.plan(model, Workload(width=size, height=size, rows=rows, encodes=True))
    said = {found.name: found for found in plan.phases}
    scale = model.family.size_multiple
    family = model.family
    if phase == "tiles":
        from dataclasses import replace

        plan = replace(plan, tile=max(16, size // scale // 2))
        said["tiles"] = {
            found.name: found for found in model.footprint.phases(Workload(width=size, height=size), plan)
        }["decode"]
    latents = torch.randn(rows, family.vae.latent_channels, size // scale, size // scale)
    kind = {"text": "text", "unet": "unet"}.get(phase, "vae")
    model.residency.use(*(name for name in model.parts.networks if name.startswith(kind)))
    reset_peak()
    before = status("VmRSS")
    with torch.inference_mode(), model.under(plan):
        if phase == "text":
            model.encode_prompt("a red car", clip_skip=1, width=size, height=size)
        elif phase == "unet":
            width = family.unet.added_dim
            told = Conditioning(
                context=torch.zeros(2 * rows, family.text.max_length, family.unet.context_dim),
                added=torch.zeros(2 * rows, width) if width else None,
            )
            model.predict(torch.cat([latents, latents]), torch.full((2 * rows,), 500.0), told)
        elif phase == "encode":
            model.encode_image(torch.zeros(rows, 3, size, size))
        else:
            model.decode(latents)
    took = status("VmHWM") - before
    return {
        "what": f"{phase} {family.name} {size}x{size}, {rows} picture(s)",
        "dtype": dtype,
        "torch": torch.__version__,
        "said_mib": said[phase].activations >> 20,
        "took_mib": took >> 20,
        "ratio": round(said[phase].activations / max(took, 1), 2),
    }


def reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def status(name: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("this benchmark reads /proc and runs on Linux only")


def main() -> None:
    parser = argparse.ArgumentParser(description="Memory plans beside what is really taken.")
    parser.add_argument("--model", default="gesso-mini")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--phase", action="append", choices=PHASES)
    parser.add_argument("--one", choices=PHASES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(one(arguments.one, arguments.model, arguments.size, arguments.dtype, arguments.rows)))
        return
    options = ["--model", arguments.model, "--size", str(arguments.size), "--dtype", arguments.dtype]
    for phase in arguments.phase or PHASES:
        command = [sys.executable, __file__, *options, "--rows", str(arguments.rows), "--one", phase]
        print(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip(), flush=True)


if __name__ == "__main__":
    main()
