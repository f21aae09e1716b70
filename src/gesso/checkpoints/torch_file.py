"""Files that `torch.save` wrote, and their tensors written out again as safetensors.

Two containers: the zip archive of torch >= 1.6 (data.pkl and one member a storage), and the older stack of pickles
(a magic number, a protocol number, facts about the machine, the content, the keys of the storages) with the storages
behind them. Standard library alone: this runs in the child process of sandbox.py.
"""

import re
import zlib
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import BinaryIO

from gesso.checkpoints.errors import ModelFileError
from gesso.checkpoints.pickle_reader import PickleLimits, Storage, TensorRef, named_tensors, read_pickle
from gesso.checkpoints.safetensors_layout import ITEM_SIZES, header_bytes, library_order
from gesso.checkpoints.torch_zip import Member, blocks, check_crc, read_at, read_directory, refuse_crc
from gesso.errors import shorten

MAX_EXPANSION = 4  # bytes of all tensors together, as a multiple of the bytes that hold them
MAX_STRIDED = 256 * 2**20  # bytes of a storage that must be held in memory to put its numbers into order

# The first pickle of the older container is torch's magic number, 0x1950a86a20f9469cfc6c, and nothing else.
STACKED = re.compile(rb"\x80[\x02-\x05](?:\x95.{8})?\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19\.", re.DOTALL)
STACKED_VERSION = 1001


@dataclass(frozen=True)
class TorchFile:
    """The contents of a PyTorch file; no tensor data has been read yet."""

    tensors: Mapping[str, TensorRef]
    dropped: tuple[str, ...]  # what was no tensor, in words
    blocks: Mapping[str, Member]  # storages by key; crc -1 where the container has none
    others: tuple[Member, ...] = ()  # members besides storages


def open_torch(file: BinaryIO, nbytes: int, *, where: str, limits: PickleLimits | None = None) -> TorchFile:
    """Reads the pickles, not the numbers. Raises ModelFileError."""
    limits = limits or PickleLimits()
    start = read_at(file, 0, min(32, nbytes), where=where)
    if start.startswith(b"PK\x03\x04"):
        opened = _open_zip(file, nbytes, where, limits)
    elif STACKED.match(start):
        opened = _open_stacked(file, nbytes, where, limits)
    elif start[:1] == b"\x80":
        raise ModelFileError(
            "pickle_content", where, "a pickle that torch did not write; gesso reads only those of torch"
        )
    else:
        raise ModelFileError("pickle_damaged", where, "not a PyTorch file")
    held = sum({tensor.storage.key: tensor.storage.nbytes for tensor in opened.tensors.values()}.values())
    total = sum(tensor.nbytes for tensor in opened.tensors.values())
    if total > MAX_EXPANSION * held:
        message = f"its tensors make {total:,} bytes out of {held:,}, expected at most {MAX_EXPANSION} times as many"
        raise ModelFileError("tensor_bounds", where, message)
    return opened


def _open_zip(file: BinaryIO, nbytes: int, where: str, limits: PickleLimits) -> TorchFile:
    members = read_directory(file, nbytes, where=where)
    pickle = members["data.pkl"]
    if pickle.nbytes > limits.nbytes:
        message = f"a pickle of {pickle.nbytes:,} bytes, expected at most {limits.nbytes:,}"
        raise ModelFileError("pickle_limit", where, message)
    data = read_at(file, pickle.begin, pickle.nbytes, where=where)
    refuse_crc(pickle, zlib.crc32(data), where=where)
    order = members.get("byteorder")
    if order and (order.nbytes != 6 or read_at(file, order.begin, 6, where=where) != b"little"):
        raise ModelFileError("pickle_content", where, "was written by a big-endian machine, which gesso does not read")
    root, end, storages = read_pickle(data, where=where, limits=limits)
    if end != len(data):
        raise ModelFileError("pickle_damaged", where, f"{len(data) - end:,} bytes follow the end of the pickle")
    spans = {key: members.get(f"data/{key}") for key in storages}
    tensors, dropped = named_tensors(root, where=where)
    blocks_of = _check_storages(storages, spans, where)
    others = tuple(member for name, member in members.items() if name != "data.pkl" and name[5:] not in blocks_of)
    return TorchFile(tensors, tuple(dropped), blocks_of, others)


def _check_storages(
    storages: Mapping[str, Storage], members: Mapping[str, Member | None], where: str
) -> dict[str, Member]:
    blocks_of = {}
    for key, storage in storages.items():
        member = members[key]
        if member is None:
            raise ModelFileError("truncated", where, f"the numbers of storage {shorten(key)} are missing")
        if member.nbytes != storage.nbytes:
            message = f"storage {shorten(key)} has {member.nbytes:,} bytes, the pickle says {storage.nbytes:,}"
            raise ModelFileError("tensor_bounds", where, message)
        blocks_of[key] = member
    return blocks_of


