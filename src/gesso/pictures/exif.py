"""Infotext and recipe in the EXIF of JPEG, WebP and AVIF files, which have no text chunks.

UserComment holds the infotext, as A1111 and its relatives write and read it (UTF-16, big-endian); MakerNote, which is
the writing program's own, holds the recipe. JPEG allows 64 KiB for both.
"""

from PIL import Image

DESCRIPTION, MAKE, MODEL, SOFTWARE = 0x010E, 0x010F, 0x0110, 0x0131
ORIENTATION, UPRIGHT = 0x0112, 1
_IFD, _USER_COMMENT, _MAKER_NOTE = 0x8769, 0x9286, 0x927C
_UNICODE, _ASCII = b"UNICODE\0", b"ASCII\0\0\0"
_OURS = b"gesso\0"


def encode_exif(infotext: str, recipe: str, orientation: int = UPRIGHT) -> bytes:
    """The bytes of an EXIF block. orientation: how the pixels are to be turned, 1 to 8"""
    exif = Image.Exif()
    exif[SOFTWARE] = "gesso"
    if orientation != UPRIGHT:
        exif[ORIENTATION] = orientation
    details = exif.get_ifd(_IFD)
    details[_USER_COMMENT] = _UNICODE + infotext.encode("utf-16-be")
    details[_MAKER_NOTE] = _OURS + recipe.encode()
    return exif.tobytes()


def encode_orientation(orientation: int) -> bytes:
    """The bytes of an EXIF block that says nothing but how the pixels are to be turned."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif.tobytes()


def orientation_of(exif: Image.Exif) -> int:
    """How the pixels are to be turned, 2 to 8; 1 where they stand upright or nothing is said."""
    value = exif.get(ORIENTATION)
    return value if isinstance(value, int) and UPRIGHT < value <= 8 else UPRIGHT


def user_comment(exif: Image.Exif) -> str:
    """The comment as text; "" where there is none. UTF-16 of either order, ASCII, UTF-8, whatever the mark says."""
    value = exif.get_ifd(_IFD).get(_USER_COMMENT)
    if isinstance(value, str):
        return value.strip("\0")
    if not isinstance(value, bytes):
        return ""
    if value.startswith(_UNICODE):
        body = value.removeprefix(_UNICODE)
        if (text := _as_utf8(body)) is not None:
            return text
        # Of Latin text every other byte is 0: which, tells the order. A mark tells it for sure.
        little = body.startswith(b"\xff\xfe") or (body[1::2].count(0) > body[0::2].count(0))
        text = body.decode("utf-16-le" if little else "utf-16-be", errors="replace")
        return text.removeprefix("\ufeff").strip("\0")
    return value.removeprefix(_ASCII).decode("utf-8", errors="replace").strip("\0")


def _as_utf8(body: bytes) -> str | None:
    """UTF-8 behind the mark of UTF-16, as some tools write it; None where it is UTF-16 or may be.

    The settings of a picture have letters, digits and signs of ASCII, each with a byte of 0 in UTF-16.
    """
    try:
        text = body.rstrip(b"\0").decode("utf-8")
    except UnicodeDecodeError:
        return None
    return None if "\0" in text or not any(char.isascii() for char in text) else text


def recipe_of(exif: Image.Exif) -> str:
    """The recipe's JSON; "" where gesso did not write the block."""
    value = exif.get_ifd(_IFD).get(_MAKER_NOTE)
    if not isinstance(value, bytes) or not value.startswith(_OURS):
        return ""
    return value.removeprefix(_OURS).decode("utf-8", errors="replace")
