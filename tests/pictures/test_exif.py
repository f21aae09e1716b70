"""EXIF blocks that gesso and other tools write, read back; comments in every encoding that is met."""

import io

import pytest
from PIL import Image

from gesso.pictures.exif import encode_exif, encode_orientation, orientation_of, recipe_of, user_comment

IFD, USER_COMMENT, MAKER_NOTE = 0x8769, 0x9286, 0x927C


def read(block: bytes) -> Image.Exif:
    """The block as it comes out of a JPEG."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "JPEG", exif=block)
    return Image.open(io.BytesIO(buffer.getvalue())).getexif()


def with_comment(value: bytes | str) -> Image.Exif:
    exif = Image.Exif()
    exif.get_ifd(IFD)[USER_COMMENT] = value
    return exif


@pytest.mark.parametrize("text", ["a cat\nSteps: 20", "eine Kätzchen: 1", "猫, Steps: 20"])
def test_what_is_written_comes_back(text: str):
    exif = read(encode_exif(text, '{"a": "ä"}'))
    assert (user_comment(exif), recipe_of(exif), orientation_of(exif)) == (text, '{"a": "ä"}', 1)
    assert exif[0x0131] == "gesso" and 0x0112 not in exif
    assert exif.get_ifd(IFD)[USER_COMMENT] == b"UNICODE\0" + text.encode("utf-16-be")  # as A1111's piexif does


@pytest.mark.parametrize(
    ("said", "turned"), [(None, 1), (0, 1), (1, 1), (2, 2), (6, 6), (8, 8), (9, 1), ("6", 1), (6.0, 1)]
)
def test_how_pixels_are_turned(said: object, turned: int):
    exif = Image.Exif()
    if said is not None:
        exif[0x0112] = said
    assert orientation_of(exif) == turned


@pytest.mark.parametrize("orientation", [1, 3, 8])
def test_an_orientation_comes_back(orientation: int):
    for block in (encode_orientation(orientation), encode_exif("a", "{}", orientation)):
        assert orientation_of(read(block)) == orientation
    assert (0x0112 in read(encode_exif("a", "{}", orientation))) == (orientation != 1)
    assert user_comment(read(encode_orientation(orientation))) == ""


LATIN, CHINESE = "a cat, Steps: 20", "猫咪"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (b"UNICODE\0" + LATIN.encode("utf-16-be"), LATIN),
        (b"UNICODE\0" + LATIN.encode("utf-16-le"), LATIN),
        (b"UNICODE\0\xff\xfe" + CHINESE.encode("utf-16-le"), CHINESE),
        (b"UNICODE\0\xfe\xff" + CHINESE.encode("utf-16-be"), CHINESE),
        (b"UNICODE\0" + CHINESE.encode("utf-16-be"), CHINESE),  # no mark and no zeros: the order of the format
        (b"UNICODE\0" + LATIN.encode(), LATIN),  # UTF-8 behind the mark of UTF-16
        (b"UNICODE\0" + f"{LATIN} {CHINESE}".encode() + b"\0\0", f"{LATIN} {CHINESE}"),
        (b"UNICODE\0" + LATIN.encode("utf-16-be") + b"\0\0", LATIN),
        (b"UNICODE\0" + "Steps: 猫".encode("utf-16-be") + b"\xd8", "Steps: 猫\N{REPLACEMENT CHARACTER}"),
        (b"ASCII\0\0\0" + LATIN.encode(), LATIN),
        (b"ASCII\0\0\0caf\xe9\0", "caf\N{REPLACEMENT CHARACTER}"),
        (f"{LATIN} ä\0".encode(), f"{LATIN} ä"),  # no mark at all
        (f"{LATIN}\0\0", LATIN),
        (b"UNICODE\0", ""),
        (b"", ""),
    ],
)
def test_comments_in_every_encoding(value: bytes | str, text: str):
    assert user_comment(with_comment(value)) == text


@pytest.mark.parametrize("value", [7, (1, 2), None])
def test_a_comment_of_another_type_is_none(value: object):
    assert user_comment(with_comment(value)) == ""  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "recipe"),
    [
        (b"gesso\0{}", "{}"),
        (b"gesso\0\xff", "\N{REPLACEMENT CHARACTER}"),
        (b"Nikon\0{}", ""),
        (b"", ""),
        ("gesso\0{}", ""),
        (None, ""),
    ],
)
def test_a_recipe_is_what_gesso_wrote(value: object, recipe: str):
    exif = Image.Exif()
    if value is not None:
        exif.get_ifd(IFD)[MAKER_NOTE] = value
    assert recipe_of(exif) == recipe
