"""Trains the default model on composed scenes: python scripts/train_world.py STAGE... [--recipe gpu] [--rehearse].

The drawings come from scripts/make_world.py. A run that was cut off goes on where it was. `--rehearse` runs every stage
for a few steps in a folder of its own, at full batch size where a GPU does it: a compiler's work is then done.
Started by torchrun (`torchrun --nproc-per-node 2 scripts/train_world.py ...`), each process takes a batch of its own.
"""

import argparse
import json
import os
import time
from dataclasses import replace
from pathlib import Path

import torch

from gesso.mini.world_model import RECIPES, STAGES, WorldModel, rehearsal
from gesso.models.vae import AutoencoderKL
from gesso.training.group import Group, joined
from gesso.training.loop import MovingAverage, save_atomically
from gesso.world.drawings import load_drawings
from gesso.world.objects import things


def main() -> None:
    """Run the stages, then export if a path is given."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stages", nargs="*", choices=STAGES)
    parser.add_argument("--drawings", type=Path, default=Path("build/world/drawings.gesso"))
    parser.add_argument("--folder", type=Path, default=Path("build/world/model"))
    parser.add_argument("--recipe", choices=list(RECIPES), default="gpu")
    parser.add_argument("--device", help="in place of the recipe's")
    parser.add_argument("--threads", type=int, default=1, help="of a CPU")
    parser.add_argument("--minutes", type=float, help="of the one stage")
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--batch", type=int, default=4, help="of a rehearsal")
    parser.add_argument("--steps", type=int, default=6, help="of a rehearsal")
    parser.add_argument("--compile-after", type=Path, help="file of a rehearsal beside it, whose compiler has ended")
    parser.add_argument("--save-every", type=float, help="seconds between states")
    parser.add_argument("--drawing-size", type=int, help="pixels a side, to save memory")
    parser.add_argument("--expected", type=int, help="samples of the denoising that its phases are shares of")
    parser.add_argument("--load", type=Path, help="folder with STAGE.safetensors of stages that are done")
    parser.add_argument("--start", type=Path, help="STAGE.safetensors whose weights the one stage begins with")
    parser.add_argument("--rate", type=float, help="learning rate of the one stage")
    parser.add_argument("--save", type=Path, help="folder for STAGE.safetensors of the stages")
    parser.add_argument("--export", type=Path)
    given = parser.parse_args()
    with joined() as group:
        run(given, group)


def run(given: argparse.Namespace, group: Group) -> None:
    """What was asked for, by one of the processes."""
    started = time.monotonic()
    torch.set_num_threads(given.threads)
    recipe = RECIPES[given.recipe]
    if given.device:
        recipe = replace(recipe, device=given.device)
    if given.rehearse:
        recipe = rehearsal(recipe, recipe.device, given.steps, given.batch)
    changes = {"minutes": given.minutes, "learning_rate": given.rate}
    if changes := {name: value for name, value in changes.items() if value}:
        (stage,) = given.stages
        recipe = replace(recipe, **{stage: replace(getattr(recipe, stage), **changes)})
    if given.save_every:
        recipe = replace(recipe, save_every=given.save_every)
    if given.expected:
        recipe = replace(recipe, expected_samples=given.expected)
    drawings = load_drawings(given.drawings, things(), given.drawing_size)
    given.folder.mkdir(parents=True, exist_ok=True)
    model = WorldModel(recipe, given.folder, things(), drawings)
    is_first = group.rank == 0
    if is_first:
        print(f"ready after {time.monotonic() - started:.1f} s: {len(things())} objects, {model.tokenizer.size} tokens")
    for stage in STAGES if given.load and is_first else ():
        if (path := given.load / f"{stage}.safetensors").exists():
            model.load_weights(stage, path)
    if (
        is_first
        and given.rehearse
        and given.stages == ["denoising"]
        and not (given.folder / "autoencoder" / "last.pt").exists()
    ):
        vae = AutoencoderKL(recipe.vae)
        (given.folder / "autoencoder").mkdir(exist_ok=True)
        average = MovingAverage({"vae": vae}, 0.9).weights
        save_atomically({"average": average}, given.folder / "autoencoder" / "last.pt")
    group.agree(True)  # what the first process writes is there

    def show(row: dict[str, float]) -> None:
        if is_first:
            print(f"{time.monotonic() - started:.0f}", json.dumps({k: round(v, 4) for k, v in row.items()}), flush=True)

    for stage in given.stages:
        compile_when = given.compile_after.exists if given.compile_after else None
        model.train(stage, on_log=show, start=given.start, compile_when=compile_when)
        group.agree(True)  # its state is written
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if given.save and is_first:
            given.save.mkdir(parents=True, exist_ok=True)
            model.save_weights(stage, given.save / f"{stage}.safetensors")
    if given.export and is_first:
        model.export(given.export, {"title": "gesso-mini"})
        print(f"exported after {time.monotonic() - started:.1f} s, {os.path.getsize(given.export)} bytes")


if __name__ == "__main__":
    main()
