"""Builders of files that strangers might hand in: pickles operation by operation, archives record by record, GGUF.

Written from the formats; nothing is copied from the corpora of scanners, and nothing here runs what it builds.
"""

import io
import struct
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

# ---- pickles ---------------------------------------------------------------------------------------------------------

STOP = b"."


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def name(dotted: str) -> bytes:
    """GLOBAL: module and name, the last dot between them."""
    module, _, last = dotted.rpartition(".")
    return b"c" + module.encode() + b"\n" + last.encode() + b"\n"


def stack_name(dotted: str) -> bytes:
    module, _, last = dotted.rpartition(".")
    return text(module) + text(last) + b"\x93"


def number(value: int) -> bytes:
    """BININT, or LONG1 for what does not fit."""
    if -(2**31) <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    width = max(8, value.bit_length() // 8 + 1)
    return b"\x8a" + bytes([width]) + value.to_bytes(width, "little", signed=True)


def items(*parts: bytes) -> bytes:
    return b"(" + b"".join(parts) + b"t"


def call(dotted: str, *args: bytes) -> bytes:
    return name(dotted) + items(*args) + b"R"


def storage(key: str = "0", count: int = 4, kind: str = "torch.FloatStorage") -> bytes:
    return items(text("storage"), name(kind), text(key), text("cpu"), number(count)) + b"Q"


def tensor(
    shape: Iterable[int] = (2, 2),
    stride: Iterable[int] = (2, 1),
    offset: int = 0,
    of: bytes | None = None,
    make: str = "torch._utils._rebuild_tensor_v2",
) -> bytes:
    return call(
        make,
        storage() if of is None else of,
        number(offset),
        items(*map(number, shape)),
        items(*map(number, stride)),
        b"\x89",
        call("collections.OrderedDict"),
    )


def table(**values: bytes) -> bytes:
    return b"}(" + b"".join(text(key) + value for key, value in values.items()) + b"u"


def pickled(body: bytes, protocol: int = 2) -> bytes:
    return b"\x80" + bytes([protocol]) + body + STOP


# ---- archives --------------------------------------------------------------------------------------------------------


@dataclass
class ZipMember:
    """A member, and what it claims about itself; None: the truth."""

    name: str
    data: bytes
    method: int = 0
    flags: int = 0x800
    version: int = 20  # that a reader needs
    crc: int | None = None
    size: int | None = None
    packed: int | None = None
    local_name: str | None = None
    local_crc: int | None = None
    local_size: int | None = None
    header: int | None = None
    gap: bytes = b""  # between the member and the next one
    extra: bytes = b""
    stored: bytes | None = None  # what lies in the file, where it is not the data


@dataclass
class Zip:
    """An archive of such members."""

    members: list[ZipMember]
    comment: bytes = b""
    before_directory: bytes = b""
    after: bytes = b""
    count: int | None = None
    directory: int | None = None
    length: int | None = None
    prefix: bytes = b""
    parts: list[bytes] = field(default_factory=list)

    def build(self) -> bytes:
        out = io.BytesIO()
        out.write(self.prefix)
        rows = b""
        for member in self.members:
            header = out.tell() if member.header is None else member.header
            crc = zlib.crc32(member.data) if member.crc is None else member.crc
            size = len(member.data) if member.size is None else member.size
            stored = member.data if member.stored is None else member.stored
            packed = (len(stored) if member.method else size) if member.packed is None else member.packed
            local = (member.name if member.local_name is None else member.local_name).encode()
            local_crc = crc if member.local_crc is None else member.local_crc
            local_size = size if member.local_size is None else member.local_size
            out.write(b"PK\x03\x04" + struct.pack("<5H", member.version, member.flags, member.method, 0, 0))
            out.write(
                struct.pack("<3I2H", local_crc, packed if member.method else local_size, local_size, len(local), 0)
            )
            out.write(local + stored + member.gap)
            full = member.name.encode()
            rows += b"PK\x01\x02" + struct.pack("<6H", 20, member.version, member.flags, member.method, 0, 0)
            rows += struct.pack("<3I5H2I", crc, packed, size, len(full), len(member.extra), 0, 0, 0, 0, header)
            rows += full + member.extra
        out.write(self.before_directory)
        begin = out.tell() if self.directory is None else self.directory
        out.write(rows)
        count = len(self.members) if self.count is None else self.count
        length = len(rows) if self.length is None else self.length
        out.write(b"PK\x05\x06" + struct.pack("<4H2IH", 0, 0, count, count, length, begin, len(self.comment)))
        out.write(self.comment + self.after)
        return out.getvalue()


FLOATS = struct.pack("<4f", 1, 2, 3, 4)


def torch_zip(body: bytes | None = None, storages: Mapping[str, bytes] | None = None, **changes: Any) -> Zip:
    """What torch.save makes of {"w": [[1, 2], [3, 4]]}, or of another pickle."""
    data = pickled(table(w=tensor())) if body is None else body
    blocks = {"0": FLOATS} if storages is None else storages
    members = [ZipMember("archive/data.pkl", data), ZipMember("archive/byteorder", b"little")]
    members += [ZipMember(f"archive/data/{key}", block) for key, block in blocks.items()]
    members.append(ZipMember("archive/version", b"3\n"))
    return Zip(members, **changes)


def saved(value: Any, *, stacked: bool = False, protocol: int = 2) -> bytes:
    """The bytes of torch.save."""
    out = io.BytesIO()
    torch.save(value, out, pickle_protocol=protocol, _use_new_zipfile_serialization=not stacked)
    return out.getvalue()


def stacked(body: bytes, keys: bytes | None = None, data: bytes | None = None) -> bytes:
    """The container of torch < 1.6 around this pickle."""
    magic = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
    facts = pickled(b"}(" + text("little_endian") + b"\x88u")
    listed = pickled(b"](" + text("0") + b"e") if keys is None else keys
    block = struct.pack("<q", 4) + FLOATS if data is None else data
    return magic + pickled(number(1001)) + facts + body + listed + block


# ---- GGUF ------------------------------------------------------------------------------------------------------------


def gguf_text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def gguf_value(kind: int, raw: bytes) -> bytes:
    return struct.pack("<I", kind) + raw


def gguf_row(label: str | bytes, shape: Iterable[int], kind: int, offset: int) -> bytes:
    """shape as in torch, slowest first."""
    sides = list(shape)[::-1]
    row = gguf_text(label) + struct.pack("<I", len(sides))
    return row + b"".join(struct.pack("<Q", side) for side in sides) + struct.pack("<IQ", kind, offset)


def gguf(
    rows: list[bytes] | None = None,
    data: bytes = FLOATS + bytes(16),
    values: Mapping[str, bytes] | None = None,
    *,
    version: int = 3,
    num_rows: int | None = None,
    num_values: int | None = None,
    alignment: int = 32,
) -> bytes:
    rows = [gguf_row("w", (2, 2), 0, 0)] if rows is None else rows
    values = {"general.architecture": gguf_value(8, gguf_text("sd1"))} if values is None else values
    head = b"GGUF" + struct.pack(
        "<IQQ",
        version,
        len(rows) if num_rows is None else num_rows,
        len(values) if num_values is None else num_values,
    )
    head += b"".join(gguf_text(key) + value for key, value in values.items()) + b"".join(rows)
    return head + bytes(-len(head) % alignment) + data
