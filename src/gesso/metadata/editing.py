"""Removes the metadata of a picture file, or copies it to another. No pixel changes.

A PNG keeps its chunks of pixels and colour; of a JPEG, WebP and AVIF the blocks are cut out or put in without decoding,
so what is stored of the pixels stays the same, byte by byte. How the pixels are to be turned (EXIF's orientation) is
kept, since without it a picture lies on its side. A text hidden in the pixels goes too; those are stored anew then, the
same to the eye.
"""

import io
import struct
import warnings
from pathlib import Path

from PIL import Image

from gesso.arguments import check_flag
from gesso.errors import GessoError, as_path
from gesso.metadata.carriers import FORMATS, PictureTexts, read_texts
from gesso.metadata.stealth import without_stealth
from gesso.pictures.exif import UPRIGHT, encode_exif, encode_orientation, orientation_of
from gesso.pictures.picture_file import RECIPE_KEYWORD, read_bytes, write_new
from gesso.pictures.png_chunks import PIXEL_CHUNKS, SIGNATURE, join_chunks, png_chunks, text_chunk

# What decides colours stays; everything else that is no pixel goes: texts, EXIF, XMP, time, private chunks.
_KEPT_CHUNKS = frozenset(
    {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"cICP", b"sBIT", b"pHYs"}
    | {b"acTL", b"fcTL", b"fdAT"}
)
_EXIF_HEAD = b"Exif\0\0"
_SOI, _APP1, _COM, _SOS = 0xD8, 0xE1, 0xFE, 0xDA
_APP2, _APP14, _APP0, _APP15 = 0xE2, 0xEE, 0xE0, 0xEF
MAX_SEGMENT = 65533  # bytes of one block of a JPEG


def strip_metadata(source: str | Path, target: str | Path, *, overwrite: bool = True) -> Path:
    """Write a copy of a picture without metadata (settings, EXIF with GPS, XMP, comments) and return its path.

    What is stored of pixels and colours stays byte by byte, unless a text is hidden in the pixels (`stealth`). How they
    are to be turned stays too. The copy is there whole or not at all; target may be the
    source. Raises GessoError for formats that it cannot be cut out of (AVIF), FileExistsError unless `overwrite`.
    """
    source, target = as_path(source, "source"), as_path(target, "target")
    check_flag("overwrite", overwrite)
    write_new(target, without_metadata(source), overwrite=overwrite)
    return target


def copy_metadata(
    source: str | Path, picture: str | Path, target: str | Path | None = None, *, overwrite: bool = True
) -> Path:
    """Write a picture with the settings of another instead of its own, and return its path.

    source   the picture with the settings
    picture  the one whose pixels are kept: PNG, JPEG or WebP
    target   None: the picture itself
    Raises GessoError where there are no settings or the format cannot hold them, FileExistsError unless `overwrite`.
    """
    source, picture = as_path(source, "source"), as_path(picture, "picture")
    target = picture if target is None else as_path(target, "target")
    check_flag("overwrite", overwrite)
    texts = read_texts(source)
    if not texts.texts:
        raise GessoError(
            f"{source}: has no settings or other texts to copy", code="no_settings", data={"path": str(source)}
        )
    write_new(target, with_metadata(picture, texts), overwrite=overwrite)
    return target


def format_of(data: bytes) -> str:
    """PNG, JPEG or WEBP, by the first bytes of a file that `without_metadata` or `with_metadata` gave."""
    if data.startswith(SIGNATURE):
        return "PNG"
    return "JPEG" if data.startswith(b"\xff\xd8") else "WEBP"


def without_metadata(path: Path) -> bytes:
    """The file without anything but pixels, how to turn them, and colour.

    Raises GessoError for formats that it cannot be cut out of.
    """
    bare, orientation = _bare(path)
    return bare if orientation == UPRIGHT else _with_exif(path, bare, encode_orientation(orientation))


