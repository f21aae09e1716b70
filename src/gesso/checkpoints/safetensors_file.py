"""Safetensors files: read as untrusted data, written atomically.

The format is 8 bytes (length N of the header, little-endian), N bytes of JSON (name -> dtype, shape, data_offsets;
"__metadata__" -> strings) and the numbers. The library refuses broken offsets; on top of it this module refuses what
the library lets pass: duplicate names, unknown fields, headers and tensor counts without a bound.

A file must not change while its tensors are in use: they are views of the mapped file.
"""

import hashlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedWriter
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from gesso import strict_json
from gesso.checkpoints.errors import ModelFileError, Reason
from gesso.checkpoints.foreign import START, looks_like
from gesso.checkpoints.regular_file import open_regular
from gesso.checkpoints.safetensors_layout import (
    MAX_DIMS,
    MAX_HEADER,
    MAX_NAME,
    MAX_SIDE,
    MAX_TENSORS,
    header_bytes,
    library_order,
)
from gesso.errors import shorten
from gesso.files import atomic_file

MAX_METADATA = 12 * 2**20  # characters of all keys and values together; a trainer's list of tags can have some millions
_MAX_PARTS = 16 * MAX_TENSORS + 2**20  # texts or numbers in a header, also where metadata hold JSON

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class TensorInfo:
    """The header's entry for one tensor."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    nbytes: int

    @property
    def count(self) -> int:
        """Number of elements."""
        return self.nbytes // self.dtype.itemsize


@dataclass(frozen=True, eq=False)
class SafetensorsFile:
    """A checked header; tensors are read on demand."""

    path: Path
    nbytes: int
    header_nbytes: int  # with the 8 bytes of its length
    metadata: Mapping[str, str]
    tensors: Mapping[str, TensorInfo]  # in the order of the header

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that the weights come from."""
        return (self.path,)

    @contextmanager
    def reader(self) -> Iterator["TensorReader"]:
        """Maps the file. The tensors read stay valid afterwards.

        Raises ModelFileError if the file is no longer the one whose header was checked.
        """
        try:
            opened = safe_open(self.path, framework="pt", device="cpu")
        except (SafetensorError, OSError) as error:
            raise ModelFileError("unreadable", self.path, f"can no longer be read ({type(error).__name__})") from None
        with opened as handle:
            if set(handle.keys()) != set(self.tensors):
                raise ModelFileError("changed", self.path, "the file changed while it was read; try again")
            yield TensorReader(self, handle)


@dataclass(frozen=True, eq=False)
class TensorReader:
    """Tensors of an open file by name."""

    file: SafetensorsFile
    _handle: Any

    def __getitem__(self, name: str) -> Tensor:
        """A view of the mapped file: no copy is made, pages are read when they are touched."""
        tensor: Tensor = self._handle.get_tensor(name)
        info = self.file.tensors[name]
        if tensor.dtype != info.dtype or tuple(tensor.shape) != info.shape:
            raise ModelFileError("changed", self.file.path, "the file changed while it was read; try again")
        return tensor


def open_safetensors(path: str | Path) -> SafetensorsFile:
    """Reads and checks the header; touches no weights. Raises ModelFileError."""
    path = Path(path)
    with open_regular(path) as (handle, nbytes):
        return check_header(path, handle, nbytes)


def check_header(path: Path, handle: BinaryIO, nbytes: int) -> SafetensorsFile:
    """The same of an open file of nbytes, which is at its beginning."""
    start = handle.read(START)
    if not start:
        raise ModelFileError("truncated", path, "the file is empty; download it again")
    _refuse_foreign(path, start)
    if len(start) < 8:
        raise ModelFileError("truncated", path, f"ends after {len(start)} bytes; download it again")
    length = int.from_bytes(start[:8], "little")
    if length > MAX_HEADER:
        limit = f"expected at most {MAX_HEADER:,}"
        raise ModelFileError("header_length", path, f"not safetensors: a header of {length:,} bytes, {limit}")
    if length < 2:
        raise ModelFileError("header_length", path, f"not safetensors: a header of {length} bytes")
    if 8 + length > nbytes:
        message = f"has {nbytes:,} bytes, its header alone takes {8 + length:,}; download it again"
        raise ModelFileError("truncated", path, message)
    header = start[8 : 8 + length] + handle.read(max(0, 8 + length - START))
    metadata, tensors = parse_header(path, header, nbytes - 8 - length)
    return SafetensorsFile(path=path, nbytes=nbytes, header_nbytes=8 + length, metadata=metadata, tensors=tensors)


