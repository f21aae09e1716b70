"""A grid (X/Y/Z plot) as one picture: columns and rows with their values as headings."""

from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont

MARGIN, FONT_SIZE = 6, 14
MAX_SIDE = 16_384  # of the sheet, in pixels
MIN_CELL = 32
_INK, _PAPER, _MISSING = "black", "white", "#dddddd"


def grid_sheet(
    pictures: Mapping[tuple[int, int], Image.Image],
    columns: Sequence[str],
    rows: Sequence[str],
    *,
    title: str = "",
    cell: int = 256,
) -> Image.Image:
    """One sheet.

    pictures  (column, row) -> picture; a place without one is grey
    columns, rows  headings; one empty heading for an axis that there is not
    cell      pixels of the longer side of a picture on the sheet; less where the sheet would be larger than MAX_SIDE
    """
    font = ImageFont.load_default(FONT_SIZE)
    widest = max((picture.width for picture in pictures.values()), default=1)
    tallest = max((picture.height for picture in pictures.values()), default=1)
    left = min(max(int(font.getlength(row)) for row in rows) + 2 * MARGIN, 400) if any(rows) else MARGIN
    top = (FONT_SIZE + 2 * MARGIN) * (bool(title) + any(map(bool, columns))) + MARGIN
    room = min((MAX_SIDE - left) // len(columns), (MAX_SIDE - top) // len(rows)) - MARGIN
    scale = max(min(cell, room), MIN_CELL) / max(widest, tallest)
    width, height = max(round(widest * scale), 1), max(round(tallest * scale), 1)
    sheet = Image.new("RGB", (left + len(columns) * (width + MARGIN), top + len(rows) * (height + MARGIN)), _PAPER)
    draw = ImageDraw.Draw(sheet)
    line = MARGIN
    if title:
        draw.text((MARGIN, line), _fitting(title, font, sheet.width - 2 * MARGIN), fill=_INK, font=font)
        line += FONT_SIZE + 2 * MARGIN
    for x, heading in enumerate(columns):
        middle = left + x * (width + MARGIN) + width // 2
        draw.text((middle, line), _fitting(heading, font, width), fill=_INK, font=font, anchor="ma")
    for y, heading in enumerate(rows):
        middle = top + y * (height + MARGIN) + height // 2
        draw.text((MARGIN, middle), _fitting(heading, font, left - 2 * MARGIN), fill=_INK, font=font, anchor="lm")
        for x in range(len(columns)):
            corner = (left + x * (width + MARGIN), top + y * (height + MARGIN))
            if (picture := pictures.get((x, y))) is None:
                draw.rectangle((*corner, corner[0] + width - 1, corner[1] + height - 1), fill=_MISSING)
                continue
            size = (max(round(picture.width * scale), 1), max(round(picture.height * scale), 1))
            sheet.paste(picture.convert("RGB").resize(size, Image.Resampling.LANCZOS), corner)
    return sheet


def _fitting(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """The text, or its start and an ellipsis where it is too wide."""
    text = " ".join(text.split())[:400]
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}...") > width:
        text = text[:-1]
    return f"{text}..."
