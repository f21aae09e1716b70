"""Row G of hostile files, and blocks against the gguf package."""

import io
import struct
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from foreign_files import FLOATS, gguf, gguf_row, gguf_text, gguf_value
from gesso.checkpoints import gguf_file as module
from gesso.checkpoints.errors import ModelFileError
from gesso.checkpoints.gguf_file import BLOCKS, open_gguf, parse_gguf

ONE = {"general.architecture": gguf_value(8, gguf_text("sd1"))}


def u64(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}Q", *values)


def aligned_to(value: bytes) -> bytes:
    return gguf(values={"general.alignment": value})


def array(kind: int, count: int, raw: bytes = b"") -> bytes:
    return gguf_value(9, struct.pack("<IQ", kind, count) + raw)


def row(shape: Any = (2, 2), kind: int = 0, offset: int = 0) -> list[bytes]:
    return [gguf_row("w", shape, kind, offset)]


# What is wrong -> the file, the reason.
BAD: dict[str, tuple[bytes, str]] = {
    "another magic": (b"GGUX" + gguf()[4:], "not_safetensors"),
    "version 1": (gguf(version=1), "gguf_version"),
    "version 4": (gguf(version=4), "gguf_version"),
    "a big-endian machine": (gguf(version=3 << 24), "gguf_version"),
    "2**64 - 1 keys": (gguf(num_values=2**64 - 1), "gguf_count"),
    "2**64 - 1 tensors": (gguf(num_rows=2**64 - 1), "gguf_count"),
    "no tensors": (gguf(rows=[], data=b""), "gguf_count"),
    "more keys than there are": (gguf(num_values=2), "gguf_string"),
    "more tensors than there are": (gguf(num_rows=100), "gguf_string"),
    "a key of 2**63 bytes": (gguf()[:24] + u64(2**63), "gguf_string"),
    "a key of 2**64 - 1 bytes": (gguf()[:24] + u64(2**64 - 1), "gguf_string"),
    "a key beyond the end": (gguf()[:24] + u64(500), "truncated"),
    "a key that is not UTF-8": (gguf(values={}, num_values=1)[:24] + gguf_text(b"\xff\xfe") + bytes(8), "gguf_string"),
    "a text of 2**63 bytes": (gguf(values={"a": gguf_value(8, u64(2**63))}), "gguf_string"),
    "a key twice": (gguf(num_values=2)[:24] + (gguf_text("a") + gguf_value(7, b"\1")) * 2, "duplicate_key"),
    "a value of unknown kind": (gguf(values={"a": gguf_value(99, b"")}), "gguf_metadata"),
    "an array of unknown kind": (gguf(values={"a": array(99, 1)}), "gguf_metadata"),
    "an array of arrays": (gguf(values={"a": array(9, 1, array(9, 1))}), "gguf_metadata"),
    "10**7 arrays in each other": (gguf(values={"a": array(9, 10**7, array(9, 10**7) * 100_000)}), "gguf_metadata"),
    "an array of 2**63 numbers": (gguf(values={"a": array(4, 2**63)}), "truncated"),
    "an array of 2**62 numbers": (gguf(values={"a": array(10, 2**62)}), "truncated"),
    "an array of 2**63 texts": (gguf(values={"a": array(8, 2**63)}), "gguf_count"),
    "13 MB of metadata": (
        gguf(values={f"k{i}": gguf_value(8, gguf_text("x" * 2**20)) for i in range(13)}),
        "gguf_metadata",
    ),
    "an alignment of 0": (aligned_to(gguf_value(4, struct.pack("<I", 0))), "gguf_alignment"),
    "an alignment of 3": (aligned_to(gguf_value(4, struct.pack("<I", 3))), "gguf_alignment"),
    "an alignment of 2**31": (aligned_to(gguf_value(4, struct.pack("<I", 2**31))), "gguf_alignment"),
    "an alignment that is a text": (aligned_to(gguf_value(8, gguf_text("32"))), "gguf_alignment"),
    "an alignment that is a truth": (aligned_to(gguf_value(7, b"\1")), "gguf_alignment"),
    "an alignment of minus 32": (aligned_to(gguf_value(5, struct.pack("<i", -32))), "gguf_alignment"),
    "an alignment of 32.0": (aligned_to(gguf_value(6, struct.pack("<f", 32.0))), "gguf_alignment"),
    "a dimension product beyond 64 bits": (gguf(row((2**31, 2**31, 2**31))), "truncated"),
    "a side of 2**62": (gguf(row((2**62,))), "gguf_shape"),
    "a side of 0": (gguf(row((0, 2**31))), "gguf_shape"),
    "2**32 - 1 dimensions": (gguf([gguf_text("w") + struct.pack("<I", 2**32 - 1)]), "gguf_shape"),
    "5 dimensions": (gguf(row((1,) * 5)), "gguf_shape"),
    "half a block": (gguf(row((1, 16), kind=2)), "gguf_shape"),
    "a type that GGUF does not have": (gguf(row(kind=200)), "gguf_type"),
    "a type that was removed": (gguf(row(kind=4)), "gguf_type"),
    "an offset beyond the end": (gguf(row(offset=2**20)), "gguf_offset"),
    "an offset of 2**64 - 32": (gguf(row(offset=2**64 - 32)), "gguf_offset"),
    "an offset between": (gguf(row(offset=4)), "gguf_offset"),
    "a first tensor that is not first": (gguf(row(offset=32), data=FLOATS * 10), "gguf_offset"),
    "two tensors on one place": (gguf([gguf_row("a", (8,), 0, 0), gguf_row("b", (8,), 0, 0)]), "gguf_offset"),
    "a hole": (gguf([gguf_row("a", (8,), 0, 0), gguf_row("b", (8,), 0, 96)], data=bytes(128)), "gguf_offset"),
    "a name twice": (gguf([gguf_row("a", (8,), 0, 0), gguf_row("a", (8,), 0, 32)], data=bytes(64)), "duplicate_key"),
    "no name": (gguf([gguf_row("", (8,), 0, 0)]), "gguf_string"),
    "a long name": (gguf([gguf_row("x" * 10_000, (8,), 0, 0)]), "gguf_string"),
    "a name that is not UTF-8": (gguf([gguf_row(b"\xff", (8,), 0, 0)]), "gguf_string"),
    "numbers cut off": (gguf(data=FLOATS[:12]), "truncated"),
    "bytes behind the numbers": (gguf(data=FLOATS + bytes(100)), "gguf_offset"),
    "another original shape": (
        gguf(values={"comfy.gguf.orig_shape.w": array(5, 2, struct.pack("<2i", 2, 3))}),
        "gguf_shape",
    ),
    "an original shape below zero": (
        gguf(values={"comfy.gguf.orig_shape.w": array(5, 2, struct.pack("<2i", -2, -2))}),
        "gguf_shape",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_a_bad_file_is_refused_with_a_reason(tmp_path: Path, what: str) -> None:
    data, reason = BAD[what]
    path = tmp_path / "model.gguf"
    path.write_bytes(data)
    begin = time.process_time()
    with pytest.raises(ModelFileError) as caught:
        open_gguf(path)
    assert caught.value.reason == reason, caught.value.message
    assert len(caught.value.one_line) < 500
    assert time.process_time() - begin < 5


def test_a_file_cut_anywhere_is_refused() -> None:
    data = gguf(data=FLOATS)
    for length in range(len(data)):
        with pytest.raises(ModelFileError) as caught:
            parse_gguf(Path("x"), data[:length], length)
        assert caught.value.reason == "truncated", length


def test_a_header_beyond_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = gguf()
    with pytest.raises(ModelFileError) as caught:
        parse_gguf(Path("x"), data[:100], 10**9)
    assert caught.value.reason == "gguf_count"


@pytest.mark.parametrize("version", [2, 3])
def test_numbers_as_they_are(tmp_path: Path, version: int) -> None:
    kinds = {0: torch.float32, 1: torch.float16, 24: torch.int8, 26: torch.int32, 28: torch.float64, 30: torch.bfloat16}
    tensors = {
        f"model.diffusion_model.t{kind}": torch.arange(6).reshape(3, 2).to(dtype) for kind, dtype in kinds.items()
    }
    rows, data = [], b""
    for (label, tensor), kind in zip(tensors.items(), kinds, strict=True):
        rows.append(gguf_row(label, (3, 2), kind, len(data)))
        raw = tensor.view(torch.uint8).numpy().tobytes()
        data += raw + bytes(-len(raw) % 32)
    path = tmp_path / "model.gguf"
    values = {**ONE, "general.quantization_version": gguf_value(4, struct.pack("<I", 2))}
    path.write_bytes(gguf(rows, data, values, version=version))
    file = open_gguf(path)
    assert file.metadata == {"general.architecture": "sd1", "general.quantization_version": "2"}
    assert file.quantised == {}
    with file.reader() as reader:
        found = {name: reader[name] for name in file.tensors}
    assert list(found) == list(tensors)
    assert all(
        torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype for name, tensor in tensors.items()
    )
    before = path.read_bytes()
    found["model.diffusion_model.t0"][0, 0] = 9.0  # in memory alone
    assert path.read_bytes() == before


def test_long_arrays_are_passed_over(tmp_path: Path) -> None:
    """Vocabularies of language models: read past, not kept."""
    words = b"".join(gguf_text(f"word {i}") for i in range(5000))
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf(values={**ONE, "words": array(8, 5000, words), "scores": array(6, 5000, bytes(20_000))}))
    file = open_gguf(path)
    assert file.metadata == {"general.architecture": "sd1"}
    assert file.files == (path,)


def quants() -> Any:
    pytest.importorskip("gguf", reason="the extra gguf is not installed")
    from gguf import quants

    return quants


def blocks_of(kind: int, rows: int, columns: int) -> bytes:
    """Bytes of blocks whose scales are small numbers: any other bits are as good as those of a real model."""
    _, numbers, nbytes = BLOCKS[kind]
    raw = np.random.default_rng(kind).integers(0, 256, (rows * columns // numbers, nbytes), dtype=np.uint8)
    scale = np.array([0.01], dtype=np.float16).view(np.uint8)
    raw[:, :2] = raw[:, -2:] = scale
    if BLOCKS[kind][0] in {"Q4_1", "Q5_1", "Q4_K", "Q5_K"}:
        raw[:, 2:4] = scale
    if BLOCKS[kind][0] == "Q2_K":
        raw[:, -4:-2] = scale
    return raw.tobytes()


@pytest.mark.parametrize("kind", BLOCKS, ids=[label for label, _, _ in BLOCKS.values()])
def test_blocks_become_the_numbers_of_the_library(tmp_path: Path, kind: int) -> None:
    library = quants()
    label, numbers, nbytes = BLOCKS[kind]
    if label not in library.GGMLQuantizationType.__members__:
        pytest.skip(f"this release of gguf has no {label}")
    assert library.GGML_QUANT_SIZES[library.GGMLQuantizationType[label]] == (numbers, nbytes)
    assert library.GGMLQuantizationType[label] == kind
    raw = blocks_of(kind, 3, 512)
    data = raw + bytes(-len(raw) % 32)
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf([gguf_row("w", (3, 512), kind, 0), gguf_row("bias", (4,), 0, len(data))], data + FLOATS))
    file = open_gguf(path)
    assert file.quantised == {label: 1}
    assert file.tensors["w"].dtype == torch.float16
    with file.reader() as reader:
        found, bias = reader["w"], reader["bias"]
    with np.errstate(all="ignore"):  # scales of some types are bits of other places
        want = library.dequantize(np.frombuffer(raw, np.uint8).reshape(3, -1), library.GGMLQuantizationType(kind))
        want = want.astype(np.float16)
    assert found.shape == (3, 512)
    assert np.array_equal(found.numpy(), want, equal_nan=True)
    assert bias.tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("label", ["Q4_0", "Q8_0"])
def test_what_the_library_writes_is_read_to_its_precision(tmp_path: Path, label: str) -> None:
    """A closed form: half a step of the block's scale is the most that rounding can take away."""
    library = quants()
    numbers = np.random.default_rng(0).standard_normal((8, 64)).astype(np.float32)
    kind = library.GGMLQuantizationType[label]
    raw = library.quantize(numbers, kind).tobytes()
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf([gguf_row("w", (8, 64), int(kind), 0)], raw + bytes(-len(raw) % 32)))
    with open_gguf(path).reader() as reader:
        found = reader["w"].float().numpy()
    largest = np.abs(numbers).reshape(-1, 32).max(axis=1).repeat(32).reshape(8, 64)
    step = largest / (127 if label == "Q8_0" else 8)
    # Q4_0 has -8..7: the end without a step of its own loses a whole one. Scale and result are float16, each of which
    # moves the largest number by 2**-11 of itself at most: 127 or 8 steps.
    assert np.all(np.abs(found - numbers) <= step * (0.5 + 2 * 127 / 2048 if label == "Q8_0" else 1 + 2 * 8 / 2048))


def written(path: Path, kind: Any, raw: np.ndarray[Any, Any]) -> Path:
    """A file by the library's own writer, with metadata of every kind that it has."""
    from gguf import GGUFWriter

    writer = GGUFWriter(str(path), "sd1")
    writer.add_name("a name: ü, 猫")
    writer.add_bool("own.switch", True)
    writer.add_uint64("own.large", 2**64 - 1)
    writer.add_int8("own.small", -128)
    writer.add_float64("own.real", 1e-300)
    writer.add_array("own.numbers", [1, 2, 3])
    writer.add_array("own.texts", ["", "x" * 1000])
    writer.add_tensor("w", raw, raw_dtype=kind)
    writer.add_tensor("bias", np.arange(5, dtype=np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_every_type_that_the_library_writes_is_read_as_it_reads_it(tmp_path: Path) -> None:
    library = quants()
    numbers = np.random.default_rng(0).standard_normal((4, 512)).astype(np.float32)
    count = 0
    for kind in library.GGMLQuantizationType:
        try:
            raw = library.quantize(numbers, kind)
        except (NotImplementedError, KeyError):  # read-only there
            continue
        count += 1
        with open_gguf(written(tmp_path / f"{kind.name}.gguf", kind, raw)).reader() as reader:
            found, bias = reader["w"].float().numpy(), reader["bias"]
        wide = library.dequantize(raw, kind)
        want = wide if kind.name in ("F32", "BF16") else wide.astype(np.float16)
        assert np.array_equal(found, want.astype(np.float32)), kind.name
        assert bias.tolist() == [0, 1, 2, 3, 4]
    assert count >= 10


def test_every_type_of_the_library_is_read_or_refused_by_name(tmp_path: Path) -> None:
    library = quants()
    for kind, (numbers, nbytes) in library.GGML_QUANT_SIZES.items():
        raw = np.zeros((4, 1024 // numbers * nbytes), dtype=np.uint8)
        path = written(tmp_path / f"{kind.name}.gguf", kind, raw)
        if int(kind) in BLOCKS or int(kind) in module._PLAIN:
            with open_gguf(path).reader() as reader:
                assert not reader["w"].isnan().any()
        else:
            with pytest.raises(ModelFileError, match=f"of type {kind.name}, which gesso does not read"):
                open_gguf(path)


def test_a_type_that_the_installed_package_lacks_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = quants()
    kind = library.GGMLQuantizationType.TQ1_0
    path = written(tmp_path / "model.gguf", kind, library.quantize(np.ones((4, 256), np.float32), kind))

    def lacks(*_: Any) -> None:
        raise NotImplementedError

    monkeypatch.setattr(library, "dequantize", lacks)
    with open_gguf(path).reader() as reader, pytest.raises(ModelFileError, match="TQ1_0, which needs a newer package"):
        reader["w"]


def test_a_file_of_the_librarys_writer(tmp_path: Path) -> None:
    library = quants()
    from gguf import GGUFWriter

    path = tmp_path / "model.gguf"
    writer = GGUFWriter(str(path), "sd1")
    writer.add_array("comfy.gguf.orig_shape.conv", [4, 2, 4, 8])
    numbers = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)
    kind = library.GGMLQuantizationType.Q8_0
    writer.add_tensor("conv", library.quantize(numbers, kind), raw_dtype=kind)
    writer.add_tensor("bias", np.arange(5, dtype=np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = open_gguf(path)
    assert file.tensors["conv"].shape == (4, 2, 4, 8)
    assert file.metadata["general.architecture"] == "sd1"
    with file.reader() as reader:
        assert np.abs(reader["conv"].numpy().reshape(4, 64) - numbers).max() < 0.05  # half a step of 8 bits
        assert reader["bias"].tolist() == [0, 1, 2, 3, 4]


def test_without_the_package_a_file_in_blocks_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = blocks_of(8, 1, 32)
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf([gguf_row("w", (1, 32), 8, 0)], raw + bytes(-len(raw) % 32)))
    monkeypatch.setitem(sys.modules, "gguf", None)
    file = open_gguf(path)  # the header needs no package
    with pytest.raises(ModelFileError, match=r"gesso\[gguf\]") as caught, file.reader():
        pass
    assert caught.value.reason == "missing_extra"


def test_a_file_that_changed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf())
    file = open_gguf(path)
    path.write_bytes(gguf()[:-8])
    with pytest.raises(ModelFileError, match="changed"), file.reader():
        pass


def test_parsing_allocates_no_more_than_the_file_has() -> None:
    """Counts that lie must not become memory: 10,000 keys that are not there, 20,000 tensors that are not."""
    import tracemalloc

    data = gguf(num_rows=20_000, num_values=1)
    tracemalloc.start()
    with pytest.raises(ModelFileError):
        parse_gguf(Path("x"), data, len(data))
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()
    assert io.BytesIO(data).read(4) == b"GGUF"
