"""Row P4 of hostile files: archives. The records are written by tests/foreign_files.py, honest but for one thing."""

import io
import struct
import zipfile
import zlib
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load

from foreign_files import FLOATS, Zip, ZipMember, pickled, saved, table, tensor, torch_zip
from gesso.checkpoints.errors import ModelFileError
from gesso.checkpoints.torch_file import open_torch, write_as_safetensors
from gesso.checkpoints.torch_zip import read_directory

PICKLE = pickled(table(w=tensor()))


def convert(data: bytes) -> bytes:
    """What the child does, in this process."""
    source, target = io.BytesIO(data), io.BytesIO()
    found = open_torch(source, len(data), where="x.ckpt")
    write_as_safetensors(found, source, target, {}, where="x.ckpt")
    return target.getvalue()


def with_member(number: int, **changes: object) -> bytes:
    """The good archive with one member changed; 0 is the pickle, 2 the numbers."""
    archive = torch_zip()
    for name, value in changes.items():
        setattr(archive.members[number], name, value)
    return archive.build()


def deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


def extra(number: int, **changes: object) -> bytes:
    """The good archive with one more member."""
    archive = torch_zip()
    archive.members.append(ZipMember(**{"name": "archive/data/9", "data": b"", **changes}))  # type: ignore[arg-type]
    return archive.build()


ZEROS = bytes(10_000_000)
GOOD = torch_zip().build()

