"""Trains in processes that are killed: python -m tuning.killed FOLDER KILLS SEED. A script, so that nothing is shared.

FOLDER has model.safetensors and pictures/; it gets whole/ and killed/, the folders of two runs, and their files.
"""

import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

import torch

from gesso.tuning import run as tuning_run
from gesso.tuning.settings import TuningSettings

STEPS = 12


def run_of(root: Path, name: str) -> tuning_run.TuningRun:
    settings = TuningSettings(
        data=str(root / "pictures"),
        output=str(root / f"{name}.safetensors"),
        rank=2,
        steps=STEPS,
        batch_size=2,
        accumulation=2,
        report_every=10,
        samples=False,
        precision="float32",
        dropout=0.1,
        ema=0.9,
        flip=True,
        shuffle_captions=True,
        noise_offset=0.05,
        train_text=True,
        optimizer="muon",
    )
    return tuning_run.TuningRun(settings, root / "model.safetensors", root / name, cache=root / "cache")


def train(root: Path, name: str) -> None:
    run = run_of(root, name)
    assert run.train()
    run.write(root / f"{name}.safetensors")


def forked(root: Path, name: str) -> int:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            train(root, name)
            code = 0
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(code)
    return child


def main() -> None:
    root, kills, rng = Path(sys.argv[1]), int(sys.argv[2]), random.Random(int(sys.argv[3]))
    tuning_run.SAVE_EVERY, tuning_run.KEEP_EVERY = 0.0, 5
    os.fsync = lambda handle: None  # a kill takes no power away: what was written is there
    torch.optim.AdamW([torch.zeros(1)])  # imports for seconds what each process would import again
    torch.set_num_threads(1)
    started = time.monotonic()
    assert os.waitpid(forked(root, "whole"), 0)[1] == 0
    seconds = time.monotonic() - started
    for _ in range(kills):
        child = forked(root, "killed")
        time.sleep(rng.uniform(0.0, seconds / 2))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert os.waitpid(forked(root, "killed"), 0)[1] == 0


if __name__ == "__main__":
    main()
