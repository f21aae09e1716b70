"""Reads input pictures without trusting the file, and names them by a hash of their pixels."""

import hashlib
import io
import struct
import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, features

from gesso.errors import GessoError, as_path, one_line
from gesso.hints.levels import eight_bits, is_deep, mask_levels, on_white
from gesso.notices import Notice
from gesso.pictures.colour_profile import as_srgb, profile_problem
from gesso.pictures.picture_file import MAX_FILE_BYTES, no_file, pixels_sha256, reason_of
from gesso.request.request import MAX_PIXELS

# Older releases of Pillow do not know AVIF, and some builds lack it.
_AVIF = ("AVIF",) if find_spec("PIL.AvifImagePlugin") is not None and features.check("avif") else ()
FORMATS = ("PNG", "JPEG", "WEBP", *_AVIF, "BMP", "TIFF", "GIF")
MAX_INPUT_PIXELS = 16 * MAX_PIXELS  # a camera's picture; it is made smaller before anything is computed
MAX_INPUT_SIDE = 16_384
_NOTICE = "gesso notice"  # where a picture carries the Notice of its reading; a text there came with its file


def read_image(path: str | Path) -> Image.Image:
    """Read a picture as RGB, rotated as its EXIF says; transparency becomes white, as in A1111.

    Raises GessoError if the file is not a picture, or too large.
    """
    image = _open(path)
    return _bare(flat(_eight_bits(image, path)), image.info.get(_NOTICE))


def read_layer(path: str | Path) -> Image.Image:
    """A picture as `read_image` gives it, RGBA where something is transparent. Raises GessoError as that does."""
    image = _eight_bits(_open(path), path)
    layer = as_srgb(image)
    if layer.mode == "RGBA" and layer.getchannel("A").getextrema() == (255, 255):
        layer = layer.convert("RGB")
    return _bare(layer, image.info.get(_NOTICE))


def read_mask(path: str | Path) -> Image.Image:
    """Read a mask as grey levels: white areas are redrawn, clear ones stay. Raises GessoError as `read_image` does."""
    return _bare(mask_levels(_eight_bits(_open(path), path)))


def read_map(path: str | Path) -> Image.Image:
    """A map from a file: grey levels of 16 bits stay as they are, anything else comes as `read_image` gives it."""
    image = _open(path)
    return _bare(image) if is_deep(image) else _bare(flat(image), image.info.get(_NOTICE))


def notices_of(*images: Image.Image | None) -> tuple[Notice, ...]:
    """Notices about pictures that were read, such as an ignored colour profile."""
    notices = (image.info.get(_NOTICE) for image in images if image is not None)
    return tuple(dict.fromkeys(notice for notice in notices if isinstance(notice, Notice)))


def _bare(image: Image.Image, notice: object = None) -> Image.Image:
    """The pixels alone: where a picture was taken, its texts and its profile do not go along into new files."""
    bare = Image.fromarray(np.asarray(image))
    if isinstance(notice, Notice):
        bare.info[_NOTICE] = notice
    return bare


def read_hint(path: str | Path) -> Image.Image:
    """Read a control image (hint): transparency and 16-bit grey levels are kept. Raises as `read_image`."""
    image = _open(path)
    if is_deep(image) or not ("A" in image.getbands() or "transparency" in image.info):
        return image if is_deep(image) else image.convert("RGB")
    return image.convert("RGBA")


def flat(image: Image.Image) -> Image.Image:
    """RGB in sRGB; what is transparent lies on white."""
    return on_white(as_srgb(image))


def _eight_bits(image: Image.Image, path: str | Path) -> Image.Image:
    try:
        return eight_bits(image)
    except ValueError as error:
        raise GessoError(f"{path}: {error}", code="damaged", data={"path": str(path)}) from error


def _open(path: str | Path) -> Image.Image:
    path = as_path(path, "path")
    try:
        if not path.is_file():
            raise GessoError(
                f"{path}: {no_file(path)}, expected a picture",
                code="missing",
                data={"path": str(path)},
            )
        if path.stat().st_size > MAX_FILE_BYTES:
            raise GessoError(
                f"{path}: {path.stat().st_size} bytes, expected at most {MAX_FILE_BYTES}",
                code="too_large",
                data={"path": str(path)},
            )
        data = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
        raise GessoError(
            f"{path}: cannot be read ({reason_of(error)})", code="unreadable", data={"path": str(path)}
        ) from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of decoders about odd metadata
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                if image.width * image.height > MAX_INPUT_PIXELS or max(image.size) > MAX_INPUT_SIDE:
                    raise GessoError(
                        f"{path}: {image.width}x{image.height}, expected at most {MAX_INPUT_PIXELS} pixels "
                        f"and {MAX_INPUT_SIDE} a side",
                        code="too_large",
                        data={"path": str(path)},
                    )
                image.load()
                if not is_deep(image) and (problem := profile_problem(image)) is not None:
                    text = f"{path.name}: colour profile ignored ({problem}); read as sRGB"
                    image.info[_NOTICE] = Notice(one_line(text), code="profile_ignored", data={"path": str(path)})
                return ImageOps.exif_transpose(image)
    except GessoError:
        raise
    except Exception as error:  # decoders of strangers' files raise whatever they like
        raise GessoError(
            f"{path}: not a readable picture ({reason_of(error)}). Known formats: {', '.join(FORMATS)}",
            code="wrong_kind",
            data={"path": str(path)},
        ) from error


def picture_digest(image: Image.Image) -> str:
    """The digest by which a request names a picture: SHA-256 over height, width and RGB bytes."""
    return pixels_sha256(image)


def mask_digest(mask: Image.Image) -> str:
    """The same for a mask, over its grey levels."""
    grey = mask_levels(mask)
    return hashlib.sha256(struct.pack(">II", grey.height, grey.width) + grey.tobytes()).hexdigest()


def hint_picture_digest(image: Image.Image) -> str:
    """The same for a control image: depth of 16 bits and transparency count, too."""
    if is_deep(image):
        levels = np.asarray(image)
        start = struct.pack(">II", *levels.shape) + str(levels.dtype).encode()
        return hashlib.sha256(start + levels.tobytes()).hexdigest()
    if "A" in image.getbands():
        rgba = image.convert("RGBA")
        return hashlib.sha256(struct.pack(">II", rgba.height, rgba.width) + rgba.tobytes()).hexdigest()
    return picture_digest(image)
