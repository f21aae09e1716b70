"""The drawings of the objects: every look of every object as a small picture with transparency, in one file.

The file is safetensors. For each look it holds the WebP pictures of the drawings one after the other, `<look>` uint8
[bytes], and where they end, `<look>.ends` int64 [N]; a drawing that a look lacks has no bytes. The pictures are not
premultiplied, and the colour of the ink goes on beneath the transparent rest, which keeps edges clean through the
compression. A note in the header names the object table by a hash. `scripts/make_world.py` makes it.
"""

import hashlib
import io
import json
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import save as to_bytes

from gesso.errors import GessoError, short
from gesso.files import atomic_file
from gesso.world.objects import Thing
from gesso.world.scene import LOOKS

NOTE_KEY, VERSION = "gesso-drawings", 1
MIN_SIZE, MAX_SIZE = 8, 512
MAX_FILE = 256 * 2**20  # bytes; a file of a thousand objects has a tenth of it
QUALITY = 86  # of WebP: a thousand objects of 192 pixels make 20 MB
REMEDY = "Make it with scripts/make_world.py, for the same object table"


@dataclass(frozen=True)
class Drawings:
    """Every look of every object, L looks in the order of LOOKS, N objects in the order of their table.

    pixels   uint8 [L, N, G, G, 4], premultiplied RGBA, each cropped to its ink, the longer side of it G, in the middle
    present  bool [L, N]; where a look lacks an object, `pixels` has the drawing of the first look
    """

    pixels: np.ndarray
    present: np.ndarray

    @property
    def size(self) -> int:
        """G, pixels of a side."""
        return int(self.pixels.shape[2])


