"""GGUF files: quantised weights, as llama.cpp, stable-diffusion.cpp and ComfyUI-GGUF write them.

The header is read by this module alone, with every count, length and offset held against the size of the file before
anything is made from it (github.com/ggml-org/ggml, docs/gguf.md, versions 2 and 3). Blocks become numbers through the
`gguf` package, an extra, one tensor at a time; float and whole numbers need no extra.

Names are passed through: they are those of the LDM layout, with or without "model.diffusion_model.".
"""

import math
import mmap
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from gesso.checkpoints.errors import ModelFileError, Reason, shape_text
from gesso.checkpoints.regular_file import open_regular
from gesso.checkpoints.safetensors_file import MAX_METADATA, TensorInfo
from gesso.checkpoints.safetensors_layout import MAX_HEADER, MAX_NAME, MAX_SIDE, MAX_TENSORS
from gesso.errors import shorten
from gesso.extras import missing_words

MAGIC = b"GGUF"
MAX_KEYS = 10_000
MAX_ARRAY = 500_000  # texts in one array; vocabularies of language models have 256,000
MAX_TEXT = 2**20
MAX_DIMS = 4  # of the format
ORIGINAL_SHAPE = "comfy.gguf.orig_shape."  # key of a tensor whose shape was changed to fit the blocks
_ALIGNMENT = "general.alignment"

# Types whose numbers lie there as they are.
_PLAIN: dict[int, torch.dtype] = {
    0: torch.float32,
    1: torch.float16,
    24: torch.int8,
    25: torch.int16,
    26: torch.int32,
    27: torch.int64,
    28: torch.float64,
    30: torch.bfloat16,
}
# Types in blocks: name, numbers in a block, bytes of a block.
BLOCKS: dict[int, tuple[str, int, int]] = {
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    29: ("IQ1_M", 256, 56),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36),
}
# Types of the format that no library turns into numbers: of sums on the way, or too new.
_UNREAD = {9: "Q8_1", 15: "Q8_K", 41: "Q1_0"}

# Kinds of values in the header, by their number; 8 is a text, 9 an array.
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _ARRAY = 8, 9


@dataclass(frozen=True)
class _Span:
    """Where a tensor lies in the file, and in which type."""

    kind: int
    begin: int
    nbytes: int
    rows: int  # of blocks; 1 where the numbers lie as they are


