"""Texts in files of each format: read, removed, carried over; without trust."""

import io
import json
import struct
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from gesso.errors import GessoError
from gesso.metadata.carriers import MAX_TEXT_BYTES, read_texts
from gesso.metadata.editing import copy_metadata, strip_metadata, with_metadata, without_metadata
from gesso.metadata.reading import read_metadata
from gesso.pictures.infotext import write_infotext
from gesso.pictures.picture_file import encode_picture, read_picture, read_recipe
from gesso.pictures.png_chunks import SIGNATURE, join_chunks, png_chunks
from made_recipes import make_recipe

PROMPT = 'a café, "猫" \U0001f638\nNegative prompt: x'
TEXT = write_infotext(PROMPT, "blurry", [("Steps", "20"), ("Sampler", "Euler"), ("Seed", "5"), ("Version", "v1.9")])


def picture() -> Image.Image:
    y, x = np.mgrid[0:32, 0:48]
    return Image.fromarray(np.stack([x * 5, y * 7, x + y], axis=2).astype(np.uint8))


def png(**texts: str) -> bytes:
    info = PngImagePlugin.PngInfo()
    for name, text in texts.items():
        info.add_text(name, text)
    buffer = io.BytesIO()
    picture().save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def put(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "AVIF"])
def test_gessos_own_files_give_back_the_recipe(tmp_path: Path, kind: str):
    recipe = make_recipe(prompt=PROMPT, negative_prompt="blurry")
    path = put(tmp_path / "x", encode_picture(picture(), recipe, TEXT, kind))
    found = read_metadata(path)
    assert (found.tool, found.recipe) == ("gesso", recipe)
    texts = read_texts(path)
    assert (texts.format, texts.width, texts.height) == (kind, 48, 32)
    assert texts.texts["parameters"] == TEXT


@pytest.mark.parametrize("prefix", [b"UNICODE\0", b"ASCII\0\0\0", b""])
@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_user_comments_as_other_tools_write_them(tmp_path: Path, kind: str, prefix: bytes):
    exif = Image.Exif()
    body = TEXT.encode("utf-16-be") if prefix == b"UNICODE\0" else TEXT.encode()
    exif.get_ifd(0x8769)[0x9286] = prefix + body
    picture().save(tmp_path / "x", kind, exif=exif.tobytes())
    assert read_metadata(tmp_path / "x").request.prompt == PROMPT


def test_little_endian_comments_are_told_by_their_zeros(tmp_path: Path):
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + "a cat\nSteps: 1, Seed: 2, Size: 8x8".encode("utf-16-le")
    picture().save(tmp_path / "x.jpg", exif=exif.tobytes())
    assert read_metadata(tmp_path / "x.jpg").request.prompt == "a cat"


def test_comfyuis_webp(tmp_path: Path):
    exif = Image.Exif()
    graph = {"1": {"class_type": "KSampler", "inputs": {"seed": 3}}}
    exif[0x0110], exif[0x010F] = f"prompt:{json.dumps(graph)}", "workflow:{}"
    picture().save(tmp_path / "x.webp", exif=exif.tobytes())
    found = read_metadata(tmp_path / "x.webp")
    assert (found.tool, found.request.seed) == ("ComfyUI", 3)


def test_comfyuis_drawing_alone(tmp_path: Path):
    node = {"id": 1, "type": "KSampler", "inputs": [], "widgets_values": [3, "fixed", 12]}
    path = put(tmp_path / "x.png", png(workflow=json.dumps({"nodes": [node], "links": []})))
    found = read_metadata(path)
    assert (found.tool, found.request.seed, found.request.num_steps) == ("ComfyUI", 3, 12)


def test_the_richest_text_wins(tmp_path: Path):
    graph = json.dumps({"1": {"class_type": "KSampler", "inputs": {"seed": 3}}})
    path = put(tmp_path / "x.png", png(prompt=graph, parameters=TEXT, invokeai_metadata='{"seed": 4}'))
    assert read_metadata(path).tool == "InvokeAI"


