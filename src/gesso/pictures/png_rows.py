"""A PNG from rows that come one after the other, for pictures that do not fit into memory; Pillow needs them whole."""

import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from gesso.pictures.png_chunks import SIGNATURE, pack_chunk, text_chunk

MAX_SIDE = 2**31 - 1  # of the format
COLOUR_TYPES, UP = {3: 2, 4: 6}, 2  # by channels; filter: each row as its difference from the one above
LEVEL = 6  # of zlib


def png_parts(
    width: int,
    height: int,
    bands: Iterable[NDArray[np.uint8]],
    texts: Mapping[str, str] | None = None,
    *,
    channels: int = 3,
) -> Iterator[bytes]:
    """The bytes of a PNG, in parts.

    bands     uint8 [rows, width, channels] each, from top to bottom, `height` rows in all
    texts     keyword -> text, before the pixels
    channels  3 for RGB, 4 for RGBA
    Raises ValueError for sides that the format does not have, and for bands of another size.
    """
    if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE):
        raise ValueError(f"a PNG of {width}x{height}")
    yield SIGNATURE + pack_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, COLOUR_TYPES[channels], 0, 0, 0))
    for keyword, text in (texts or {}).items():
        yield pack_chunk(*text_chunk(keyword, text))
    packer, left, above = zlib.compressobj(LEVEL), height, np.zeros((1, channels * width), dtype=np.uint8)
    for band in bands:
        if band.shape[1:] != (width, channels) or len(band) > left:
            raise ValueError(f"a band {list(band.shape)} of a picture {width} wide with {left} rows to come")
        rows = band.reshape(len(band), channels * width)
        lines = np.empty((len(rows), 1 + channels * width), dtype=np.uint8)
        lines[:, 0] = UP
        np.subtract(rows, np.concatenate([above, rows[:-1]]), out=lines[:, 1:])
        above, left = rows[-1:].copy(), left - len(rows)
        if packed := packer.compress(lines.tobytes()):
            yield pack_chunk(b"IDAT", packed)
    if left:
        raise ValueError(f"{left} rows are missing")
    yield pack_chunk(b"IDAT", packer.flush()) + pack_chunk(b"IEND", b"")
