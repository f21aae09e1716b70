"""A preprocessor: from a picture, already at the size of the hint, to the hint."""

from collections.abc import Mapping

from PIL import Image, ImageOps

from gesso import Preprocessor, PreprocessorParameter


def posterize(image: Image.Image, settings: Mapping[str, float]) -> Image.Image:
    """Fewer levels of each colour. RGB -> RGB of the same size."""
    return ImageOps.posterize(image.convert("RGB"), int(settings["bits"]))


POSTERIZE = Preprocessor(
    posterize,
    "The picture in few colours.",
    {"bits": PreprocessorParameter(3, 1, 8, "bits of each colour that are kept", whole=True)},
    aliases=("posterise",),
)
