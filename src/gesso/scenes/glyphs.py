"""Glyphs of the colour emoji font as small pictures with transparency.

The font (Noto Color Emoji, SIL Open Font License) is read where the system has it; it is never copied. Its bitmaps are
136 x 128 at 109 pixels per em, so they are drawn at exactly that size and scaled afterwards.
"""

import hashlib
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from gesso.errors import GessoError
from gesso.files import atomic_file
from gesso.scenes.vocabulary import Thing

FONT_PLACES = (
    Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"),  # Debian, Ubuntu: fonts-noto-color-emoji
    Path("/usr/share/fonts/noto/NotoColorEmoji.ttf"),  # Arch
    Path("/usr/share/fonts/google-noto-emoji/NotoColorEmoji.ttf"),  # older Fedora
    Path("/usr/share/fonts/google-noto-color-emoji-fonts/NotoColorEmoji.ttf"),  # Fedora
)
STRIKE = 109  # the only size that the font's bitmaps have
GLYPH_SIZE = 128
ATLAS_KEY, ATLAS_VERSION = "gesso-atlas", 1
ATLAS_COLUMNS = 32


def find_font(path: Path | None = None) -> Path:
    """The given font file, or the first known place that has it. Raises GessoError saying how to install it."""
    for place in [path] if path else FONT_PLACES:
        if place.is_file():
            return place
    looked = path or ", ".join(str(place) for place in FONT_PLACES)
    raise GessoError(
        f"No colour emoji font at {looked}. Training pictures are composed from Noto Color Emoji: install it "
        "(Debian, Ubuntu: apt install fonts-noto-color-emoji) or give its file with `font`",
        code="missing",
    )


def render_glyphs(glyphs: Sequence[str], font_path: Path | None = None) -> np.ndarray:
    """Draw glyphs, cropped to their ink and centred on a square.

    -> uint8 [number of glyphs, 128, 128, 4], premultiplied RGBA. Raises GessoError for a glyph that the font lacks.
    """
    path = find_font(font_path)
    try:
        font = ImageFont.truetype(str(path), STRIKE)
    except OSError as error:
        raise GessoError(
            f"{path}: not a usable font ({error.strerror or error}). Expected Noto Color Emoji",
            code="wrong_kind",
            data={"path": str(path)},
        ) from error
    return np.stack([_render(glyph, font) for glyph in glyphs])


def _render(glyph: str, font: ImageFont.FreeTypeFont) -> np.ndarray:
    canvas = Image.new("RGBA", (320, 200))
    ImageDraw.Draw(canvas).text((20, 20), glyph.removesuffix("\ufe0f"), font=font, embedded_color=True)
    box = canvas.getchannel("A").getbbox()
    if box is None or box[2] - box[0] > 140:  # nothing drawn, or the parts of a sequence side by side
        raise GessoError(f"The emoji font has no glyph for {glyph!r}. Use version 2.042 or newer", code="damaged")
    ink = canvas.crop(box).convert("RGBa")  # premultiplied: scaling must not pull in the colour of nothing
    scale = GLYPH_SIZE / max(ink.size)
    ink = ink.resize((max(1, round(ink.width * scale)), max(1, round(ink.height * scale))), Image.Resampling.LANCZOS)
    square = Image.new("RGBa", (GLYPH_SIZE, GLYPH_SIZE))
    square.paste(ink, ((GLYPH_SIZE - ink.width) // 2, (GLYPH_SIZE - ink.height) // 2))
    return np.asarray(square)


def save_atlas(path: Path, glyphs: np.ndarray, objects: Sequence[Thing]) -> None:
    """Write the glyphs of an object table as one PNG, so that a machine without the font can train.

    glyphs: uint8 [number of objects, 128, 128, 4], premultiplied RGBA, stored as they are: other programs show their
    edges too dark. The file names its table by a hash. Writes whole or not at all; raises GessoError if it cannot.
    """
    width, height = _atlas_size(len(objects))
    sheet = np.zeros((height // GLYPH_SIZE, ATLAS_COLUMNS, GLYPH_SIZE, GLYPH_SIZE, 4), dtype=np.uint8)
    sheet.reshape(-1, GLYPH_SIZE, GLYPH_SIZE, 4)[: len(glyphs)] = glyphs
    picture = Image.fromarray(np.ascontiguousarray(sheet.swapaxes(1, 2)).reshape(height, width, 4), "RGBA")
    note = PngInfo()
    note.add_text(ATLAS_KEY, json.dumps(_atlas_note(objects)))
    try:
        with atomic_file(path) as file:
            picture.save(file, "PNG", pnginfo=note)
    except OSError as error:
        raise GessoError(
            f"{path}: the atlas cannot be written ({error.strerror})", code="unwritable", data={"path": str(path)}
        ) from error


def load_atlas(path: Path, objects: Sequence[Thing]) -> np.ndarray:
    """The glyphs of an object table from a file of `save_atlas`.

    -> uint8 [number of objects, 128, 128, 4], premultiplied RGBA, as `render_glyphs` draws them. Raises GessoError for
    a file that is missing, damaged or of another table; a picture of a foreign size is not unpacked.
    """
    remedy = "Make it with `gesso train atlas`, for the same recipe."
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with Image.open(path, formats=("PNG",)) as picture:
                note, expected = picture.info.get(ATLAS_KEY), _atlas_note(objects)
                if (stored := _read_note(note)) is None:
                    raise GessoError(
                        f"{path}: a PNG, but not an atlas of glyphs. {remedy}", code="damaged", data={"path": str(path)}
                    )
                if stored != expected:
                    raise GessoError(
                        f"{path}: an atlas of {stored.get('objects')!r} objects, hash {str(stored.get('hash'))[:12]}, "
                        f"expected {expected['objects']} objects, hash {expected['hash'][:12]}. {remedy}",
                        code="damaged",
                        data={"path": str(path)},
                    )
                width, height = _atlas_size(len(objects))
                if picture.size != (width, height) or picture.mode != "RGBA":
                    raise GessoError(
                        f"{path}: {picture.mode} of {picture.size[0]} x {picture.size[1]}, expected RGBA of "
                        f"{width} x {height}. {remedy}",
                        code="damaged",
                        data={"path": str(path)},
                    )
                sheet = np.asarray(picture)
    except GessoError:
        raise
    except Exception as error:  # a hostile file makes Pillow raise many kinds
        raise GessoError(
            f"{path}: the atlas cannot be read ({error}). {remedy}", code="unreadable", data={"path": str(path)}
        ) from error
    tiles = sheet.reshape(-1, GLYPH_SIZE, ATLAS_COLUMNS, GLYPH_SIZE, 4).swapaxes(1, 2)
    return np.ascontiguousarray(tiles.reshape(-1, GLYPH_SIZE, GLYPH_SIZE, 4)[: len(objects)])


def _atlas_size(count: int) -> tuple[int, int]:
    """Width and height in pixels."""
    return ATLAS_COLUMNS * GLYPH_SIZE, -(-count // ATLAS_COLUMNS) * GLYPH_SIZE


def _atlas_note(objects: Sequence[Thing]) -> dict[str, Any]:
    table = "\n".join(f"{thing.glyph}|{thing.name}" for thing in objects)
    digest = hashlib.sha256(table.encode()).hexdigest()
    return {"version": ATLAS_VERSION, "objects": len(objects), "hash": digest, "glyph_size": GLYPH_SIZE}


def _read_note(note: object) -> dict[str, Any] | None:
    try:
        value = json.loads(note) if isinstance(note, str) else None
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
