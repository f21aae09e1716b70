"""The readers that are fuzzed: the header gate of safetensors, pickles, PyTorch archives, GGUF."""

import io
import json
import random
import struct
import zipfile
from collections import OrderedDict
from functools import lru_cache
from pathlib import Path
from typing import Any

import safetensors
import torch

from foreign_files import (
    FLOATS,
    Zip,
    ZipMember,
    call,
    gguf,
    gguf_row,
    gguf_text,
    gguf_value,
    items,
    name,
    number,
    pickled,
    saved,
    stack_name,
    stacked,
    storage,
    table,
    tensor,
    text,
    torch_zip,
)
from fuzz.engine import Target, boundary, mutate
from gesso.checkpoints.gguf_file import BLOCKS, parse_gguf
from gesso.checkpoints.pickle_reader import KNOWN_GLOBALS, TensorRef, named_tensors, read_pickle
from gesso.checkpoints.safetensors_file import check_header
from gesso.checkpoints.safetensors_layout import ITEM_SIZES
from gesso.checkpoints.torch_file import open_torch, write_as_safetensors
from gesso.checkpoints.torch_zip import read_directory

# ---- safetensors -----------------------------------------------------------------------------------------------------

_HEADER_TOKENS = (
    b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"\\ud800", b"\0", b"-", b"1e400", b"NaN", b"Infinity", b"null",
    b"true", b"9" * 40, b'"dtype"', b'"shape"', b'"data_offsets"', b'"__metadata__"', b'"F32"', b'"F8_E4M3"', b'"BOOL"',
    b"[0,0]", b"[0,16]", b'"x":{"dtype":"U8","shape":[1],"data_offsets":[16,17]}', b" ", b"\n", b"\xff", b"PK\x03\x04",
)  # fmt: skip


def _good_header(rng: random.Random) -> tuple[dict[str, Any], int]:
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}} if rng.random() < 0.5 else {}
    end = 0
    for index in range(rng.randrange(1, 5)):
        dtype = rng.choice(list(ITEM_SIZES))
        shape = [rng.randrange(4) for _ in range(rng.randrange(4))]
        count = ITEM_SIZES[dtype]
        for side in shape:
            count *= side
        entries[f"layer.{index}.weight"] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + count]}
        end += count
    return entries, end


def _odd(rng: random.Random, entry: dict[str, Any]) -> None:
    """Something else in the place of one value."""
    values = (
        None,
        True,
        -1,
        1.5,
        "x",
        [],
        {},
        [[]],
        [boundary(rng)] * rng.randrange(10),
        boundary(rng),
        -boundary(rng),
    )
    key = rng.choice(list(entry))
    if isinstance(entry[key], dict):
        _odd(rng, entry[key])
    elif isinstance(entry[key], list) and entry[key] and rng.random() < 0.7:
        entry[key][rng.randrange(len(entry[key]))] = rng.choice((boundary(rng), -1, 1.5, "1", None, True))
    else:
        entry[key] = rng.choice(values)


def _make_header(rng: random.Random) -> bytes:
    entries, nbytes = _good_header(rng)
    if rng.random() < 0.5:
        _odd(rng, entries)
    header = json.dumps(entries).encode()
    if rng.random() < 0.5:
        header = mutate(rng, header, _HEADER_TOKENS)
    data = struct.pack("<Q", len(header)) + header + bytes(nbytes)
    return mutate(rng, data, _HEADER_TOKENS) if rng.random() < 0.3 else data


def _run_header(data: bytes) -> None:
    file = check_header(Path("fuzz"), io.BytesIO(data), len(data))
    theirs = dict(safetensors.deserialize(data))  # whatever passes the gate, the library reads
    assert set(theirs) == set(file.tensors)
    for label, info in file.tensors.items():
        assert tuple(theirs[label]["shape"]) == info.shape
        assert len(theirs[label]["data"]) == info.nbytes


# ---- pickles ---------------------------------------------------------------------------------------------------------

_OPERATIONS = tuple(bytes([code]) for code in range(256))
_NAMES = (*sorted(KNOWN_GLOBALS), "posix.system", "builtins.eval", "torch._utils._rebuild_sparse_tensor", "os.system")


