"""The whole way from prompt to pixels beside diffusers' StableDiffusionPipeline, same weights, same initial latents."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gesso.diffusion.noise import NOISE_SOURCES
from gesso.diffusion.schedule import SCHEDULES
from gesso.families.saving import save_diffusers
from gesso.pipelines.request import TextToImageRequest
from gesso.pipelines.text_to_image import TextToImage, draw_latents, encode_prompt
from gesso.runtime.engine import Engine
from tiny_sd import tiny_parts

PROMPT, NEGATIVE = "a turtle, oil on canvas", "blurry"
STEPS = 10
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


@dataclass(frozen=True)
class Case:
    """One sampler on both sides. Their steps are spaced in their own ways; our solver takes the sigmas as they are."""

    sampler: str
    scheduler: str
    options: dict[str, Any]
    ends_at_sigma_min: bool = False
    variance_preserving: bool = True  # their initial latents are z = n, ours x = n * sigma: x = z * sqrt(1 + sigma^2)


CASES = [
    Case("euler", "EulerDiscreteScheduler", {"timestep_spacing": "linspace"}, variance_preserving=False),
    Case(
        "ddim",
        "DDIMScheduler",
        {"set_alpha_to_one": False, "steps_offset": 1, "clip_sample": False},
        ends_at_sigma_min=True,
    ),
    Case("dpmpp_2m", "DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sd") / "tiny-sd"
    save_diffusers(path, tiny_parts())
    return path


@pytest.mark.filterwarnings("ignore")  # diffusers and transformers warn about themselves
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.sampler)
def test_same_picture_as_diffusers(folder: Path, case: Case) -> None:
    """Measured on random weights in float32, image in [0, 1]: Euler 2.7e-5, DDIM 3.7e-6, DPM++ 2M 3.0e-6.

    The tolerance is a twentieth of one of the 255 levels. The tables of the schedule differ by 1.3e-5 relative (theirs
    is a float32 product), and ten steps of a network carry that on.
    """
    import diffusers

    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    theirs = diffusers.StableDiffusionPipeline.from_pretrained(
        folder, safety_checker=None, feature_extractor=None, requires_safety_checker=False, local_files_only=True
    )
    theirs.set_progress_bar_config(disable=True)
    theirs.scheduler = getattr(diffusers, case.scheduler)(**BETAS, **case.options)
    engine = Engine("cpu", "float32")
    model = engine.load(folder)
    request = TextToImage(engine, model).resolve(
        TextToImageRequest(
            prompt=PROMPT, negative_prompt=NEGATIVE, num_steps=STEPS, sampler=case.sampler, seed=3, noise="cpu"
        )
    )
    noise = NOISE_SOURCES["cpu"]([3]).draw((4, request.height // 8, request.width // 8))
    expected = theirs(
        PROMPT,
        negative_prompt=NEGATIVE,
        height=request.height,
        width=request.width,
        num_inference_steps=STEPS,
        guidance_scale=request.guidance_scale,
        latents=noise,
        output_type="np",
    ).images[0]

    schedule = model.family.schedule.build()
    if case.sampler == "euler":
        sigmas = SCHEDULES["uniform"](schedule, STEPS)
    else:
        steps = torch.as_tensor(np.asarray(theirs.scheduler.timesteps))
        last = schedule.sigmas[:1] if case.ends_at_sigma_min else torch.zeros(1, dtype=torch.float64)
        sigmas = torch.cat([schedule.sigmas[steps], last])
    first = float(sigmas[0])
    latents = draw_latents(
        model,
        request,
        encode_prompt(model, request),
        NOISE_SOURCES["cpu"]([3]),
        lambda step, x0: None,
        sigmas=sigmas,
        start=noise * (math.hypot(1, first) / first) if case.variance_preserving else noise,
    )
    latents = latents / math.hypot(1, float(sigmas[-1]))  # back to z where noise is left
    with torch.inference_mode():
        pixels = (model.decode(latents)[0] / 2 + 0.5).clamp(0, 1).permute(1, 2, 0).numpy()
    gap = float(np.abs(pixels - expected).max())
    assert expected.std() > 0.02  # a picture, not a flat grey
    assert gap < 1 / 255 / 20, f"largest difference {gap:.2e}"
