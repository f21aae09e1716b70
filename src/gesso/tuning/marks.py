"""Marks in picture files by which their owners reserve them: `marks_of`.

- C2PA: the assertions c2pa.training-mining and cawg.training-mining (CAWG training and data mining 1.1), in the
  manifest store of PNG (caBX), JPEG (APP11), WebP (C2PA) and AVIF (uuid)
- IPTC: plus:DataMining in XMP (IPTC Photo Metadata 2023.1, PLUS LDF)
- W3C TDM Reservation Protocol: tdm:reservation in XMP, and a tdmrep.json beside the pictures or in a folder above

Any one that says no is a no, "constrained" too; signatures are not checked, since a reservation needs no proof. Nothing
in these files is trusted: boxes, CBOR and XMP are read within bounds, and what makes no sense is no mark.
"""

import io
import json
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from gesso.errors import GessoError, shorten
from gesso.pictures.picture_file import read_bytes
from gesso.pictures.png_chunks import SIGNATURE, png_chunks
from gesso.pictures.reading import FORMATS
from gesso.strict_json import loads

MAX_STORE = 16 * 2**20  # bytes of a manifest store, or of XMP
MAX_ITEMS, MAX_DEPTH = 20_000, 24  # of one CBOR value; of boxes in boxes, too
MAX_TDMREP = 2**20
TDMREP = "tdmrep.json"
_ASSERTIONS = ("c2pa.training-mining", "cawg.training-mining")
_USES = ("ai_training", "ai_generative_training", "data_mining")
_C2PA_UUID = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")
_MINING = re.compile(r"DataMining\b[^<>]{0,200}?[=>]\s*\"?[^<>\"]{0,200}?(DMI-[A-Z-]+)", re.S)
_MINING_LINK = re.compile(r"DataMining\b[^<>]{0,200}?resource\s*=\s*\"[^\"]{0,200}?(DMI-[A-Z-]+)", re.S)
_RESERVATION = re.compile(r"\btdm\w*:reservation\s*(?:=\s*[\"']\s*1\s*[\"']|>\s*1\s*<)")
_SOURCE = re.compile(r"digitalsourcetype/(\w+)")
_GENERATED = ("trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia")


@dataclass(frozen=True)
class Marks:
    """reserved: who says so, in words; "": nobody. generated: it says that an AI made it, or a part of it"""

    reserved: str = ""
    generated: bool = False


def marks_of(path: Path, reservations: "Reservations | None" = None, root: Path | None = None) -> Marks:
    """The marks of a picture file; none for one that cannot be read.

    reservations  what was read of tables before. root: the folder up to which they count; None: the picture's own
    """
    try:
        data = read_bytes(path)
    except GessoError:
        return Marks()
    reserved, generated = (reservations or Reservations())(path, root), False
    xmp = xmp_in(data)
    for text in xmp:
        generated = generated or any(kind in _GENERATED for kind in _SOURCE.findall(text))
        for found in (*_MINING.findall(text), *_MINING_LINK.findall(text)):
            if found.startswith("DMI-PROHIBITED"):
                reserved = reserved or f"IPTC {found}"
        if _RESERVATION.search(text):
            reserved = reserved or "TDM reservation in XMP"
    store = manifest_store(path, data)
    for label, content in assertions(store):
        if label.startswith(_ASSERTIONS):
            if use := _reserving(content):
                reserved = reserved or f"C2PA {label.partition('__')[0]}: {use}"
        elif label.startswith("c2pa.actions"):
            generated = generated or any(
                kind in _GENERATED for kind in _SOURCE.findall(json.dumps(content, default=str))
            )
    return Marks(reserved, generated)


def _reserving(content: object) -> str:
    """The use that an assertion does not allow; ""."""
    entries = content.get("entries") if isinstance(content, Mapping) else None
    if not isinstance(entries, Mapping):
        return ""
    for name, entry in entries.items():
        use = entry.get("use") if isinstance(entry, Mapping) else None
        if str(name).rpartition(".")[2] in _USES and use in ("notAllowed", "constrained"):
            return f"{shorten(str(name).rpartition('.')[2])} {use}"
    return ""


# ---- W3C's file ------------------------------------------------------------------------------------------------------


