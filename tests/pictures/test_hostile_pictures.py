"""Pictures that nobody should send, made by a generator: each is refused in one line, or read as what it shows."""

import io
import random
import struct
import time
import tracemalloc
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from gesso.errors import GessoError
from gesso.pictures.reading import FORMATS, notices_of, read_hint, read_image, read_map, read_mask
from linear_time import assert_quick

WIDTH, HEIGHT = 12, 9
LOSSLESS = {"WEBP": {"lossless": True}}


def picture(width: int = WIDTH, height: int = HEIGHT, mode: str = "RGB") -> Image.Image:
    channels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(channels).convert(mode)


def encoded(image: Image.Image, container: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=container, **(LOSSLESS.get(container, {}) | options))
    return buffer.getvalue()


def chunk(kind: bytes, body: bytes, crc: int | None = None) -> bytes:
    crc = zlib.crc32(kind + body) if crc is None else crc
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc)


def png(width: int, height: int, *more: bytes, pixels: bytes = b"") -> bytes:
    """A PNG of grey levels that says what size it has, whatever its pixels are."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(more) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


def read(folder: Path, data: bytes) -> Image.Image:
    (folder / "x").write_bytes(data)
    return read_image(folder / "x")


def refused(folder: Path, data: bytes) -> str:
    """The one line that says why."""
    with pytest.raises(GessoError) as caught:
        read(folder, data)
    assert len(caught.value.one_line) < 600 and "\n" not in caught.value.one_line
    return caught.value.message


# ---- sizes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "size", [(10_000, 10_000), (1, 100_000_000), (16_385, 1), (9000, 9000), (2**31 - 1, 2**31 - 1), (0, 0), (0, 5)]
)
def test_a_size_is_believed_before_anything_is_allocated(tmp_path: Path, size: tuple[int, int]):
    tracemalloc.start()
    start = time.process_time()
    said = refused(tmp_path, png(*size))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "a side" in said or "not a readable picture" in said
    assert peak < 2**22 and time.process_time() - start < 1


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (7, 7), (16_384, 1)])
def test_small_and_narrow_pictures_are_read(tmp_path: Path, size: tuple[int, int]):
    assert read(tmp_path, encoded(picture(*size), "PNG")).tobytes() == picture(*size).tobytes()


# ---- damaged ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("container", FORMATS)
@pytest.mark.sampled(2)
def test_a_cut_file_is_refused_or_whole(tmp_path: Path, container: str):
    """Some decoders do without the last bytes, which hold no pixels."""
    data = encoded(picture(), container)
    whole = read(tmp_path, data).tobytes()
    for length in range(len(data)):
        try:
            assert read(tmp_path, data[:length]).tobytes() == whole, length
        except GessoError:
            continue


def damaged(container: str, count: int) -> Iterator[bytes]:
    """The file with some bytes changed, left out, or doubled."""
    source = random.Random(container)
    data = encoded(picture(), container)
    for _ in range(count):
        broken = bytearray(data)
        for _ in range(source.randint(1, 4)):
            place = source.randrange(len(broken) - 1)
            if source.random() < 0.7:
                broken[place] = source.randrange(256)
            elif source.random() < 0.5:
                del broken[place : place + source.randint(1, 8)]
            else:
                broken[place:place] = broken[place : place + source.randint(1, 8)]
        yield bytes(broken)


@pytest.mark.parametrize("container", FORMATS)
def test_damage_ends_in_a_line_or_in_a_picture(tmp_path: Path, container: str):
    for index, data in enumerate(damaged(container, 200)):
        reader = (read_image, read_map, read_mask)[index % 3]
        (tmp_path / "x").write_bytes(data)
        with suppress(GessoError):
            assert reader(tmp_path / "x").width <= 16_384


def test_a_wrong_checksum_and_missing_pixels_are_seen(tmp_path: Path):
    pixels = zlib.compress(bytes(HEIGHT * (WIDTH + 1)))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 0, 0, 0, 0))
    start, end = b"\x89PNG\r\n\x1a\n" + header, chunk(b"IEND", b"")
    assert read(tmp_path, start + chunk(b"IDAT", pixels) + end).size == (WIDTH, HEIGHT)
    refused(tmp_path, b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header[8:-4], crc=1) + chunk(b"IDAT", pixels) + end)
    refused(tmp_path, start + end)
    refused(tmp_path, start + chunk(b"IDAT", pixels[:-8]) + end)


# ---- what lies beside the pixels -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"iCCP"])
def test_a_text_that_unpacks_to_a_gigabyte_costs_little(tmp_path: Path, kind: bytes):
    bomb = zlib.compress(bytes(2**26), 9)
    body = {b"zTXt": b"k\0\0", b"iTXt": b"k\0\1\0\0\0", b"iCCP": b"k\0\0"}[kind] + bomb
    tracemalloc.start()
    (tmp_path / "x").write_bytes(png(2, 2, chunk(kind, body), pixels=bytes(6)))
    with suppress(GessoError):
        assert read_image(tmp_path / "x").size == (2, 2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**24


@pytest.mark.parametrize("container", ["PNG", "JPEG", "WEBP", "GIF"])
@pytest.mark.parametrize(
    "tail", [b"PK\3\4" + bytes(64), b"<html><script>alert(1)</script>", b"<?php __HALT_COMPILER();"]
)
def test_what_hangs_on_behind_is_not_seen(tmp_path: Path, container: str, tail: bytes):
    data = encoded(picture(), container)
    assert read(tmp_path, data + tail).tobytes() == read(tmp_path, data).tobytes()


@pytest.mark.parametrize("container", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_stands_as_its_exif_says(tmp_path: Path, container: str, orientation: int):
    """What a camera wrote: the picture turned or mirrored, and how to turn it back."""
    image = Image.new("RGB", (64, 32), "black")
    image.paste("white", (0, 0, 32, 16))  # one corner tells all eight apart
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }.get(orientation)
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = read(tmp_path, encoded(image, container, exif=exif))
    expected = image if undo is None else image.transpose(undo)
    assert found.size == expected.size
    assert np.abs(np.asarray(found, dtype=int) - np.asarray(expected)).max() <= 8  # JPEG
    assert not found.getexif() and not found.info  # where it was taken stays behind


@pytest.mark.parametrize(
    ("mode", "container"),
    [*((mode, "PNG") for mode in ("1", "L", "LA", "P", "RGBA", "I;16")), ("CMYK", "JPEG"), ("P", "GIF")],
)
def test_every_mode_becomes_rgb_of_8_bits(tmp_path: Path, mode: str, container: str):
    image = picture(mode="L").convert("I").convert("I;16") if mode == "I;16" else picture(mode=mode)
    found = read(tmp_path, encoded(image, container))
    assert (found.mode, found.size) == ("RGB", (WIDTH, HEIGHT))
    assert read_mask(tmp_path / "x").mode == "L"


def test_one_colour_that_is_clear_lies_on_white(tmp_path: Path):
    """PNG's tRNS, in grey, in RGB and in a palette."""
    for mode, clear in (("L", 7), ("RGB", (1, 2, 3)), ("P", 0)):
        image = Image.new(mode, (4, 4), clear)
        assert read(tmp_path, encoded(image, "PNG", transparency=clear)).getpixel((0, 0)) == (255, 255, 255), mode
        assert read(tmp_path, encoded(image, "PNG")).getpixel((0, 0)) != (255, 255, 255), mode


