"""Several processes that train together, started by torchrun as a user starts them: the run of one process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gesso.checkpoints.weight_file import open_weights
from gesso.training.loop import load_average, load_state
from gesso.training.sharding import read_facts
from gesso.tuning.result import Weights, result_in
from tiny_models import save_tiny_mini
from tuning.made import save_folder
from tuning.parted import FULL, train

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


@pytest.mark.slow
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
def test_weights_in_parts_have_the_loss_of_whole_ones_and_one_process_goes_on_from_them(root: Path) -> None:
    losses = train(root, "whole", STEPS, **FULL)
    (line,) = started(root, 2, "tuning.parted", str(root), "parts", str(STEPS // 2), "shard").splitlines()
    assert json.loads(line) == pytest.approx(losses[: STEPS // 2], rel=1e-6)
    assert len(list((root / "parts" / "states" / read_facts(root / "parts" / "last.json")["state"]).iterdir())) == 3
    assert train(root, "parts", STEPS, **FULL, shard=True) == pytest.approx(losses[STEPS // 2 :], rel=1e-5)
    whole, parts = (load_average(root / name) for name in ("whole", "parts"))
    assert {name: weights.keys() for name, weights in whole.items()} == {n: w.keys() for n, w in parts.items()}
    assert apart(whole, parts) < 1e-4
    files = [open_weights(written(root, name)) for name in ("whole", "parts")]
    assert [(name, one.shape, one.dtype) for name, one in files[0].tensors.items()] == [
        (name, one.shape, one.dtype) for name, one in files[1].tensors.items()
    ]


@pytest.mark.slow
def test_two_processes_go_on_from_weights_that_one_kept(root: Path) -> None:
    losses = train(root, "alone", STEPS, **FULL)
    train(root, "later", STEPS // 2, **FULL, shard=True)
    (line,) = started(root, 2, "tuning.parted", str(root), "later", str(STEPS), "shard").splitlines()
    assert json.loads(line) == pytest.approx(losses[STEPS // 2 :], rel=1e-5)
    assert apart(load_average(root / "alone"), load_average(root / "later")) < 1e-4


def apart(one: Weights, other: Weights) -> float:
    """The distance of weights, as a share of their length."""
    pairs = [(value, other[name][key]) for name, weights in one.items() for key, value in weights.items()]
    gap = torch.cat([(theirs - ours).flatten() for ours, theirs in pairs]).norm()
    return float(gap / torch.cat([ours.flatten() for ours, _ in pairs]).norm())


def written(root: Path, name: str) -> Path:
    """The file of the training in a folder."""
    path = root / f"{name}.safetensors"
    result_in(root / name, root / "model.safetensors").write(path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("lora", "--dora --optimizer muon"),
        ("full", "--train-text"),
        ("full", "--shard --checkpointing --train-text"),
        ("embedding", ""),
        ("controlnet", "--hint invert"),
        ("distil", "--teacher-steps 20"),
    ],
)
def test_three_processes_at_the_command_line(kind: str, more: str, root: Path) -> None:
    words = f"photos -m model.safetensors --cache cache --batch-size 4 --precision float32 --no-samples {more}".split()
    logs = []
    for processes in (1, 3):
        output = f"{kind}{processes}{len(more)}/word.safetensors"
        (root / output).parent.mkdir()
        said = started(root, processes, "gesso", "train", kind, *words, "-o", output, "--train-steps", "10")
        assert said.count(output) == 1  # one of them speaks
        rows = (root / output).with_suffix(".training") / "log.jsonl"
        logs.append([json.loads(row) for row in rows.read_text().splitlines()])
    one, three = ([row["loss"] for row in rows if "loss" in row] for rows in logs)
    assert three == pytest.approx(one, rel=1e-4, abs=1e-5)
