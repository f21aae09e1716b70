"""Contact sheets of an evaluation: the pictures with their prompts, what was wrong with them, what was detected."""

from collections.abc import Sequence
from textwrap import wrap

from PIL import Image, ImageDraw, ImageFont

from gesso.mini.judging.composition import CATEGORIES, THUMBNAIL, TITLES, CompositionReport, JudgedPicture

COLUMNS, MARGIN, LINE, FONT_SIZE = 8, 8, 13, 11
TEXT_LINES, CHARACTERS = 6, 21  # as many fit below a picture
CELL_WIDTH, CELL_HEIGHT, HEAD_HEIGHT = THUMBNAIL + MARGIN, THUMBNAIL + 3 + LINE * TEXT_LINES + MARGIN, 24
RIGHT, WRONG, INK = (40, 140, 60), (200, 30, 30), (30, 30, 30)


def contact_sheet(report: CompositionReport, *, failures: int = 8, successes: int = 8) -> Image.Image:
    """The first failures and the first successes of every category, each kind in rows of its own.

    Headings say how many there are of both, since the sheet shows failures more often than they happen.
    """
    font = ImageFont.load_default(FONT_SIZE)
    words = dict(zip(map(id, report.judged), report.words, strict=True))
    sections: list[tuple[str, list[JudgedPicture]]] = []
    for category in CATEGORIES:
        rows = [one for one in report.judged if one.prompt.scene.category == category]
        for right, limit in ((False, failures), (True, successes)):
            chosen = [one for one in rows if one.verdict.right == right]
            if chosen and limit:
                shown = f", the first {limit}" if len(chosen) > limit else ""
                kind = "right" if right else "WRONG"
                sections.append((f"{TITLES[category]}: {len(chosen)} of {len(rows)} {kind}{shown}", chosen[:limit]))
    height = MARGIN + sum(HEAD_HEIGHT + -(-len(cells) // COLUMNS) * CELL_HEIGHT for _, cells in sections)
    sheet = Image.new("RGB", (MARGIN + COLUMNS * CELL_WIDTH, height), "white")
    draw = ImageDraw.Draw(sheet)
    top = MARGIN
    for title, cells in sections:
        draw.text((MARGIN, top + 4), title, fill=INK, font=ImageFont.load_default(FONT_SIZE + 3))
        top += HEAD_HEIGHT
        for index, one in enumerate(cells):
            left = MARGIN + index % COLUMNS * CELL_WIDTH
            _cell(sheet, draw, font, (left, top + index // COLUMNS * CELL_HEIGHT), one, words[id(one)])
        top += -(-len(cells) // COLUMNS) * CELL_HEIGHT
    return sheet


def _cell(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    font: ImageFont.ImageFont | ImageFont.FreeTypeFont,
    at: tuple[int, int],
    one: JudgedPicture,
    seen: str,
) -> None:
    left, top = at
    picture = Image.fromarray(one.thumbnail).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.NEAREST)
    sheet.paste(picture, at)
    colour = RIGHT if one.verdict.right else WRONG
    draw.rectangle((left - 2, top - 2, left + THUMBNAIL + 1, top + THUMBNAIL + 1), outline=colour, width=2)
    lines = [(line, INK) for line in _lines(one.prompt.text, 3)]
    if not one.verdict.right:
        lines += [(line, WRONG) for line in _lines(f"seen: {seen}", TEXT_LINES - len(lines))]
    for number, (line, ink) in enumerate(lines):
        draw.text((left, top + THUMBNAIL + 3 + number * LINE), line, fill=ink, font=font)


def _lines(text: str, most: int) -> Sequence[str]:
    return wrap(text, CHARACTERS, max_lines=most, placeholder=" ...")