# What is wrong -> the bytes, the reason.
BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "a bomb: deflated numbers": (
        lambda: with_member(2, data=ZEROS, stored=deflated(ZEROS), method=8),
        "zip_compressed",
    ),
    "a deflated pickle": (lambda: with_member(0, stored=deflated(PICKLE), method=8), "zip_compressed"),
    "another method": (lambda: with_member(2, method=14), "zip_compressed"),
    "encrypted (flag 0x1)": (lambda: with_member(2, flags=0x801), "zip_encrypted"),
    "strongly encrypted (flag 0x40)": (lambda: with_member(2, flags=0x840), "zip_encrypted"),
    "patched data (flag 0x20)": (lambda: with_member(2, flags=0x820), "zip_damaged"),
    "masked headers (flag 0x2000)": (lambda: with_member(2, flags=0x2800), "zip_encrypted"),
    "a wrong checksum of the numbers": (lambda: with_member(2, crc=1), "zip_checksum"),
    "a wrong checksum of the pickle": (lambda: with_member(0, crc=1), "zip_checksum"),
    "a wrong checksum of a member nobody reads": (lambda: with_member(3, crc=1), "zip_checksum"),
    "another checksum in the member's own header": (lambda: with_member(2, local_crc=1), "zip_damaged"),
    "another name in the member's own header": (lambda: with_member(0, local_name="archive/data.pk1"), "zip_damaged"),
    "another size in the member's own header": (lambda: with_member(2, local_size=15), "zip_damaged"),
    "a size beyond the next member": (lambda: with_member(2, size=1000, local_size=1000), "zip_overlap"),
    "a size beyond the file": (lambda: with_member(2, size=2**31, local_size=2**31), "zip_overlap"),
    "a size in two values": (lambda: with_member(2, packed=15), "zip_damaged"),
    "a hole behind a member": (lambda: with_member(2, gap=b"PK" * 20), "zip_overlap"),
    "a version of the future": (lambda: with_member(2, version=100), "zip_damaged"),
    "two members on one header": (
        lambda: extra(4, header=0, name="archive/data/1", data=PICKLE, local_name="archive/data.pkl"),
        "zip_overlap",
    ),
    "a member inside another": (lambda: with_member(2, header=4), "zip_overlap"),
    "a header beyond the file": (lambda: with_member(2, header=2**31), "zip_overlap"),
    "a name that climbs": (lambda: extra(4, name="archive/data/../../../etc/passwd"), "zip_name"),
    "a name that climbs, short": (lambda: extra(4, name="archive/data/.."), "zip_name"),
    "an absolute name": (lambda: extra(4, name="/etc/passwd"), "zip_name"),
    "another folder": (lambda: extra(4, name="other/data/1"), "zip_name"),
    "a NUL in a name": (lambda: extra(4, name="archive/data/1\0.txt"), "zip_name"),
    "a second pickle": (lambda: extra(4, name="archive/data.pkl", data=PICKLE), "zip_name"),
    "a member that weights do not have": (lambda: extra(4, name="archive/run.py"), "zip_name"),
    "TorchScript": (lambda: extra(4, name="archive/code/__torch__.py"), "torchscript"),
    "TorchScript's constants": (lambda: extra(4, name="archive/constants.pkl"), "torchscript"),
    "an exported model": (lambda: extra(4, name="archive/archive_format", data=b"pt2"), "torchscript"),
    "an archive of other things": (
        lambda: Zip([ZipMember("word/document.xml", b"<xml/>")]).build(),
        "not_safetensors",
    ),
    "an archive of weights": (lambda: Zip([ZipMember("model.safetensors", b"")]).build(), "not_safetensors"),
    "bytes in front": (lambda: torch_zip(prefix=b"PK\x03\x04#!/bin/sh").build(), "zip_overlap"),
    "bytes in front of the directory": (lambda: torch_zip(before_directory=b"hidden").build(), "zip_overlap"),
    "bytes behind the end": (lambda: torch_zip(after=b"<script>").build(), "truncated"),
    "a comment": (lambda: torch_zip(comment=b"hello").build(), "truncated"),
    "more members than there are": (lambda: torch_zip(count=9).build(), "zip_damaged"),
    "fewer members than there are": (lambda: torch_zip(count=3).build(), "zip_damaged"),
    "no members": (lambda: torch_zip(count=0, length=0).build(), "zip_damaged"),
    "a directory elsewhere": (lambda: torch_zip(directory=0).build(), "zip_damaged"),
    "a directory longer than the file": (lambda: torch_zip(length=2**31).build(), "zip_damaged"),
    "a directory of 4 GB": (lambda: torch_zip(length=2**32 - 1, directory=2**32 - 1).build(), "zip_damaged"),
    "zip64 sizes that are not there": (lambda: with_member(2, size=2**32 - 1, local_size=16), "zip_damaged"),
    "zip64 sizes that lie": (
        lambda: with_member(
            2, size=2**32 - 1, packed=2**32 - 1, local_size=16, extra=struct.pack("<2H2Q", 1, 16, 2**60, 2**60)
        ),
        "zip_damaged",
    ),
    "an extra field beyond its end": (lambda: with_member(2, extra=struct.pack("<2H", 1, 500)), "zip_damaged"),
    "an extra field of three bytes": (lambda: with_member(2, extra=b"abc"), "zip_damaged"),
    "bytes behind the pickle": (lambda: torch_zip(PICKLE + b"\x80\x02N.").build(), "pickle_damaged"),
    "no numbers": (lambda: torch_zip(storages={}).build(), "truncated"),
    "too few numbers": (lambda: torch_zip(storages={"0": FLOATS[:12]}).build(), "tensor_bounds"),
    "too many numbers": (lambda: torch_zip(storages={"0": FLOATS * 2}).build(), "tensor_bounds"),
    "100,000 tensors of one block": (
        lambda: torch_zip(pickled(table(**{f"t{i}": tensor() for i in range(5)}))).build(),
        "tensor_bounds",
    ),
    "one number as a terabyte": (
        lambda: torch_zip(pickled(table(w=tensor(shape=(2**20, 2**20), stride=(0, 0))))).build(),
        "tensor_bounds",
    ),
    "a big-endian machine": (lambda: with_member(1, data=b"big   "), "pickle_content"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_archive_is_refused_with_a_reason(what: str) -> None:
    make, reason = BAD[what]
    with pytest.raises(ModelFileError) as caught:
        convert(make())
    assert caught.value.reason == reason, caught.value.message
    assert len(caught.value.one_line) < 500


def test_the_good_archive_is_good() -> None:
    """Or the tests above would prove nothing."""
    assert convert(GOOD).endswith(FLOATS)
    with zipfile.ZipFile(io.BytesIO(GOOD)) as archive:
        assert archive.testzip() is None


def test_an_archive_cut_anywhere_is_refused() -> None:
    data = saved({"w": torch.ones(2)})
    for length in range(len(data)):
        with pytest.raises(ModelFileError):
            convert(data[:length])


def test_any_changed_byte_is_refused_or_changes_nothing() -> None:
    """Every byte is accounted for: headers twice, contents by their checksum. Free are times, versions and padding."""
    data = saved({"w": torch.arange(4.0)})
    good = convert(data)
    free = 0
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= 0x55
        try:
            assert convert(bytes(changed)) == good, position
            free += 1
        except ModelFileError:
            pass
    assert free < len(data) / 2


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_window_onto_a_storage_is_gathered_as_torch_sees_it(data: st.DataObject) -> None:
    """Shapes, strides and offsets as they come, also windows whose numbers overlap."""
    dtype = data.draw(st.sampled_from([torch.uint8, torch.float16, torch.float32, torch.int64]))
    shape = data.draw(st.lists(st.integers(0, 4), max_size=4))
    stride = data.draw(st.lists(st.integers(0, 9), min_size=len(shape), max_size=len(shape)))
    offset = data.draw(st.integers(0, 5))
    base = torch.arange(1000).to(dtype)  # holds 5 + 4 * 3 * 9 numbers, and is no quarter of any window
    window = torch.as_strided(base, shape, stride, offset)
    source, target = saved({"w": window, "base": base}), io.BytesIO()
    found = open_torch(io.BytesIO(source), len(source), where="x")
    write_as_safetensors(found, io.BytesIO(source), target, {}, where="x")
    loaded = load(target.getvalue())
    assert loaded["w"].shape == window.shape and torch.equal(loaded["w"], window)
    assert torch.equal(loaded["base"], base)


def test_a_scattered_tensor_beyond_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gesso.checkpoints.torch_file.MAX_STRIDED", 20)
    assert convert(saved({"w": torch.ones(2, 2).t()}))
    with pytest.raises(ModelFileError) as caught:
        convert(saved({"w": torch.ones(2, 3).t()}))
    assert caught.value.reason == "pickle_limit"


def test_padding_hides_no_more_than_a_block() -> None:
    """torch pads members to multiples of 64 bytes with an extra field; it is part of the header, not a hole."""
    data = saved({f"t{i}": torch.ones(i) for i in range(1, 30)})
    members = read_directory(io.BytesIO(data), len(data), where="x")
    assert sum(member.nbytes for member in members.values()) > 0
    assert {name for name in members if name.startswith("data/")} == {f"data/{i}" for i in range(29)}


@pytest.mark.parametrize("stored_by", ["zipfile", "torch"])
def test_archives_of_other_writers(stored_by: str) -> None:
    """zipfile writes sizes in front, torch behind the members and with zip64 records at the end."""
    if stored_by == "torch":
        data = saved({"w": torch.arange(4.0).reshape(2, 2)})
    else:
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive:
            archive.writestr("my model v1.0/data.pkl", PICKLE)
            archive.writestr("my model v1.0/data/0", struct.pack("<4f", 0, 1, 2, 3))
        data = out.getvalue()
    assert convert(data).endswith(struct.pack("<4f", 0, 1, 2, 3))
