"""A file that was trained here, through diffusers' own loader: the same picture as gesso draws with it."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from gesso.pipelines.text_to_image import TextToImage
from gesso.request.finder import NamedFiles
from gesso.request.parts import LoraUse
from gesso.runtime.engine import Engine
from gesso.tuning.run import TuningRun
from gesso.tuning.settings import TuningSettings
from pipelines.test_adapters import BESIDE, drawn, from_diffusers
from tiny_sd import TINY_SD, TINY_SDXL, save_tiny_folder
from tuning.made import save_folder


@pytest.mark.parametrize("family", [TINY_SD, pytest.param(TINY_SDXL, marks=pytest.mark.slow)], ids=["SD 1.5", "SDXL"])
def test_the_same_picture(family, tmp_path):
    pytest.importorskip("peft")
    model = save_tiny_folder(tmp_path / "model", family)
    path = tmp_path / "my.safetensors"
    settings = TuningSettings(
        data=str(save_folder(tmp_path / "pictures", count=2)),
        output=str(path),
        rank=4,
        alpha=8.0,
        conv_rank=4,
        train_text=True,
        resolution=128,
        steps=3,
        warmup=0.0,
        decay=0.0,
        learning_rate=0.03,
        text_rate=0.03,
        samples=False,
        precision="float32",
    )
    run = TuningRun(settings, model, tmp_path / "run")
    assert run.train()
    run.write(path)

    def put_on(pipe: Any) -> None:
        pipe.load_lora_weights(str(tmp_path), weight_name=path.name, adapter_name="my")

    expected = from_diffusers(family, model, "a turtle", put_on)
    engine = Engine("cpu", "float32")
    pipeline = TextToImage(engine, engine.load(model), finder=NamedFiles({"lora": {"my": path}}))
    request = replace(BESIDE, prompt="a turtle", loras=(LoraUse(name="my"),))
    assert np.abs(drawn(pipeline, request) - expected).max() < 1e-5  # float32 sums in another order
    assert np.abs(drawn(pipeline, replace(request, loras=())) - expected).mean() > 1e-3
