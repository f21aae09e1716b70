"""Uploaded pictures: decoded within bounds, encoded anew, and named by their pixels as requests name them."""

import io
import os
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from PIL import Image

from gesso.api.problems import HttpError
from gesso.errors import GessoError
from gesso.hints.levels import is_deep
from gesso.pictures.reading import (
    MAX_INPUT_PIXELS,
    MAX_INPUT_SIDE,
    hint_picture_digest,
    mask_digest,
    picture_digest,
    read_hint,
    read_image,
    read_layer,
    read_map,
    read_mask,
)
from gesso.serving.storage import Blobs

MIN_SIDE = 16
# How files begin that are decoded at all: the three formats of the web, whose decoders are looked at by everybody.
_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"


def normalised(data: bytes) -> tuple[bytes, int, int]:
    """A strange picture as a PNG of ours, its width and its height: turned upright, in sRGB, without anything else.

    Transparency stays, and so do grey levels of 16 bits. Raises HttpError.
    """
    is_webp = data[:4] == b"RIFF" and data[8:12] == b"WEBP"
    if not (data.startswith((_PNG, _JPEG)) or is_webp):
        raise HttpError(415, "unsupported_media_type", "file: expected a PNG, JPEG or WebP picture", field="file")
    check_size(data)
    with tempfile.TemporaryDirectory(prefix="gesso-upload-") as folder:  # the readers of gesso take files
        path = Path(folder, "picture")
        path.write_bytes(data)
        try:
            image = read_map(path) if _is_deep(data) else read_layer(path)
        except GessoError as error:
            if error.code == "too_large":
                raise _too_large() from None
            raise HttpError(400, "damaged", "file: not a readable picture", field="file") from None
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=4)
    return buffer.getvalue(), image.width, image.height


def check_size(data: bytes, formats: tuple[str, ...] = ("PNG", "JPEG", "WEBP")) -> tuple[int, int]:
    """Width and height that the header tells, before anything is decoded. Raises HttpError."""
    try:
        with Image.open(io.BytesIO(data), formats=formats) as image:
            width, height = image.size
    except Image.DecompressionBombError:
        raise _too_large() from None
    except Image.DecompressionBombWarning:
        raise _too_large() from None
    except Exception:  # decoders of strangers' files raise whatever they like
        raise HttpError(400, "damaged", "file: not a readable picture", field="file") from None
    if width * height > MAX_INPUT_PIXELS or max(width, height) > MAX_INPUT_SIDE:
        raise _too_large()
    if min(width, height) < MIN_SIDE:
        detail = f"file: {width}x{height}, expected at least {MIN_SIDE} pixels a side"
        raise HttpError(400, "invalid_field", detail, field="file")
    return width, height


def _is_deep(data: bytes) -> bool:
    with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP")) as image:
        return is_deep(image)


def _too_large() -> HttpError:
    detail = f"file: expected at most {MAX_INPUT_PIXELS} pixels and {MAX_INPUT_SIDE} a side"
    return HttpError(413, "too_large", detail, field="file", data={"high": MAX_INPUT_PIXELS})


class Digests:
    """The hashes of pixels by which requests name uploaded pictures, computed once for each."""

    def __init__(self, blobs: Blobs) -> None:
        self.blobs = blobs

    def image(self, digest: str) -> str:
        """Of a source picture."""
        return self._of(digest, "image")

    def mask(self, digest: str) -> str:
        """Of a mask."""
        return self._of(digest, "mask")

    def hint(self, digest: str) -> str:
        """Of a control image."""
        return self._of(digest, "hint")

    def _of(self, digest: str, role: str) -> str:
        try:
            return _pixels(os.fspath(self.blobs.path(digest)), role)
        except GessoError as error:
            if error.code == "storage_unusable":
                raise
            raise HttpError(
                500, "missing", "the uploaded picture is not on the disk any more", field="assets"
            ) from None


_READ: dict[str, Callable[[str], str]] = {
    "image": lambda path: picture_digest(read_image(path)),
    "mask": lambda path: mask_digest(read_mask(path)),
    "hint": lambda path: hint_picture_digest(read_hint(path)),
}


@lru_cache(maxsize=1024)
def _pixels(path: str, role: str) -> str:
    return _READ[role](path)
