"""Control images from pictures as callers have them."""

from pathlib import Path

from PIL import Image

from gesso.arguments import check_mapping, check_number, check_size, check_text
from gesso.hints import registry
from gesso.hints.registry import PREPROCESSORS, Settings, canonical
from gesso.hints.sizing import Size
from gesso.pictures.given import GivenPicture, as_hint, as_mask
from gesso.pictures.reading import read_image, read_map


def preprocess(
    name: str,
    image: GivenPicture,
    size: Size | None = None,
    parameters: Settings | None = None,
    mask: GivenPicture | None = None,
) -> Image.Image:
    """The hint (control image) that a preprocessor makes from a picture.

    name        key or alias in PREPROCESSORS
    image       a PIL image of any mode (grey levels of 16 bits count, what is transparent lies on white), a path, a
                numpy array [H, W, 3] or a torch tensor [3, H, W]; see `gesso.pictures.given`
    size        width and height of the hint, in pixels: the picture is brought to it before, so that lines are sharp
                and one pixel wide there. None: that of the picture
    parameters  what differs from the defaults
    mask        white is the hole, for those that need one; a picture like `image`
    -> RGB, 8 bits; RGBA that is clear in the hole where a mask is needed. The same for the same input.

    Raises GessoError for an unknown name or parameter, a value or a size out of range, a picture that the preprocessor
    does not take, a mask too many or missing, a package that is missing.
    """
    check_text("name", name, "the name of a preprocessor, such as canny")
    check_size("size", size, optional=True)
    check_mapping("parameters", parameters, "names with numbers, such as {'low': 0.1}", optional=True)
    for parameter, value in (parameters or {}).items():
        check_number(f"parameters[{parameter!r}]", value)
    name = canonical(name)
    if isinstance(image, str | Path):
        picture = (read_map if PREPROCESSORS[name].takes_map else read_image)(image)
    else:
        picture = as_hint(image, "image")
    return registry.preprocess(name, picture, size, parameters, None if mask is None else as_mask(mask, "mask"))
