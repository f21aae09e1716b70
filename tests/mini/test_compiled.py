"""Training with torch.compile: the numbers and the names of plain training."""

import functools
import shutil
from dataclasses import replace

import pytest
import torch
from torch import nn

from gesso.mini.default_model import DefaultModel
from gesso.mini.recipes import STAGES
from gesso.training.loop import load_state
from toy_training import OBJECTS, PREPARED, glyphs

COMPILER = shutil.which("g++") or shutil.which("clang++")


def trained(recipe, folder):
    making = DefaultModel(recipe, folder, OBJECTS, glyphs())
    for stage in STAGES:
        making.train(stage, stop_after=600, on_log=lambda row: None)
    return {stage: load_state(folder / stage / "last.pt")["modules"] for stage in STAGES}


@pytest.mark.slow
@pytest.mark.parametrize(
    "backend",
    [
        "aot_eager",  # traces forward and backward, generates no code
        pytest.param("inductor", marks=pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # torch's own, while it traces
def test_compiled_training_is_plain_training(tmp_path, monkeypatch, backend):
    short = {stage: replace(getattr(PREPARED, stage), total_samples=12) for stage in STAGES}
    plain = trained(replace(PREPARED, **short), tmp_path / "plain")
    torch._dynamo.reset()
    calls = []
    compile_in_place = nn.Module.compile

    def compiled(module, **options):
        calls.append(type(module).__name__)
        compile_in_place(module, backend=backend, **options)

    monkeypatch.setattr(nn.Module, "compile", compiled)
    found = trained(replace(PREPARED, **short, compile=True), tmp_path / "compiled")
    assert {"UNet", "CLIPTextModel", "Draft", "Encoder", "Decoder", "Palette"} <= set(calls)
    for stage, modules in plain.items():
        for module, weights in modules.items():
            assert found[stage][module].keys() == weights.keys()  # no _orig_mod.
            for name, value in weights.items():
                # Other orders of summation, three times through Adam, which scales small gradients up.
                gap = functools.partial(torch.testing.assert_close, atol=2e-3, rtol=1e-2)
                gap(found[stage][module][name], value, msg=lambda text, at=(stage, module, name): f"{at}: {text}")
    torch._dynamo.reset()
