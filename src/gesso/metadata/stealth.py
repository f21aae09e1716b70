"""Text hidden in the lowest bits of the pixels ("stealth PNG info"), as NovelAI and some plug-ins write it.

The bits run down the columns, from left to right: one a pixel in alpha, or three a pixel in red, green and blue. First
a mark, then the number of bits in 32, then the text in UTF-8, with another mark packed by gzip.
"""

import io
import warnings
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gesso.request.request import MAX_PIXELS

MAX_STEALTH_PIXELS = 16 * MAX_PIXELS  # larger pictures are not looked into
MAX_STEALTH_BYTES = 8 * 2**20  # of the text
# Mark -> whether it stands in alpha, and whether the text is packed.
_MARKS = {
    b"stealth_pnginfo": (True, False),
    b"stealth_pngcomp": (True, True),
    b"stealth_rgbinfo": (False, False),
    b"stealth_rgbcomp": (False, True),
}
_MARK_BYTES, _LENGTH_BYTES = 15, 4


@dataclass(frozen=True)
class Stealth:
    """text: what is hidden; in_alpha: where, else in the colours; bits: how many, with the mark"""

    text: str
    in_alpha: bool
    bits: int


def stealth_in(data: bytes) -> Stealth | None:
    """The text hidden in a PNG or WebP file; None where there is none, or the pixels cannot be decoded."""
    image = _decoded(data)
    return None if image is None else _found(np.asarray(image))


def without_stealth(data: bytes) -> Image.Image | None:
    """The pixels of a file without the text hidden in them, otherwise the same; None where none is.

    Where alpha held it, a pixel becomes what it was: 255 instead of 254. Where colours held it, the lowest bit of a
    level, which nobody sees, becomes 0.
    """
    image = _decoded(data)
    if image is None:
        return None
    levels = np.asarray(image).copy()
    found = _found(levels)
    if found is None:
        return None
    height = levels.shape[0]
    per_pixel = 1 if found.in_alpha else 3
    pixels = -(-found.bits // per_pixel)
    columns = levels.swapaxes(0, 1)  # [W, H, channels], a view: a column after the other
    whole, rest = divmod(pixels, height)
    for part in (columns[:whole], columns[whole : whole + 1, :rest]):
        if found.in_alpha:
            alpha = part[..., 3]
            part[..., 3] = np.where(alpha >= 128, alpha | 1, alpha & 0xFE)
        else:
            part[..., :3] &= 0xFE
    bare = Image.fromarray(levels)
    bare.info = dict(image.info)
    return bare


def _decoded(data: bytes) -> Image.Image | None:
    """RGB or RGBA of 8 bits; None for other pictures, those with frames, too large or damaged ones."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=("PNG", "WEBP")) as image:
                small = image.width * image.height <= MAX_STEALTH_PIXELS
                if not small or image.mode not in ("RGB", "RGBA") or getattr(image, "is_animated", False):
                    return None
                image.load()
                return image
    except Exception:  # decoders of strangers' files raise whatever they like
        return None


def _found(levels: NDArray[np.uint8]) -> Stealth | None:
    for in_alpha in (True, False) if levels.shape[2] == 4 else (False,):
        bits = _Bits(levels, in_alpha=in_alpha)
        mark = bits.read(0, _MARK_BYTES)
        place, packed = _MARKS.get(mark, (None, False))
        if place is not in_alpha:
            continue
        length = int.from_bytes(bits.read(_MARK_BYTES, _LENGTH_BYTES), "big")
        start = _MARK_BYTES + _LENGTH_BYTES
        if length % 8 or length // 8 > MAX_STEALTH_BYTES or start * 8 + length > bits.count:
            continue
        body = bits.read(start, length // 8)
        text = _unpacked(body) if packed else body
        if text is not None:
            return Stealth(text.decode("utf-8", errors="replace"), in_alpha, start * 8 + length)
    return None


def _unpacked(body: bytes) -> bytes | None:
    unpacker = zlib.decompressobj(wbits=31)  # gzip
    try:
        text = unpacker.decompress(body, MAX_STEALTH_BYTES + 1)
    except zlib.error:
        return None
    return text if len(text) <= MAX_STEALTH_BYTES else None


class _Bits:
    """The lowest bits of a picture in their order, some of them at a time."""

    def __init__(self, levels: NDArray[np.uint8], *, in_alpha: bool) -> None:
        self._channels: Any = levels[..., 3:] if in_alpha else levels[..., :3]
        height, width, self._per_pixel = self._channels.shape
        self._height = height
        self.count = height * width * self._per_pixel

    def read(self, start: int, length: int) -> bytes:
        """Bytes from a place on, fewer where the picture ends."""
        first, last = start * 8, min((start + length) * 8, self.count)
        a_column = self._height * self._per_pixel
        left = first // a_column
        columns = self._channels[:, left : -(-last // a_column)]
        bits = columns.swapaxes(0, 1).reshape(-1) & 1
        return np.packbits(bits[first - left * a_column : last - left * a_column]).tobytes()
