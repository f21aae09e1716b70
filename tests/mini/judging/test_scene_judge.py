"""The judge of scenes: what it is taught is true, and its verdicts follow from what it sees."""

from dataclasses import replace
from random import Random

import numpy as np
import pytest
import torch

import toy_world
from gesso.mini.judging.scene_judge import GRID_SIZE, WHOLE, JudgeConfig, SceneJudge, truth_of
from gesso.mini.judging.scene_scores import CATEGORIES, Found, Score, Seen, prompts_of, score, see, verdict
from gesso.world.compositor import Compositor
from gesso.world.heldout import combinations, held_out
from gesso.world.sampler import FULL_MIX, SceneSampler
from gesso.world.scene import BACKDROPS, BACKGROUNDS, PLAIN, STYLES, Background, Item, Scene, lay_out

THINGS = toy_world.OBJECTS
DEVICE = torch.device("cpu")


def scenes(count: int, seed: int = 0) -> list[Scene]:
    sampler, rng = SceneSampler(THINGS, FULL_MIX), Random(seed)
    return [sampler(rng) for _ in range(count)]


def seen_as(scene: Scene) -> Seen:
    """What a judge without a fault sees."""
    objects = tuple(Found(item.thing, item.tint, item.x, item.y, 1.0) for item in scene.items)
    ground = scene.background
    return Seen(objects, ground.kind, ground.colours[0], ground.time, ground.weather, scene.style)


def test_the_truth_is_that_of_the_scenes() -> None:
    ones = scenes(200)
    truth = truth_of(lay_out(ones), DEVICE)
    assert len(truth.rows) == sum(len(scene.items) for scene in ones)
    for row, scene in enumerate(ones):
        places = truth.rows == row
        assert sorted(truth.things[places].tolist()) == sorted(item.thing for item in scene.items)
        cells = sorted(
            min(GRID_SIZE - 1, int(item.y * GRID_SIZE)) * GRID_SIZE + min(GRID_SIZE - 1, int(item.x * GRID_SIZE))
            for item in scene.items
        )
        assert sorted(truth.cells[places].tolist()) == cells
        assert BACKGROUNDS[int(truth.whole["kind"][row])] == scene.background.kind
        assert STYLES[int(truth.whole["style"][row])] == scene.style
        if scene.background.kind in PLAIN:
            assert list(BACKDROPS)[int(truth.whole["first"][row])] == scene.background.colours[0]
            assert int(truth.whole["time"][row]) == -100
        peaks = truth.middles[row].flatten()[truth.cells[places]]
        assert bool((peaks == 1).all())
    assert set(truth.whole) == set(WHOLE)


@pytest.mark.parametrize("category", CATEGORIES)
def test_a_scene_as_it_is_fulfils_its_own_prompt(category: str) -> None:
    for prompt in prompts_of(category, THINGS, 25, seed=1):  # type: ignore[arg-type]
        clauses = verdict(prompt.scene, seen_as(prompt.scene))
        assert all(clauses.values()), (prompt.text, clauses)


def test_prompts_are_about_combinations_that_training_never_shows() -> None:
    for prompt in prompts_of("colours", THINGS, 20, seed=2):
        assert any(held_out(*one) for one in combinations(prompt.scene, THINGS))
    singles = [prompt.scene.items[0].thing for prompt in prompts_of("single", THINGS, len(THINGS), seed=2)]
    assert sorted(singles) == list(range(len(THINGS)))


def test_each_clause_can_be_broken() -> None:
    cat, dog = Item(0, 0.3, 0.6, 0.4, tint="red"), Item(1, 0.7, 0.6, 0.4, group=1)
    scene = Scene(
        "position",
        (cat, dog),
        Background(kind="beach", time="night", weather="rain"),
        style="neon",
        relation="left",
    )
    right = seen_as(scene)
    first, second = right.objects

    def broken(seen: Seen) -> set[str]:
        return {name for name, holds in verdict(scene, seen).items() if not holds}

    assert broken(right) == set()
    assert broken(replace(right, objects=(first,))) == {"objects", "number", "position"}
    assert broken(replace(right, objects=(first, second, replace(second, x=0.5)))) == {"number"}
    assert broken(replace(right, objects=(replace(first, tint="blue"), second))) == {"tint"}
    assert broken(replace(right, objects=(replace(first, x=0.9), second))) == {"position"}
    assert broken(replace(right, time="day")) == {"time"}
    assert broken(replace(right, weather="clear")) == {"weather"}
    assert broken(replace(right, style="plain")) == {"style"}
    assert broken(replace(right, kind="city")) == set()  # neon does not keep its background
    plain = replace(scene, style="plain")
    assert verdict(plain, replace(seen_as(plain), kind="city"))["background"] is False


def test_scores_count_what_is_right() -> None:
    tally = Score()
    for holds in (True, True, False):
        tally.add({"objects": True, "tint": holds})
    row = tally.row()
    assert row["score"] == 0.667
    assert row["broken"] == {"tint": 1}
    assert row["interval"][0] < 0.667 < row["interval"][1]


def test_an_untrained_judge_looks_at_pictures_of_any_size_and_scores_them() -> None:
    drawings = toy_world.drawings()
    torch.manual_seed(0)
    judge = SceneJudge(
        JudgeConfig(num_things=len(THINGS), channels=(8, 8, 16, 16), num_blocks=(1, 1, 1, 1), head_channels=16)
    ).eval()
    compositor = Compositor(drawings.pixels, "cpu", drawings.present)
    ones = scenes(3)
    assert len(see(judge, compositor(lay_out(ones), 128, 128))) == 3
    prompts = {"two": prompts_of("two", THINGS, 4, seed=3)}

    def draw(texts: object, seeds: object) -> torch.Tensor:
        return compositor(lay_out([prompt.scene for prompt in prompts["two"]]), 256, 256)

    drawn, composed, everything = score(
        judge,
        prompts,  # type: ignore[arg-type]
        draw,
        lambda some: compositor(lay_out(some), 256, 256),
    )
    assert drawn["two"].total == composed["two"].total == len(everything) == 4
    assert drawn["two"].right == composed["two"].right  # the same pictures


def test_the_colours_of_backgrounds_tell_them_apart() -> None:
    assert len(np.unique(np.array(list(BACKDROPS.values())), axis=0)) == len(BACKDROPS)
