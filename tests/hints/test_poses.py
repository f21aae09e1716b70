"""Keypoints of OpenPose: read, written, drawn."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gesso.errors import GessoError
from gesso.hints.poses import FROM_BODY_25, Person, Poses, read_poses, resized, write_poses
from gesso.hints.registry import preprocess
from gesso.hints.skeleton import BONES, COLOURS, LIMBS, draw_poses

NOSE, NECK, R_SHOULDER, R_ELBOW, R_WRIST, L_SHOULDER, L_ELBOW, L_WRIST = range(8)


def body(**seen: tuple[float, float]) -> tuple[tuple[float, float] | None, ...]:
    """A body of which only some points were seen: body(p0=(1, 2))."""
    return tuple(seen.get(f"p{index}") for index in range(18))


def frame(numbers: list[Any], **more: Any) -> str:
    return json.dumps({"people": [{"pose_keypoints_2d": numbers}], "canvas_width": 64, "canvas_height": 48, **more})


def flat(points: int) -> list[float]:
    """Point i lies at (i + 10, 2 i)."""
    return [number for index in range(points) for number in (index + 10.0, 2.0 * index, 0.9)]


def test_both_bodies_are_read_in_one_order():
    coco = read_poses(frame(flat(18)))
    assert coco == Poses((Person(body=tuple((i + 10.0, 2.0 * i) for i in range(18))),), 64, 48)
    body_25 = read_poses(frame(flat(25)))
    assert body_25.people[0].body == tuple((i + 10.0, 2.0 * i) for i in FROM_BODY_25)
    assert body_25.people[0].body[8] == (19.0, 18.0)  # the right hip; point 8 of BODY_25 is the middle of the hips
    assert read_poses(f"[{frame(flat(18))}]") == coco


def test_a_point_that_was_not_seen_is_none():
    numbers = flat(18)
    numbers[3:6] = [0, 0, 0]
    assert read_poses(frame(numbers)).people[0].body[:2] == ((10.0, 0.0), None)


def test_shares_of_the_canvas_become_pixels():
    numbers = [number for _ in range(18) for number in (0.5, 0.25, 1)]
    assert set(read_poses(frame(numbers)).people[0].body) == {(32.0, 12.0)}


def test_the_canvas_comes_from_the_file_or_from_the_caller():
    text = json.dumps({"version": 1.3, "people": [{"pose_keypoints_2d": flat(18)}]})
    with pytest.raises(GessoError, match="do not state their canvas"):
        read_poses(text)
    assert (read_poses(text, (100, 90)).width, read_poses(text, (100, 90)).height) == (100, 90)
    assert read_poses(frame(flat(18)), (100, 90)).width == 64


points = st.one_of(st.none(), st.tuples(st.floats(2.5, 600), st.floats(0, 400)))


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.builds(
            Person,
            body=st.one_of(st.just(()), st.tuples(*[points] * 18)),
            left_hand=st.one_of(st.just(()), st.tuples(*[points] * 21)),
            face=st.one_of(st.just(()), st.tuples(*[points] * 68)),
        ),
        max_size=3,
    )
)
def test_what_is_written_is_read(people: list[Person]):
    poses = Poses(tuple(people), 640, 480)
    assert read_poses(write_poses(poses)) == poses


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "0 frames, expected one"),
        ("3", "a JSON int, expected an object"),
        ("{}", "do not state their canvas"),
        ('{"canvas_width": 4, "canvas_height": 4}', "the list 'people' is missing"),
        ('{"canvas_width": 1e9, "canvas_height": 4, "people": []}', "canvas_width is"),
        ('{"canvas_width": 0, "canvas_height": 4, "people": []}', "canvas_width is"),
        ('{"canvas_width": true, "canvas_height": 4, "people": []}', "canvas_width is"),
        (frame([1.0] * 45), "45 numbers, expected 54 or 75"),
        (frame([1.0, 2.0, float("nan")] * 18), "expected a list of numbers"),
        (frame([1.0, 2.0, float("inf")] * 18), "expected a list of numbers"),
        (frame([10**400, 2, 1] * 18), "expected a list of numbers"),
        (frame([9e5, 2, 1] * 18), "far outside their canvas"),
        (frame(["1", 2, 1] * 18), "expected a list of numbers"),
        (frame([], people=[{"pose_keypoints_2d": 3}]), "expected a list of numbers"),
        (frame([], people=[{"hand_left_keypoints_2d": [1, 2, 3]}]), "3 numbers, expected 63"),
        (frame([], people=[{}] * 101), "101 people, at most 100"),
    ],
)
def test_what_is_no_pose_is_told(text: str, said: str):
    with pytest.raises(GessoError, match=said):
        read_poses(text)


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
numbers = st.sampled_from([54, 75, 63, 204, 210, 5]).flatmap(
    lambda count: st.lists(st.floats(-1e7, 1e7) | st.integers(), min_size=count, max_size=count)
)
keys = ["pose_keypoints_2d", "hand_left_keypoints_2d", "hand_right_keypoints_2d", "face_keypoints_2d"]
people = st.lists(st.dictionaries(st.sampled_from(keys), numbers | json_values, max_size=3), max_size=2)


@settings(max_examples=150, deadline=None)
@given(
    st.one_of(
        st.text(max_size=20),
        json_values.map(json.dumps),
        st.fixed_dictionaries(
            {"people": people | json_values},
            optional={"canvas_width": st.integers(-1, 10**6) | json_values, "canvas_height": st.integers(-1, 900)},
        ).map(json.dumps),
    )
)
def test_whatever_is_read_is_drawn_or_told(text: str):
    try:
        poses = read_poses(text, (64, 48))
    except GessoError:
        return
    assert draw_poses(poses, (64, 48)).size == (64, 48)


def test_a_limb_has_its_colour_in_six_tenths_and_joints_lie_above_it():
    poses = Poses((Person(body=body(p2=(100, 256), p3=(400, 256))),), 512, 512)
    canvas = np.array(draw_poses(poses))
    limb = LIMBS.index((R_SHOULDER, R_ELBOW))
    assert canvas[256, 250].tolist() == [int(0.6 * level) for level in COLOURS[limb]]
    assert canvas[256, 100].tolist() == list(COLOURS[R_SHOULDER])
    assert canvas[256, 400].tolist() == list(COLOURS[R_ELBOW])
    column = np.flatnonzero(canvas[:, 250].any(axis=1))
    assert (column.min(), column.max()) == (252, 260)  # 4 pixels to either side
    assert not canvas[:240].any() and not canvas[272:].any()


@pytest.mark.parametrize("end", [(300.0, 300.0), (100.0, 400.0), (256.0, 100.0), (90.0, 30.0)])
def test_a_limb_leads_from_joint_to_joint(end: tuple[float, float]):
    start = (256.0, 256.0)
    canvas = np.array(draw_poses(Poses((Person(body=body(p1=start, p8=end)),), 512, 512)))
    for share in np.linspace(0.05, 0.95, 10):
        x, y = (round(a + (b - a) * share) for a, b in zip(start, end, strict=True))
        assert canvas[y, x].any()


def test_limbs_are_those_of_the_published_networks():
    """The usual list, counted from 1, of which the last two are not drawn."""
    usual = [
        2,
        3,
        2,
        6,
        3,
        4,
        4,
        5,
        6,
        7,
        7,
        8,
        2,
        9,
        9,
        10,
        10,
        11,
        2,
        12,
        12,
        13,
        13,
        14,
        2,
        1,
        1,
        15,
        15,
        17,
        1,
        16,
        16,
        18,
    ]
    assert [joint + 1 for limb in LIMBS for joint in limb] == usual
    assert len(COLOURS) == len(set(COLOURS)) == 18
    assert len(BONES) == 20 and {end for _, end in BONES} == set(range(1, 21))
    assert [start for start, _ in BONES[::4]] == [0] * 5


def test_hands_and_faces():
    hand = tuple((200.0 + 10 * (index % 4), 100.0 + 20 * (index // 4)) for index in range(21))
    poses = Poses((Person(left_hand=hand, face=((50.0, 60.0),) + (None,) * 69),), 512, 512)
    canvas = np.array(draw_poses(poses))
    assert canvas[60, 50].tolist() == [255, 255, 255]
    assert canvas[100, 200].tolist() == [0, 0, 255]
    assert not np.array(draw_poses(poses, hands=False, face=False)).any()


def test_a_skeleton_grows_with_its_canvas():
    poses = Poses((Person(body=body(p2=(100, 256), p3=(400, 256))),), 512, 512)
    large = draw_poses(poses, (1024, 1024))
    assert large.size == (1024, 1024)
    smaller = np.array(large.resize((512, 512), Image.Resampling.BOX), dtype=int)
    apart = np.abs(smaller - np.array(draw_poses(poses), dtype=int)).max(axis=2) > 64
    assert apart.mean() < 0.003  # the rims
    assert np.array(draw_poses(poses, (64, 64))).any()
    assert resized(poses, (64, 32)).people[0].body[2] == (12.5, 16.0)
    with pytest.raises(GessoError, match="sides are 1 to"):
        draw_poses(Poses((), 60_000, 60_000))


def test_points_off_the_canvas_are_no_trouble():
    poses = Poses((Person(body=tuple((-5000.0 + 700 * i, 5000.0 - 600 * i) for i in range(18))),), 512, 512)
    assert draw_poses(poses, (8192, 64)).size == (8192, 64)


def test_a_picture_is_no_pose():
    with pytest.raises(GessoError, match="drawn from keypoints"):
        preprocess("dw_openpose_full", Image.new("RGB", (8, 8)))
