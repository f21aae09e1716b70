"""Every optimiser: it learns, goes on with the same bits, and says what to install."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gesso.errors import GessoError
from gesso.training.loop import averaged, load_state
from gesso.tuning.estimate import estimate
from gesso.tuning.optimizers import PACKAGED, make_optimizer
from gesso.tuning.run import TuningRun
from gesso.tuning.settings import OPTIMIZERS, TuningSettings, completed
from tiny_models import save_tiny_mini
from tiny_sd import TINY_SD
from tuning.made import save_folder


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("optimizers")
    save_tiny_mini(folder / "model.safetensors")
    save_folder(folder / "photos", count=2)
    return folder


def made(root: Path, folder: Path, optimizer: str, steps: int = 6) -> TuningRun:
    settings = TuningSettings(
        data=str(root / "photos"), optimizer=optimizer, rank=4, steps=steps, batch_size=2, precision="float32",
        samples=False, report_every=100, dora=True, train_text=True,
    )  # fmt: skip
    return TuningRun(settings, root / "model.safetensors", folder, cache=root / "cache")


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.sampled(len(OPTIMIZERS))
def test_it_goes_on_with_the_same_bits(optimizer: str, root: Path, tmp_path: Path) -> None:
    if optimizer in PACKAGED:
        pytest.importorskip(PACKAGED[optimizer].module)
    assert made(root, tmp_path / "whole", optimizer).train()
    stops = iter([False, False, False, True])
    assert not made(root, tmp_path / "parts", optimizer).train(stop=lambda: next(stops))
    assert made(root, tmp_path / "parts", optimizer).train()
    whole, parts = (load_state(tmp_path / name / "last.pt") for name in ("whole", "parts"))
    for part in ("modules", "average"):
        for name, value in whole[part]["factors"].items():
            assert torch.equal(value, parts[part]["factors"][name]), name
            if name.endswith("up"):
                assert value.any()


@pytest.mark.parametrize("optimizer", PACKAGED)
def test_it_finds_the_bottom_of_a_bowl(optimizer: str) -> None:
    pytest.importorskip(PACKAGED[optimizer].module)
    rate = 1.0 if optimizer == "prodigy" else 0.02
    run = type("Plan", (), {"learning_rate": rate, "betas": (0.9, 0.999), "weight_decay": 0.0})
    weight = torch.nn.Parameter(torch.ones(64, 128))
    goal = torch.randn(64, 128, generator=torch.Generator().manual_seed(1))
    found = make_optimizer(optimizer, [{"params": [weight], "lr": rate}], run)  # type: ignore[arg-type]
    before = (weight - goal).square().mean().item()
    for _ in range(300):
        found.zero_grad()
        (weight - goal).square().mean().backward()
        found.step()
    with averaged(found):
        assert (weight - goal).square().mean().item() < 0.1 * before


@pytest.mark.slow
def test_the_result_of_a_schedule_free_run_is_the_average(root: Path, tmp_path: Path) -> None:
    pytest.importorskip("pytorch_optimizer")
    run = made(root, tmp_path / "run", "schedulefree", steps=4)
    assert run.plan.decay_share == 0 and run.plan.factor(run.plan.total_samples - 1) == 1
    assert run.train()
    state = load_state(tmp_path / "run" / "last.pt")
    names = [name for name in state["modules"]["factors"] if name.endswith("up")]
    assert any(not torch.equal(state["average"]["factors"][name], state["modules"]["factors"][name]) for name in names)


def test_a_package_that_is_missing_is_named(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.import_module

    def without(name: str) -> object:
        if name.startswith("pytorch_optimizer"):
            raise ImportError(name)
        return real(name)

    monkeypatch.setattr(importlib, "import_module", without)
    with pytest.raises(GessoError, match=r"`optimizer` lion needs the package pytorch-optimizer.*gesso\[optimizers\]"):
        made(root, tmp_path, "lion")


@pytest.mark.slow
def test_what_a_package_misses_itself_is_not_told() -> None:
    """bitsandbytes warns of kernels for GPUs that it would like."""
    code = "from gesso.extras import import_extra; import_extra('bitsandbytes')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == done.stderr == ""


@pytest.mark.parametrize("changes", [{"loraplus": 16.0}, {"block_rates": ("up=0.5",)}])
def test_one_rate_for_all_of_prodigy(changes: dict[str, object]) -> None:
    with pytest.raises(GessoError, match="expected none beside prodigy"):
        TuningSettings(optimizer="prodigy", **changes)  # type: ignore[arg-type]
    settings = completed(TuningSettings(optimizer="prodigy", preset="cpu"), TINY_SD, 10)
    assert settings.learning_rate == settings.text_rate == 1.0


@pytest.mark.slow
def test_states_of_eight_bits_are_counted() -> None:
    def nbytes(optimizer: str) -> int:
        settings = completed(TuningSettings(kind="full", optimizer=optimizer, preset="cpu"), TINY_SD, 10)
        return estimate(TINY_SD, settings, (128, 128)).nbytes

    assert nbytes("adafactor") < nbytes("adamw8bit") < nbytes("lion") < nbytes("adamw") < nbytes("prodigy")
