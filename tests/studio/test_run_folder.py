"""Runs of many pictures that go on where they were cut off."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gesso.errors import GessoError
from gesso.pictures.grid_sheet import grid_sheet
from gesso.pictures.picture_file import encode_picture
from gesso.request.recipe import ExtraFile
from gesso.studio.run_folder import OtherRunError, begin_run, open_run
from made_recipes import make_recipe

WHAT = {"prompt": "a cat", "x": "steps=1,2", "set": ("a",)}
RECIPE = make_recipe()


def picture(colour: str = "red") -> bytes:
    return encode_picture(Image.new("RGB", (64, 64), colour), RECIPE, "a\nSteps: 1, Seed: 2, Size: 64x64")


def test_a_run_goes_on_with_its_seed(tmp_path: Path):
    first = open_run(tmp_path / "run", WHAT, None)
    again = open_run(tmp_path / "run", WHAT, None)
    assert (first.is_new, again.is_new, again.seed) == (True, False, first.seed)
    assert open_run(tmp_path / "run", WHAT, first.seed).seed == first.seed
    assert open_run(tmp_path / "zero", WHAT, 0).seed == 0


def test_another_run_is_told_and_nothing_is_touched(tmp_path: Path):
    open_run(tmp_path / "run", WHAT, 5)
    with pytest.raises(OtherRunError, match="different prompt"):
        open_run(tmp_path / "run", WHAT | {"prompt": "a dog"}, None)
    with pytest.raises(OtherRunError, match="different seed"):
        open_run(tmp_path / "run", WHAT, 6)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "holiday.jpg").write_bytes(b"x")
    with pytest.raises(OtherRunError, match="other pictures"):
        open_run(tmp_path / "mine", WHAT, 5)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["holiday.jpg"]


def test_without_a_folder_the_same_run_finds_its_own_and_another_gets_a_new_one(tmp_path: Path):
    first = begin_run(tmp_path / "grid", WHAT, 5)
    other = begin_run(tmp_path / "grid", WHAT | {"prompt": "a dog"}, 5)
    assert (first.path.name, other.path.name) == ("grid", "grid_2")
    assert begin_run(tmp_path / "grid", WHAT | {"prompt": "a dog"}, None).path == other.path


def test_what_is_there_is_not_drawn_again(tmp_path: Path):
    run = open_run(tmp_path / "run", WHAT, 5)
    assert run.done("a.png", RECIPE) is None
    run.save("a.png", picture())
    found = run.done("a.png", RECIPE)
    assert found is not None
    assert found.getpixel((0, 0)) == (255, 0, 0)
    lora = ExtraFile(kind="lora", name="ink", sha256="0" * 64)
    for other in (make_recipe(seed=6), replace(RECIPE, files=()), replace(RECIPE, extras=(lora,))):
        with pytest.raises(GessoError, match="not the picture that this run draws"):
            run.done("a.png", other)
    assert run.done("a.png", replace(RECIPE, pixels_sha256="")) is not None
    with pytest.raises(GessoError, match="appeared while"):
        run.save("a.png", picture("blue"))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": "gesso.run", "seed": "1"}'])
def test_a_damaged_file_is_refused(tmp_path: Path, text: str):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(GessoError):
        open_run(tmp_path, WHAT, None)


def test_a_sheet_shows_every_picture_in_its_place():
    colours = {(0, 0): "red", (1, 0): "lime", (0, 1): "blue"}
    pictures = {place: Image.new("RGB", (40, 20), colour) for place, colour in colours.items()}
    sheet = grid_sheet(pictures, ["steps: 1", "steps: 2"], ["a", "b"], title="t" * 500, cell=80)
    found = sheet.convert("P", palette=Image.Palette.WEB).convert("RGB").getcolors(10**6) or []
    counts = {colour: count for count, colour in found}
    for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255)):
        assert counts[colour] == 80 * 40
    red, blue = (first_of(sheet, colour) for colour in ((255, 0, 0), (0, 0, 255)))
    assert red[0] == blue[0]
    assert red[1] < blue[1]


def test_the_heading_of_a_row_stands_beside_its_middle():
    sheet = grid_sheet({(0, 0): Image.new("RGB", (10, 10), "red")}, [""], ["HHH"], cell=200)
    ink = np.asarray(sheet.convert("L")).astype(int)
    picture = np.argwhere((np.asarray(sheet) == (255, 0, 0)).all(axis=2))
    top, bottom, left = picture[:, 0].min(), picture[:, 0].max(), picture[:, 1].min()
    rows = np.flatnonzero((ink[:, :left] < 100).any(axis=1))
    assert abs((rows.min() + rows.max()) / 2 - (top + bottom) / 2) <= 2


def first_of(sheet: Image.Image, colour: tuple[int, int, int]) -> tuple[int, int]:
    return next((x, y) for y in range(sheet.height) for x in range(sheet.width) if sheet.getpixel((x, y)) == colour)


@pytest.mark.slow
def test_a_sheet_stays_within_what_can_be_shown():
    small = Image.new("RGB", (8, 8))
    sheet = grid_sheet({(0, 0): small}, [str(i) for i in range(200)], [str(i) for i in range(200)], cell=2048)
    assert max(sheet.size) <= 16_384