@pytest.mark.parametrize("data", [png(), png(Comment="hello")])
def test_a_picture_without_settings_says_what_it_carries(tmp_path: Path, data: bytes):
    with pytest.raises(GessoError, match=r"its texts: (none|Comment)"):
        read_metadata(put(tmp_path / "x.png", data))


def with_chunk(kind: bytes, body: bytes) -> bytes:
    header, *rest = png_chunks(Path("x"), png())
    return join_chunks([header, (kind, body), *rest])


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not a readable picture"),
        (b"GIF89a", "not a readable picture"),
        (png()[:60], "cut off|not a readable picture"),
        (with_chunk(b"zTXt", b"parameters\0\0" + zlib.compress(b"x" * (MAX_TEXT_BYTES + 1))), "expands to more than"),
        (
            with_chunk(b"iTXt", b"parameters\0\1\0\0\0" + zlib.compress(b"x" * (MAX_TEXT_BYTES + 1))),
            "expands to more than",
        ),
        (with_chunk(b"zTXt", b"parameters\0\0xx"), "damaged"),
        (with_chunk(b"tEXt", b"invokeai_metadata\0[1]"), "expected an object"),
        (with_chunk(b"tEXt", b"invokeai_metadata\0" + b"[" * 100_000), "not valid JSON"),
        (with_chunk(b"tEXt", b"prompt\0{}"), "no sampler"),
        (with_chunk(b"tEXt", b"workflow\0{}"), "without the graph"),
        (with_chunk(b"iTXt", b"gesso\0\0\0\0\0{}"), "schema"),
    ],
)
def test_hostile_files_end_in_a_named_reason(tmp_path: Path, data: bytes, words: str):
    with pytest.raises(GessoError, match=words):
        read_metadata(put(tmp_path / "x.png", data))


def test_many_texts_are_not_read(tmp_path: Path):
    header, *rest = png_chunks(Path("x"), png())
    many = [(b"tEXt", b"k%d\0v" % number) for number in range(65)]
    with pytest.raises(GessoError, match="its texts exceed"):
        read_texts(put(tmp_path / "x.png", join_chunks([header, *many, *rest])))


def test_a_file_cut_at_any_byte_is_refused_or_read(tmp_path: Path):
    whole = encode_picture(picture(), make_recipe(), TEXT, "JPEG")
    for end in range(0, len(whole), 37):
        with suppress(GessoError):
            read_metadata(put(tmp_path / "x", whole[:end]))


def pixels(data: bytes) -> Any:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_stripping_leaves_the_pixels_and_nothing_else(tmp_path: Path, kind: str):
    data = encode_picture(picture(), make_recipe(), TEXT, kind)
    path = put(tmp_path / "x", data)
    bare = without_metadata(path)
    assert read_texts(put(tmp_path / "y", bare)).texts == {}
    assert b"gesso" not in bare
    assert b"p\0r\0o\0m\0p\0t" not in bare
    assert np.array_equal(pixels(bare), pixels(data))
    assert without_metadata(tmp_path / "y") == bare


def test_places_and_thumbnails_of_a_camera_go_and_colours_stay(tmp_path: Path):
    exif = Image.Exif()
    exif.get_ifd(0x8825)[2] = (52.0, 31.0, 12.0)
    exif[0x010F] = "Camera"
    profile = b"\0" * 128
    picture().save(tmp_path / "x.jpg", exif=exif.tobytes(), icc_profile=profile, comment=b"hello", quality=95)
    bare = without_metadata(tmp_path / "x.jpg")
    with Image.open(io.BytesIO(bare)) as image:
        assert not image.getexif()
        assert image.info["icc_profile"] == profile
        assert "comment" not in image.info


@pytest.mark.parametrize("source", ["PNG", "JPEG", "WEBP", "AVIF"])
@pytest.mark.parametrize("target", ["PNG", "JPEG", "WEBP"])
def test_settings_are_carried_over(tmp_path: Path, source: str, target: str):
    recipe = make_recipe(prompt=PROMPT)
    texts = read_texts(put(tmp_path / "from", encode_picture(picture(), recipe, TEXT, source)))
    buffer = io.BytesIO()
    picture().transpose(Image.Transpose.ROTATE_180).save(buffer, target)
    carried = with_metadata(put(tmp_path / "to", buffer.getvalue()), texts)
    assert np.array_equal(pixels(carried), pixels(buffer.getvalue()))
    found = read_texts(put(tmp_path / "new", carried))
    assert (found.texts["parameters"], found.texts["gesso"]) == (TEXT, recipe.to_json())
    assert read_metadata(tmp_path / "new").recipe == recipe


