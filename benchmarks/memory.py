"""What a memory plan says beside what the process really takes, phase by phase.

    python benchmarks/memory.py --model sd15.safetensors --size 256 --dtype float32

Each phase runs once in a process of its own: text, UNet (guided), decode, decode in tiles, encode; and with random
networks of the published widths `enlarge` (ESRGAN, 4 of its 23 blocks) and `image encoder` (8 of the 32 layers of
ViT-H, for the plus IP-Adapter). Counted is the growth of the resident memory from the ready network to the phase's
peak. A line of JSON each; `ratio` is what the plan says, with its allowance for scratch space, by what was measured:
above 1 the plan keeps its word.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gesso.runtime.engine import Engine
    from gesso.runtime.ip_adapter import LoadedImageEncoder, LoadedIPAdapter
    from gesso.runtime.upscaling import OffloadedUpscaler

PHASES = ("text", "unet", "decode", "tiles", "encode", "enlarge", "image encoder")


def one(phase: str, model_path: str, size: int, dtype: str, rows: int) -> dict[str, object]:
    import torch
    from PIL import Image

    from gesso.pipelines.second_pass import enlarged_picture
    from gesso.runtime.conditioning import Conditioning
    from gesso.runtime.engine import Engine
    from gesso.runtime.ip_adapter import clip_pixels, image_features
    from gesso.runtime.plan import EnlargingWork, ImagePromptWork, Workload

    torch.set_num_threads(1)
    engine = Engine("cpu", dtype, memory="64GiB")
    model = engine.load(model_path)
    enlarger = upscaler(engine) if phase == "enlarge" else None
    prompting = image_prompt(engine) if phase == "image encoder" else None
    work = Workload(
        width=size,
        height=size,
        rows=rows,
        encodes=True,
        image_prompts=(ImagePromptWork(*prompting),) if prompting else (),
        enlarging=EnlargingWork(enlarger.upscaler.network.config, enlarger.component, (size // 2, size // 2))
        if enlarger
        else None,
    )
    plan = engine.plan(model, work)
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
    picture = Image.new("RGB", (size // 2, size // 2))
    kind = {"text": "text", "unet": "unet"}.get(phase, "vae")
    if enlarger:
        enlarger.component.onload(model.dtype("unet"))
    if prompting:
        prompting[1].component.onload(model.dtype("text"))
    model.residency.use(*(name for name in model.parts.networks if name.startswith(kind)))
    reset_peak()
    before = status("VmRSS")
    model = model.with_plan(plan)
    with torch.inference_mode():
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
        elif enlarger:
            enlarged_picture(picture, size, size, enlarger.upscaler)
        elif prompting:
            encoder = prompting[1].network
            pixels = clip_pixels(picture, encoder.config.image_size).to(model.dtype("text"))
            image_features(encoder, pixels, "plus")
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


def upscaler(engine: "Engine") -> "OffloadedUpscaler":
    from gesso.models.rrdb import RRDBNet, RRDBNetConfig
    from gesso.runtime.residency import Component
    from gesso.runtime.upscaling import OffloadedUpscaler, Upscaler

    config = RRDBNetConfig(channels=64, growth=32, num_blocks=4, num_enlargements=2, fold=1)
    network = RRDBNet(config).requires_grad_(False)
    return OffloadedUpscaler(Upscaler(network), Component("upscaler", network, engine.device, "random"))


def image_prompt(engine: "Engine") -> "tuple[LoadedIPAdapter, LoadedImageEncoder]":
    from gesso.models.clip_vision import CLIPVisionConfig, CLIPVisionModel
    from gesso.models.ip_adapter import IPAdapter, IPAdapterConfig
    from gesso.runtime.ip_adapter import LoadedImageEncoder, LoadedIPAdapter
    from gesso.runtime.residency import Component

    vit = CLIPVisionConfig(
        image_size=224,
        patch_size=14,
        dim=1280,
        num_layers=8,
        num_heads=16,
        mlp_dim=5120,
        activation="gelu",
        projection_dim=1024,
    )
    plus = IPAdapterConfig(kind="plus", encoder_dim=1280, context_dim=768, num_tokens=16, dim=768, num_layers=4)
    encoder = CLIPVisionModel(vit).requires_grad_(False)
    adapter = IPAdapter(plus, (320,) * 16).requires_grad_(False)
    parts = [Component(name, network, engine.device, "random") for name, network in (("a", adapter), ("e", encoder))]
    return LoadedIPAdapter(adapter, parts[0], Path("a")), LoadedImageEncoder(encoder, parts[1], Path("e"))


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
