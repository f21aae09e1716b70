"""From the options that several commands share to a pipeline that is ready to run."""

from pathlib import Path
from typing import TYPE_CHECKING

from gesso.pipelines.request import check_known

if TYPE_CHECKING:
    from gesso.pipelines.request import TextToImageRequest
    from gesso.pipelines.text_to_image import TextToImage


def check_names(request: "TextToImageRequest") -> None:
    """Names of sampler, schedule and noise, before a model is loaded for nothing. Raises RequestError."""
    from gesso.diffusion.noise import NOISE_SOURCES
    from gesso.diffusion.samplers import SAMPLERS
    from gesso.diffusion.schedule import SCHEDULES

    for field, value, known in (
        ("sampler", request.sampler, SAMPLERS),
        ("schedule", request.schedule, SCHEDULES),
        ("noise", request.noise, NOISE_SOURCES),
    ):
        if value is not None:
            check_known(field, value, known.keys())


def load_pipeline(model: str | Path, *, device: str, dtype: str, threads: int | None, batch: int = 1) -> "TextToImage":
    """The text-to-image pipeline of a model. Raises GessoError."""
    import torch

    from gesso.pipelines.text_to_image import TextToImage
    from gesso.runtime.engine import Engine
    from gesso.runtime.precision import usable_threads

    torch.set_num_threads(threads or min(torch.get_num_threads(), usable_threads()))
    engine = Engine(device, dtype, rows_per_call=batch)
    return TextToImage(engine, engine.load(model))
