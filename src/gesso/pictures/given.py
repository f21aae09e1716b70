"""Pictures as callers have them: PIL images, paths, numpy arrays, torch tensors.

    as_picture("photo.jpg", "image")                                     # read as `read_image` does
    as_picture(np.zeros((64, 48, 3), np.uint8), "image")                 # [H, W, 3]
    as_mask(torch.rand(1, 64, 48) > 0.5, "mask")                         # [1, H, W]

Values: whole numbers of 8 bits are 0 to 255, of 16 bits 0 to 65,535; floating-point numbers 0 to 1; booleans white
where they are true. Arrays have their channels last, as OpenCV and diffusers have them; tensors have them first, as
torch does. A batch of one picture ([1, ...]) is taken as the picture.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

import numpy as np
from PIL import Image

from gesso.pictures.reading import read_hint, read_image, read_mask
from gesso.request.checks import RequestError

if TYPE_CHECKING:
    from torch import Tensor

GivenPicture = Union[Image.Image, str, Path, np.ndarray[Any, Any], "Tensor"]
_EXPECTED = "expected a PIL picture, the path of a file, a numpy array [H, W, 3] or a torch tensor [3, H, W]"
_SLACK = 1e-3  # that rounding may have put beyond 0 and 1


def as_picture(value: Any, field: str) -> Image.Image:
    """A source picture. Raises RequestError, naming `field`, for what is none; GessoError as `read_image`."""
    return read_image(value) if isinstance(value, str | Path) else _as_image(value, field)


def as_mask(value: Any, field: str) -> Image.Image:
    """A mask: white is redrawn. Raises like `as_picture`."""
    return read_mask(value) if isinstance(value, str | Path) else _as_image(value, field)


def as_hint(value: Any, field: str) -> Image.Image:
    """A control image, which may have 16-bit grey levels or transparency. Raises like `as_picture`."""
    return read_hint(value) if isinstance(value, str | Path) else _as_image(value, field)


def _as_image(value: Any, field: str) -> Image.Image:
    if isinstance(value, Image.Image):
        return value
    if type(value).__module__.partition(".")[0] == "torch" and hasattr(value, "detach"):
        return _from_array(value.detach().cpu(), field, channels_first=True)
    if isinstance(value, np.ndarray):
        return _from_array(value, field, channels_first=False)
    if isinstance(value, list | tuple) and len(value) == 1:
        return _as_image(value[0], field)
    raise RequestError(field, f"`{field}` is {with_article(type(value).__name__)}, {_EXPECTED}")


def _from_array(value: Any, field: str, *, channels_first: bool) -> Image.Image:
    shape = tuple(value.shape)
    if channels_first and hasattr(value, "float") and "float" in str(value.dtype):
        value = value.float()  # numpy has no bfloat16
    array = np.asarray(value)
    if array.ndim == 4 and array.shape[0] == 1:
        array = array[0]
    if channels_first and array.ndim == 3:
        array = np.moveaxis(array, 0, -1)
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3) or 0 in array.shape or (array.ndim == 3 and array.shape[-1] not in (3, 4)):
        layout = "[1, H, W], [3, H, W] or [4, H, W]" if channels_first else "[H, W], [H, W, 3] or [H, W, 4]"
        raise RequestError(field, f"`{field}` has the shape {list(shape)}, expected {layout}")
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255
    elif array.dtype.kind == "f":
        low, high = float(array.min()), float(array.max())
        if not (low >= -_SLACK and high <= 1 + _SLACK):  # NaN as well
            raise RequestError(
                field,
                f"`{field}` has values from {low:.4g} to {high:.4g}, expected 0 to 1 in floating-point numbers "
                "(of -1 to 1: `x / 2 + 0.5`; of 0 to 255: `x / 255`)",
            )
        array = (array.clip(0, 1) * 255).round().astype(np.uint8)
    elif not (array.dtype == np.uint8 or (array.dtype == np.uint16 and array.ndim == 2)):
        raise RequestError(
            field, f"`{field}` is an array of {array.dtype}, expected uint8, floating-point numbers or bool"
        )
    return Image.fromarray(np.ascontiguousarray(array))


def with_article(name: str) -> str:
    """A noun with "a" or "an"."""
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"
