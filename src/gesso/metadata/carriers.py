"""The texts in a picture file, whoever put them there: PNG text chunks, and the EXIF of JPEG, WebP and AVIF.

Nothing is decoded but headers and these texts. Compressed text is unpacked up to a bound, so a small file cannot become
a large one in memory.
"""

import io
import warnings
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from gesso.errors import GessoError
from gesso.pictures.exif import DESCRIPTION, MAKE, MODEL, SOFTWARE, recipe_of, user_comment
from gesso.pictures.picture_file import RECIPE_KEYWORD, read_bytes
from gesso.pictures.png_chunks import SIGNATURE, png_chunks, png_size

FORMATS = ("PNG", "JPEG", "WEBP", "AVIF")
MAX_TEXT_BYTES = 8 * 2**20  # of all texts in one file; workflows of ComfyUI have some hundred thousand
MAX_TEXTS = 64


@dataclass(frozen=True)
class PictureTexts:
    """The texts in one file.

    format  PNG, JPEG, WEBP, AVIF
    texts   keyword -> text; of a JPEG, WebP or AVIF the names are those that PNG files use for the same
    """

    path: Path
    format: str
    width: int
    height: int
    texts: Mapping[str, str] = field(default_factory=dict)


def read_texts(path: Path) -> PictureTexts:
    """The texts of a picture. Raises GessoError for what is no picture of these formats, or carries too much."""
    data = read_bytes(path)
    if data.startswith(SIGNATURE):
        chunks = list(png_chunks(path, data))
        return PictureTexts(path, "PNG", *png_size(path, chunks), _png_texts(path, chunks))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=FORMATS[1:]) as image:
                kind, size, texts = str(image.format), image.size, _exif_texts(image)
    except Exception as error:  # decoders of strangers' files raise whatever they like
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise GessoError(
            f"{path}: not a readable picture ({reason}). Known formats: {', '.join(FORMATS)}",
            code="wrong_kind",
            data={"path": str(path)},
        ) from error
    return PictureTexts(path, kind, *size, texts)


def _png_texts(path: Path, chunks: list[tuple[bytes, bytes]]) -> dict[str, str]:
    texts: dict[str, str] = {}
    left = MAX_TEXT_BYTES
    for kind, body in chunks:
        if kind not in (b"tEXt", b"zTXt", b"iTXt"):
            continue
        keyword, _, rest = body.partition(b"\0")
        value, encoding = rest, "latin-1"
        if kind == b"zTXt":
            value = _unpack(path, rest[1:], left)
        elif kind == b"iTXt":
            flags, (_, _, text) = rest[:2], _split(rest[2:])
            value, encoding = (_unpack(path, text, left) if flags[:1] == b"\1" else text), "utf-8"
        left -= len(value)
        if left < 0 or len(texts) >= MAX_TEXTS:
            raise GessoError(
                f"{path}: its texts exceed {MAX_TEXT_BYTES} bytes or {MAX_TEXTS} entries, which gesso does not read",
                code="too_large",
                data={"path": str(path)},
            )
        name = keyword.decode("latin-1")
        texts.setdefault(name, value.decode(encoding, errors="replace"))
    return texts


def _split(rest: bytes) -> tuple[bytes, bytes, bytes]:
    """Language, translated keyword and text of an iTXt chunk."""
    language, _, rest = rest.partition(b"\0")
    translated, _, text = rest.partition(b"\0")
    return language, translated, text


def _unpack(path: Path, packed: bytes, most: int) -> bytes:
    """Deflated bytes, if they become no more than `most`."""
    unpacker = zlib.decompressobj()
    try:
        value = unpacker.decompress(packed, most + 1)
    except zlib.error as error:
        raise GessoError(
            f"{path}: a compressed text is damaged ({error})", code="damaged", data={"path": str(path)}
        ) from error
    if len(value) > most:
        raise GessoError(
            f"{path}: a compressed text expands to more than {most} bytes, which gesso does not read",
            code="too_large",
            data={"path": str(path)},
        )
    return value


def _exif_texts(image: Image.Image) -> dict[str, str]:
    texts: dict[str, str] = {}
    exif = image.getexif()
    if comment := user_comment(exif):
        texts["parameters"] = comment
    if recipe := recipe_of(exif):
        texts[RECIPE_KEYWORD] = recipe
    if isinstance(gif := image.info.get("comment"), bytes) and "parameters" not in texts:
        texts["comment"] = gif.decode("utf-8", errors="replace")
    for tag, keyword in ((DESCRIPTION, "Description"), (SOFTWARE, "Software")):
        if isinstance(value := exif.get(tag), str):
            texts[keyword] = value.strip("\0")
    for tag in (MODEL, MAKE, DESCRIPTION):  # ComfyUI: "prompt:{...}", "workflow:{...}", also with a capital
        value = exif.get(tag)
        keyword, colon, json_text = value.strip("\0").partition(":") if isinstance(value, str) else ("", "", "")
        keyword = keyword.strip().lower()
        if colon and keyword in ("prompt", "workflow") and json_text.lstrip().startswith("{"):
            texts.setdefault(keyword, json_text)
    return {name: value for name, value in texts.items() if len(value) <= MAX_TEXT_BYTES}