def with_metadata(path: Path, source: PictureTexts) -> bytes:
    """The file at `path` with the texts of another in place of its own. Raises GessoError as `without_metadata`."""
    plain, orientation = _bare(path)
    if plain.startswith(SIGNATURE):
        if orientation != UPRIGHT:
            plain = _with_exif(path, plain, encode_orientation(orientation))
        chunks = list(png_chunks(path, plain))
        texts = [text_chunk(name, text) for name, text in source.texts.items()]
        return join_chunks([chunks[0], *texts, *chunks[1:]])
    parameters, recipe = source.texts.get("parameters", ""), source.texts.get(RECIPE_KEYWORD, "")
    if left := sorted(source.texts.keys() - {"parameters", RECIPE_KEYWORD, "Software"}):
        raise GessoError(
            f"{path}: this format cannot hold {', '.join(left)[:100]}; copy into a PNG",
            code="unsupported",
            data={"path": str(path)},
        )
    return _with_exif(path, plain, encode_exif(parameters, recipe, orientation))


def _bare(path: Path) -> tuple[bytes, int]:
    """The file without metadata, and the orientation that it had."""
    data = read_bytes(path)
    read_texts(path)  # a picture, and of a format that is known
    if (clean := without_stealth(data)) is not None:
        data = _encoded_again(path, data, clean)
    orientation = _orientation(data)
    if data.startswith(SIGNATURE):
        return join_chunks([chunk for chunk in png_chunks(path, data) if chunk[0] in _KEPT_CHUNKS]), orientation
    if data.startswith(b"\xff\xd8"):
        segments = [segment for segment in _jpeg_segments(path, data) if not _is_comment(*segment)]
        return _join_jpeg(segments), orientation
    if data.startswith(b"RIFF"):
        chunks = [chunk for chunk in _webp_chunks(path, data) if chunk[0] not in (b"EXIF", b"XMP ")]
        return _join_webp(chunks), orientation
    raise GessoError(
        f"{path}: metadata cannot be removed from AVIF files; save the picture as PNG first",
        code="unsupported",
        data={"path": str(path)},
    )


def _orientation(data: bytes) -> int:
    """What the file says of it, in EXIF or XMP, as viewers read it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                return orientation_of(image.getexif())
    except Exception:  # damaged metadata, which turn nothing
        return UPRIGHT


def _encoded_again(path: Path, data: bytes, image: Image.Image) -> bytes:
    """The file with other pixels, without loss; what else it holds stays."""
    buffer = io.BytesIO()
    if data.startswith(SIGNATURE):
        image.save(buffer, "PNG", pnginfo=None, exif=b"", icc_profile=None)
        own = [chunk for chunk in png_chunks(path, buffer.getvalue()) if chunk[0] in PIXEL_CHUNKS]
        rest = [chunk for chunk in png_chunks(path, data) if chunk[0] not in PIXEL_CHUNKS]
        return join_chunks([own[0], *rest, *own[1:]])
    image.save(buffer, "WEBP", lossless=True, exact=True)
    chunks = _webp_chunks(path, buffer.getvalue())
    pixels = [chunk for chunk in chunks if chunk[0] not in (b"EXIF", b"XMP ", b"ICCP")]
    own = _webp_chunks(path, data)
    header = [chunk for chunk in own if chunk[0] in (b"VP8X", b"ICCP")]
    rest = [chunk for chunk in own if chunk[0] in (b"EXIF", b"XMP ")]
    return _join_webp([*header, *(chunk for chunk in pixels if not header or chunk[0] != b"VP8X"), *rest])


def _with_exif(path: Path, plain: bytes, exif: bytes) -> bytes:
    """A file that has no EXIF with a block of it."""
    if plain.startswith(SIGNATURE):
        header, *rest = png_chunks(path, plain)
        return join_chunks([header, (b"eXIf", exif.removeprefix(_EXIF_HEAD)), *rest])
    if plain.startswith(b"\xff\xd8"):
        body = exif if exif.startswith(_EXIF_HEAD) else _EXIF_HEAD + exif
        if len(body) > MAX_SEGMENT:
            raise GessoError(
                f"{path}: {len(body)} bytes of text, a JPEG holds at most {MAX_SEGMENT}; copy into a PNG",
                code="unsupported",
                data={"path": str(path)},
            )
        segments = _jpeg_segments(path, plain)
        return _join_jpeg([segments[0], (_APP1, body), *segments[1:]])
    return _join_webp([*_webp_chunks(path, plain), (b"EXIF", exif.removeprefix(_EXIF_HEAD))])


def _is_comment(marker: int, body: bytes) -> bool:
    """Blocks of applications but those that say colours: JFIF, ICC profile, Adobe's transform."""
    if marker == _APP2:
        return not body.startswith(b"ICC_PROFILE\0")
    return marker == _COM or (_APP0 < marker <= _APP15 and marker != _APP14)


