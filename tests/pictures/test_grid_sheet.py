"""A grid as one picture: where every cell, heading and margin lies, pixel by pixel."""

import numpy as np
import pytest
from PIL import Image, ImageFont

from gesso.pictures.grid_sheet import grid_sheet

WHITE, GREY = (255, 255, 255), (221, 221, 221)
FONT = ImageFont.load_default(14)
HEADING = 14 + 2 * 6  # pixels of a line of text with its margins


def cell(colour: str, width: int = 40, height: int = 20) -> Image.Image:
    return Image.new("RGB", (width, height), colour)


def colours(sheet: Image.Image) -> dict[object, int]:
    """How many pixels there are of each."""
    return {colour: count for count, colour in sheet.getcolors() or ()}


def inked(sheet: Image.Image, box: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """The box of what is not white within a box; corners as Pillow has them."""
    dark = np.asarray(sheet.convert("L")) < 128
    rows, columns = np.nonzero(dark[box[1] : box[3], box[0] : box[2]])
    return (
        int(columns.min()) + box[0],
        int(rows.min()) + box[1],
        int(columns.max()) + 1 + box[0],
        int(rows.max()) + 1 + box[1],
    )


def test_cells_lie_side_by_side_with_a_margin_of_six_pixels():
    pictures = {(0, 0): cell("red"), (1, 0): cell("blue"), (1, 1): cell("lime")}
    sheet = grid_sheet(pictures, ["", ""], ["", ""], cell=80)
    assert (sheet.mode, sheet.size) == ("RGB", (6 + 2 * 86, 6 + 2 * 46))
    expected = np.full((98, 178, 3), 255, dtype=np.uint8)
    for x, y, colour in ((0, 0, (255, 0, 0)), (1, 0, (0, 0, 255)), (1, 1, (0, 255, 0)), (0, 1, GREY)):
        expected[6 + y * 46 : 46 + y * 46, 6 + x * 86 : 86 + x * 86] = colour
    assert np.array_equal(np.asarray(sheet), expected)


def test_the_longer_side_of_the_largest_picture_is_that_of_a_cell():
    pictures = {(0, 0): cell("red", 20, 60), (1, 0): cell("blue", 30, 15)}
    sheet = grid_sheet(pictures, ["", ""], [""])
    assert sheet.size == (6 + 2 * (128 + 6), 6 + 256 + 6)  # 256 pixels unless said otherwise
    pixels = np.asarray(sheet)
    assert (pixels[6:262, 6:91] == (255, 0, 0)).all() and (pixels[6:262, 91:140] == WHITE).all()
    assert (pixels[6:70, 140:268] == (0, 0, 255)).all() and (pixels[70:262, 140:] == WHITE).all()


def test_a_grid_without_a_picture_is_grey():
    assert colours(grid_sheet({}, [""], [""], cell=50)) == {GREY: 50 * 50, WHITE: 62 * 62 - 50 * 50}


def test_a_sheet_stays_below_its_largest_side_and_cells_above_their_least():
    wide = grid_sheet({(0, 0): cell("red", 10, 10)}, [""] * 100, [""])
    assert wide.size == (6 + 100 * (157 + 6), 6 + 157 + 6)  # (16,384 - 6) // 100 - 6
    tall = grid_sheet({(0, 0): cell("red", 10, 10)}, [""], [""] * 100)
    assert tall.size == wide.size[::-1]
    assert grid_sheet({(0, 0): cell("red", 10, 10)}, [""] * 600, [""]).size == (6 + 600 * 38, 6 + 32 + 6)
    assert grid_sheet({(0, 0): cell("red", 10, 10)}, [""], [""], cell=5).size == (44, 44)
    assert grid_sheet({(0, 0): cell("red", 9000, 1)}, [""], [""], cell=90).size == (102, 13)  # at least a pixel high


def test_headings_stand_above_the_middle_of_columns_and_beside_that_of_rows():
    pictures = {(x, y): cell("white", 100, 60) for x in range(2) for y in range(2)}
    sheet = grid_sheet(pictures, ["HH", "MMM"], ["one", "fourteen"], title="title", cell=100)
    left = int(FONT.getlength("fourteen")) + 12
    top = 2 * HEADING + 6
    assert sheet.size == (left + 2 * 106, top + 2 * 66)
    title = inked(sheet, (0, 0, sheet.width, HEADING))
    assert title[0] in range(6, 9) and 6 <= title[1] < title[3] <= 6 + 14 + 4
    for x, heading in enumerate(("HH", "MMM")):
        box = inked(sheet, (left + x * 106, HEADING, left + x * 106 + 100, top))
        assert HEADING + 6 <= box[1] < box[3] <= top
        assert (box[0] + box[2]) / 2 == pytest.approx(left + x * 106 + 50, abs=1.5)
        assert box[2] - box[0] == pytest.approx(FONT.getlength(heading), abs=4)
    for y in range(2):
        box = inked(sheet, (0, top + y * 66, left, top + y * 66 + 60))
        assert box[0] in range(6, 9)
        assert (box[1] + box[3]) / 2 == pytest.approx(top + y * 66 + 30, abs=3)
    assert inked(sheet, (0, top, left, sheet.height))[2] <= left - 6  # "fourteen" has just its room


@pytest.mark.parametrize(
    ("title", "columns", "lines"), [("", [""], 0), ("t", [""], 1), ("", ["c"], 1), ("t", ["c"], 2)]
)
def test_lines_above_the_cells_are_there_where_they_say_something(title: str, columns: list[str], lines: int):
    sheet = grid_sheet({(0, 0): cell("red", 50, 50)}, columns, [""], title=title, cell=50)
    assert sheet.size == (62, 62 + lines * HEADING)
    first = np.argmax((np.asarray(sheet) == (255, 0, 0)).all(axis=(2))[:, 30])
    assert first == 6 + lines * HEADING
    if not lines:
        assert colours(sheet) == {(255, 0, 0): 50 * 50, WHITE: 62 * 62 - 50 * 50}


def test_what_does_not_fit_ends_in_dots():
    """As many letters as fit; the column beside it is not written into."""
    fitting = max(
        ("M" * count for count in range(9)), key=lambda text: len(text) * (FONT.getlength(f"{text}...") <= 60)
    )
    sheets = [
        grid_sheet({(0, 0): cell("white", 60, 60)}, [text, ""], [""], cell=60) for text in ("M" * 40, f"{fitting}...")
    ]
    assert np.array_equal(*map(np.asarray, sheets))
    fits, spaced = (grid_sheet({(0, 0): cell("white", 60, 60)}, [text], [""], cell=60) for text in ("a b", " a\n b "))
    assert np.array_equal(np.asarray(fits), np.asarray(spaced))
    long = grid_sheet({(0, 0): cell("white", 60, 60)}, [""], ["i" * 1000], cell=60)
    assert long.width == 400 + 66 and inked(long, (0, 0, 400, 66))[2] in range(370, 395)
    titled = grid_sheet({(0, 0): cell("white", 60, 60)}, [""], [""], title="W" * 99, cell=60)
    assert inked(titled, (0, 0, titled.width, HEADING))[2] <= titled.width - 6
