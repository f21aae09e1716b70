"""The detector: what goes in, how its scores are read, its file, and how well the carried one sees."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from gesso.checkpoints.safetensors_file import open_safetensors, write_safetensors
from gesso.errors import GessoError
from gesso.mini.judging.composition import CATEGORIES, MIN_JUDGE_ACCURACY, judge_figures
from gesso.mini.judging.detector import (
    FORMAT,
    GRID_SIZE,
    TINTS,
    Detector,
    DetectorConfig,
    Scores,
    backgrounds_of,
    detect,
    load_detector,
    read_scores,
    save_detector,
    table_hash,
    to_input,
)
from gesso.scenes.glyphs import FONT_PLACES, render_glyphs
from gesso.scenes.render import Renderer
from gesso.scenes.vocabulary import BACKGROUNDS, things

THINGS = things()[:3]
TINY = DetectorConfig(num_things=3, channels=(4, 8, 8, 8), num_blocks=(1, 1, 1), head_channels=8)
needs_font = pytest.mark.skipif(
    not any(place.is_file() for place in FONT_PLACES), reason="no Noto Color Emoji font on this machine"
)


def tiny(seed: int = 0) -> Detector:
    torch.manual_seed(seed)
    return Detector(TINY).eval()


# ---- pictures in -----------------------------------------------------------------------------------------------------


def test_larger_pictures_are_averaged():
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    large = small.repeat(4, axis=1).repeat(4, axis=2)
    assert torch.equal(to_input(large), to_input(small))
    assert to_input(small).min() >= -1
    assert to_input(np.full((1, 100, 100, 3), 255, np.uint8)).eq(1).all()  # not a multiple of 64


@pytest.mark.parametrize("shape", [(64, 64, 3), (1, 32, 32, 3), (1, 64, 128, 3), (1, 64, 64, 4)])
def test_other_pictures_are_refused(shape):
    with pytest.raises(ValueError, match="pictures are"):
        to_input(np.zeros(shape, np.uint8))
    with pytest.raises(ValueError, match="uint8"):
        to_input(np.zeros((1, 64, 64, 3), np.float32))


@pytest.mark.parametrize("name", BACKGROUNDS)
def test_a_background_is_read_off_the_border(name):
    picture = np.empty((1, 64, 64, 3), np.uint8)
    picture[:] = BACKGROUNDS[name]
    picture[:, 12:52, 12:52] = (9, 99, 200)  # something in the middle
    noisy = picture.astype(int) + np.random.default_rng(0).integers(-12, 13, picture.shape)
    assert backgrounds_of(to_input(picture)) == [name]
    assert backgrounds_of(to_input(noisy.clip(0, 255).astype(np.uint8))) == [name]
    picture[:, :, :16] = (0, 255, 255)  # 44 % of the border, in a colour of no name
    assert backgrounds_of(to_input(picture)) == [name]


def test_a_border_of_no_colour_has_none():
    stripes = np.zeros((2, 64, 64, 3), np.uint8)
    stripes[0, ::3], stripes[0, 1::3], stripes[0, 2::3] = [BACKGROUNDS[name] for name in ("white", "blue", "red")]
    stripes[1] = (0, 255, 255)
    assert backgrounds_of(to_input(stripes)) == [None, None]


# ---- scores out ------------------------------------------------------------------------------------------------------


def scores(*peaks: tuple[int, int, int, str | None], sure: float = 9.0, height: float = 4.0) -> Scores:
    """Peaks (row, column, thing, tint), falling off around, in otherwise empty scores."""
    middle = torch.full((GRID_SIZE, GRID_SIZE), -6.0)
    thing = torch.zeros(len(THINGS) + 1, GRID_SIZE, GRID_SIZE)
    tint = torch.zeros(len(TINTS), GRID_SIZE, GRID_SIZE)
    y, x = torch.meshgrid(torch.arange(GRID_SIZE), torch.arange(GRID_SIZE), indexing="ij")
    for row, column, what, colour in peaks:
        middle = torch.maximum(middle, height - 1.0 * ((y - row) ** 2 + (x - column) ** 2).float())
        thing[what, row, column] = sure
        tint[TINTS.index(colour), row, column] = sure
    return Scores(middle, thing, tint)


def test_peaks_become_objects():
    (one,) = read_scores(scores((3, 12, 1, "red")))
    assert (one.thing, one.tint) == (1, "red")
    assert (one.x, one.y) == (12.5 / 16, 3.5 / 16)
    assert 0.9 < one.confidence < 1
    (plain,) = read_scores(scores((3, 12, 2, None)))
    assert plain.tint is None


def test_four_neighbours_28_pixels_apart_are_four():
    """7 cells of 4 pixels: what the composed pictures keep between two objects."""
    found = read_scores(scores((4, 4, 0, None), (4, 11, 0, None), (11, 4, 0, None), (11, 11, 0, None)))
    assert len(found) == 4


def test_one_object_seen_twice_is_one():
    first = scores((8, 8, 0, None))
    first.middle[11, 10] = 3.5  # a second, lower peak 14 pixels away
    assert len(read_scores(first)) == 1


def test_nothing_low_and_nothing_unsure():
    assert read_scores(scores()) == ()
    assert read_scores(scores((8, 8, 0, None), height=-0.5)) == ()
    (unsure,) = read_scores(scores((8, 8, 0, None), sure=0.5))
    assert unsure.thing is None
    (none_of_these,) = read_scores(scores((8, 8, len(THINGS), None)))
    assert none_of_these.thing is None


def test_detecting_needs_eval_mode_and_keeps_the_order():
    detector = tiny()
    pictures = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
    assert detect(detector, pictures, batch_size=2) == detect(detector, pictures)
    with pytest.raises(ValueError, match="training mode"):
        detect(detector.train(), pictures)


# ---- the file --------------------------------------------------------------------------------------------------------


def saved(path: Path, **changes: object) -> Path:
    """A detector's file, with changes to what its metadata say."""
    save_detector(path, tiny(), THINGS, {"two": 0.98}, {"two": 0.9}, {"license": "Apache-2.0"})
    if changes:
        file = open_safetensors(path)
        with file.reader() as reader:
            tensors = {name: reader[name].clone() for name in file.tensors}
        about = json.loads(file.metadata[FORMAT]) | changes
        write_safetensors(path, tensors, {**file.metadata, FORMAT: json.dumps(about)})
    return path


