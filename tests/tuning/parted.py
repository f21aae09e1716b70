"""Trains in processes that torchrun starts: torchrun ... -m tuning.parted ROOT NAME STEPS [shard]. Prints each loss.

With "shard" it is a whole model that learns, its weights parted over the processes.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from gesso.training.group import joined
from gesso.tuning import run as tuning_run
from gesso.tuning.settings import TuningSettings

FULL: dict[str, Any] = {"kind": "full", "dropout": 0.0, "learning_rate": 1e-3, "text_rate": 1e-3}


def train(root: Path, name: str, steps: int, **changes: Any) -> list[float]:
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
    settings = replace(settings, **changes)
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
        more = FULL | {"shard": True} if sys.argv[4:] == ["shard"] else {}
        found = train(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), **more)
        if group.rank == 0:
            print(json.dumps(found))
