"""From the options that several commands share to a pipeline that is ready to run."""

from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, cast, get_args

from gesso.cli.adapter_options import make_finder
from gesso.cli.model_option import resolve_model
from gesso.errors import GessoError
from gesso.request.checks import check_known

if TYPE_CHECKING:
    from PIL.Image import Image

    from gesso.pipelines.picture import OnProgress
    from gesso.pipelines.text_to_image import TextToImage
    from gesso.request.finder import Finder
    from gesso.request.request import TextToImageRequest


def check_names(request: "TextToImageRequest") -> None:
    """Names of sampler, schedule and noise, before a model is loaded for nothing. Raises RequestError."""
    from gesso.diffusion.noise import NOISE_SOURCES
    from gesso.request.names import with_canonical_names

    with_canonical_names(request)
    if request.noise is not None:
        check_known("noise", request.noise, NOISE_SOURCES.keys())


class Pictures(TypedDict):
    """The pictures that a request speaks of."""

    image: "Image | None"
    mask: "Image | None"


def read_pictures(image: Path | None, mask: Path | None, *, invert: bool = False) -> "Pictures":
    """The pictures to start from, as the arguments of a pipeline. Raises GessoError for a file that is none.

    invert  the mask is the other way round: black is drawn again
    """
    from PIL import ImageOps

    from gesso.pictures.reading import read_image, read_mask

    if invert and mask is None:
        raise GessoError("--mask-invert needs a mask: give one with --mask")
    grey = read_mask(mask) if mask is not None else None
    return {
        "image": read_image(image) if image is not None else None,
        "mask": ImageOps.invert(grey) if grey is not None and invert else grey,
    }


def load_pipeline(
    model: str | Path,
    *,
    device: str,
    dtype: str,
    threads: int | None,
    batch: int = 1,
    refiner: str | Path | None = None,
    vae: str | Path | None = None,
    unet: str | Path | None = None,
    family: str | None = None,
    prediction: str | None = None,
    offline: bool = False,
    memory: str | None = None,
    finder: "Finder | None" = None,
) -> "TextToImage":
    """The pipeline of a model, and of a refiner if any. Raises GessoError.

    model, refiner, vae, unet  names, files, folders or parts of hashes, as `gesso.library.resolve` understands them
    vae, unet, family, prediction  of the first model; see `Engine.load`
    offline  fetch nothing for a hub's name
    memory   what may be taken in all, such as 6GiB, or auto; None: as much as it takes
    finder   of the files that a request names besides; None: what gesso carries, and the library
    """
    model = resolve_model(str(model), offline=offline)
    refiner = None if refiner is None else resolve_model(str(refiner), offline=offline)
    vae = None if vae is None else resolve_model(str(vae), kinds=("vae", "taesd", "checkpoint"), offline=offline)
    unet = None if unet is None else resolve_model(str(unet), kinds=("unet", "checkpoint"), offline=offline)
    import torch

    from gesso.diffusion.denoiser import Prediction
    from gesso.pipelines.text_to_image import TextToImage
    from gesso.runtime.engine import Engine
    from gesso.runtime.precision import usable_threads

    torch.set_num_threads(threads or min(torch.get_num_threads(), usable_threads()))
    engine = Engine(device, dtype, rows_per_call=batch, max_models=2 if refiner is not None else 1, memory=memory)
    if prediction is not None:
        check_known("prediction", prediction, get_args(Prediction))
    base = engine.load(model, vae=vae, unet=unet, family=family, prediction=cast("Prediction | None", prediction))
    return TextToImage(
        engine,
        base,
        refiner=engine.load(refiner) if refiner is not None else None,
        finder=finder if finder is not None else make_finder({}),
    )


def load_preview(pipeline: "TextToImage", path: Path, model: str | None, *, offline: bool = False) -> "OnProgress":
    """What writes a PNG of the picture while it is drawn, through TAESD or the model's own autoencoder.

    Raises GessoError where the model is no TAESD, or the file cannot be written.
    """
    from gesso.studio.preview import Preview

    decode = None
    if model is not None:
        from gesso.families.taesd import load_taesd

        taesd, _ = load_taesd(resolve_model(model, kinds=("taesd",), offline=offline), pipeline.engine.device)
        decode = taesd.decode
    return Preview(path, decode or pipeline.model.decode)
