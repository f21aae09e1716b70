"""What the bytes of a safetensors file look like, in the standard library alone.

The sandboxed reader of pickles (torch_file.py) writes this format in a process that has neither torch nor numpy.
"""

import json
from collections.abc import Iterable, Mapping, Sequence

MAX_HEADER = 16 * 2**20  # bytes; SDXL needs 0.3 MB
MAX_TENSORS = 20_000  # SDXL has 2,515
MAX_DIMS = 8
MAX_SIDE = 2**31
MAX_NAME = 512  # characters

# Name of a dtype in a header -> bytes of one number; the order is that of the safetensors library's enumeration.
ITEM_SIZES: dict[str, int] = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E5M2": 1,
    "F8_E4M3": 1,
    "I16": 2,
    "F16": 2,
    "BF16": 2,
    "I32": 4,
    "F32": 4,
    "F64": 8,
    "I64": 8,
}
_RANK = {name: rank for rank, name in enumerate(ITEM_SIZES)}


def library_order(dtypes: Mapping[str, str]) -> list[str]:
    """Names in the order in which the library writes tensors of these dtypes: larger ones first, then by name."""
    return sorted(dtypes, key=lambda name: (-ITEM_SIZES[dtypes[name]], -_RANK[dtypes[name]], name))


def count_of(shape: Iterable[int]) -> int:
    """How many numbers a tensor of this shape has."""
    count = 1
    for side in shape:
        count *= side
    return count


def header_bytes(tensors: Mapping[str, tuple[str, Sequence[int]]], metadata: Mapping[str, str]) -> bytes:
    """The start of a file that holds these tensors, (dtype, shape) by name, in this order: length and JSON.

    Raises ValueError for more than gesso itself would read.
    """
    entries: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    end = 0
    for name, (dtype, shape) in tensors.items():
        begin, end = end, end + count_of(shape) * ITEM_SIZES[dtype]
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER or len(tensors) > MAX_TENSORS:
        raise ValueError(f"a header of {len(text)} bytes for {len(tensors)} tensors is more than gesso reads")
    return len(text).to_bytes(8, "little") + text