def _open_stacked(file: BinaryIO, nbytes: int, where: str, limits: PickleLimits) -> TorchFile:
    data = read_at(file, 0, min(nbytes, limits.nbytes), where=where)
    magic = STACKED.match(data)
    assert magic  # the caller saw it
    version, at, _ = read_pickle(data, magic.end(), where=where, limits=limits)
    facts, at, _ = read_pickle(data, at, where=where, limits=limits)
    if version != STACKED_VERSION or type(facts) is not dict or facts.get("little_endian") is not True:
        message = "was written by an unknown version of torch, or by a big-endian machine"
        raise ModelFileError("pickle_content", where, message)
    root, at, storages = read_pickle(data, at, where=where, limits=limits)
    keys, at, _ = read_pickle(data, at, where=where, limits=limits)
    if type(keys) is not list or any(type(key) is not str for key in keys) or sorted(keys) != sorted(storages):
        raise ModelFileError("pickle_damaged", where, "its list of storages differs from the one that its tensors use")
    tensors, dropped = named_tensors(root, where=where)
    spans: dict[str, Member] = {}
    for key in keys:
        count = int.from_bytes(read_at(file, at, 8, where=where), "little")
        storage = storages[key]
        if count != storage.count:
            message = f"storage {shorten(key)} has {count:,} numbers, the pickle says {storage.count:,}"
            raise ModelFileError("tensor_bounds", where, message)
        spans[key] = Member(f"storage {shorten(key)}", at + 8, storage.nbytes, -1)
        at += 8 + storage.nbytes
        if at > nbytes:
            raise ModelFileError("truncated", where, f"ends before byte {at:,}; download it again")
    if at != nbytes:
        raise ModelFileError("pickle_damaged", where, f"{nbytes - at:,} bytes follow the last storage")
    return TorchFile(tensors, tuple(dropped), spans)


# ---- writing ---------------------------------------------------------------------------------------------------------


def header_of(opened: TorchFile, metadata: Mapping[str, str], *, where: str) -> tuple[bytes, list[str]]:
    """The start of the safetensors file, and the order of the tensors in it."""
    order = library_order({name: tensor.dtype for name, tensor in opened.tensors.items()})
    rows = {name: (opened.tensors[name].dtype, opened.tensors[name].shape) for name in order}
    try:
        return header_bytes(rows, metadata), order
    except ValueError as error:
        raise ModelFileError("pickle_limit", where, str(error)) from None


def write_as_safetensors(
    opened: TorchFile, file: BinaryIO, target: BinaryIO, metadata: Mapping[str, str], *, where: str
) -> None:
    """Writes every tensor, and reads every byte of the archive once at least, so that its checksums are proved.

    Holds a few megabytes, and one storage where a tensor is not contiguous. Raises ModelFileError.
    """
    header, order = header_of(opened, metadata, where=where)
    target.write(header)
    proved: set[str] = set()
    for name in order:
        tensor = opened.tensors[name]
        block = opened.blocks[tensor.storage.key]
        if not tensor.is_contiguous:
            for numbers in _gathered(tensor, block, file, where):
                target.write(numbers)
            continue
        size = ITEM_SIZES[tensor.dtype]
        crc = 0
        for part in blocks(file, block.begin + tensor.offset * size, tensor.nbytes, where=where):
            crc = zlib.crc32(part, crc)
            target.write(part)
        if tensor.nbytes == block.nbytes and block.crc >= 0:
            refuse_crc(block, crc, where=where)
            proved.add(tensor.storage.key)
    for key, block in opened.blocks.items():
        if block.crc >= 0 and key not in proved:
            check_crc(file, block, where=where)
    for member in opened.others:
        check_crc(file, member, where=where)


_CODES = {1: "B", 2: "H", 4: "I", 8: "Q"}


def _gathered(tensor: TensorRef, block: Member, file: BinaryIO, where: str) -> Iterator["array[int]"]:
    """The numbers of a strided tensor in their order, one slab of the first dimension at a time.

    Within a slab the longest dimension is moved by slices, so that a few thousand steps move millions of numbers.
    """
    if tensor.count == 0:
        return
    size = ITEM_SIZES[tensor.dtype]
    if block.nbytes > MAX_STRIDED:
        what = f"a tensor of {list(tensor.shape)} lies scattered over {block.nbytes:,} bytes"
        message = f"{what}, expected at most {MAX_STRIDED:,}"
        raise ModelFileError("pickle_limit", where, message)
    raw = read_at(file, block.begin, block.nbytes, where=where)
    source = array(_CODES[size], raw[: len(raw) // size * size])
    shape, stride = tensor.shape, tensor.stride
    steps = [1] * len(shape)  # strides of the result
    for axis in range(len(shape) - 2, -1, -1):
        steps[axis] = steps[axis + 1] * shape[axis + 1]
    long = max(range(len(shape)), key=lambda axis: shape[axis])
    others = [axis for axis in range(len(shape)) if axis != long]
    result = array(_CODES[size], bytes(tensor.nbytes))
    length, jump, step = shape[long], stride[long], steps[long]
    for place in product(*(range(shape[axis]) for axis in others)):
        begin = tensor.offset + sum(index * stride[axis] for index, axis in zip(place, others, strict=True))
        to = sum(index * steps[axis] for index, axis in zip(place, others, strict=True))
        values = (
            source[begin : begin + (length - 1) * jump + 1 : jump]
            if jump
            else array(source.typecode, [source[begin]]) * length
        )
        result[to : to + (length - 1) * step + 1 : step] = values
    yield result
