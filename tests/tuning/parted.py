"""Trains in the processes that torchrun starts: torchrun ... -m tuning.parted ROOT NAME STEPS. Prints every loss."""

import json
import sys
from pathlib import Path

from gesso.training.group import joined
from gesso.tuning import run as tuning_run
from gesso.tuning.settings import TuningSettings


def train(root: Path, name: str, steps: int) -> list[float]:
    """A run in ROOT/NAME, which goes on if it is there. -> the loss of every step, unrounded"""
    settings = TuningSettings(
        data=str(root / "photos"),
        rank=2,
        steps=steps,
        batch_size=3,
        accumulation=2,
        report_every=100,
        samples=False,
        precision="float32",
        dropout=0.2,
        caption_dropout=0.3,
        noise_offset=0.05,
        learning_rate=1e-2,
        ema=0.9,
        warmup=0.0,
        decay=0.0,
        train_text=True,
    )
    losses: list[float] = []
    before, tuning_run.LOG_EVERY = tuning_run.LOG_EVERY, 1
    try:
        run = tuning_run.TuningRun(settings, root / "model.safetensors", root / name, cache=root / "cache")
        assert run.train(on_log=lambda row: losses.append(row["loss"]) if "loss" in row else None)
    finally:
        tuning_run.LOG_EVERY = before
    return losses


if __name__ == "__main__":
    with joined() as group:
        found = train(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
        if group.rank == 0:
            print(json.dumps(found))
