"""Seconds and memory of a LoRA step on Stable Diffusion, beside the step of diffusers' training script, by turns.

    python benchmarks/lora_step.py --size 512 --repeats 5
    python benchmarks/lora_step.py --family sdxl --size 512 --repeats 1 --apart --only gesso peft

Random weights at the real size, the same layers and rank in both (attention and feed-forward, as `gesso train lora`
takes them), one picture a step, float32, AdamW. Each trainer is a process of its own, which takes a step when it is
told to, so that whatever else the machine does hits both, and the peak of its memory is its own.

gesso    the step of `gesso train lora`: latents and captions come from the cache
peft     the step of diffusers' train_text_to_image_lora.py: VAE and text encoder in each, the UNet with PEFT's LoRA
network  the same without VAE and text encoder: what is left where somebody else caches, too

Prints a line of JSON. On a shared machine read the CPU seconds. Needs the `dev` extra, and 7 and 12 GB of memory for
SD 1.5 at 512, 15 and 20 for SDXL, whose trainers run one after the other (`--apart`) where there is less than for both.
"""

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

WHO = ("gesso", "peft", "network")
RANK = 16
TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "net.0.proj", "net.2"]
CAPTION = "a red car on a yellow background"


def gesso_step(size: int, name: str = "sd15") -> Callable[[], float]:
    """A step of `gesso train lora`, from its task and its optimiser."""
    import torch
    from torch import nn

    from gesso.checkpoints import keymap
    from gesso.families.parts import ModelParts, empty_networks, fill
    from gesso.families.registry import family_named
    from gesso.text.tokenizer import Tokenizer
    from gesso.training.loop import Plan
    from gesso.training.task import generator_for
    from gesso.tuning.buckets import Framing
    from gesso.tuning.dataset import Example, Subset
    from gesso.tuning.latents import Encoded
    from gesso.tuning.learners import make_learner
    from gesso.tuning.optimizers import make_optimizer
    from gesso.tuning.run import objective_of
    from gesso.tuning.settings import TuningSettings, completed
    from gesso.tuning.survey import Found
    from gesso.tuning.task import TuningTask
    from unet_step import random_weights

    family = family_named(name)
    networks = empty_networks(family, "benchmark")
    for network in networks.values():
        fill(network, random_weights(keymap.shapes_of(network.state_dict())), "benchmark", device="cpu", dtype=None)
        network.requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    parts = ModelParts(family=family, **networks, tokenizer=Tokenizer.clip(), upscaler=None, files=())  # type: ignore[arg-type]
    settings = completed(TuningSettings(rank=RANK, preset="cpu", precision="float32", caption_dropout=0.0), family, 1)
    import numpy as np

    picture = Found(
        example=Example(Path("0.png"), CAPTION, None, 0),
        subset=Subset(where=Path()),
        digest="0",
        size=(size, size),
        look=np.zeros((16, 16, 3), np.int16),
        framing=Framing((size, size), (size, size), 0, 0),
        scale=1,
        has_mask=False,
    )
    mean = torch.randn(4, size // 8, size // 8, generator=torch.Generator().manual_seed(1))
    latents = {(0, False): Encoded(mean, torch.full_like(mean, 0.1), None)}
    learner = make_learner(parts.networks, [parts.tokenizer] * 2, settings, generator_for(0, 1))
    task = TuningTask(parts, learner, [picture], latents, objective_of(settings, parts), batch_size=1, seed=0)
    task.put_text_away()  # as a run does that draws nothing, and on a CPU it draws nothing unless it is asked to
    parts.vae.to("meta")
    groups = task.parameter_groups(1e-4)
    plan = Plan(
        batch_size=1, total_samples=1, learning_rate=1e-4, warmup_samples=0, decay_share=0.0, ema_decay=0.0,
        betas=(0.9, 0.999), weight_decay=0.01,
    )  # fmt: skip
    optimizer = make_optimizer("adamw", groups, plan)
    learned = [parameter for group in groups for parameter in group["params"]]
    number = 0

    def step() -> float:
        nonlocal number
        loss, _ = task.loss(number, 1, 0)
        loss.backward()
        nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        number += 1
        return float(loss.detach())

    return step


def script_step(size: int, name: str, *, encodes: bool) -> Callable[[], float]:
    """A step of the script. encodes: VAE and text encoder take part, as there."""
    import diffusers
    import peft
    import torch
    import transformers
    from torch.nn import functional as F

    from gesso.checkpoints import keymap
    from gesso.families.diffusers_folder import folder_configs
    from gesso.families.registry import family_named
    from unet_step import random_weights

    family = family_named(name)
    configs = folder_configs(family)

    def made(kind: Any, config: Any) -> Any:
        with torch.device("meta"):
            network = kind(config) if kind is transformers.CLIPTextModel else kind.from_config(config)
        weights = random_weights(keymap.shapes_of(network.state_dict()))
        network.load_state_dict(weights, strict=True, assign=True)
        return network.requires_grad_(False)

    unet = made(diffusers.UNet2DConditionModel, configs["unet/config.json"])
    unet.add_adapter(peft.LoraConfig(r=RANK, lora_alpha=RANK, init_lora_weights="gaussian", target_modules=TARGETS))
    vae, texts = None, []
    if encodes:
        vae = made(diffusers.AutoencoderKL, configs["vae/config.json"])
        for place, kind in (
            ("text_encoder", transformers.CLIPTextModel),
            ("text_encoder_2", transformers.CLIPTextModelWithProjection),
        ):
            if f"{place}/config.json" in configs:
                told = {key: one for key, one in configs[f"{place}/config.json"].items() if key != "architectures"}
                texts.append(kind(transformers.CLIPTextConfig(**told)).requires_grad_(False))
    scheduler: Any = diffusers.DDPMScheduler(  # type: ignore[no-untyped-call]
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012
    )
    learned = [parameter for parameter in unet.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=1e-4, betas=(0.9, 0.999), weight_decay=1e-2, eps=1e-8)
    torch.manual_seed(0)
    pixels, ids = torch.randn(1, 3, size, size), torch.randint(0, 49408, (1, 77))
    kept = torch.randn(1, 4, size // 8, size // 8), torch.randn(1, 77, family.unet.context_dim)
    more: dict[str, Any] = {}
    if family.text_2 is not None:
        more["added_cond_kwargs"] = {
            "text_embeds": torch.randn(1, 1280),
            "time_ids": torch.tensor([[size, size, 0, 0, size, size]], dtype=torch.float32),
        }
    unet.train()

    def step() -> float:
        latents, context = kept
        if vae is not None:
            with torch.no_grad():
                latents = vae.encode(pixels).latent_dist.sample() * vae.config.scaling_factor
                states = [text(ids, output_hidden_states=True) for text in texts]
                context = states[0].last_hidden_state
                if len(states) == 2:
                    context = torch.cat([one.hidden_states[-2] for one in states], dim=-1)
                    more["added_cond_kwargs"]["text_embeds"] = states[1].text_embeds
        noise, times = torch.randn_like(latents), torch.randint(0, 1000, (1,))
        noisy = scheduler.add_noise(latents, noise, times)
        loss = F.mse_loss(unet(noisy, times, context, return_dict=False, **more)[0].float(), noise.float())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())

    return step


def work(who: str, size: int, name: str, threads: int) -> None:
    """A trainer: takes a step for each line that comes in, and says what it took."""
    import torch

    torch.set_num_threads(threads)
    step = gesso_step(size, name) if who == "gesso" else script_step(size, name, encodes=who == "peft")
    print("ready", flush=True)
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        loss = step()
        took = time.perf_counter() - wall, time.process_time() - cpu
        status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
        print(json.dumps({"wall": took[0], "cpu": took[1], "peak_kib": peak, "loss": loss}), flush=True)


def take_turns(some: list[str], rows: dict[str, list[dict[str, float]]], arguments: argparse.Namespace) -> None:
    """Let some trainers take their steps by turns, and add what each says of them to its rows."""
    command = [sys.executable, __file__, "--size", str(arguments.size), "--threads", str(arguments.threads)]
    command += ["--family", arguments.family, "--work"]
    trainers = {}
    for who in some:
        trainers[who] = subprocess.Popen([*command, who], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert trainers[who].stdout.readline() == "ready\n", who  # type: ignore[union-attr]
    order = random.Random(0)
    for turn in range(arguments.repeats + 1):  # the first step warms up
        for who in order.sample(sorted(trainers), len(trainers)):
            pipe = trainers[who]
            assert pipe.stdin is not None and pipe.stdout is not None
            pipe.stdin.write("step\n")
            pipe.stdin.flush()
            row = json.loads(pipe.stdout.readline())
            if turn:
                rows[who].append(row)
    for pipe in trainers.values():
        pipe.communicate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", type=int, default=512, help="pixels a side (default 512)")
    parser.add_argument("--repeats", type=int, default=5, help="timed steps of each (default 5)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--family", choices=["sd15", "sdxl"], default="sd15")
    parser.add_argument("--apart", action="store_true", help="one trainer after the other, not by turns")
    parser.add_argument("--only", nargs="+", choices=WHO, default=list(WHO))
    parser.add_argument("--work", choices=WHO, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work(arguments.work, arguments.size, arguments.family, arguments.threads)
        return
    rows: dict[str, list[dict[str, float]]] = {who: [] for who in arguments.only}
    for some in [[who] for who in arguments.only] if arguments.apart else [arguments.only]:
        take_turns(some, rows, arguments)
    found: dict[str, dict[str, float]] = {
        who: {
            "cpu_s": round(statistics.median(row["cpu"] for row in some), 3),
            "wall_s": round(statistics.median(row["wall"] for row in some), 3),
            "peak_mib": round(max(row["peak_kib"] for row in some) / 1024),
        }
        for who, some in rows.items()
    }
    ratios = {
        f"to_{who}": {key: round(found["gesso"][key] / figures[key], 3) for key in figures}
        for who, figures in found.items()
        if "gesso" in found and who != "gesso"
    }
    about = f"lora step {arguments.family} {arguments.size}x{arguments.size}, rank {RANK}, float32"
    machine = f"cpu {platform.machine()}, {arguments.threads} threads, load {os.getloadavg()[0]:.1f}"
    print(json.dumps({"what": about, "device": machine, "repeats": arguments.repeats, **found, **ratios}))


if __name__ == "__main__":
    main()
