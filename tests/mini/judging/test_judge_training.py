"""Training of the judge: its pictures, its targets, and a loop that goes on where it stopped."""

import numpy as np
import pytest
import torch

from gesso.errors import GessoError
from gesso.mini.judging.composition import CATEGORIES
from gesso.mini.judging.detector import GRID_SIZE, INPUT_SIZE, TINTS, DetectorConfig, Scores, load_detector, read_scores
from gesso.mini.judging.judge_training import (
    JudgePictures,
    JudgePlan,
    detector_loss,
    make_judge,
    mask_of,
    roughen,
    scattered,
    targets_of,
    train_detector,
    unseen_by_judge,
)
from gesso.scenes.glyphs import GLYPH_SIZE
from gesso.scenes.render import Renderer
from gesso.scenes.scene import Item, Scene, combinations, held_out
from gesso.scenes.vocabulary import COLOURS, things

THINGS = things()[:60]
TINY = DetectorConfig(num_things=60, channels=(4, 8, 8, 8), num_blocks=(1, 1, 1), head_channels=8)
PLAN = JudgePlan(total_samples=8, batch_size=2)


@pytest.fixture(scope="module")
def glyphs() -> np.ndarray:
    """Stand-ins for the font's: blocks of a colour each."""
    made = np.zeros((len(THINGS), GLYPH_SIZE, GLYPH_SIZE, 4), np.uint8)
    made[:, 20:100, 10:118, :3] = np.random.default_rng(0).integers(0, 256, (len(THINGS), 1, 1, 3))
    made[:, 20:100, 10:118, 3] = 255
    return made


def test_batches_follow_from_seed_and_step(glyphs):
    first, second = JudgePictures(THINGS, Renderer(glyphs)), JudgePictures(THINGS, Renderer(glyphs))
    second.batch(1, 4, 16)  # what was drawn before does not matter
    (pixels, targets), (again, same) = first.batch(1, 5, 16), second.batch(1, 5, 16)
    assert torch.equal(pixels, again)
    assert torch.equal(targets.thing, same.thing)
    assert not torch.equal(pixels, first.batch(1, 6, 16)[0])
    assert pixels.shape == (16, 3, INPUT_SIZE, INPUT_SIZE)
    assert pixels.abs().max() <= 1


def test_some_pictures_show_none_of_the_table(glyphs):
    pictures = JudgePictures(THINGS, Renderer(glyphs))
    assert (pictures.batch(0, 0, 60)[1].thing == len(THINGS)).any()


def test_some_combinations_are_kept_from_the_judge(glyphs):
    pictures, rng = JudgePictures(THINGS, Renderer(glyphs)), np.random.default_rng(0)
    scenes = [scattered(THINGS, rng) for _ in range(300)]
    assert {len(scene.items) for scene in scenes} == set(range(5))
    for scene in [*scenes, *(pictures.random_scene(rng) for _ in range(300))]:
        assert not any(map(unseen_by_judge, combinations(scene, THINGS)))
    tints = [(thing.name, colour) for thing in things() for colour in COLOURS]
    kept, tested = ({pair for pair in tints if rule(*pair)} for rule in (lambda *pair: unseen_by_judge(pair), held_out))
    assert len(kept) / len(tints) == pytest.approx(0.04, abs=0.02)
    assert 0 < len(kept & tested) < len(kept) / 2  # independent of what generators must not see


def test_perfect_scores_are_read_back_as_the_scene():
    """Targets and reading agree on where a cell is."""
    scene = Scene("two", "white", (Item(3, 0.26, 0.74, 0.4, "red"), Item(7, 0.74, 0.3, 0.4)))
    targets = targets_of([scene], np.array([False]), 60)
    scores = Scores(
        (targets.middle[0] - 0.5) * 12,
        torch.nn.functional.one_hot(targets.thing[0], 61).permute(2, 0, 1) * 20.0,
        torch.nn.functional.one_hot(targets.tint[0], len(TINTS)).permute(2, 0, 1) * 20.0,
    )
    found = {(one.thing, one.tint): one for one in read_scores(scores)}
    assert set(found) == {(3, "red"), (7, None)}
    for item in scene.items:
        one = found[item.thing, item.tint]
        assert (one.x, one.y) == pytest.approx((item.x, item.y), abs=0.5 / GRID_SIZE)