@dataclass(frozen=True, eq=False)
class GgufFile:
    """A checked header. Tensors in blocks are float16 to who reads them, the others what they are in the file.

    float16 takes half the memory of float32 and adds an error of 0.05 %, a tenth of that of the finest blocks.
    """

    path: Path
    nbytes: int
    metadata: Mapping[str, str]  # values as text; long arrays are left out
    tensors: Mapping[str, TensorInfo]
    spans: Mapping[str, _Span]

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that the weights come from."""
        return (self.path,)

    @property
    def quantised(self) -> dict[str, int]:
        """How many tensors are in blocks, by the name of the type."""
        names = [BLOCKS[span.kind][0] for span in self.spans.values() if span.kind in BLOCKS]
        return {name: names.count(name) for name in sorted(set(names))}

    @contextmanager
    def reader(self) -> Iterator["GgufReader"]:
        """Maps the file. The tensors read stay valid afterwards.

        Raises ModelFileError where the file changed since its header was checked, and "missing_extra" where there are
        blocks and no package that knows them.
        """
        quants = _quants(self.path) if self.quantised else None
        with open_regular(self.path) as (handle, nbytes):
            if nbytes != self.nbytes:
                raise ModelFileError("changed", self.path, "the file changed while it was read; try again")
            # A private mapping: torch wants to be able to write, and what it writes must not reach the file.
            mapped = mmap.mmap(handle.fileno(), nbytes, access=mmap.ACCESS_COPY)
        yield GgufReader(self, mapped, quants)


@dataclass(frozen=True, eq=False)
class GgufReader:
    """Tensors of an open file by name."""

    file: GgufFile
    _mapped: mmap.mmap
    _quants: Any

    def __getitem__(self, name: str) -> Tensor:
        """A view of the mapped file, or, of a tensor in blocks, its numbers in memory of their own."""
        info, span = self.file.tensors[name], self.file.spans[name]
        if span.kind in _PLAIN:
            if not info.count:
                return torch.empty(info.shape, dtype=info.dtype)
            flat = torch.frombuffer(self._mapped, dtype=info.dtype, count=info.count, offset=span.begin)
            return flat.reshape(info.shape)
        raw = np.frombuffer(self._mapped, dtype=np.uint8, count=span.nbytes, offset=span.begin)
        try:
            kind = self._quants.GGMLQuantizationType(span.kind)
            with np.errstate(all="ignore"):  # damaged scales become NaN, which who loads weights looks for
                numbers = self._quants.dequantize(raw.reshape(span.rows, -1), kind).astype(np.float16)
        except (ValueError, NotImplementedError):
            needs = f"{BLOCKS[span.kind][0]}, which needs a newer package gguf. Try: pip install -U gguf"
            raise ModelFileError("missing_extra", self.file.path, f"{shorten(name)} is in {needs}") from None
        return torch.from_numpy(numbers).reshape(info.shape)


def _quants(path: Path) -> Any:
    try:
        from gguf import quants
    except ImportError as error:
        message = missing_words("reading quantised weights", "the package gguf", "gguf", error)
        raise ModelFileError("missing_extra", path, message) from None
    return quants


def open_gguf(path: str | Path) -> GgufFile:
    """Reads and checks the header; touches no weights. Raises ModelFileError."""
    path = Path(path)
    with open_regular(path) as (handle, nbytes):
        header = handle.read(MAX_HEADER)
    return parse_gguf(path, header, nbytes)


def parse_gguf(path: Path, header: bytes, nbytes: int) -> GgufFile:
    """Parses the first bytes of a file of nbytes. Time and memory are bounded by the length of the header."""
    return _Parser(path, header, nbytes).file()


class _Parser:
    def __init__(self, path: Path, header: bytes, nbytes: int) -> None:
        self.path, self.data, self.nbytes, self.at = path, header, nbytes, 0

    def refuse(self, reason: Reason, message: str) -> NoReturn:
        raise ModelFileError(reason, self.path, message)

    # ---- bytes ----

    def take(self, count: int) -> bytes:
        end = self.at + count
        if end > len(self.data):
            if end > self.nbytes:
                self.refuse("truncated", "ends in the middle of its header; download it again")
            self.refuse("gguf_count", f"has a header of more than {MAX_HEADER:,} bytes")
        part = self.data[self.at : end]
        self.at = end
        return part

    def number(self, code: str) -> Any:
        return struct.unpack(f"<{code}", self.take(struct.calcsize(f"<{code}")))[0]

    def text(self, limit: int) -> str:
        length = self.number("Q")
        if length > limit:
            self.refuse("gguf_string", f"has a text of {length:,} bytes in its header, expected at most {limit:,}")
        try:
            return self.take(length).decode("utf-8")
        except UnicodeDecodeError:
            self.refuse("gguf_string", "has a text in its header that is not UTF-8")

    # ---- parts ----

    def file(self) -> GgufFile:
        if self.take(4) != MAGIC:
            self.refuse("not_safetensors", "not a GGUF file")
        version = self.number("I")
        if version not in (2, 3):
            big = int.from_bytes(version.to_bytes(4, "little"), "big") in (2, 3)
            what = "is from a big-endian machine" if big else f"has GGUF version {version}"
            self.refuse("gguf_version", f"{what}, expected version 2 or 3, little-endian")
        num_tensors, num_keys = self.number("Q"), self.number("Q")
        if not 0 < num_tensors <= MAX_TENSORS:
            self.refuse("gguf_count", f"claims {num_tensors:,} tensors, expected 1 to {MAX_TENSORS:,}")
        if num_keys > MAX_KEYS:
            self.refuse("gguf_count", f"claims {num_keys:,} keys, expected at most {MAX_KEYS:,}")
        values = self.values(num_keys)
        rows = self.rows(num_tensors)
        alignment = values.get(_ALIGNMENT, 32)
        if type(alignment) is not int or not 8 <= alignment <= 2**16 or alignment & (alignment - 1):
            self.refuse(
                "gguf_alignment", f"has the alignment {shorten(str(alignment))}, expected a power of 2 from 8 on"
            )
        tensors, spans = self.place(rows, alignment, values)
        metadata = {key: str(value) for key, value in values.items() if value is not None}
        return GgufFile(self.path, self.nbytes, metadata, tensors, spans)

    def values(self, count: int) -> dict[str, Any]:
        """Keys and values; None for a long array."""
        values: dict[str, Any] = {}
        room = MAX_METADATA
        for _ in range(count):
            key = self.text(MAX_NAME)
            if key in values:
                self.refuse("duplicate_key", f"has the key {shorten(key)!r} twice")
            values[key] = self.value(self.number("I"), key)
            room -= len(key) + len(str(values[key]))
            if room < 0:
                self.refuse("gguf_metadata", f"has more than {MAX_METADATA:,} characters of metadata")
        return values

    def value(self, kind: int, key: str) -> Any:
        if kind == _TEXT:
            return self.text(MAX_TEXT)
        if kind == _ARRAY:
            return self.array(key)
        if kind not in _NUMBERS:
            self.refuse("gguf_metadata", f"{shorten(key)} is of kind {kind}, which GGUF does not have")
        return self.number(_NUMBERS[kind])

    def array(self, key: str) -> Any:
        kind, count = self.number("I"), self.number("Q")
        if kind in _NUMBERS:
            raw = self.take(count * struct.calcsize(f"<{_NUMBERS[kind]}"))
            return list(struct.unpack(f"<{count}{_NUMBERS[kind]}", raw)) if count <= 16 else None
        if kind != _TEXT:  # arrays of arrays: no writer uses them
            self.refuse("gguf_metadata", f"{shorten(key)} is an array of kind {kind}, expected numbers or texts")
        if count > MAX_ARRAY:
            self.refuse("gguf_count", f"{shorten(key)} has {count:,} texts, expected at most {MAX_ARRAY:,}")
        for _ in range(count):
            self.text(MAX_TEXT)
        return None

    def rows(self, count: int) -> list[tuple[str, tuple[int, ...], int, int]]:
        """Name, shape (slowest dimension first), type and offset of each tensor."""
        rows = []
        names: set[str] = set()
        for _ in range(count):
            name = self.text(MAX_NAME)
            if not name:
                self.refuse("gguf_string", "has a tensor without a name")
            if name in names:
                self.refuse("duplicate_key", f"has the tensor {shorten(name)!r} twice")
            names.add(name)
            num_dims = self.number("I")
            if num_dims > MAX_DIMS:
                self.refuse("gguf_shape", f"{shorten(name)} has {num_dims:,} dimensions, expected at most {MAX_DIMS}")
            shape = tuple(self.number("Q") for _ in range(num_dims))[::-1]
            if any(not 0 < side <= MAX_SIDE for side in shape):
                self.refuse("gguf_shape", f"{shorten(name)} is {shape_text(shape)}, expected sides of 1 to {MAX_SIDE}")
            rows.append((name, shape, self.number("I"), self.number("Q")))
        return rows

    def place(
        self, rows: list[tuple[str, tuple[int, ...], int, int]], alignment: int, values: Mapping[str, Any]
    ) -> tuple[dict[str, TensorInfo], dict[str, _Span]]:
        start = -(-self.at // alignment) * alignment
        tensors: dict[str, TensorInfo] = {}
        spans: dict[str, _Span] = {}
        for name, shape, kind, offset in rows:
            if offset % alignment:
                self.refuse("gguf_offset", f"{shorten(name)} begins at {offset:,}, which is no multiple of {alignment}")
            tensors[name], spans[name] = self.tensor(name, shape, kind, start + offset, values)
        end = start
        for name, span in sorted(spans.items(), key=lambda item: item[1].begin):
            if not end <= span.begin < end + alignment:
                self.refuse("gguf_offset", f"the data of {shorten(name)} begins at {span.begin:,}, expected {end:,}")
            end = span.begin + span.nbytes
        if end > self.nbytes:
            self.refuse("truncated", f"has {self.nbytes:,} bytes, its tensors take {end:,}; download it again")
        if self.nbytes - end >= alignment:
            self.refuse("gguf_offset", f"{self.nbytes - end:,} bytes follow the last tensor, expected none")
        return tensors, spans

    def tensor(
        self, name: str, shape: tuple[int, ...], kind: int, begin: int, values: Mapping[str, Any]
    ) -> tuple[TensorInfo, _Span]:
        count = math.prod(shape)
        if kind in _PLAIN:
            dtype = _PLAIN[kind]
            span = _Span(kind, begin, count * dtype.itemsize, 1)
        elif kind in BLOCKS:
            label, numbers, nbytes = BLOCKS[kind]
            if not shape or shape[-1] % numbers:
                self.refuse("gguf_shape", f"{shorten(name)} is {shape_text(shape)}, {label} takes rows of {numbers}")
            dtype = torch.float16
            span = _Span(kind, begin, count // numbers * nbytes, count // shape[-1])
        else:
            self.refuse("gguf_type", f"{shorten(name)} is of type {_UNREAD.get(kind, kind)}, which gesso does not read")
        shape = self.original(name, shape, count, values)
        return TensorInfo(dtype=dtype, shape=shape, nbytes=count * dtype.itemsize), span

    def original(self, name: str, shape: tuple[int, ...], count: int, values: Mapping[str, Any]) -> tuple[int, ...]:
        stored = values.get(ORIGINAL_SHAPE + name)
        if stored is None:
            return shape
        if not isinstance(stored, list) or not all(type(side) is int and side > 0 for side in stored):
            self.refuse("gguf_shape", f"the original shape of {shorten(name)} is no shape")
        if len(stored) > 8 or math.prod(stored) != count:
            self.refuse("gguf_shape", f"{shorten(name)} is {shape_text(shape)}, but was {shape_text(stored)}")
        return tuple(stored)