@pytest.mark.parametrize("container", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_many_frames_the_first_is_read(tmp_path: Path, container: str):
    frames = [Image.new("RGB", (16, 16), (40 * (index % 6), 0, 0)) for index in range(200)]
    data = encoded(frames[0], container, save_all=True, append_images=frames[1:])
    assert read(tmp_path, data).getpixel((0, 0)) == (0, 0, 0)
    assert_quick(lambda: read(tmp_path, data), 20)


FOREIGN = {
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
    "pdf": b"%PDF-1.7\n",
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    "psd": b"8BPS\0\1" + bytes(40),
    "fits": b"SIMPLE  =                    T",
    "dds": b"DDS " + bytes(124),
    "jpeg 2000": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(40),
    "heic": b"\0\0\0\x18ftypheic" + bytes(40),
    "ico": b"\0\0\1\0\1\0" + bytes(40),
    "ppm": b"P6 2 2 255 " + bytes(12),
    "html": b"<!doctype html><img src=x onerror=alert(1)>",
    "nothing": b"",
    "zeros": bytes(1000),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_other_formats_stay_closed(tmp_path: Path, name: str):
    assert "Known formats: PNG, JPEG, WEBP" in refused(tmp_path, FOREIGN[name])


# ---- colour profiles -------------------------------------------------------------------------------------------------


def swapped_profile() -> bytes:
    """sRGB's profile with the colours of red and green exchanged."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    (count,) = struct.unpack(">I", profile[128:132])
    tags = {}
    for index in range(count):
        name, offset, size = struct.unpack(">4sII", profile[132 + 12 * index : 144 + 12 * index])
        tags[name] = slice(offset, offset + size)
    red, green = bytes(profile[tags[b"rXYZ"]]), bytes(profile[tags[b"gXYZ"]])
    profile[tags[b"rXYZ"]], profile[tags[b"gXYZ"]] = green, red
    return bytes(profile)


@pytest.mark.parametrize("container", ["PNG", "WEBP", "TIFF"])
def test_colours_are_those_that_the_profile_means(tmp_path: Path, container: str):
    found = np.asarray(read(tmp_path, encoded(picture(), container, icc_profile=swapped_profile())), dtype=int)
    assert np.abs(found - np.asarray(picture())[..., [1, 0, 2]]).max() <= 2
    assert notices_of(read_image(tmp_path / "x")) == ()
    clear = picture(mode="RGBA")
    clear.putpixel((0, 0), (0, 0, 0, 0))
    found = read(tmp_path, encoded(clear, container, icc_profile=swapped_profile()))
    assert found.getpixel((0, 0)) == (255, 255, 255)


def test_srgbs_own_profile_changes_no_bit(tmp_path: Path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert read(tmp_path, encoded(picture(), "PNG", icc_profile=profile)).tobytes() == picture().tobytes()


def lab_profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()


@pytest.mark.parametrize(
    ("profile", "why"),
    [
        (b"x", "damaged, or not for RGB"),
        (b"\0" * 5000, "damaged, or not for RGB"),
        (swapped_profile()[:300], "damaged, or not for RGB"),
        (lab_profile(), "damaged, or not for RGB"),
        (bytes(5 * 2**20), "5242880 bytes, expected at most 4194304"),
        (b"", None),
    ],
)
def test_a_profile_that_is_none_is_passed_over_and_told(tmp_path: Path, profile: bytes, why: str | None):
    data = encoded(picture(), "TIFF", icc_profile=profile)
    found = read(tmp_path, data)
    told = () if why is None else (f"x: colour profile ignored ({why}); read as sRGB",)
    assert notices_of(found) == notices_of(read_hint(tmp_path / "x")) == told
    assert found.tobytes() == picture().tobytes()
    assert notices_of(read_mask(tmp_path / "x")) == ()  # of a mask nobody sees colours
    assert notices_of(None, found, found) == told


def test_a_profile_that_cannot_be_unpacked_is_told(tmp_path: Path):
    data = bytearray(encoded(picture(), "PNG", icc_profile=swapped_profile()))
    at = data.index(b"iCCP")
    (size,) = struct.unpack(">I", data[at - 4 : at])
    data[at + 20 : at + 40] = bytes(20)
    data[at + 4 + size : at + 8 + size] = struct.pack(">I", zlib.crc32(data[at : at + 4 + size]))
    found = read(tmp_path, bytes(data))
    assert found.tobytes() == picture().tobytes()
    assert notices_of(found) == ("x: colour profile ignored (damaged); read as sRGB",)


def test_a_hint_keeps_its_transparency(tmp_path: Path):
    clear = picture().convert("RGBA")
    clear.putalpha(128)
    clear.save(tmp_path / "alpha.png")
    assert read_hint(tmp_path / "alpha.png").getpixel((0, 0)) == clear.getpixel((0, 0))
    palette = Image.new("P", (4, 4))
    palette.putpalette([255, 0, 0, 0, 255, 0])
    palette.putpixel((1, 0), 1)
    palette.save(tmp_path / "palette.png", transparency=1)
    hint = read_hint(tmp_path / "palette.png")
    assert (hint.getpixel((0, 0)), hint.getpixel((1, 0))) == ((255, 0, 0, 255), (0, 255, 0, 0))
    for mode in ("RGB", "L"):
        picture().convert(mode).save(tmp_path / "plain.png")
        assert read_hint(tmp_path / "plain.png").mode == "RGB"
    Image.fromarray(np.full((4, 4), 999, np.uint16)).save(tmp_path / "deep.png")
    assert read_hint(tmp_path / "deep.png").getpixel((0, 0)) == 999


def test_a_file_cannot_tell_notices_of_its_own(tmp_path: Path):
    texts = PngImagePlugin.PngInfo()
    texts.add_text("gesso notice", "all is well")
    picture().save(tmp_path / "x.png", pnginfo=texts)
    with Image.open(tmp_path / "x.png") as opened:
        assert opened.info["gesso notice"] == "all is well"
        assert notices_of(opened, read_hint(tmp_path / "x.png"), read_image(tmp_path / "x.png")) == ()


def test_damaged_profiles_end_in_a_picture(tmp_path: Path):
    source, profile = random.Random(0), swapped_profile()
    for _ in range(300):
        broken = bytearray(profile)
        for _ in range(3):
            broken[source.randrange(len(broken))] = source.randrange(256)
        assert read(tmp_path, encoded(picture(), "TIFF", icc_profile=bytes(broken))).size == (WIDTH, HEIGHT)


def test_pillow_is_not_told_to_be_lenient():
    from PIL import ImageFile

    assert not ImageFile.LOAD_TRUNCATED_IMAGES
    assert PngImagePlugin.MAX_TEXT_CHUNK <= 2**20


def test_an_unreadable_picture_is_named_by_its_file_alone(tmp_path: Path):
    message = refused(tmp_path, b"no picture")
    assert "BytesIO" not in message and "damaged, or of an unknown format" in message


@pytest.mark.skipif("AVIF" not in FORMATS, reason="this Pillow has no AVIF")
def test_gessos_own_avif_is_read(tmp_path: Path):
    found = read(tmp_path, encoded(Image.new("RGB", (WIDTH, HEIGHT), (200, 40, 90)), "AVIF", quality=90))
    assert found.size == (WIDTH, HEIGHT)
    assert np.abs(np.asarray(found).astype(int) - (200, 40, 90)).max() <= 4
