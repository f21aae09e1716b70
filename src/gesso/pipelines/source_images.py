"""Pictures that go in: read without trusting the file, named by a hash, sized, softened, and put back where not masked.

Inside, pixels are float32 [1, 3, H, W] in [-1, 1]; a mask is a grey picture whose white is drawn again.
"""

import hashlib
import io
import math
import struct
import warnings
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F

from gesso.errors import GessoError
from gesso.hints.levels import eight_bits, is_deep, on_white
from gesso.pipelines.colour_profile import as_srgb, profile_problem
from gesso.pipelines.picture_file import MAX_FILE_BYTES, pixels_sha256
from gesso.pipelines.request import MAX_PIXELS

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
MAX_INPUT_PIXELS = 16 * MAX_PIXELS  # a camera's picture; it is made smaller before anything is computed
_LINES, _FEW = 256, 64  # lines that are convolved at a time, and weights that are summed one by one
MAX_INPUT_SIDE = 16_384
_NOTICE = "gesso notice"  # where a picture that was read carries what its user should know


class _Notice(str):
    """Unlike any text that stands in a file, which Pillow keeps at the same place."""


def read_image(path: Path) -> Image.Image:
    """A picture from a file as RGB, turned as its EXIF says; what is transparent lies on white, as in A1111.

    Raises GessoError for anything that is no picture, or too large a one.
    """
    image = _open(path)
    return _bare(flat(_eight_bits(image, path)), image.info.get(_NOTICE))


def read_mask(path: Path) -> Image.Image:
    """A mask from a file as grey levels: white is drawn again. Raises GessoError as `read_image` does."""
    return _bare(_eight_bits(_open(path), path).convert("L"))


def read_map(path: Path) -> Image.Image:
    """A map from a file: grey levels of 16 bits stay as they are, anything else comes as `read_image` gives it."""
    image = _open(path)
    return _bare(image) if is_deep(image) else _bare(flat(image), image.info.get(_NOTICE))


def notices_of(*images: Image.Image | None) -> tuple[str, ...]:
    """What the user should know of pictures that were read: whose profile was not followed."""
    found = (image.info.get(_NOTICE) for image in images if image is not None)
    return tuple(dict.fromkeys(str(notice) for notice in found if isinstance(notice, _Notice)))


def _bare(image: Image.Image, notice: object = None) -> Image.Image:
    """The pixels alone: where a picture was taken, its texts and its profile do not go along into new files."""
    bare = Image.fromarray(np.asarray(image))
    if isinstance(notice, _Notice):
        bare.info[_NOTICE] = notice
    return bare


def read_hint(path: Path) -> Image.Image:
    """A picture that steers: what is transparent stays so, as do grey levels of 16 bits. Raises as `read_image`."""
    image = _open(path)
    if is_deep(image) or not ("A" in image.getbands() or "transparency" in image.info):
        return image if is_deep(image) else image.convert("RGB")
    return image.convert("RGBA")


def flat(image: Image.Image) -> Image.Image:
    """RGB in sRGB; what is transparent lies on white."""
    return on_white(as_srgb(image))


def _eight_bits(image: Image.Image, path: Path) -> Image.Image:
    try:
        return eight_bits(image)
    except ValueError as error:
        raise GessoError(f"{path}: {error}") from error


def _open(path: Path) -> Image.Image:
    try:
        if not path.is_file():
            raise GessoError(f"{path}: {'a folder' if path.is_dir() else 'no such file'}, expected a picture")
        if path.stat().st_size > MAX_FILE_BYTES:
            raise GessoError(f"{path}: {path.stat().st_size} bytes, at most {MAX_FILE_BYTES} are read")
        data = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
        raise GessoError(f"{path}: cannot be read ({error})") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of decoders about odd metadata
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                if image.width * image.height > MAX_INPUT_PIXELS or max(image.size) > MAX_INPUT_SIDE:
                    raise GessoError(
                        f"{path}: {image.width}x{image.height}, at most {MAX_INPUT_PIXELS} pixels and "
                        f"{MAX_INPUT_SIDE} a side are read"
                    )
                image.load()
                if not is_deep(image) and (problem := profile_problem(image)) is not None:
                    said = f"{path.name}: its colour profile is left aside ({problem}); it is taken for sRGB"
                    image.info[_NOTICE] = _Notice(GessoError(said).one_line)
                return ImageOps.exif_transpose(image)
    except GessoError:
        raise
    except Exception as error:  # decoders of strangers' files raise whatever they like
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise GessoError(f"{path}: no picture that can be read ({reason}). Known: {', '.join(FORMATS)}") from error


def picture_digest(image: Image.Image) -> str:
    """How a request names a picture: SHA-256 over height, width and RGB bytes, so that a copied file stays the same."""
    return pixels_sha256(image)


def mask_digest(mask: Image.Image) -> str:
    """The same for a mask, over its grey levels."""
    grey = mask.convert("L")
    return hashlib.sha256(struct.pack(">II", grey.height, grey.width) + grey.tobytes()).hexdigest()


