"""The chunks of a PNG file, not decoded: only lengths and checksums are checked."""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from gesso.errors import GessoError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
PIXEL_CHUNKS = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"})
MAX_CHUNKS = 100_000


def png_chunks(path: Path, data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and body of each chunk up to the end mark. Raises GessoError for what is no PNG, or a damaged one."""
    if not data.startswith(SIGNATURE):
        raise GessoError(f"{path}: not a PNG file", code="wrong_kind", data={"path": str(path)})
    position = len(SIGNATURE)
    for _ in range(MAX_CHUNKS):
        length = int.from_bytes(data[position : position + 4], "big")
        end = position + 8 + length
        if len(data) < end + 4:
            raise GessoError(
                f"{path}: the PNG is cut off after {len(data)} bytes. Use a complete copy",
                code="damaged",
                data={"path": str(path)},
            )
        kind, body = data[position + 4 : position + 8], data[position + 8 : end]
        if zlib.crc32(kind + body) != int.from_bytes(data[end : end + 4], "big"):
            raise GessoError(
                f"{path}: a chunk of the PNG has a wrong checksum. Use an undamaged copy",
                code="damaged",
                data={"path": str(path)},
            )
        yield kind, body
        if kind == b"IEND":
            return
        position = end + 4
    raise GessoError(f"{path}: more than {MAX_CHUNKS} chunks in one PNG", code="too_large", data={"path": str(path)})


def png_size(path: Path, chunks: list[tuple[bytes, bytes]]) -> tuple[int, int]:
    """Width and height that the header claims. Raises GessoError where a file does not start with one."""
    kind, body = chunks[0]
    if kind != b"IHDR" or len(body) != 13:
        raise GessoError(
            f"{path}: the PNG does not start with its header. Use an undamaged copy",
            code="damaged",
            data={"path": str(path)},
        )
    width, height = struct.unpack(">II", body[:8])
    return width, height


def join_chunks(chunks: list[tuple[bytes, bytes]]) -> bytes:
    """A PNG file of these chunks."""
    return SIGNATURE + b"".join(pack_chunk(kind, body) for kind, body in chunks)


def pack_chunk(kind: bytes, body: bytes) -> bytes:
    """One chunk as it stands in the file: length, kind, body, checksum."""
    return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")


def text_chunk(keyword: str, text: str) -> tuple[bytes, bytes]:
    """A text for a PNG, not compressed: tEXt where Latin-1 can write it, else iTXt, as Pillow chooses."""
    name = keyword.encode("latin-1")
    try:
        return b"tEXt", name + b"\0" + text.encode("latin-1")
    except UnicodeEncodeError:
        return b"iTXt", name + b"\0\0\0\0\0" + text.encode()
