"""Glyphs of the colour emoji font as small pictures with transparency.

The font (Noto Color Emoji, SIL Open Font License) is read where the system has it; it is never copied. Its bitmaps are
136 x 128 at 109 pixels per em, so they are drawn at exactly that size and scaled afterwards.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from gesso.errors import GessoError

FONT_PLACES = (
    Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"),  # Debian, Ubuntu: fonts-noto-color-emoji
    Path("/usr/share/fonts/noto/NotoColorEmoji.ttf"),  # Arch
    Path("/usr/share/fonts/google-noto-emoji/NotoColorEmoji.ttf"),  # older Fedora
    Path("/usr/share/fonts/google-noto-color-emoji-fonts/NotoColorEmoji.ttf"),  # Fedora
)
STRIKE = 109  # the only size that the font's bitmaps have
GLYPH_SIZE = 128


def find_font(path: Path | None = None) -> Path:
    """The given font file, or the first known place that has it. Raises GessoError saying how to install it."""
    for place in [path] if path else FONT_PLACES:
        if place.is_file():
            return place
    looked = path or ", ".join(str(place) for place in FONT_PLACES)
    raise GessoError(
        f"No colour emoji font at {looked}. Training pictures are composed from Noto Color Emoji: "
        "install it (Debian, Ubuntu: apt install fonts-noto-color-emoji) or name its file with --font."
    )


def render_glyphs(glyphs: Sequence[str], font_path: Path | None = None) -> np.ndarray:
    """Draw glyphs, cropped to their ink and centred on a square.

    -> uint8 [number of glyphs, 128, 128, 4], premultiplied RGBA. Raises GessoError for a glyph that the font lacks.
    """
    path = find_font(font_path)
    try:
        font = ImageFont.truetype(str(path), STRIKE)
    except OSError as error:
        raise GessoError(f"{path}: not a font that can be drawn with ({error}). Expected Noto Color Emoji.") from error
    return np.stack([_render(glyph, font) for glyph in glyphs])


def _render(glyph: str, font: ImageFont.FreeTypeFont) -> np.ndarray:
    canvas = Image.new("RGBA", (320, 200))
    ImageDraw.Draw(canvas).text((20, 20), glyph.removesuffix("\ufe0f"), font=font, embedded_color=True)
    box = canvas.getchannel("A").getbbox()
    if box is None or box[2] - box[0] > 140:  # nothing drawn, or the parts of a sequence side by side
        raise GessoError(f"The emoji font has no glyph for {glyph!r}. Use version 2.042 or newer.")
    ink = canvas.crop(box).convert("RGBa")  # premultiplied: scaling must not pull in the colour of nothing
    scale = GLYPH_SIZE / max(ink.size)
    ink = ink.resize((max(1, round(ink.width * scale)), max(1, round(ink.height * scale))), Image.Resampling.LANCZOS)
    square = Image.new("RGBa", (GLYPH_SIZE, GLYPH_SIZE))
    square.paste(ink, ((GLYPH_SIZE - ink.width) // 2, (GLYPH_SIZE - ink.height) // 2))
    return np.asarray(square)