def read_small_file(path: Path, limit: int) -> bytes:
    """A whole file of at most `limit` bytes. Raises ModelFileError."""
    with open_regular(path) as (handle, _):
        data = handle.read(limit + 1)
    if len(data) > limit:
        raise ModelFileError("overflow", path, f"is larger than {limit:,} bytes")
    return data


def _refuse_foreign(path: Path, start: bytes) -> None:
    if what := looks_like(start):
        raise ModelFileError("not_safetensors", path, f"not a safetensors file: it looks like {what}")


def parse_header(path: Path, header: bytes, data_nbytes: int | None) -> tuple[dict[str, str], dict[str, TensorInfo]]:
    """The JSON of a header -> metadata and tensors. data_nbytes: what follows it, None where that is not at hand.

    Raises ModelFileError.
    """

    def refuse(reason: Reason, message: str) -> NoReturn:
        raise ModelFileError(reason, path, message)

    # Before the parser spends memory on them: a hundred bytes for each text and each number.
    if header.count(b'"data_offsets"') > MAX_TENSORS:
        refuse("header_json", f"more than {MAX_TENSORS:,} tensors")
    if max(header.count(b","), header.count(b'"') // 2) > _MAX_PARTS:
        refuse("header_json", f"more than {_MAX_PARTS:,} texts or numbers in the header, more than any model needs")
    if not header.startswith(b"{"):
        refuse("header_json", "not a safetensors file: the header is not a JSON object")
    try:
        # Decoded here: the parser would guess UTF-16 from the first bytes.
        entries = strict_json.loads(header.decode("utf-8"), parse_int=_count)
    except strict_json.RepeatedKeyError as error:
        refuse("duplicate_key", f"the header names {shorten(error.key)!r} twice")
    except (ValueError, RecursionError):  # ValueError: not UTF-8, not JSON, NaN, a number of thousands of digits
        refuse("header_json", "not a safetensors file, or a damaged one: the header is not JSON")
    metadata = _check_metadata(entries.pop("__metadata__", {}), refuse)
    if not entries:
        refuse("header_json", "holds no tensors")
    tensors: dict[str, TensorInfo] = {}
    spans: list[tuple[int, int, str]] = []
    for name, entry in entries.items():
        tensors[name], begin = _check_entry(name, entry, refuse)
        spans.append((begin, begin + tensors[name].nbytes, name))
    end_before = 0
    for begin, end, name in sorted(spans):
        if begin != end_before:
            refuse("offsets", f"damaged: the data of {shorten(name)} begins at {begin}, expected {end_before}")
        end_before = end
    if data_nbytes is None:
        return metadata, tensors
    if end_before > data_nbytes:
        refuse("truncated", f"the data ends after {data_nbytes:,} bytes, expected {end_before:,}; download it again")
    if end_before < data_nbytes:
        refuse("offsets", f"{data_nbytes - end_before:,} bytes follow the last tensor, expected none")
    return metadata, tensors


def _count(text: str) -> int:
    """A whole number; -1 for all below zero and for -0, which the library refuses as well."""
    return -1 if text.startswith("-") else int(text)


def _check_metadata(metadata: Any, refuse: Any) -> dict[str, str]:
    if not isinstance(metadata, dict) or not all(_is_text(key) and _is_text(value) for key, value in metadata.items()):
        refuse("metadata", "the metadata is not a table of strings")
    if sum(len(key) + len(value) for key, value in metadata.items()) > MAX_METADATA:
        refuse("metadata", f"more than {MAX_METADATA:,} characters of metadata")
    return dict(metadata)


def _check_entry(name: str, entry: Any, refuse: Any) -> tuple[TensorInfo, int]:
    """Checks one entry of the header -> the entry, and where its data begins."""
    label = shorten(name)
    if not name or len(name) > MAX_NAME or not _is_text(name):
        refuse("header_json", f"a tensor name of {len(name)} characters, expected 1 to {MAX_NAME} of Unicode")
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        refuse("header_json", f"damaged: the entry of {label} is not dtype, shape and data_offsets")
    dtype = DTYPES.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    if dtype is None:
        refuse("dtype", f"{label} has dtype {shorten(str(entry['dtype']))!r}, expected one of {', '.join(DTYPES)}")
        raise AssertionError  # for the type checker: refuse raises
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not _counts(shape) or len(shape) > MAX_DIMS or any(side > MAX_SIDE for side in shape):
        refuse("overflow", f"{label}: the shape is not at most {MAX_DIMS} sizes up to {MAX_SIDE}")
    if not _counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        refuse("offsets", f"damaged: {label} has data_offsets that are not a beginning and an end")
    nbytes = dtype.itemsize
    for side in shape:
        nbytes *= side
    if offsets[1] - offsets[0] != nbytes:
        refuse("offsets", f"damaged: {label} has {offsets[1] - offsets[0]} bytes, its dtype and shape need {nbytes}")
    return TensorInfo(dtype=dtype, shape=tuple(shape), nbytes=nbytes), offsets[0]


def _is_text(value: Any) -> bool:
    """Whether this is a string that can be written down: JSON can spell half a surrogate pair."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _counts(numbers: Any) -> bool:
    return isinstance(numbers, list) and all(type(value) is int and value >= 0 for value in numbers)


# ---------------------------------------------------------------------------------------------------------------------


def write_safetensors(
    path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], *, hash_key: str | None = None
) -> None:
    """Writes a file whole or not at all: a temporary file beside it takes its place at the end.

    The bytes depend on nothing but the arguments; they are those of the safetensors library (larger element sizes
    first, then names) where there is at most one metadata key, else the keys are sorted. Tensors are written as they
    are, one at a time, from any device. hash_key: metadata key that is to hold "0x" and the SHA-256 of the tensor
    data, as ModelSpec asks. Raises ModelFileError where the file cannot be written, ValueError for a dtype that the
    format does not know.
    """
    path = Path(path)
    for name, tensor in tensors.items():
        if tensor.dtype not in _DTYPE_NAMES:
            raise ValueError(f"{name} is {tensor.dtype}, which safetensors cannot hold")
    dtypes = {name: _DTYPE_NAMES[tensor.dtype] for name, tensor in tensors.items()}
    ordered = {name: tensors[name] for name in library_order(dtypes)}
    metadata = dict(metadata)
    if hash_key is not None:
        digest = hashlib.sha256()
        for tensor in ordered.values():
            digest.update(_bytes_of(tensor))
        metadata[hash_key] = f"0x{digest.hexdigest()}"
    header = header_bytes({name: (dtypes[name], tensor.shape) for name, tensor in ordered.items()}, metadata)

    with new_weight_file(path) as handle:
        handle.write(header)
        for tensor in ordered.values():
            handle.write(_bytes_of(tensor))


def _bytes_of(tensor: Tensor) -> Any:  # a buffer of bytes
    if sys.byteorder != "little":
        raise NotImplementedError("safetensors are little-endian; writing from a big-endian machine is not supported")
    flat = tensor.detach().to("cpu").contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy()


@contextmanager
def new_weight_file(path: Path) -> Iterator[BufferedWriter]:
    """A file that appears under its name, in place of an older one, only when the block has ended well.

    Raises ModelFileError where the operating system refuses.
    """
    try:
        with atomic_file(path) as handle:
            yield handle
    except OSError as error:
        raise ModelFileError("unwritable", path, f"cannot be written: {error.strerror or error}") from None


# ---------------------------------------------------------------------------------------------------------------------


def tensor_data_sha256(file: SafetensorsFile) -> str:
    """SHA-256 of the numbers alone, without the header: what ModelSpec and trainers of adapters call the model hash."""
    with open_regular(file.path) as (handle, _):
        handle.seek(file.header_nbytes)
        digest = hashlib.sha256()
        while block := handle.read(2**20):
            digest.update(block)
        return digest.hexdigest()