def _jpeg_segments(path: Path, data: bytes) -> list[tuple[int, bytes]]:
    """Marker and body of each block; the last is all from the first scan on."""
    segments: list[tuple[int, bytes]] = [(_SOI, b"")]
    at = 2
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            break
        marker = data[at + 1]
        if marker == 0xFF:  # padding
            at += 1
            continue
        if marker == _SOS:
            return [*segments, (_SOS, data[at:])]
        (length,) = struct.unpack(">H", data[at + 2 : at + 4])
        if length < 2 or at + 2 + length > len(data):
            break
        segments.append((marker, data[at + 4 : at + 2 + length]))
        at += 2 + length
    raise GessoError(f"{path}: the JPEG is damaged. Use an undamaged copy", code="damaged", data={"path": str(path)})


def _join_jpeg(segments: list[tuple[int, bytes]]) -> bytes:
    parts = []
    for marker, body in segments:
        if marker == _SOI:
            parts.append(b"\xff\xd8")
        elif marker == _SOS:
            parts.append(body)
        else:
            parts.append(bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body)
    return b"".join(parts)


def _webp_chunks(path: Path, data: bytes) -> list[tuple[bytes, bytes]]:
    chunks: list[tuple[bytes, bytes]] = []
    at = 12
    while at + 8 <= len(data):
        kind, (length,) = data[at : at + 4], struct.unpack("<I", data[at + 4 : at + 8])
        if at + 8 + length > len(data):
            raise GessoError(
                f"{path}: the WebP is cut off. Use a complete copy", code="damaged", data={"path": str(path)}
            )
        chunks.append((kind, data[at + 8 : at + 8 + length]))
        at += 8 + length + length % 2
    return chunks


def _join_webp(chunks: list[tuple[bytes, bytes]]) -> bytes:
    """A WebP file; the flags of its extended header say what is in it."""
    kinds = {kind for kind, _ in chunks}
    if b"EXIF" in kinds and b"VP8X" not in kinds:
        chunks = [(b"VP8X", _extended_header(chunks)), *chunks]
    body = b"WEBP"
    for kind, content in chunks:
        if kind == b"VP8X":
            flags = content[0] & ~0x0C | (0x08 if b"EXIF" in kinds else 0) | (0x04 if b"XMP " in kinds else 0)
            content = bytes((flags,)) + content[1:]
        body += kind + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _extended_header(chunks: list[tuple[bytes, bytes]]) -> bytes:
    """The header that a file with EXIF needs: flags, then width and height less one, 24 bits each."""
    kind, content = chunks[0]
    if kind == b"VP8 ":
        width, height = (value & 0x3FFF for value in struct.unpack("<HH", content[6:10]))
        alpha = 0
    else:  # VP8L: 14 bits each, then whether there is transparency
        (bits,) = struct.unpack("<I", content[1:5])
        width, height, alpha = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, bits >> 28 & 1
    sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return bytes((0x10 if alpha else 0, 0, 0, 0)) + sides