def centred(picture: Image.Image, size: int) -> np.ndarray:
    """A drawing cropped to its ink and put in the middle of a square whose side is the longer side of the ink.

    picture  of mode RGBA, at least as large as the square, so that it is scaled down
    -> uint8 [size, size, 4], premultiplied. Raises ValueError where nothing is drawn.
    """
    box = picture.getchannel("A").point(lambda alpha: 255 * (alpha > 3)).getbbox()
    if box is None:
        raise ValueError("nothing is drawn")
    ink = picture.crop(box).convert("RGBa")  # premultiplied: scaling must not pull in the colour of nothing
    scale = size / max(ink.size)
    ink = ink.resize((max(1, round(ink.width * scale)), max(1, round(ink.height * scale))), Image.Resampling.LANCZOS)
    square = Image.new("RGBa", (size, size))
    square.paste(ink, ((size - ink.width) // 2, (size - ink.height) // 2))
    pixels = np.array(square)
    pixels[..., :3] = np.minimum(pixels[..., :3], pixels[..., 3:])  # the filter overshoots
    return pixels


def save_drawings(path: Path, drawings: Drawings, objects: Sequence[Thing]) -> None:
    """Write the drawings of an object table; those that a look lacks are left out.

    Writes whole or not at all. The compression is lossy, transparency is kept exactly. Raises GessoError if the file
    cannot be written, ValueError for drawings of another shape than that of the table.
    """
    looks, count, size = drawings.pixels.shape[:3]
    if (looks, count) != (len(LOOKS), len(objects)) or drawings.present.shape != (looks, count):
        raise ValueError(f"{looks} looks of {count} drawings, expected {len(LOOKS)} of {len(objects)}")
    if not drawings.present[0].all():
        raise ValueError(f"the first look, {LOOKS[0]}, lacks an object")
    tensors = {}
    with ThreadPoolExecutor() as pool:
        for look, pixels, present in zip(LOOKS, drawings.pixels, drawings.present, strict=True):
            pictures = list(pool.map(lambda one: _packed(one[0]) if one[1] else b"", zip(pixels, present, strict=True)))
            tensors[look] = np.frombuffer(b"".join(pictures), dtype=np.uint8)
            tensors[f"{look}.ends"] = np.cumsum([len(picture) for picture in pictures], dtype=np.int64)
    note = json.dumps(_note(objects) | {"size": size})
    try:
        with atomic_file(path) as file:
            file.write(to_bytes(tensors, metadata={NOTE_KEY: note}))
    except OSError as error:
        raise GessoError(
            f"{path}: the drawings cannot be written ({error.strerror})", code="unwritable", data={"path": str(path)}
        ) from error


def load_drawings(path: Path, objects: Sequence[Thing], size: int | None = None) -> Drawings:
    """The drawings of an object table from a file of `save_drawings`.

    size  scale them down to so many pixels a side; None: as they are stored
    Raises GessoError for a file that is missing, damaged, of another table or too small for `size`; pictures of a
    foreign size are not unpacked. ValueError for a `size` of no picture.
    """
    if size is not None and not MIN_SIZE <= size <= MAX_SIZE:
        raise ValueError(f"size {size}, expected {MIN_SIZE} to {MAX_SIZE}")
    try:
        if path.stat().st_size > MAX_FILE:
            raise _damaged(path, f"{path.stat().st_size >> 20} MiB, expected at most {MAX_FILE >> 20}")
        with safe_open(path, framework="numpy") as file:
            stored = _checked_note(path, (file.metadata() or {}).get(NOTE_KEY), objects)
            side = stored if size is None else size
            if side > stored:
                raise GessoError(
                    f"{path}: drawings of {stored} pixels, and `size={side}` asks for more",
                    code="invalid_value",
                    field="size",
                    data={"path": str(path)},
                )
            names = set(file.keys())
            packed = {look: _pictures(path, look, file, names, len(objects)) for look in LOOKS}
        pixels = np.empty((len(LOOKS), len(objects), side, side, 4), dtype=np.uint8)
        present = np.array([[bool(picture) for picture in packed[look]] for look in LOOKS])
        if not present[0].all():
            raise _damaged(path, f"the look {LOOKS[0]} lacks an object")

        def unpack(place: tuple[int, int]) -> None:
            look, row = place
            pixels[place] = _unpacked(packed[LOOKS[look]][row], stored, side)

        with warnings.catch_warnings():
            warnings.simplefilter("error")  # Pillow warns of pictures that it should not open
            _in_threads(unpack, [(int(look), int(row)) for look, row in np.argwhere(present)])
        for look in range(1, len(LOOKS)):
            pixels[look][~present[look]] = pixels[0][~present[look]]
    except GessoError:
        raise
    except FileNotFoundError as error:
        raise GessoError(f"{path}: no such file. {REMEDY}", code="missing", data={"path": str(path)}) from error
    except Exception as error:  # a hostile file makes Pillow and safetensors raise many kinds
        raise GessoError(
            f"{path}: the drawings cannot be read ({short(str(error))}). {REMEDY}",
            code="unreadable",
            data={"path": str(path)},
        ) from error
    return Drawings(pixels, present)


def _in_threads(work: Any, places: Iterable[Any]) -> None:
    """Do it for each of them; the first error passes through. Pillow lets threads run beside each other."""
    with ThreadPoolExecutor() as pool:
        try:
            for _ in pool.map(work, places):
                pass
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _pictures(path: Path, look: str, file: Any, names: set[str], count: int) -> list[bytes]:
    """The WebP pictures of a look, empty where it lacks an object."""
    if not {look, f"{look}.ends"} <= names:
        raise _damaged(path, f"the look {look} is missing")
    data, ends = file.get_tensor(look), file.get_tensor(f"{look}.ends")
    if data.dtype != np.uint8 or data.ndim != 1 or ends.dtype != np.int64 or ends.shape != (count,):
        raise _damaged(path, f"the look {look} has other types or shapes than drawings have")
    starts = np.concatenate([[0], ends[:-1]])
    if (starts > ends).any() or (ends < 0).any() or ends[-1] != len(data):
        raise _damaged(path, f"the pictures of the look {look} overlap or leave its data")
    raw = data.tobytes()
    return [raw[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]


def _packed(pixels: np.ndarray) -> bytes:
    """uint8 [G, G, 4], premultiplied -> a WebP picture."""
    file = io.BytesIO()
    straight = _bled(Image.fromarray(pixels, "RGBa"))
    straight.save(file, "WEBP", quality=QUALITY, alpha_quality=100, method=4, exact=True)
    return file.getvalue()


def _bled(picture: Image.Image) -> Image.Image:
    """Premultiplied -> straight, where the colours of the ink go on smoothly beneath what is transparent.

    Each level of a pyramid has the mean colour of its ink, and fills what the finer ones leave open.
    """
    straight = np.asarray(picture.convert("RGBA"))
    colours = np.zeros((*straight.shape[:2], 3), dtype=np.float32)
    levels = [picture]
    while max(levels[-1].size) > 1:
        width, height = levels[-1].size
        levels.append(levels[-1].resize(((width + 1) // 2, (height + 1) // 2), Image.Resampling.BOX))
    for level in reversed(levels):
        pixels = np.asarray(level, dtype=np.float32)
        under = Image.fromarray(colours.round().astype(np.uint8), "RGB").resize(level.size, Image.Resampling.BILINEAR)
        alpha = pixels[..., 3:] / 255
        ink = pixels[..., :3] / np.maximum(alpha, 1 / 255)
        share = np.minimum(alpha * 4, 1)  # thin ink has no colour of its own to speak of
        colours = np.clip(ink * share + np.asarray(under, dtype=np.float32) * (1 - share), 0, 255)
    return Image.fromarray(np.dstack([colours.round().astype(np.uint8), straight[..., 3]]), "RGBA")


def _unpacked(data: bytes, stored: int, size: int) -> np.ndarray:
    """A WebP picture of `stored` pixels a side -> uint8 [size, size, 4], premultiplied. ValueError for another size."""
    if (found := _webp_size(data)) != (stored, stored):
        raise ValueError(f"a picture of {found}, expected {stored} x {stored}")
    with Image.open(io.BytesIO(data), formats=("WEBP",)) as picture:
        if picture.size != (stored, stored) or getattr(picture, "n_frames", 1) != 1:
            raise ValueError(f"a picture of {picture.size}, expected one of {stored} x {stored}")
        premultiplied = picture.convert("RGBA").convert("RGBa")
    if size == stored:
        return np.asarray(premultiplied)
    pixels = np.array(premultiplied.resize((size, size), Image.Resampling.LANCZOS))
    pixels[..., :3] = np.minimum(pixels[..., :3], pixels[..., 3:])
    return pixels


def _webp_size(data: bytes) -> tuple[int, int] | None:
    """Width and height that the first header of a WebP file names, before anything is unpacked."""
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP" or len(data) < 30:
        return None
    if data[12:16] == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if data[12:16] == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF
    return None


def _note(objects: Sequence[Thing]) -> dict[str, Any]:
    table = "\n".join(thing.glyph for thing in objects)
    return {"version": VERSION, "objects": len(objects), "hash": hashlib.sha256(table.encode()).hexdigest()}


def _checked_note(path: Path, text: str | None, objects: Sequence[Thing]) -> int:
    """The size of the drawings that the note of the file names. Raises GessoError for another table."""
    try:
        note = json.loads(text) if text is not None else None
    except ValueError:
        note = None
    if not isinstance(note, dict):
        raise _damaged(path, "safetensors, but not a file of drawings")
    expected = _note(objects)
    if any(note.get(key) != value for key, value in expected.items()):
        raise _damaged(
            path,
            f"drawings of {short(note.get('objects'))} objects, hash {short(str(note.get('hash'))[:12])}, "
            f"expected {expected['objects']} objects, hash {expected['hash'][:12]}",
        )
    size = note.get("size")
    if not isinstance(size, int) or isinstance(size, bool) or not MIN_SIZE <= size <= MAX_SIZE:
        raise _damaged(path, f"drawings of {short(size)} pixels, expected {MIN_SIZE} to {MAX_SIZE}")
    return size


def _damaged(path: Path, message: str) -> GessoError:
    return GessoError(f"{path}: {message}. {REMEDY}", code="damaged", data={"path": str(path)})