@lru_cache(maxsize=1)
def _pickles() -> tuple[bytes, ...]:
    plain = pickled(table(state_dict=table(w=tensor(), b=tensor(shape=(4,), stride=(1,))), epoch=number(3)))
    made = [plain, pickled(table(w=tensor()), 4), pickled(call("collections.OrderedDict") + table() + b"b")]
    for protocol in (2, 4):
        value = {"state_dict": OrderedDict(w=torch.ones(2, 2), n=torch.tensor(1)), "x": [1, 2.5, "a", b"b", None, {3}]}
        with zipfile.ZipFile(io.BytesIO(saved(value, protocol=protocol))) as archive:
            made.append(archive.read("archive/data.pkl"))
    return tuple(made)


def _value(rng: random.Random, depth: int) -> bytes:
    """A random value, sometimes of the wrong kind for its place."""
    simple = (
        lambda: number(rng.choice((rng.randrange(8), boundary(rng) % 2**63, -1))),
        lambda: text(rng.choice(("a", "storage", "cpu", "0", "string_to_param", "state_dict", "ip_adapter", "\x00"))),
        lambda: name(rng.choice(_NAMES)),
        lambda: stack_name(rng.choice(_NAMES)),
        lambda: b"N",
        lambda: rng.choice(_OPERATIONS),
        lambda: storage(rng.choice("01"), rng.choice((4, 4, 4, 8, boundary(rng)))),
        lambda: tensor(
            [rng.choice((1, 2, 2, boundary(rng) % 2**63)) for _ in range(rng.randrange(4))],
            [rng.choice((0, 1, 2, boundary(rng) % 2**63)) for _ in range(rng.randrange(4))],
            rng.choice((0, 0, 1, boundary(rng) % 2**63)),
        ),
    )
    if depth <= 0 or rng.random() < 0.4:
        return rng.choice(simple)()
    parts = [_value(rng, depth - 1) for _ in range(rng.randrange(4))]
    kind = rng.randrange(5)
    if kind == 0:
        return items(*parts)
    if kind == 1:
        return b"](" + b"".join(parts) + b"e"
    if kind == 2:
        return b"}(" + b"".join(text(f"k{index}") + part for index, part in enumerate(parts)) + b"u"
    if kind == 3:
        return call(rng.choice(_NAMES), *parts)
    return name(rng.choice(_NAMES)) + b")\x81" + (parts[0] if parts else b"}") + b"b"


def _make_pickle(rng: random.Random) -> bytes:
    seeds = _pickles()
    kind = rng.random()
    if kind < 0.4:
        return mutate(rng, rng.choice(seeds), _OPERATIONS, other=rng.choice(seeds))
    if kind < 0.8:
        body = table(w=_value(rng, 3), x=tensor()) if rng.random() < 0.7 else _value(rng, 4)
        return pickled(body, rng.randrange(2, 6))
    whole = stacked(rng.choice(seeds))
    return mutate(rng, whole, _OPERATIONS) if rng.random() < 0.7 else whole


def _run_pickle(data: bytes) -> None:
    if data[2:4] == b"\x8a\x0a":  # the older container: pickles and numbers
        _run_torch(data)
        return
    root, end, _ = read_pickle(data, where="fuzz")
    assert 0 < end <= len(data)
    found, _ = named_tensors(root, where="fuzz")
    for label, window in found.items():
        assert isinstance(label, str) and isinstance(window, TensorRef)
        assert _inside(window)


def _inside(window: TensorRef) -> bool:
    """Bounds, the slow way: the furthest number by counting."""
    if 0 in window.shape:
        return True
    furthest = window.offset
    for side, step in zip(window.shape, window.stride, strict=True):
        assert side > 0 and step >= 0
        furthest += (side - 1) * step
    return 0 <= furthest < window.storage.nbytes // ITEM_SIZES[window.dtype]


# ---- archives --------------------------------------------------------------------------------------------------------

_ZIP_TOKENS = (
    b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07", b"PK\x07\x08", b"archive/", b"data.pkl",
    b"data/0", b"../", b"/", b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x08\x00", b"\x01\x00\x10\x00", b"constants.pkl",
)  # fmt: skip
_MEMBER_NAMES = ("archive/data/1", "archive/data.pkl", "archive/../x", "x/data/1", "archive/code/a.py", "archive/\xe4")


@lru_cache(maxsize=1)
def _archives() -> tuple[bytes, ...]:
    return torch_zip().build(), saved({"w": torch.ones(3), "v": torch.ones(2).half()}), saved({"state_dict": {}})


