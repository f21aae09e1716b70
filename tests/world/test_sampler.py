"""Layouts obey their rules in every picture, and what is held out is never shown."""

import pickle
from collections import Counter
from random import Random
from typing import get_args

import numpy as np
import pytest

from gesso.world.heldout import combinations, held_out
from gesso.world.objects import Thing, things
from gesso.world.sampler import (
    BROAD_MIX,
    FULL_MIX,
    HEADED,
    LAST_MIX,
    MAX_ANGLE,
    PART_OF_PLACE,
    SMALLEST,
    WITH_GROUND,
    WITHOUT_COLOUR,
    SceneSampler,
    Shape,
    shapes_of,
)
from gesso.world.scene import (
    BACKGROUNDS,
    LOOKS,
    MAX_ITEMS,
    OUTDOORS,
    PLACES,
    RELATIONS,
    STYLES,
    Category,
    Scene,
    lay_out,
)

CATEGORIES: tuple[Category, ...] = get_args(Category)
OBJECTS = things()
CLOSE = {"on", "behind", "front", "inside", "riding", "wearing"}  # relations in which one object covers another


def draw(count: int, category: Category | None = None, seed: int = 0, aspect: float | None = None) -> list[Scene]:
    mix = dict.fromkeys(CATEGORIES, 1.0) if category is None else {category: 1.0}
    sampler, rng = SceneSampler(OBJECTS, mix), Random(seed)
    return [sampler(rng, aspect) for _ in range(count)]


def extents(scene: Scene) -> tuple[float, float]:
    """Width and height of a picture in shorter sides."""
    return max(scene.aspect, 1.0), max(1 / scene.aspect, 1.0)


def boxes(scene: Scene) -> list[tuple[float, float, float, float]]:
    """left, top, right, bottom of each object in shorter sides"""
    width, height = extents(scene)
    found = []
    for item in scene.items:
        x, y, half = item.x * width, item.y * height, item.size / 2
        found.append((x - half, y - half, x + half, y + half))
    return found


def overlap(one, other) -> float:
    """The share of the smaller box that both have."""
    across = min(one[2], other[2]) - max(one[0], other[0])
    down = min(one[3], other[3]) - max(one[1], other[1])
    area = max(across, 0) * max(down, 0)
    return area / min((box[2] - box[0]) ** 2 for box in (one, other))


@pytest.fixture(scope="module", params=[1.0, 0.5, 1.5, 2.0])
def scenes(request):
    return draw(2000, aspect=request.param)


def test_objects_are_large_enough_and_inside_the_picture(scenes):
    for scene in scenes:
        width, height = extents(scene)
        assert len(scene.items) <= MAX_ITEMS
        for item, (left, top, right, bottom) in zip(scene.items, boxes(scene), strict=True):
            assert SMALLEST - 1e-9 <= item.size <= 1
            assert min(left, top, width - right, height - bottom) > -0.05 * item.size, scene


def test_objects_hide_each_other_only_where_a_relation_asks_for_it(scenes):
    for scene in scenes:
        found = boxes(scene)
        for index, one in enumerate(found):
            for other in found[:index]:
                if scene.relation not in CLOSE:
                    assert overlap(one, other) < 0.105, scene
        if scene.relation in ("behind", "front"):
            hidden = 0 if scene.relation == "behind" else 1
            assert scene.order == (hidden, 1 - hidden)
            area = overlap(*found) * min(item.size for item in scene.items) ** 2
            assert 0.2 < area / scene.items[hidden].size ** 2 < 0.45


def test_positions_are_as_they_are_called(scenes):
    signs = {"left": (1, 0), "right": (-1, 0), "above": (0, 1), "below": (0, -1)}
    seen = Counter()
    for scene in scenes:
        if scene.category == "position":
            first, second = scene.items
            along_x, along_y = signs[scene.relation]
            seen[scene.relation] += 1
            for width, height in (extents(scene), (1, 1)):  # as lengths and as shares of the sides
                dx, dy = (second.x - first.x) * width, (second.y - first.y) * height
                assert dx * along_x + dy * along_y > 1.5 * abs(dx * along_y + dy * along_x), scene
    assert len(seen) == 4 and min(seen.values()) > 15


def test_objects_stand_on_the_ground_unless_they_fly(scenes):
    for scene in scenes:
        if scene.background.kind not in WITH_GROUND or not scene.items:
            continue
        horizon = scene.background.horizon * extents(scene)[1]
        feet = [box[3] for box in boxes(scene)]
        assert 0.45 <= scene.background.horizon <= 0.75
        if scene.relation in CLOSE:
            assert max(feet) > horizon
            continue
        for item, foot in zip(scene.items, feet, strict=True):
            assert foot > horizon or "flies" in OBJECTS[item.thing].tags or scene.relation == "beside", scene


