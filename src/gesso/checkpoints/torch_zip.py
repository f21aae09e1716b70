"""The directory of a zip archive as `torch.save` writes it, accounted for byte by byte.

Weights are stored, never compressed, so the members and their headers fill the file from its first byte to the
directory without a gap. Whatever an archive may do beyond that (compression, encryption, hidden or overlapping members,
two stories about one member) is refused. The layout of the records is that of PKWARE's APPNOTE 6.3, sections 4.3 and
4.5. Standard library alone: this runs in the child process that reads pickles.
"""

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, NoReturn

from gesso.checkpoints.errors import ModelFileError, Reason
from gesso.errors import shorten

MAX_MEMBERS = 100_000
MAX_DIRECTORY = 32 * 2**20  # bytes; torch takes 60 a member
_NAME = 512
_BLOCK = 4 * 2**20

_UTF8, _DESCRIPTOR = 0x800, 0x8
_ZIP64 = 45  # version of the format that large members need
_WEIGHTS = re.compile(
    r"data\.pkl|version|byteorder|\.format_version|\.storage_alignment|\.data/serialization_id|data/[0-9A-Za-z_.-]{1,64}"
)
_SCRIPT = re.compile(r"code/.*|constants\.pkl|attributes\.pkl|constants/.*|extra/.*|models/.*|archive_format")


@dataclass(frozen=True, slots=True)
class Member:
    """A file inside: its bytes are those of the archive from `begin` on."""

    name: str  # without the folder that all members share
    begin: int
    nbytes: int
    crc: int


@dataclass(frozen=True, slots=True)
class _Entry:
    """A row of the directory."""

    name: bytes
    flags: int
    method: int
    crc: int
    nbytes: int
    header: int  # where the member's own header begins


def read_at(file: BinaryIO, begin: int, count: int, *, where: str) -> bytes:
    """Exactly these bytes. Raises ModelFileError (truncated) where the file ends before."""
    file.seek(begin)
    data = b""
    while len(data) < count:
        part = file.read(count - len(data))
        if not part:
            raise ModelFileError("truncated", where, f"ends before byte {begin + count:,}; download it again")
        data += part
    return data


def blocks(file: BinaryIO, begin: int, count: int, *, where: str) -> Iterator[bytes]:
    """The same bytes a few megabytes at a time."""
    for at in range(begin, begin + count, _BLOCK):
        yield read_at(file, at, min(_BLOCK, begin + count - at), where=where)


def check_crc(file: BinaryIO, member: Member, *, where: str) -> None:
    """Reads a member whole. Raises ModelFileError (zip_checksum)."""
    crc = 0
    for block in blocks(file, member.begin, member.nbytes, where=where):
        crc = zlib.crc32(block, crc)
    refuse_crc(member, crc, where=where)


def refuse_crc(member: Member, crc: int, *, where: str) -> None:
    """Raises ModelFileError (zip_checksum) unless this is the member's checksum."""
    if crc != member.crc:
        message = (
            f"{member.name} is damaged: its checksum is {crc:08x}, expected {member.crc:08x}; download the file again"
        )
        raise ModelFileError("zip_checksum", where, message)


def read_directory(file: BinaryIO, nbytes: int, *, where: str) -> dict[str, Member]:
    """The members of a PyTorch archive by name. Reads headers only.

    Raises ModelFileError: zip_damaged, zip_compressed, zip_encrypted, zip_name, zip_overlap, torchscript, truncated, or
    not_safetensors for an archive of other things.
    """
    return _Archive(file, nbytes, where).members()


