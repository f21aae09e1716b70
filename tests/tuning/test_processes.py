"""Several processes that train together, started by torchrun as a user starts them: the run of one process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gesso.training.loop import load_state
from tiny_models import save_tiny_mini
from tuning.made import save_folder
from tuning.parted import train

STEPS = 6


def started(root: Path, processes: int, *words: str) -> str:
    """What a module writes to stdout in some processes."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    command = [sys.executable, *(torchrun if processes > 1 else ["-m"]), *words]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("processes")
    save_tiny_mini(folder / "model.safetensors")
    save_folder(folder / "photos", count=4)
    return folder


def test_two_processes_have_the_loss_of_one_which_goes_on_from_them(root: Path) -> None:
    """Batches have three pictures and one, so a process has more rows than the other, or none."""
    losses = train(root, "one", STEPS)
    (line,) = started(root, 2, "tuning.parted", str(root), "two", str(STEPS // 2)).splitlines()
    assert json.loads(line) == pytest.approx(losses[: STEPS // 2], rel=1e-6)
    assert train(root, "two", STEPS) == pytest.approx(losses[STEPS // 2 :], rel=1e-5)
    one, two = (load_state(root / name / "last.pt")["modules"]["factors"] for name in ("one", "two"))
    gap = torch.cat([(two[name] - value).flatten() for name, value in one.items()]).norm()
    assert gap < 1e-4 * torch.cat([value.flatten() for value in one.values()]).norm()  # Adam divides by near zeros


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("lora", "--dora --optimizer muon"),
        ("full", "--train-text"),
        ("embedding", ""),
        ("controlnet", "--hint invert"),
        ("distil", "--teacher-steps 20"),
    ],
)
def test_three_processes_at_the_command_line(kind: str, more: str, root: Path) -> None:
    words = f"photos -m model.safetensors --cache cache --batch-size 4 --precision float32 --no-samples {more}".split()
    logs = []
    for processes in (1, 3):
        output = f"{kind}{processes}/word.safetensors"
        (root / output).parent.mkdir()
        said = started(root, processes, "gesso", "train", kind, *words, "-o", output, "--train-steps", "10")
        assert said.count(output) == 1  # one of them speaks
        rows = (root / output).with_suffix(".training") / "log.jsonl"
        logs.append([json.loads(row) for row in rows.read_text().splitlines()])
    one, three = ([row["loss"] for row in rows if "loss" in row] for rows in logs)
    assert three == pytest.approx(one, rel=1e-4, abs=1e-5)