def test_what_stands_nearer_is_drawn_later(scenes):
    for scene in scenes:
        if scene.background.kind in WITH_GROUND and scene.relation is None and len(scene.items) > 1:
            assert scene.order is not None
            feet = [boxes(scene)[index][3] for index in scene.order]
            assert feet == sorted(feet)
        assert scene.order is None or sorted(scene.order) == list(range(len(scene.items)))


def test_only_what_may_be_turned_or_mirrored_is(scenes):
    for scene in scenes:
        free = scene.background.kind not in WITH_GROUND
        for item in scene.items:
            assert abs(item.angle) <= MAX_ANGLE
            assert item.angle == 0 or (free and scene.relation not in CLOSE)
            if "symbol" in OBJECTS[item.thing].tags:
                assert item.angle == 0 and not item.flip
    assert 0.3 < np.mean([item.flip for scene in scenes for item in scene.items]) < 0.5


def test_groups_are_one_kind_each_and_in_order(scenes):
    for scene in scenes:
        groups = [item.group for item in scene.items]
        assert groups == sorted(groups) and set(groups) == set(range(len(set(groups))))
        kinds = {(item.group, item.thing, item.tint) for item in scene.items}
        assert len(kinds) == len(set(groups))


def test_each_category_is_what_it_says():
    for category in CATEGORIES:
        for scene in draw(300, category, seed=3):
            count, groups = len(scene.items), {item.group for item in scene.items}
            tints = [item.tint for item in scene.items]
            assert scene.category == category
            assert (scene.style != "plain") >= (category == "style")
            assert (scene.absent is not None) == (category == "negation")
            assert (scene.relation is not None) == (category in ("position", "relation"))
            if category == "single":
                assert count == 1 and scene.background.kind == "plain" and tints == [None]
            if category == "background":
                assert count == 1 and scene.background.kind not in PLACES and scene.background.colours[0] is not None
                assert scene.background.kind != "plain" or scene.background.colours[0] != "white"
            if category == "scene":
                assert scene.background.kind in PLACES and count <= 1
            if category == "colours":
                assert count == 1 and None not in tints
            if category == "attribution":
                assert count == 2 and None not in tints and tints[0] != tints[1]
            if category == "counting":
                assert 2 <= count <= 6 and groups == {0}
            if category in ("two", "three"):
                assert len(groups) == (2 if category == "two" else 3)
            if category == "size":
                small = scene.size_word == "small"
                assert scene.items[0].size < 0.3 if small else scene.items[0].size > 0.8


def test_tints_can_be_seen():
    for scene in draw(4000, seed=4):
        for item in scene.items:
            if item.tint is not None:
                assert scene.style not in WITHOUT_COLOUR
                assert scene.background.kind in PLACES or item.tint not in scene.background.colours


def test_time_and_weather_are_those_of_places_out_of_doors():
    for scene in draw(2000, seed=5):
        if scene.background.kind not in OUTDOORS:
            assert (scene.background.time, scene.background.weather) == ("day", "clear")


def test_relations_are_of_things_that_can():
    needed = {"riding": ({"living"}, {"mount", "vehicle"}), "wearing": ({"living", "face"}, {"hat", "glasses"})}
    seen = Counter()
    for scene in draw(1500, "relation", seed=6):
        first, second = (OBJECTS[item.thing].tags for item in scene.items)
        seen[scene.relation] += 1
        if scene.relation in needed:
            mine, others = needed[scene.relation]
            assert mine & first and second & others
        assert scene.relation != "inside" or "holds" in second
    assert set(seen) == set(RELATIONS[4:])


def test_what_is_absent_is_neither_there_nor_part_of_the_place():
    for scene in draw(1000, "negation", seed=7):
        assert scene.absent not in {item.thing for item in scene.items}
        assert OBJECTS[scene.absent].name not in PART_OF_PLACE


def test_named_objects_are_in_the_table():
    assert {thing.name for thing in OBJECTS} >= PART_OF_PLACE | HEADED


def test_places_may_be_empty():
    empty = [scene for scene in draw(1000, "scene", seed=8) if not scene.items]
    assert 40 < len(empty) < 130
    assert (lay_out(empty).things == -1).all()


def test_held_out_combinations_never_come_up():
    seen = {combination for scene in draw(6000, seed=9) for combination in combinations(scene, OBJECTS)}
    assert len(seen) > 5000
    assert not [combination for combination in seen if held_out(*combination)]
    sampler, rng = SceneSampler(OBJECTS, {"attribution": 1.0}, "any"), Random(0)
    every = [one for _ in range(1000) for one in combinations(sampler(rng), OBJECTS)]
    assert 0.06 < np.mean([held_out(*one) for one in every]) < 0.14


def test_the_order_of_a_combination_does_not_matter():
    pairs = [("cat", "dog"), ("car", "red"), ("owl", 3)]
    assert all(held_out(*pair) == held_out(*reversed(pair)) for pair in pairs)


