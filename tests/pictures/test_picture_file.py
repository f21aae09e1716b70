"""PNG files: written whole or not at all, read without trust."""

import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, UnidentifiedImageError

from gesso.errors import GessoError
from gesso.pictures import picture_file, png_chunks, reading
from gesso.pictures.picture_file import encode_picture, pixels_sha256, read_picture, write_new
from gesso.pictures.reading import read_image
from made_recipes import make_recipe

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8))


def png(parameters: str = "a cat\nSteps: 20") -> bytes:
    return encode_picture(picture(), make_recipe(), parameters)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def with_chunk(data: bytes, kind: bytes, body: bytes) -> bytes:
    """The file with one more chunk after its header."""
    return data[:33] + chunk(kind, body) + data[33:]


def without_recipe(data: bytes) -> bytes:
    start = data.index(b"iTXtgesso\0") - 4
    length = int.from_bytes(data[start : start + 4], "big")
    return data[:start] + data[start + 12 + length :]


def read(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(data)
    read_picture(path)


def test_pixels_and_recipe_come_back(tmp_path: Path):
    path = tmp_path / "x.png"
    write_new(path, png())
    image, recipe = read_picture(path)
    assert image.tobytes() == picture().tobytes()
    assert recipe == make_recipe()
    with Image.open(path) as opened:
        assert opened.info["parameters"] == "a cat\nSteps: 20"


def test_the_hash_of_the_pixels_knows_the_shape():
    image = picture()
    assert pixels_sha256(image) == pixels_sha256(image.convert("RGBA"))
    assert pixels_sha256(image) != pixels_sha256(image.transpose(Image.Transpose.ROTATE_90))
    assert pixels_sha256(Image.new("RGB", (2, 8))) != pixels_sha256(Image.new("RGB", (8, 2)))


def test_a_name_that_is_taken_stays_as_it_is(tmp_path: Path):
    path = tmp_path / "x.png"
    path.write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        write_new(path, png())
    assert path.read_bytes() == b"mine"
    write_new(path, b"new", overwrite=True)
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("call", ["fsync", "link"])
def test_nothing_is_left_behind_when_writing_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str):
    def stop(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, call, stop)
    with pytest.raises(KeyboardInterrupt):
        write_new(tmp_path / "x.png", png())
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_error_and_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(GessoError, match="No space left"):
        write_new(tmp_path / "x.png", png())
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_without_links_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def no_links(*args: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", no_links)
    path = tmp_path / "x.png"
    write_new(path, b"one")
    with pytest.raises(FileExistsError):
        write_new(path, b"two")
    assert path.read_bytes() == b"one"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_cut_anywhere_is_refused(tmp_path: Path):
    data = png()
    for end in range(0, len(data), 7):
        with pytest.raises(GessoError):
            read(tmp_path, data[:end])


def test_a_changed_byte_is_refused_or_harmless(tmp_path: Path):
    data = png()
    for place in range(8, len(data) - 12, 5):
        changed = bytearray(data)
        changed[place] ^= 0x55
        with pytest.raises(GessoError):
            read(tmp_path, bytes(changed))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not a PNG, JPEG, WebP or AVIF picture"),
        (b"GIF89a", "not a PNG, JPEG, WebP or AVIF picture"),
        (SIGNATURE, "cut off"),
        (SIGNATURE + chunk(b"IEND", b""), "header"),
        (without_recipe(png()), "only A1111 parameters"),
        (without_recipe(png()).replace(b"parameters", b"parametery"), "cut off|checksum|no gesso recipe"),
        (with_chunk(png(), b"iTXt", b"gesso\0\0\0\0\0{}"), "2 gesso recipes"),
        (with_chunk(without_recipe(png()), b"iTXt", b"gesso\0\1\0\0\0" + zlib.compress(b"x" * 10**7)), "compressed"),
        (with_chunk(without_recipe(png()), b"iTXt", b"gesso\0\0\0\0\0" + b" " * 2**21), "too long"),
        (with_chunk(without_recipe(png()), b"iTXt", b"gesso\0\0\0\0\0\xff"), "UTF-8"),
        (with_chunk(without_recipe(png()), b"iTXt", b"gesso\0\0\0\0\0{}"), "schema"),
        (with_chunk(without_recipe(png()), b"iTXt", b"gesso"), "too long or compressed"),
    ],
)
def test_hostile_files_end_in_a_named_reason(tmp_path: Path, data: bytes, words: str):
    with pytest.raises(GessoError, match=words):
        read(tmp_path, data)


