"""Pictures on disk with the recipe inside: PNG, JPEG, WebP, AVIF; written whole or not at all, read without trust.

In a PNG two text chunks: `parameters` is A1111's infotext, `gesso` is our recipe (iTXt, UTF-8, not compressed). In the
other formats both stand in the EXIF, see `exif`. PNG keeps every bit of the pixels, the others do not.
"""

import hashlib
import io
import logging
import struct
import warnings
import zlib
from collections.abc import Iterable
from pathlib import Path

from PIL import Image, PngImagePlugin, UnidentifiedImageError

from gesso.errors import GessoError, as_path
from gesso.files import atomic_file
from gesso.pictures.exif import encode_exif, recipe_of
from gesso.pictures.png_chunks import PIXEL_CHUNKS, SIGNATURE, join_chunks, png_chunks, png_size
from gesso.request.checks import MAX_SIDE
from gesso.request.recipe import Recipe

log = logging.getLogger(__name__)

RECIPE_KEYWORD = "gesso"
MAX_FILE_BYTES = 256 * 2**20
MAX_RECIPE_BYTES = 2**20
DEFAULT_QUALITY = 90
# Ending of a file's name -> format. JPEG has at most 65,535 pixels a side and WebP 16,383; we draw less.
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".avif": "AVIF"}


def pixels_sha256(image: Image.Image) -> str:
    """SHA-256 over height and width (big-endian, four bytes each) and the RGB bytes, row by row."""
    rgb = image if image.mode == "RGB" else image.convert("RGB")
    return hashlib.sha256(struct.pack(">II", rgb.height, rgb.width) + rgb.tobytes()).hexdigest()


def encode_picture(
    image: Image.Image, recipe: Recipe, parameters: str, kind: str = "PNG", quality: int = DEFAULT_QUALITY
) -> bytes:
    """The bytes of a file of pixels, infotext and recipe; the same for the same input and Pillow.

    kind     a value of FORMATS
    quality  1 to 100, of all but PNG
    Raises GessoError where the texts are too long for the format: JPEG holds 64 KiB.
    """
    if kind == "PNG":
        return _encode_png(image, recipe, parameters)
    buffer = io.BytesIO()
    try:
        image.save(buffer, format=kind, quality=quality, exif=encode_exif(parameters, recipe.to_json()))
    except (OSError, ValueError) as error:
        raise GessoError(
            f"the picture cannot be written as {kind} ({error}). Use PNG, which holds texts of any length",
            code="unsupported",
        ) from error
    return buffer.getvalue()


def _encode_png(image: Image.Image, recipe: Recipe, parameters: str) -> bytes:
    text = PngImagePlugin.PngInfo()
    text.add_text("parameters", parameters)
    text.add_itxt(RECIPE_KEYWORD, recipe.to_json())
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", pnginfo=text)
    return buffer.getvalue()


def reason_of(error: Exception) -> str:
    """Why a decoder or the system does not read a file, in a few words."""
    if isinstance(error, UnidentifiedImageError):  # which names an object in memory
        return "damaged, or of an unknown format"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(error).strip()
    return text.splitlines()[0][:120] if text else type(error).__name__