def test_a_lossless_webp_with_transparency_takes_them_too(tmp_path: Path):
    image = picture().convert("RGBA")
    image.putalpha(90)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", lossless=True)
    texts = read_texts(put(tmp_path / "from.png", png(parameters=TEXT)))
    carried = with_metadata(put(tmp_path / "to", buffer.getvalue()), texts)
    with Image.open(io.BytesIO(carried)) as found:
        assert found.size == image.size
        assert np.array_equal(np.asarray(found.convert("RGBA")), np.asarray(image))
    assert read_texts(put(tmp_path / "new", carried)).texts["parameters"] == TEXT


def test_what_a_format_cannot_hold_is_told(tmp_path: Path):
    long = read_texts(put(tmp_path / "from.png", png(parameters="x" * 40_000)))
    picture().save(tmp_path / "to.jpg")
    with pytest.raises(GessoError, match="a JPEG holds at most 65533"):
        with_metadata(tmp_path / "to.jpg", long)
    other = read_texts(put(tmp_path / "other.png", png(prompt="{}")))
    with pytest.raises(GessoError, match="cannot hold prompt"):
        with_metadata(tmp_path / "to.jpg", other)
    picture().save(tmp_path / "to.avif")
    with pytest.raises(GessoError, match="save the picture as PNG"):
        without_metadata(tmp_path / "to.avif")
    with pytest.raises(GessoError, match="Use PNG"):
        encode_picture(picture(), make_recipe(prompt="x" * 30_000), "y" * 30_000, "JPEG")


def test_a_damaged_jpeg_is_refused(tmp_path: Path):
    data = encode_picture(picture(), make_recipe(), TEXT, "JPEG")
    (length,) = struct.unpack(">H", data[4:6])
    broken = data[:4] + struct.pack(">H", 1) + data[6 : 4 + length]
    with pytest.raises(GessoError, match=r"damaged|no picture"):
        without_metadata(put(tmp_path / "x.jpg", broken))
    assert SIGNATURE not in data


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "AVIF"])
def test_a_recipe_is_read_without_decoding(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch):
    recipe = make_recipe(prompt=PROMPT)
    path = put(tmp_path / "x", encode_picture(picture(), recipe, TEXT, kind))
    assert read_recipe(str(path)) == read_picture(str(path))[1] == recipe
    monkeypatch.setattr(Image.Image, "convert", None)  # what every decoded picture goes through
    assert read_recipe(path) == recipe
    with pytest.raises(GessoError, match="no such file"):
        read_recipe(tmp_path / "nothing.png")


def test_stripping_and_copying_from_file_to_file(tmp_path: Path):
    recipe = make_recipe(prompt=PROMPT)
    source = put(tmp_path / "a.png", encode_picture(picture(), recipe, TEXT, "PNG"))
    bare = strip_metadata(str(source), str(tmp_path / "new" / "b.png"))
    assert bare.read_bytes() == without_metadata(source)
    with pytest.raises(FileExistsError):
        strip_metadata(source, bare, overwrite=False)
    plain = tmp_path / "plain.png"
    picture().rotate(180).save(plain)
    third = copy_metadata(source, plain, tmp_path / "c.png")
    assert read_recipe(third) == recipe
    assert np.array_equal(pixels(third.read_bytes()), pixels(plain.read_bytes()))
    assert copy_metadata(str(source), str(plain)) == plain
    assert plain.read_bytes() == third.read_bytes()
    assert strip_metadata(source, source) == source
    with pytest.raises(GessoError, match="has no settings or other texts to copy"):
        copy_metadata(source, plain)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "c.png", "new", "plain.png"]