def fit(image: Image.Image, width: int, height: int) -> Image.Image:
    """The picture at the size that is drawn, stretched where it must be (Lanczos, as A1111 and diffusers do)."""
    return image if image.size == (width, height) else image.resize((width, height), Image.Resampling.LANCZOS)


def to_pixels(image: Image.Image) -> Tensor:
    """RGB of 8 bits -> float32 [1, 3, H, W] in [-1, 1]."""
    levels = torch.from_numpy(np.array(image.convert("RGB"), dtype=np.float32))
    return (levels / 255 * 2 - 1).permute(2, 0, 1)[None].contiguous()


def soften(mask: Image.Image, radius: float) -> Image.Image:
    """A Gaussian over the edges of a mask, of 2 * int(2.5 * radius + 0.5) + 1 points and that standard deviation.

    Those are the points that A1111 takes. radius 0: only black and white are left, parted at the middle.
    """
    levels = np.asarray(mask.convert("L"))
    if radius == 0:
        return Image.fromarray(np.where(levels >= 128, 255, 0).astype(np.uint8))
    reach = reach_of(radius)
    found = mask.convert("L").getbbox()
    if found is None:
        return mask.convert("L")
    left, top, right, bottom = found  # beyond twice the reach all is black and stays so
    box = np.s_[max(top - 2 * reach, 0) : bottom + 2 * reach, max(left - 2 * reach, 0) : right + 2 * reach]
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / radius) ** 2)
    grey = levels[box].astype(np.float64)
    for axis in (0, 1):
        grey = _convolve(grey, weights / weights.sum(), axis)
    soft = np.zeros_like(levels)
    soft[box] = grey.round().clip(0, 255).astype(np.uint8)
    return Image.fromarray(soft)


def reach_of(radius: float) -> int:
    """Pixels to which `soften` carries a level."""
    return int(2.5 * radius + 0.5)


def _convolve(grey: NDArray[np.float64], weights: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """Some lines at a time, by Fourier's way where the weights are many: whatever the radius, time and memory are those
    of a few copies."""
    lines = grey if axis == 1 else grey.T
    size, reach = lines.shape[1], len(weights) // 2
    found = np.empty_like(lines)
    for first in range(0, len(lines), _LINES):
        around = np.pad(lines[first : first + _LINES], [(0, 0), (reach, reach)], mode="symmetric")
        if len(weights) > _FEW:
            length = around.shape[1] + len(weights) - 1
            product = np.fft.rfft(around, length) * np.fft.rfft(weights, length)
            total = np.fft.irfft(product, length)[:, 2 * reach : 2 * reach + size]
        else:
            total = np.zeros((len(around), size))
            for start, weight in enumerate(weights):
                total += weight * around[:, start : start + size]
        found[first : first + _LINES] = total
    return found if axis == 1 else found.T


def mask_pixels(mask: Image.Image) -> Tensor:
    """0 or 1 a pixel, float32 [1, 1, H, W]; 1 is drawn again."""
    grey = torch.from_numpy(np.array(mask.convert("L"), dtype=np.float32))
    return (grey >= 127.5).float()[None, None]


def latent_mask(mask: Image.Image, rows: int, columns: int, blend: str) -> Tensor:
    """The mask at the size of the latents, 0 or 1, float32 [1, 1, rows, columns]; 1 is drawn again.

    blend x0: shrunk by PIL's bicubic filter and rounded, as A1111 does. blend x: nearest pixel, as diffusers and the
    inpainting models do. blend differential: shrunk by the mean, and not rounded: 0..1.
    """
    if blend == "differential":
        means = mask.convert("L").resize((columns, rows), Image.Resampling.BOX)
        return torch.from_numpy(np.asarray(means, dtype=np.float32) / 255)[None, None]
    if blend == "x":
        return F.interpolate(mask_pixels(mask), size=(rows, columns))
    small = mask.convert("L").resize((columns, rows), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.asarray(small, dtype=np.float32) / 255).round()[None, None]


def paste_back(drawn: Image.Image, original: Image.Image, mask: Image.Image) -> Image.Image:
    """What is drawn where the mask is white, the original bit by bit where it is black, mixed in between."""
    weight = np.asarray(mask.convert("L"), dtype=np.int32)[..., None]
    new, old = (np.asarray(image.convert("RGB"), dtype=np.int32) for image in (drawn, original))
    return Image.fromarray(((new * weight + old * (255 - weight) + 127) // 255).astype(np.uint8))


def drawable_size(image: Image.Image, multiple: int) -> tuple[int, int]:
    """Width and height of a picture cut down to multiples of what the model draws; made smaller where it is huge."""
    shrink = min(1.0, math.sqrt(MAX_PIXELS / (image.width * image.height)))
    width, height = (max(multiple, int(side * shrink) // multiple * multiple) for side in image.size)
    return width, height
