"""The dtype of full-size models on a CPU: measured, kept, and written into the recipe."""

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gesso.families.base import Family
from gesso.runtime import engine as engine_module
from gesso.runtime import speed
from gesso.runtime.engine import GAIN, WIDE, Engine
from gesso.runtime.precision import choose_precision
from tiny_sd import tiny_parts


def family_of(width: int) -> Family:
    family = tiny_parts().family
    return replace(family, unet=replace(family.unet, channels=(*family.unet.channels[:-1], width)))


@pytest.mark.parametrize(
    ("width", "gain", "dtype"),
    [
        (WIDE, GAIN, "bfloat16"),
        (1280, 3.7, "bfloat16"),
        (WIDE, GAIN - 0.01, "float32"),
        (WIDE - 1, 3.7, "float32"),  # small: not even asked
    ],
)
def test_full_size_models_take_the_faster_dtype(
    width: int, gain: float, dtype: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[Path | None] = []

    def answer(kept: Path | None) -> float:
        asked.append(kept)
        return gain

    monkeypatch.setattr(engine_module, "bfloat16_gain", answer)
    engine = Engine(device="cpu", speeds=tmp_path / "speed.json")
    precision = engine.precision_of(family_of(width))
    assert precision.name == dtype
    assert precision.text == torch.float32
    assert asked == ([tmp_path / "speed.json"] if width >= WIDE else [])
    for name in ("float32", "bfloat16"):  # what the user says holds
        assert Engine(device="cpu", dtype=name).precision_of(family_of(width)).name == name
    assert len(asked) == (width >= WIDE)


def test_the_figure_is_measured_once_a_machine_and_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deep" / "speed.json"
    gains = iter([2.5, 1.1])
    monkeypatch.setattr(speed, "measured_gain", lambda: next(gains))
    assert speed.bfloat16_gain(path) == speed.bfloat16_gain(path) == 2.5
    monkeypatch.setattr(speed, "describe_cpu", lambda: "another")
    assert speed.bfloat16_gain(path) == 1.1
    assert sorted(json.loads(path.read_text()).values()) == [1.1, 2.5]


@pytest.mark.parametrize("found", [b"", b"[1]", b"\xff", b'{"%s": "fast"}', b'{"%s": NaN}', b"[" * 100_000])
def test_a_damaged_file_is_replaced(found: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "speed.json"
    path.write_bytes(found.replace(b"%s", speed.describe_cpu().encode()))
    monkeypatch.setattr(speed, "measured_gain", lambda: 1.5)
    assert speed.bfloat16_gain(path) == 1.5
    assert json.loads(path.read_text()) == {speed.describe_cpu(): 1.5}


def test_a_file_that_cannot_be_written_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(speed, "measured_gain", lambda: 1.5)
    assert speed.bfloat16_gain(tmp_path / "file" / "speed.json") == 1.5


def test_without_a_file_the_process_remembers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "_MEASURED", {})
    gains = iter([1.7])
    monkeypatch.setattr(speed, "measured_gain", lambda: next(gains))
    assert speed.bfloat16_gain() == speed.bfloat16_gain() == 1.7


def test_what_is_measured_is_the_ratio_of_the_two_dtypes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Works that take a known time: bfloat16 a third of float32's."""
    waits = {torch.float32: 0.03, torch.bfloat16: 0.01}
    monkeypatch.setattr(speed, "_work", lambda dtype: lambda: time.sleep(waits[dtype]))
    assert 2 < speed.measured_gain() < 4


def test_this_machine_is_measured_within_seconds() -> None:
    started = time.monotonic()
    assert 0.001 < speed.measured_gain() < 100
    assert time.monotonic() - started < 30


def test_the_recipe_names_the_model_s_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(device="cpu")
    precision = choose_precision("bfloat16", engine.device)
    model = engine_module.LoadedModel(name="x", parts=tiny_parts(), device=engine.device, precision=precision)
    assert engine.environment(model).dtype == "bfloat16"