def _make_zip(rng: random.Random) -> bytes:
    seeds = _archives()
    if rng.random() < 0.4:
        return mutate(rng, rng.choice(seeds), _ZIP_TOKENS, other=rng.choice(seeds))
    body = _make_pickle(rng) if rng.random() < 0.4 else None
    archive = torch_zip(body)
    if rng.random() < 0.3:
        archive.members.append(ZipMember(rng.choice(_MEMBER_NAMES), FLOATS[: rng.randrange(17)]))
    rng.shuffle(archive.members)
    for _ in range(rng.randrange(3)):
        _lie(rng, archive)
    data = archive.build()
    return mutate(rng, data, _ZIP_TOKENS) if rng.random() < 0.2 else data


_LIES = ("method", "flags", "crc", "size", "packed", "local_crc", "local_size", "header", "name", "gap", "extra")


def _lie(rng: random.Random, archive: Zip) -> None:
    if rng.random() < 0.3:
        field = rng.choice(("count", "directory", "length"))
        setattr(archive, field, boundary(rng) % (2**16 if field == "count" else 2**32))
        return
    member = rng.choice(archive.members)
    field = rng.choice(
        ("method", "flags", "crc", "size", "packed", "local_crc", "local_size", "header", "name", "gap", "extra")
    )
    values: dict[str, Any] = {
        "method": rng.choice((8, 12, boundary(rng) % 2**16)),
        "flags": rng.choice((0, 1, 8, 0x808, 0x20, 0x40, boundary(rng) % 2**16)),
        "name": rng.choice(_MEMBER_NAMES),
        "gap": bytes(rng.randrange(40)),
        "extra": struct.pack("<2HQ", 1, rng.choice((8, 16, 500)), boundary(rng)),
    }
    setattr(member, field, values.get(field, boundary(rng) % 2**32))


def _run_torch(data: bytes) -> None:
    source, target = io.BytesIO(data), io.BytesIO()
    found = open_torch(source, len(data), where="fuzz")
    write_as_safetensors(found, source, target, {}, where="fuzz")
    theirs = dict(safetensors.deserialize(target.getvalue()))  # what is written, the library reads
    assert set(theirs) == set(found.tensors)


def _run_zip(data: bytes) -> None:
    members = read_directory(io.BytesIO(data), len(data), where="fuzz")
    _run_torch(data)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:  # whatever passes, Python's reader sees in the same way
        theirs = {info.filename.partition("/")[2]: archive.read(info) for info in archive.infolist()}
    assert theirs == {label: data[m.begin : m.begin + m.nbytes] for label, m in members.items()}


# ---- GGUF ------------------------------------------------------------------------------------------------------------


def _make_gguf(rng: random.Random) -> bytes:
    rows, data = [], b""
    for index in range(rng.randrange(1, 4)):
        kind = rng.choice((0, 1, 8, 12, 30, *BLOCKS, boundary(rng) % 2**32))
        shape = (
            [rng.choice((1, 2, 32, 256, boundary(rng))) for _ in range(rng.randrange(4))]
            if rng.random() < 0.2
            else [2, 256]
        )
        rows.append(gguf_row(f"layer.{index}", shape, kind, len(data) if rng.random() < 0.9 else boundary(rng)))
        _, numbers, nbytes = BLOCKS.get(kind, ("", 1, {0: 4, 1: 2, 30: 2}.get(kind, 4)))
        data += bytes(512 // numbers * nbytes)
        data += bytes(-len(data) % 32)
    values = {"general.architecture": gguf_value(8, gguf_text("sd1"))}
    if rng.random() < 0.3:
        values["general.alignment"] = gguf_value(4, struct.pack("<I", boundary(rng) % 2**32))
    if rng.random() < 0.3:
        values["x"] = gguf_value(rng.randrange(14), bytes(rng.randrange(20)))
    if rng.random() < 0.3:
        sides = [boundary(rng) % 2**31 for _ in range(2)]
        values["comfy.gguf.orig_shape.layer.0"] = gguf_value(9, struct.pack("<IQ2i", 5, 2, *sides))
    whole = gguf(rows, data, values)
    return mutate(rng, whole) if rng.random() < 0.5 else whole


def _run_gguf(data: bytes) -> None:
    file = parse_gguf(Path("fuzz"), data[: 2**24], len(data))
    for span in file.spans.values():
        assert 0 <= span.begin <= span.begin + span.nbytes <= len(data)


TARGETS = {
    target.name: target
    for target in (
        Target("header", _make_header, _run_header),
        Target("pickle", _make_pickle, _run_pickle),
        Target("zip", _make_zip, _run_zip),
        Target("gguf", _make_gguf, _run_gguf),
    )
}