def write_new(path: Path, data: bytes | Iterable[bytes], *, overwrite: bool = False, chosen_by: str = "output") -> None:
    """Write a file that is there completely or not at all, whatever stops the program. Data may come in parts.

    chosen_by  the argument that says where, for the message
    Makes the folder where it is missing; see `gesso.files`. Raises FileExistsError where the name is taken (unless
    `overwrite`), GessoError where it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path, overwrite=overwrite) as file:
            file.writelines([data] if isinstance(data, bytes) else data)
        log.debug("wrote %r", str(path))
    except FileExistsError:
        raise
    except OSError as error:
        raise GessoError(
            f"{path}: cannot be written ({error.strerror or error}). Choose another place with `{chosen_by}`",
            code="unwritable",
            data={"path": str(path)},
        ) from error


def read_picture(path: str | Path) -> tuple[Image.Image, Recipe]:
    """Pixels (RGB) and recipe of a picture that gesso wrote.

    The file may come from anyone: sizes are checked before anything is decoded, and of a PNG only the chunks that hold
    pixels reach the decoder. Raises GessoError for any other file, and for a recipe that is not as it should be.
    """
    path = as_path(path, "path")
    recipe, kind, data = _examined(path)
    return _decode(path, data, kind), recipe


def read_recipe(path: str | Path) -> Recipe:
    """The recipe of a picture that gesso wrote; its pixels are not decoded. Raises GessoError as `read_picture`."""
    return _examined(as_path(path, "path"))[0]


def _examined(path: Path) -> tuple[Recipe, str, bytes]:
    """The recipe, the format, and the bytes that the decoder of that format may see."""
    data = read_bytes(path)
    if not data.startswith(SIGNATURE):
        return _examined_other(path, data)
    chunks = list(png_chunks(path, data))
    width, height = png_size(path, chunks)
    if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE):
        raise GessoError(
            f"{path}: the PNG claims {width}x{height} pixels, expected at most {MAX_SIDE} a side",
            code="too_large",
            data={"path": str(path)},
        )
    recipe = _recipe(path, chunks)
    return recipe, "PNG", join_chunks([chunk for chunk in chunks if chunk[0] in PIXEL_CHUNKS])


def is_lossless(path: Path) -> bool:
    """Whether the pixels of a picture that gesso wrote are those that were drawn, bit by bit: those of a PNG."""
    return read_bytes(path).startswith(SIGNATURE)


def _examined_other(path: Path, data: bytes) -> tuple[Recipe, str, bytes]:
    try:
        with Image.open(io.BytesIO(data), formats=["JPEG", "WEBP", "AVIF"]) as image:
            kind, size, text = str(image.format), image.size, recipe_of(image.getexif())
    except Exception as error:  # decoders of strangers' files raise whatever they like
        raise GessoError(
            f"{path}: not a PNG, JPEG, WebP or AVIF picture", code="wrong_kind", data={"path": str(path)}
        ) from error
    if max(size) > MAX_SIDE:
        raise GessoError(
            f"{path}: claims {size[0]}x{size[1]} pixels, expected at most {MAX_SIDE} a side",
            code="too_large",
            data={"path": str(path)},
        )
    if not text:
        raise GessoError(
            f"{path}: no gesso recipe in this {kind} file. Replay needs the file as gesso wrote it",
            code="no_settings",
            data={"path": str(path)},
        )
    return _parsed(path, text), kind, data


def _decode(path: Path, data: bytes, kind: str) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with Image.open(io.BytesIO(data), formats=[kind]) as image:
                return image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Warning, Image.DecompressionBombError, zlib.error) as error:
        raise GessoError(
            f"{path}: the pixels of this {kind} are damaged ({reason_of(error)}). Use an undamaged copy",
            code="damaged",
            data={"path": str(path)},
        ) from error


def no_file(path: Path) -> str:
    """What is at a path where a message misses a file: "a folder", a pipe or a device, or nothing."""
    if path.is_dir():
        return "a folder"
    return "not a regular file" if path.exists() else "no such file"


def read_bytes(path: Path) -> bytes:
    """The whole of a picture's file. Raises GessoError where there is none, or it is larger than MAX_FILE_BYTES."""
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
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
        raise GessoError(
            f"{path}: cannot be read ({reason_of(error)})", code="unreadable", data={"path": str(path)}
        ) from error


def _recipe(path: Path, chunks: list[tuple[bytes, bytes]]) -> Recipe:
    keyword = RECIPE_KEYWORD.encode()
    bodies = [body for kind, body in chunks if kind == b"iTXt" and body.split(b"\0", 1)[0] == keyword]
    if not bodies:
        foreign = any(body.startswith(b"parameters\0") for kind, body in chunks if kind in (b"tEXt", b"iTXt"))
        hint = "it has only A1111 parameters" if foreign else "another program may have removed it"
        raise GessoError(
            f"{path}: no gesso recipe in this PNG ({hint}). Replay needs the file as gesso wrote it",
            code="no_settings",
            data={"path": str(path)},
        )
    if len(bodies) > 1:
        raise GessoError(
            f"{path}: {len(bodies)} gesso recipes in one PNG, expected one", code="damaged", data={"path": str(path)}
        )
    parts = bodies[0].split(b"\0", 2)
    # keyword, NUL, compression flag and method, then language and translated keyword (empty), each ended by NUL
    head, flags_and_text = parts[0], bodies[0][len(parts[0]) + 1 :]
    assert head == keyword
    if len(bodies[0]) > MAX_RECIPE_BYTES or flags_and_text[:4] != b"\0\0\0\0":
        raise GessoError(
            f"{path}: the gesso recipe is too long or compressed, so gesso did not write it",
            code="damaged",
            data={"path": str(path)},
        )
    try:
        return _parsed(path, flags_and_text[4:].decode())
    except UnicodeDecodeError as error:
        raise GessoError(f"{path}: the gesso recipe is not UTF-8", code="damaged", data={"path": str(path)}) from error


def _parsed(path: Path, text: str) -> Recipe:
    try:
        return Recipe.from_json(text)
    except GessoError as error:
        raise GessoError(f"{path}: {error.message}", code=error.code, field=error.field, data=error.data) from error
