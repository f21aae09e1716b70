"""Models that were distilled as a whole and are told their guidance, beside diffusers' pipeline for them."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from gesso.pipelines.text_to_image import TextToImage
from gesso.request.checks import RequestError
from gesso.request.request import TextToImageRequest
from gesso.runtime.engine import Engine
from tiny_sd import TINY_LCM, save_tiny_folder

SIDE = 128  # one row at 64 is a single point in the middle of the UNet, which torch does not normalise


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_folder(tmp_path_factory.mktemp("lcm") / "tiny", TINY_LCM)


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> TextToImage:
    engine = Engine("cpu", "float32")
    return TextToImage(engine, engine.load(folder))


@pytest.mark.filterwarnings("ignore")  # diffusers and transformers warn about themselves
@pytest.mark.parametrize("guidance", [1.0, 4.0, 8.5])
@pytest.mark.sampled(3)
def test_same_picture_as_diffusers(folder: Path, pipeline: TextToImage, guidance: float) -> None:
    from diffusers import LatentConsistencyModelPipeline

    theirs = LatentConsistencyModelPipeline.from_pretrained(
        folder, local_files_only=True, safety_checker=None, requires_safety_checker=False
    )
    theirs.set_progress_bar_config(disable=True)
    assert type(theirs.scheduler).__name__ == "LCMScheduler"
    expected = theirs(
        "a turtle",
        height=SIDE,
        width=SIDE,
        num_inference_steps=4,
        guidance_scale=guidance,
        generator=torch.Generator().manual_seed(3),
        output_type="np",
    ).images[0]
    request = TextToImageRequest(
        prompt="a turtle",
        width=SIDE,
        height=SIDE,
        num_steps=4,
        guidance_scale=guidance,
        seed=3,
        sampler="lcm",
        preset="diffusers",
    )
    found = (pipeline.pixels(request)[0] / 2 + 0.5).clamp(0, 1).permute(1, 2, 0).numpy()
    assert expected.std() > 0.02
    assert np.abs(found - expected).max() < 1e-5


def test_guidance_is_told_in_one_call_a_step(pipeline: TextToImage, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, float]] = []
    unet = pipeline.model.parts.unet

    def counted(module: torch.nn.Module, args: tuple[torch.Tensor | None, ...]) -> None:
        guidance = args[-1]
        assert args[0] is not None
        assert guidance is not None
        calls.append((len(args[0]), float(guidance[0])))

    hook = unet.register_forward_pre_hook(counted)
    try:
        (picture,) = pipeline(
            TextToImageRequest(prompt="a turtle", negative_prompt="a dog", seed=1, width=SIDE, height=SIDE)
        )
    finally:
        hook.remove()
    assert calls == [(1, 8.5)] * 4
    assert any("negative prompt" in notice for notice in picture.notices)


def test_a_sampler_that_needs_an_unguided_call_is_refused(pipeline: TextToImage) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RequestError, match="unknown sampler 'ddim_cfgpp'"):
            pipeline(TextToImageRequest(prompt="a turtle", sampler="ddim_cfgpp"))