def test_perfect_scores_cost_nothing_and_wrong_ones_much():
    scene = Scene("two", "white", (Item(3, 0.26, 0.74, 0.4, "red"), Item(7, 0.74, 0.3, 0.4)))
    targets = targets_of([scene], np.array([False]), 60)
    middle = torch.where(targets.middle == 1, 15.0, -15.0)
    thing = torch.nn.functional.one_hot(targets.thing, 61).permute(0, 3, 1, 2) * 30.0
    tint = torch.nn.functional.one_hot(targets.tint, len(TINTS)).permute(0, 3, 1, 2) * 30.0
    assert detector_loss(Scores(middle, thing, tint), targets)[0] < 1e-4
    assert detector_loss(Scores(middle, thing.roll(1, 1), tint), targets)[0] > 10
    assert detector_loss(Scores(middle, thing, tint.roll(1, 1)), targets)[0] > 10
    assert detector_loss(Scores(-middle, thing, tint), targets)[0] > 10


def test_unknown_objects_are_called_so():
    scene = Scene("single", "white", (Item(3, 0.5, 0.5, 0.7),))
    targets = targets_of([scene, scene], np.array([True, False]), 60)
    assert set(targets.thing[0][targets.weight[0] > 0].tolist()) == {60}
    assert set(targets.thing[1][targets.weight[1] > 0].tolist()) == {3}


def test_an_empty_picture_has_a_loss():
    targets = targets_of([Scene("two", "white", ())], np.array([False]), 60)
    scores = Scores(*(torch.zeros(1, *shape) for shape in ((16, 16), (61, 16, 16), (9, 16, 16))))
    assert detector_loss(scores, targets)[0].isfinite()


def test_a_mixed_object_is_half_of_each():
    """Neither of the two is whole: each loses a third of itself or more."""
    scene = Scene("single", "white", (Item(0, 0.5, 0.5, 0.72),))
    rng = np.random.default_rng(0)
    for _ in range(20):
        inner = mask_of(scene, rng)[0, 0, 12:52, 12:52]
        assert 0.33 < inner.mean() < 0.67


def test_roughening_leaves_pictures_readable():
    """A quarter is left alone; the others change, but not beyond what a small generator does."""
    pixels = torch.rand(64, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 0.2
    pixels[:, :, 20:44, 20:44] += 0.6
    rough = roughen(pixels, torch.Generator().manual_seed(1))
    unchanged = (rough == pixels).flatten(1).all(1).float().mean()
    assert 0.1 < unchanged < 0.45
    assert rough.abs().max() <= 1
    inside, outside = rough[:, :, 24:40, 24:40].mean((1, 2, 3)), rough[:, :, :12].mean((1, 2, 3))
    assert (inside - outside).min() > 0.4


@pytest.mark.slow
def test_training_goes_on_exactly(glyphs, tmp_path, monkeypatch):
    whole = train_detector(THINGS, Renderer(glyphs), tmp_path / "whole", PLAN, config=TINY)
    ticks = iter(range(10**6))
    monkeypatch.setattr("gesso.mini.judging.judge_training.time.monotonic", lambda: float(next(ticks)))
    rounds, parts = 0, None
    while parts is None and rounds < 20:  # a clock that ticks at every look stops a run after a step or two
        parts = train_detector(THINGS, Renderer(glyphs), tmp_path / "parts", PLAN, config=TINY, stop_after=2)
        rounds += 1
    assert rounds > 1
    assert whole is not None
    assert parts is not None
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, parts.state_dict()[name]), name


def test_a_foreign_state_is_refused(glyphs, tmp_path):
    train_detector(THINGS, Renderer(glyphs), tmp_path, JudgePlan(total_samples=4, batch_size=4), config=TINY)
    with pytest.raises(GessoError, match="another table of objects"):
        train_detector(things()[:61], Renderer(glyphs), tmp_path, PLAN)
    (tmp_path / "judge.pt").write_bytes(b"nothing")
    with pytest.raises(GessoError, match="not a training state of the judge"):
        train_detector(THINGS, Renderer(glyphs), tmp_path, PLAN)


def test_a_judge_is_made_measured_and_written(glyphs, tmp_path):
    plan = JudgePlan(total_samples=8, batch_size=4)
    assert make_judge(THINGS, Renderer(glyphs), tmp_path, tmp_path / "j.safetensors", plan, stop_after=0) is None
    figures = make_judge(THINGS, Renderer(glyphs), tmp_path, tmp_path / "j.safetensors", plan, per_category=2)
    assert set(figures) == set(CATEGORIES)
    loaded = load_detector(THINGS, tmp_path / "j.safetensors")
    assert loaded.accuracy == {name: one.accuracy for name, one in figures.items()}