class Reservations:
    """What the tables of W3C's protocol, tdmrep.json, say of files; each is read once."""

    def __init__(self) -> None:
        self._read: dict[Path, tuple[tuple[str, bool], ...]] = {}

    def __call__(self, path: Path, root: Path | None = None) -> str:
        """Who reserves a file: a table in its folder or in one above, up to root; "": nobody.

        In a table the first fitting rule counts (TDMRep, section 6), and one table that says no is enough.
        """
        for folder in path.parents:
            if self._reserves(folder, path):
                return f"TDM reservation in {TDMREP}"
            if root is None or folder == root or not folder.is_relative_to(root):
                break
        return ""

    def _reserves(self, folder: Path, path: Path) -> bool:
        if folder not in self._read:
            self._read[folder] = _rules(folder / TDMREP)
        name = f"/{path.relative_to(folder).as_posix()}"
        for location, reserved in self._read[folder]:
            whole = location[:-1] if location.endswith("$") else f"{location}*"
            # Copied from a site, it has the folders of that.
            if fnmatchcase(name, whole) or fnmatchcase(name, f"*/{PurePosixPath(whole).name}"):
                return reserved
        return False


def _rules(table: Path) -> tuple[tuple[str, bool], ...]:
    """Location and whether it is reserved, by rule; nothing of a table that is not there or makes no sense."""
    try:
        if not table.is_file() or table.stat().st_size > MAX_TDMREP:
            return ()
        rules = loads(table.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return ()
    return tuple(
        (rule["location"], rule.get("tdm-reservation") == 1)
        for rule in (rules if isinstance(rules, list) else ())
        if isinstance(rule, Mapping) and isinstance(rule.get("location"), str)
    )


# ---- XMP -------------------------------------------------------------------------------------------------------------


def xmp_in(data: bytes) -> list[str]:
    """The XMP packets of a picture, as text."""
    found = []
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            values = [image.info.get("xmp"), image.info.get("XML:com.adobe.xmp")]
            tags = getattr(image, "tag_v2", None)
            if tags is not None:
                values.append(tags.get(700))
    except Exception:  # decoders of strangers' files raise whatever they like
        return []
    for value in values:
        if isinstance(value, bytes):
            found.append(value[:MAX_STORE].decode("utf-8", errors="replace"))
        elif isinstance(value, str):
            found.append(str(value)[:MAX_STORE])
    return found


# ---- C2PA ------------------------------------------------------------------------------------------------------------


def manifest_store(path: Path, data: bytes) -> bytes:
    """The JUMBF boxes of C2PA in a picture file; b"" where there are none."""
    try:
        if data.startswith(SIGNATURE):
            return next((body for kind, body in png_chunks(path, data) if kind == b"caBX"), b"")[:MAX_STORE]
        if data.startswith(b"\xff\xd8"):
            return _in_jpeg(data)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _in_riff(data)
        if data[4:8] == b"ftyp":
            return _in_bmff(data)
    except (GessoError, struct.error, IndexError):  # a damaged file has no marks that can be read
        pass
    return b""


def _in_jpeg(data: bytes) -> bytes:
    """APP11 segments of one box, put together (ISO 19566-5, annex D)."""
    parts: dict[int, dict[int, bytes]] = {}
    place = 2
    while place + 4 <= len(data) and data[place] == 0xFF and data[place + 1] not in (0xD9, 0xDA):
        (length,) = struct.unpack_from(">H", data, place + 2)
        body = data[place + 4 : place + 2 + length]
        if data[place + 1] == 0xEB and body[:2] == b"JP" and len(body) > 16:
            number, sequence = struct.unpack_from(">HI", body, 2)
            parts.setdefault(number, {})[sequence] = body[8:]
        place += 2 + max(length, 2)
    whole = b""
    for _, pieces in sorted(parts.items()):
        for count, (_, piece) in enumerate(sorted(pieces.items())):
            whole += piece if count == 0 else piece[16 if piece[:4] == b"\0\0\0\1" else 8 :]
    return whole[:MAX_STORE]


def _in_riff(data: bytes) -> bytes:
    place = 12
    while place + 8 <= len(data):
        (length,) = struct.unpack_from("<I", data, place + 4)
        if data[place : place + 4] == b"C2PA":
            return data[place + 8 : place + 8 + length][:MAX_STORE]
        place += 8 + length + length % 2
    return b""


def _in_bmff(data: bytes) -> bytes:
    for kind, body in boxes(data):
        if kind == b"uuid" and body[:16] == _C2PA_UUID:
            start = body.find(b"jumb", 16, 200)
            return body[start - 4 :][:MAX_STORE] if start >= 20 else b""
    return b""


def boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Boxes of ISO's format, one after the other: kind and contents. Stops at what is no box."""
    place = count = 0
    while place + 8 <= len(data) and count < MAX_ITEMS:
        length, kind = struct.unpack_from(">I4s", data, place)
        head = 8
        if length == 1 and place + 16 <= len(data):
            (length,) = struct.unpack_from(">Q", data, place + 8)
            head = 16
        elif length == 0:
            length = len(data) - place
        if length < head or place + length > len(data):
            return
        yield kind, data[place + head : place + length]
        place += length
        count += 1


def assertions(store: bytes, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Label and content of every CBOR or JSON box in JUMBF boxes."""
    if depth > MAX_DEPTH:
        return
    for kind, body in boxes(store):
        if kind != b"jumb":
            continue
        inner = list(boxes(body))
        label = _label(inner[0][1]) if inner and inner[0][0] == b"jumd" else ""
        for part, content in inner[1:]:
            try:
                if part == b"cbor":
                    yield label, cbor(content)
                elif part == b"json":
                    yield label, loads(content.decode("utf-8"))
            except (ValueError, RecursionError):
                continue
        yield from assertions(body, depth + 1)


def _label(description: bytes) -> str:
    if len(description) < 18 or not description[16] & 2:
        return ""
    return description[17:].partition(b"\0")[0][:256].decode("utf-8", errors="replace")


def cbor(data: bytes) -> Any:
    """The first value of CBOR data (RFC 8949); tags are dropped. Raises ValueError."""
    return _Cbor(data).value(0)


class _Cbor:
    def __init__(self, data: bytes) -> None:
        self.data, self.place, self.items = data, 0, 0

    def value(self, depth: int) -> Any:
        self.items += 1
        if depth > MAX_DEPTH or self.items > MAX_ITEMS:
            raise ValueError("CBOR too deep or too long")
        (first,) = self.take(1)
        major, more = first >> 5, first & 31
        if major == 7:
            return self.simple(more)
        size = None if more == 31 else self.number(more)
        if major in (0, 1):
            if size is None:
                raise ValueError("an endless number")
            return size if major == 0 else -1 - size
        if major in (2, 3):
            found = self.take(size) if size is not None else b"".join(self.pieces(major))
            return found if major == 2 else found.decode("utf-8", errors="replace")
        if major == 6:
            return self.value(depth + 1)
        if major == 4:
            return list(self.several(size, depth))
        pairs = {}
        for key in self.several(size, depth):
            pairs[key if isinstance(key, str | int) else repr(key)] = self.value(depth + 1)
        return pairs

    def several(self, size: int | None, depth: int) -> Iterator[Any]:
        count = 0
        while size is None or count < size:
            if size is None and self.data[self.place : self.place + 1] == b"\xff":
                self.place += 1
                return
            yield self.value(depth + 1)
            count += 1

    def pieces(self, major: int) -> Iterator[bytes]:
        while (first := self.take(1)[0]) != 0xFF:
            if first >> 5 != major or first & 31 == 31:
                raise ValueError("a string of other parts")
            yield self.take(self.number(first & 31))

    def number(self, more: int) -> int:
        if more < 24:
            return more
        if more > 27:
            raise ValueError("a length of no kind")
        return int.from_bytes(self.take(1 << (more - 24)), "big")

    def simple(self, more: int) -> Any:
        if more in (20, 21, 22, 23):
            return {20: False, 21: True}.get(more)
        sizes = {24: 1, 25: 2, 26: 4, 27: 8}
        if more not in sizes:
            return None
        taken = self.take(sizes[more])
        return None if more == 24 else struct.unpack({25: ">e", 26: ">f", 27: ">d"}[more], taken)[0]

    def take(self, count: int) -> bytes:
        if count > len(self.data) - self.place:
            raise ValueError("CBOR that ends too early")
        self.place += count
        return self.data[self.place - count : self.place]