@dataclass(frozen=True)
class _Archive:
    file: BinaryIO
    nbytes: int
    where: str

    def refuse(self, reason: Reason, message: str) -> NoReturn:
        raise ModelFileError(reason, self.where, message)

    def read(self, begin: int, count: int) -> bytes:
        if begin < 0 or begin + count > self.nbytes:
            self.refuse("zip_damaged", "the archive points beyond its own end")
        return read_at(self.file, begin, count, where=self.where)

    def members(self) -> dict[str, Member]:
        entries, directory = self._entries()
        names = self._names(entries)
        for entry in entries:
            self._check_method(entry)
        members: dict[str, Member] = {}
        at = 0
        ordered = sorted(zip(entries, names, strict=True), key=lambda pair: pair[0].header)
        for (entry, name), following in zip(ordered, [*(e.header for e, _ in ordered[1:]), directory], strict=True):
            if entry.header != at:
                self.refuse("zip_overlap", f"{shorten(name)} begins at byte {entry.header:,}, expected {at:,}")
            begin = self._check_header(entry, name)
            at = self._end(entry, name, begin, following)
            members[name] = Member(name, begin, entry.nbytes, entry.crc)
        if at != directory:
            self.refuse("zip_overlap", "bytes before the archive's directory belong to no member")
        return members

    # ---- the directory ----

    def _entries(self) -> tuple[list[_Entry], int]:
        count, length, begin = self._end_records()
        if count > MAX_MEMBERS or length > MAX_DIRECTORY:
            self.refuse(
                "zip_damaged", f"a directory of {count:,} members and {length:,} bytes is more than weights need"
            )
        data = self.read(begin, length)
        entries, at = [], 0
        for _ in range(count):
            entry, at = self._entry(data, at)
            entries.append(entry)
        if at != length:
            self.refuse("zip_damaged", "the archive's directory is longer than its members")
        return entries, begin

    def _end_records(self) -> tuple[int, int, int]:
        """How many members, and where the directory lies: from the last bytes of the file."""
        end = self.nbytes - 22
        tail = self.read(end, 22) if end >= 0 else b""
        if not tail.startswith(b"PK\x05\x06"):
            self.refuse(
                "truncated", "a zip archive without its end: cut off, or followed by other bytes; download it again"
            )
        disk, first, here, count, length, begin, comment = struct.unpack("<4x4H2LH", tail)
        if disk or first or here != count or comment:
            self.refuse("zip_damaged", "an archive of several volumes, or with a comment")
        after = end
        if end >= 76 and self.read(end - 20, 4) == b"PK\x06\x07":
            after, wide = self._wide_end(end - 20)
            saturated = (0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF)
            if any(a not in (b, full) for a, b, full in zip((count, length, begin), wide, saturated, strict=True)):
                self.refuse("zip_damaged", "the archive's two ends contradict each other")
            count, length, begin = wide
        if begin + length != after:
            self.refuse("zip_damaged", "the archive's directory is not where its end says")
        return count, length, begin

    def _wide_end(self, locator: int) -> tuple[int, tuple[int, int, int]]:
        """The zip64 record of the end, which torch always writes."""
        disk, at, disks = struct.unpack("<4xLQL", self.read(locator, 20))
        if disk or disks != 1 or at + 56 != locator:
            self.refuse("zip_damaged", "the archive's zip64 record is not where its end says")
        fields = struct.unpack("<4sQ2H2L4Q", self.read(at, 56))
        signature, size, _, _, here_disk, first_disk, here, count, length, begin = fields
        if signature != b"PK\x06\x06" or size != 44 or here_disk or first_disk or here != count:
            self.refuse("zip_damaged", "the archive's zip64 record makes no sense")
        return at, (count, length, begin)

    def _entry(self, data: bytes, at: int) -> tuple[_Entry, int]:
        if len(data) - at < 46 or data[at : at + 4] != b"PK\x01\x02":
            self.refuse("zip_damaged", "the archive's directory makes no sense")
        (_, version, flags, method, crc, packed, nbytes, n_name, n_extra, n_comment, disk, _, _, header) = (
            struct.unpack_from("<4x4H4x3L5H2L", data, at)
        )
        end = at + 46 + n_name + n_extra + n_comment
        if version > _ZIP64 or end > len(data) or n_comment or disk not in (0, 0xFFFF) or not 0 < n_name <= _NAME:
            self.refuse("zip_damaged", "the archive's directory makes no sense")
        name = data[at + 46 : at + 46 + n_name]
        extra = data[at + 46 + n_name : end]
        nbytes, packed, header = self._widen(extra, nbytes, packed, header)
        if packed != nbytes and not method:
            self.refuse("zip_damaged", "a member that is not compressed has two sizes")
        return _Entry(name, flags, method, crc, nbytes, header), end

    def _check_method(self, entry: _Entry) -> None:
        label = shorten(entry.name.decode("utf-8", "replace"))
        if entry.flags & 0x2041:
            self.refuse("zip_encrypted", f"{label} is encrypted, which weights never are")
        if entry.flags & ~(_UTF8 | _DESCRIPTOR):
            self.refuse("zip_damaged", f"{label} has flags 0x{entry.flags:x}, which weights never have")
        if entry.method:
            self.refuse("zip_compressed", f"{label} is compressed, which weights never are; perhaps a zip bomb")

    def _widen(self, extra: bytes, *values: int) -> list[int]:
        """Sizes that do not fit into 32 bits stand in an extra field of the directory, in this order."""
        wide = self._extra(extra).get(1, b"")
        numbers, at = [], 0
        for value in values:
            if value == 0xFFFFFFFF:
                if len(wide) < at + 8:
                    self.refuse("zip_damaged", "a member lacks its zip64 sizes")
                value = int.from_bytes(wide[at : at + 8], "little")
                at += 8
            numbers.append(value)
        return numbers

    def _extra(self, extra: bytes) -> dict[int, bytes]:
        fields: dict[int, bytes] = {}
        at = 0
        while at < len(extra):
            if len(extra) - at < 4:
                self.refuse("zip_damaged", "a member has an extra field that makes no sense")
            tag, length = struct.unpack_from("<2H", extra, at)
            if tag in fields or at + 4 + length > len(extra):
                self.refuse("zip_damaged", "a member has an extra field that makes no sense")
            fields[tag] = extra[at + 4 : at + 4 + length]
            at += 4 + length
        return fields

    # ---- names ----

    def _names(self, entries: list[_Entry]) -> list[str]:
        """Names without the folder that torch puts everything into."""
        full = [self._text(entry.name) for entry in entries]
        roots = {name.partition("/")[0] for name in full}
        root = next(iter(roots), "")
        names = [name.partition("/")[2] for name in full]
        if any(_SCRIPT.fullmatch(name) for name in names):
            self.refuse(
                "torchscript",
                "a program (TorchScript or an exported model), not weights; gesso runs no code from files",
            )
        if "data.pkl" not in names:
            examples = ", ".join(shorten(name) for name in full[:3])
            self.refuse("not_safetensors", f"is a zip archive of {examples}, not a PyTorch file; unpack it first")
        if len(roots) != 1 or root in ("", ".", "..") or not root.isprintable() or "\\" in root:
            self.refuse("zip_name", "the members are not all in one folder of the archive")
        if strange := [name for name in names if not _WEIGHTS.fullmatch(name) or "/.." in f"/{name}"]:
            self.refuse("zip_name", f"has a member {shorten(strange[0])!r}, which weights do not have")
        if len(set(names)) != len(names):
            self.refuse("zip_name", "has two members of one name")
        return names

    def _text(self, name: bytes) -> str:
        try:
            return name.decode("utf-8")
        except UnicodeDecodeError:
            self.refuse("zip_name", "has a member whose name is not UTF-8")

    # ---- the members' own headers ----

    def _check_header(self, entry: _Entry, name: str) -> int:
        """Checks that the member's own header agrees with the directory -> where its bytes begin."""
        head = self.read(entry.header, 30)
        if not head.startswith(b"PK\x03\x04"):
            self.refuse("zip_damaged", f"{shorten(name)} is not where the directory says")
        version, flags, method, crc, packed, nbytes, n_name, n_extra = struct.unpack("<4x3H4x3L2H", head)
        rest = self.read(entry.header + 30, n_name + n_extra)
        if rest[:n_name] != entry.name or flags != entry.flags or method or version > _ZIP64:
            self.refuse(
                "zip_damaged", f"{shorten(name)} has another name or kind in its own header than in the directory"
            )
        wide = self._extra(rest[n_name:]).get(1, b"")
        if len(wide) >= 16 and nbytes == packed == 0xFFFFFFFF:
            nbytes, packed = struct.unpack_from("<2Q", wide)
        later = bool(flags & _DESCRIPTOR) and not crc and not packed and not nbytes
        if not later and (crc, packed, nbytes) != (entry.crc, entry.nbytes, entry.nbytes):
            self.refuse(
                "zip_damaged",
                f"{shorten(name)} has another size or checksum in its own header than in the directory",
            )
        return entry.header + 30 + n_name + n_extra

    def _end(self, entry: _Entry, name: str, begin: int, following: int) -> int:
        """Where the member ends, with the record behind it that repeats size and checksum."""
        end = begin + entry.nbytes
        if end > following:
            self.refuse("zip_overlap", f"{shorten(name)} reaches into the member behind it")
        if not entry.flags & _DESCRIPTOR:
            return end
        sizes = {16: "<4s3L", 24: "<4sL2Q"}.get(following - end)
        if sizes is None:
            self.refuse("zip_overlap", f"{following - end} bytes follow {shorten(name)}, expected 16 or 24")
        signature, crc, packed, nbytes = struct.unpack(sizes, self.read(end, following - end))
        if signature != b"PK\x07\x08" or (crc, packed, nbytes) != (entry.crc, entry.nbytes, entry.nbytes):
            self.refuse("zip_damaged", f"{shorten(name)} has another size or checksum behind it than in the directory")
        return following