def test_scenes_follow_from_the_numbers_alone():
    assert draw(300, seed=1) == draw(300, seed=1) != draw(300, seed=2)
    sampler = SceneSampler(OBJECTS, FULL_MIX)
    first = [sampler(Random(seed)) for seed in range(50)]
    again = pickle.loads(pickle.dumps(sampler))  # as a worker process gets it, whatever was drawn before
    assert [again(Random(seed)) for seed in reversed(range(50))] == first[::-1]


def test_aspects_are_drawn_or_asked_for():
    sampler, rng = SceneSampler(OBJECTS, FULL_MIX, aspects=(0.75, 1.5)), Random(0)
    assert {sampler(rng).aspect for _ in range(50)} == {0.75, 1.5}
    assert sampler(rng, aspect=2.0).aspect == 2.0


@pytest.mark.parametrize("mix", [BROAD_MIX, FULL_MIX, LAST_MIX])
def test_mixes_are_whole(mix):
    assert sum(mix.values()) == pytest.approx(1) and set(mix) == set(CATEGORIES)
    sampler, rng = SceneSampler(OBJECTS, mix), Random(0)
    seen = Counter(sampler(rng).category for _ in range(3000))
    assert all(seen[category] == pytest.approx(3000 * share, abs=75) for category, share in mix.items())


def test_styles_and_places_all_come_up():
    scenes = draw(4000, seed=10)
    assert {scene.style for scene in scenes} == set(STYLES)
    assert {scene.background.kind for scene in scenes} == set(BACKGROUNDS)


def test_wrong_arguments_are_told():
    for mix in ({}, {"single": -1.0}, {"single": 0.0}):
        with pytest.raises(ValueError, match="shares of the categories"):
            SceneSampler(OBJECTS, mix)
    with pytest.raises(ValueError, match="a table of 3 objects"):
        SceneSampler(OBJECTS[:3], FULL_MIX)
    with pytest.raises(ValueError, match="aspects"):
        SceneSampler(OBJECTS, FULL_MIX, aspects=(9.0,))
    with pytest.raises(ValueError, match="shapes of"):
        SceneSampler(OBJECTS, FULL_MIX, shapes=((Shape(),) * 3,) * len(LOOKS))


def test_shapes_are_those_of_the_ink():
    """A table: a board on the upper edge of the ink over two legs; and a face with ears beside its top."""
    pixels = np.zeros((1, 2, 64, 64, 4), dtype=np.uint8)
    pixels[0, 0, 16:24, :, 3] = pixels[0, 0, 16:48, 4:8, 3] = pixels[0, 0, 16:48, 56:60, 3] = 255
    pixels[0, 1, 12:64, 8:56, 3] = pixels[0, 1, :12, 8:16, 3] = pixels[0, 1, :12, 48:56, 3] = 255
    objects = [Thing("", "table", "tables"), Thing("", "face", "faces", tags=frozenset({"face"}))]
    ((table, face),) = shapes_of(pixels, np.ones((1, 2), dtype=bool), objects)
    assert (table.width, table.height, table.seat) == (1, 0.5, -0.25)
    assert face.head == (0, 12 / 64 - 0.5) and face.head_width == 0.75
    assert shapes_of(pixels, np.array([[True, False]]), objects)[0][1] is None


def test_drawings_that_are_no_squares_use_the_room_they_have():
    """Long and flat ones come closer to the border, and stand with their ink on the ground."""
    rng = np.random.default_rng(0)
    flat = [Shape(1.0, float(side), -side / 2) if side < 1 else Shape() for side in rng.uniform(0.3, 1.5, len(OBJECTS))]
    sampler, random = SceneSampler(OBJECTS, FULL_MIX, shapes=(tuple(flat),) * len(LOOKS)), Random(0)
    for scene in (sampler(random, aspect=1.5) for _ in range(2000)):
        for item in scene.items:
            height = item.size * flat[item.thing].height
            assert -0.01 < item.y - height / 2 < item.y + height / 2 < 1.01
            assert item.size / 2 - 0.01 < item.x * 1.5 < 1.51 - item.size / 2
            if scene.background.kind in WITH_GROUND and scene.relation in (None, "left", "right"):
                on_ground = item.y + height / 2 > scene.background.horizon
                assert on_ground or "flies" in OBJECTS[item.thing].tags


def test_a_look_is_asked_for_only_where_there_is_one():
    lacking = [None if row % 2 else Shape() for row in range(len(OBJECTS))]
    shapes = tuple(tuple(lacking) if look == "3d" else (Shape(),) * len(OBJECTS) for look in LOOKS)
    sampler, rng = SceneSampler(OBJECTS, {"style": 1.0}, shapes=shapes), Random(0)
    found = [item.thing for scene in (sampler(rng) for _ in range(500)) if scene.style == "3d" for item in scene.items]
    assert len(found) > 20 and not any(row % 2 for row in found)
