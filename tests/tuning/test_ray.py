"""`gesso train ray` on a Ray of this machine: a process that is killed costs nothing but time."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gesso.cli.main import run
from gesso.training.loop import load_state
from tiny_models import save_tiny_mini
from tuning.made import save_folder

pytestmark = pytest.mark.skipif(not Path("/proc").exists(), reason="finds processes in /proc")

DATA = ("photos", "-m", "model.safetensors", "--cache", "cache")
WORDS = (*DATA, "--batch-size", "4", "--precision", "float32", "--no-samples", "--dora")


def test_what_no_cluster_trains(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", "ray", "--workers", "3", "style", "comic", "out.safetensors"]) == 2
    assert "style: no training of several processes. Expected one of lora, full, " in capsys.readouterr().err


@pytest.fixture
def root(tmp_path: Path) -> Path:
    save_tiny_mini(tmp_path / "model.safetensors")
    save_folder(tmp_path / "photos", count=4)
    return tmp_path


def started(root: Path, *words: str) -> "subprocess.Popen[str]":
    # Ray keeps sockets in its folder, whose paths must be short.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    environment.pop("RAY_ADDRESS", None)
    return subprocess.Popen(
        [sys.executable, *words], cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def ended(process: "subprocess.Popen[str]") -> tuple[int, str]:
    """Exit code, and all that it said."""
    out, errors = process.communicate(timeout=400)
    return process.returncode, out + errors


def children(pid: int) -> list[int]:
    """All processes below one."""
    parents: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except OSError:  # it has ended
            continue
        parents.setdefault(parent, []).append(int(folder.name))
    found = parents.get(pid, [])
    return [*found, *(other for one in found for other in children(one))]


def ray_workers(pid: int) -> list[int]:
    """The training processes of a Ray below a process."""
    return [one for one in children(pid) if b"RayTrainWorker" in Path(f"/proc/{one}/cmdline").read_bytes()]


def last_step(log: Path) -> int:
    return max((json.loads(row)["step"] for row in log.read_text().splitlines() if row.endswith("}")), default=0)


@pytest.mark.slow
def test_a_process_that_is_killed_leaves_the_same_weights(root: Path) -> None:
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "gesso", "train", "lora")
    on_ray = ("-m", "gesso", "train", "ray", "--workers", "2", "lora")
    for name in ("plain", "ray"):  # the beginning, whose state both go on from
        code, said = ended(started(root, *torchrun, *WORDS, "--train-steps", "100", "-o", f"{name}.safetensors"))
        assert code == 0, said
    longer = (*WORDS, "--train-steps", "400", "--overwrite", "-o")
    code, said = ended(started(root, *torchrun, *longer, "plain.safetensors"))
    assert code == 0, said

    ray = started(root, *on_ray, *longer, "ray.safetensors")
    while last_step(root / "ray.training" / "log.jsonl") <= 100:
        assert ray.poll() is None, ended(ray)[1]
        time.sleep(0.05)
    before = ray_workers(ray.pid)
    assert len(before) == 2
    os.kill(before[1], signal.SIGKILL)
    code, said = ended(ray)
    assert code == 0, said
    assert "ray.safetensors rank=16 step=400 " in said

    assert last_step(root / "ray.training" / "log.jsonl") == 400
    one, other = (load_state(root / f"{name}.training" / "last.pt")["modules"]["factors"] for name in ("plain", "ray"))
    assert all(bool((value == other[name]).all()) for name, value in one.items())


@pytest.mark.slow
def test_wrong_input_is_told_once_and_not_tried_again(root: Path) -> None:
    code, said = ended(started(root, "-m", "gesso", "train", "ray", "--workers", "1", "lora", *WORDS, "--rank", "0"))
    assert code == 2
    assert "--output is missing" in said