def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path: Path):
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    data = SIGNATURE + chunk(b"IHDR", header) + png()[33:]
    with pytest.raises(GessoError, match="100000x100000"):
        read(tmp_path, data)


def test_text_and_animation_of_strangers_never_reach_the_decoder(tmp_path: Path):
    bomb = b"x\0\0" + zlib.compress(b"\0" * 10**7)
    read(tmp_path, with_chunk(with_chunk(png(), b"zTXt", bomb), b"acTL", struct.pack(">II", 10**6, 0)))


@pytest.mark.parametrize("name", ["missing.png", ".", "a\0b"])
def test_a_path_that_is_no_file_is_one_error(tmp_path: Path, name: str):
    with pytest.raises(GessoError):
        read_picture(tmp_path / name)


def test_a_huge_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(picture_file, "MAX_FILE_BYTES", 100)
    with pytest.raises(GessoError, match="at most 100"):
        read(tmp_path, png())


@pytest.mark.parametrize("reader", [read_picture, read_image])
def test_a_file_that_the_system_does_not_give(reader: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_new(tmp_path / "new" / "folder" / "x.png", png())  # makes both
    write_new(tmp_path / "new" / "folder" / "y.png", png())

    def refused(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refused)
    with pytest.raises(GessoError, match=r"x\.png: cannot be read \(.*Permission denied") as error:
        reader(tmp_path / "new" / "folder" / "x.png")
    assert error.value.code == "unreadable"


@pytest.mark.parametrize("nbytes", [0, 1])
def test_a_file_of_just_the_largest_size_is_read(nbytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for room in (picture_file, reading):
        monkeypatch.setattr(room, "MAX_FILE_BYTES", len(png()) - nbytes)
    write_new(tmp_path / "x.png", png())
    for reader in (read_picture, read_image):
        if nbytes:
            with pytest.raises(GessoError, match=f"{len(png())} bytes, expected at most {len(png()) - 1}"):
                reader(tmp_path / "x.png")
        else:
            reader(tmp_path / "x.png")


def test_chunks_without_end(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(GessoError, match=r"a\.png: not a PNG file"):
        list(png_chunks.png_chunks(Path("a.png"), b"GIF89a"))
    data = SIGNATURE + chunk(b"IHDR", b"") * 3 + chunk(b"IEND", b"")
    assert [kind for kind, _ in png_chunks.png_chunks(Path("a.png"), data)] == [b"IHDR"] * 3 + [b"IEND"]
    monkeypatch.setattr(png_chunks, "MAX_CHUNKS", 4)
    assert len(list(png_chunks.png_chunks(Path("a.png"), data))) == 4
    monkeypatch.setattr(png_chunks, "MAX_CHUNKS", 3)
    with pytest.raises(GessoError, match="more than 3 chunks in one PNG"):
        list(png_chunks.png_chunks(Path("a.png"), data))


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (UnidentifiedImageError("cannot identify <_io.BytesIO object at 0x1>"), "damaged, or of an unknown format"),
        (OSError("  first line\nsecond  "), "first line"),
        (OSError("x" * 200), "x" * 120),
        (OSError(), "OSError"),
    ],
)
def test_why_a_decoder_gave_up(error: Exception, words: str):
    assert picture_file.reason_of(error) == words
