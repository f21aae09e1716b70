"""Pictures on disk: PNG with the recipe inside, written whole or not at all, and read without trusting it.

Text chunks: `parameters` is A1111's infotext, `gesso` is our recipe (iTXt, UTF-8, not compressed).
"""

import hashlib
import io
import os
import secrets
import struct
import warnings
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from PIL import Image, PngImagePlugin

from gesso.errors import GessoError
from gesso.pipelines.checks import MAX_SIDE
from gesso.pipelines.recipe import Recipe

RECIPE_KEYWORD = "gesso"
MAX_FILE_BYTES = 256 * 2**20
MAX_RECIPE_BYTES = 2**20
MAX_CHUNKS = 100_000

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PIXEL_CHUNKS = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"})


def pixels_sha256(image: Image.Image) -> str:
    """SHA-256 over height and width (big-endian, four bytes each) and the RGB bytes, row by row."""
    rgb = image if image.mode == "RGB" else image.convert("RGB")
    return hashlib.sha256(struct.pack(">II", rgb.height, rgb.width) + rgb.tobytes()).hexdigest()


def encode_png(image: Image.Image, recipe: Recipe, parameters: str) -> bytes:
    """The bytes of a PNG file: pixels, infotext and recipe; the same for the same input and Pillow."""
    text = PngImagePlugin.PngInfo()
    text.add_text("parameters", parameters)
    text.add_itxt(RECIPE_KEYWORD, recipe.to_json())
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", pnginfo=text)
    return buffer.getvalue()


def write_new(path: Path, data: bytes | Iterable[bytes], *, overwrite: bool = False) -> None:
    """Write a file that is there completely or not at all, whatever stops the program. Data may come in parts.

    The bytes go to a hidden file beside it, reach the disk, and only then get their name. Makes the folder where it is
    missing. Raises FileExistsError where the name is taken (unless `overwrite`), GessoError where it cannot be written.
    """
    hidden = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(hidden, "xb") as file:
                file.writelines([data] if isinstance(data, bytes) else data)
                file.flush()
                os.fsync(file.fileno())
            if overwrite:
                os.replace(hidden, path)
            else:
                _name_new(hidden, path)
        finally:
            hidden.unlink(missing_ok=True)
    except FileExistsError:
        raise
    except OSError as error:
        raise GessoError(
            f"{path}: cannot be written ({error.strerror or error}). Choose another place with --output"
        ) from error


def _name_new(hidden: Path, path: Path) -> None:
    """Give a finished file its name unless another file has it."""
    try:
        os.link(hidden, path)  # fails where the name is taken, in one step
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links: reserve the name, then take it
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        try:
            os.replace(hidden, path)
        except BaseException:
            path.unlink(missing_ok=True)
            raise


def read_picture(path: Path) -> tuple[Image.Image, Recipe]:
    """Pixels (RGB) and recipe of a PNG that gesso wrote.

    The file may come from anyone: sizes are checked before anything is decoded, and only the chunks that hold pixels
    reach the decoder. Raises GessoError for any other file, and for a recipe that is not exactly as it should be.
    """
    data = _read(path)
    chunks = list(_chunks(path, data))
    _check_size(path, chunks)
    recipe = _recipe(path, chunks)
    clean = _SIGNATURE + b"".join(_pack(kind, body) for kind, body in chunks if kind in _PIXEL_CHUNKS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with Image.open(io.BytesIO(clean), formats=["PNG"]) as image:
                return image.convert("RGB"), recipe
    except (OSError, SyntaxError, ValueError, Warning, Image.DecompressionBombError, zlib.error) as error:
        raise GessoError(f"{path}: the pixels of this PNG are damaged ({error}). Take an undamaged copy") from error


def _read(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise GessoError(f"{path}: {'a folder' if path.is_dir() else 'no such file'}, expected a PNG from gesso")
        if path.stat().st_size > MAX_FILE_BYTES:
            raise GessoError(f"{path}: {path.stat().st_size} bytes, at most {MAX_FILE_BYTES} are read")
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
        raise GessoError(f"{path}: cannot be read ({error})") from error


def _chunks(path: Path, data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and body of each chunk up to the end mark; lengths and checksums are checked."""
    if not data.startswith(_SIGNATURE):
        raise GessoError(f"{path}: not a PNG file; replay reads the PNG files that gesso writes")
    position = len(_SIGNATURE)
    for _ in range(MAX_CHUNKS):
        length = int.from_bytes(data[position : position + 4], "big")
        end = position + 8 + length
        if len(data) < end + 4:
            raise GessoError(f"{path}: the PNG is cut off after {len(data)} bytes. Take a complete copy")
        kind, body = data[position + 4 : position + 8], data[position + 8 : end]
        if zlib.crc32(kind + body) != int.from_bytes(data[end : end + 4], "big"):
            raise GessoError(f"{path}: a part of the PNG has a wrong checksum. Take an undamaged copy")
        yield kind, body
        if kind == b"IEND":
            return
        position = end + 4
    raise GessoError(f"{path}: more than {MAX_CHUNKS} parts in one PNG")


def _pack(kind: bytes, body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")


def _check_size(path: Path, chunks: list[tuple[bytes, bytes]]) -> None:
    kind, body = chunks[0]
    if kind != b"IHDR" or len(body) != 13:
        raise GessoError(f"{path}: the PNG does not start with its header. Take an undamaged copy")
    width, height = struct.unpack(">II", body[:8])
    if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE):
        raise GessoError(f"{path}: the PNG claims {width}x{height} pixels, gesso draws at most {MAX_SIDE} a side")


def _recipe(path: Path, chunks: list[tuple[bytes, bytes]]) -> Recipe:
    keyword = RECIPE_KEYWORD.encode()
    found = [body for kind, body in chunks if kind == b"iTXt" and body.split(b"\0", 1)[0] == keyword]
    if not found:
        foreign = any(body.startswith(b"parameters\0") for kind, body in chunks if kind in (b"tEXt", b"iTXt"))
        hint = "it carries A1111 parameters only" if foreign else "another program may have removed it"
        raise GessoError(f"{path}: no gesso recipe in this PNG ({hint}). Replay needs the file as gesso wrote it")
    if len(found) > 1:
        raise GessoError(f"{path}: {len(found)} gesso recipes in one PNG, expected one")
    parts = found[0].split(b"\0", 2)
    # keyword, NUL, compression flag and method, then language and translated keyword (empty), each ended by NUL
    head, flags_and_text = parts[0], found[0][len(parts[0]) + 1 :]
    assert head == keyword
    if len(found[0]) > MAX_RECIPE_BYTES or flags_and_text[:4] != b"\0\0\0\0":
        raise GessoError(f"{path}: the gesso recipe is not stored as gesso stores it (too long, or compressed)")
    try:
        return Recipe.from_json(flags_and_text[4:].decode())
    except UnicodeDecodeError as error:
        raise GessoError(f"{path}: the gesso recipe is not UTF-8") from error
    except GessoError as error:
        raise GessoError(f"{path}: {error.message}") from error