def test_a_file_gives_the_same_detector(tmp_path):
    path = saved(tmp_path / "judge.safetensors")
    loaded = load_detector(THINGS, path)
    pictures = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
    pixels = to_input(pictures)
    with torch.no_grad():
        gap = (loaded.detector(pixels).thing - tiny()(pixels).thing).abs().max()
    assert gap < 0.02, gap  # half precision of weights of about 0.1 and activations of about 1
    assert (loaded.accuracy, loaded.accuracy_unseen) == ({"two": 0.98}, {"two": 0.9})
    assert open_safetensors(path).metadata["modelspec.license"] == "Apache-2.0"


def test_another_object_table_is_told(tmp_path):
    path = saved(tmp_path / "judge.safetensors")
    for others in (things()[:4], things()[1:4], tuple(reversed(THINGS))):
        with pytest.raises(GessoError, match=r"another object table.*evaluate train-judge"):
            load_detector(others, path)
    assert table_hash(THINGS) != table_hash(THINGS[:2])


def damaged_config(**changes: object) -> dict[str, object]:
    return {"num_things": 3, "channels": [4, 8, 8, 8], "num_blocks": [1, 1, 1], "head_channels": 8, **changes}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "version 2, expected"),
        ({"format": "other"}, "format 'other'"),
        ({"config": damaged_config(channels=[4, 8, 8])}, "damaged"),
        ({"config": damaged_config(head_channels=-1)}, "damaged"),
        ({"config": damaged_config(num_blocks=[1, 10**9, 1])}, "damaged"),
        ({"config": []}, "damaged"),
        ({"accuracy": 3}, "damaged"),
        ({"config": damaged_config(head_channels=16)}, "expected"),
        ({"config": damaged_config(num_blocks=[1, 2, 1])}, "do not fit"),
    ],
)
def test_a_damaged_file_is_told(tmp_path, changes, message):
    with pytest.raises(GessoError, match=message):
        load_detector(THINGS, saved(tmp_path / "judge.safetensors", **changes))


def test_other_files_are_told(tmp_path):
    with pytest.raises(GessoError, match="no such file"):
        load_detector(THINGS, tmp_path / "nothing.safetensors")
    write_safetensors(tmp_path / "other.safetensors", {"a": torch.zeros(2)}, {})
    with pytest.raises(GessoError, match=r"not a detector.*evaluate train-judge"):
        load_detector(THINGS, tmp_path / "other.safetensors")
    broken = tiny()
    with torch.no_grad():
        broken.head.weight[0, 0] = float("nan")
    save_detector(tmp_path / "nan.safetensors", broken, THINGS, {}, {}, {})
    with pytest.raises(GessoError, match="not finite"):
        load_detector(THINGS, tmp_path / "nan.safetensors")


# ---- the carried one -------------------------------------------------------------------------------------------------


def test_the_carried_judge_knows_the_table_and_is_small():
    loaded = load_detector(things())
    assert set(loaded.accuracy) == set(CATEGORIES)
    assert min(loaded.accuracy.values()) >= MIN_JUDGE_ACCURACY
    size = sum(parameter.numel() for parameter in loaded.detector.parameters())
    assert size * 2 < 4 * 2**20


@needs_font
def test_the_carried_judge_sees_what_is_there():
    """On 40 fresh pictures a category, true and false ones. 0.9: at 0.97, one draw in a hundred would be worse."""
    renderer = Renderer(render_glyphs([thing.glyph for thing in things()]))
    figures = judge_figures(load_detector(things()).detector, things(), renderer, per_category=40, seed=2024)
    assert {name: one.accuracy for name, one in figures.items() if one.accuracy < 0.9} == {}
    assert {name: one.fooled for name, one in figures.items() if one.fooled > 2} == {}
