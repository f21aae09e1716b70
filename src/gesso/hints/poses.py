"""Poses as OpenPose writes them: JSON of people, each with keypoints of body, hands and face.

A point is x, y and a confidence; 0: it was not detected. Bodies of 18 points (COCO) and of 25 (BODY_25) are
read; inside and on writing there are 18, since the ControlNets know no others. Coordinates are pixels of a canvas, or,
where all are about 0 to 1, shares of it. The canvas is not part of OpenPose's own files; `canvas_width` and
`canvas_height` are what the editors of other tools write.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gesso.errors import GessoError
from gesso.hints.sizing import Size, check_size

MAX_CHARACTERS = 4_000_000
MAX_PEOPLE = 100
MAX_CANVAS = 65_536
MAX_NUMBER = 1e6
FARTHEST = 10  # canvases from the corner

BODY = 18
HAND = 21
FACES = (68, 70)  # 70 has the pupils
SHARES = 2.0  # no coordinate above: shares of the canvas; they may lie a little outside of it

# Points of BODY_25 in the order of COCO: all but the middle of the hips and the feet.
FROM_BODY_25 = (0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18)

Point = tuple[float, float] | None  # x, y in pixels of the canvas; None: not seen


@dataclass(frozen=True)
class Person:
    """The points of one person; empty where a part was not looked for."""

    body: tuple[Point, ...] = ()
    left_hand: tuple[Point, ...] = ()
    right_hand: tuple[Point, ...] = ()
    face: tuple[Point, ...] = ()


# Part of a person -> its key in the file.
KEYS = {
    "body": "pose_keypoints_2d",
    "left_hand": "hand_left_keypoints_2d",
    "right_hand": "hand_right_keypoints_2d",
    "face": "face_keypoints_2d",
}
LENGTHS = {"body": (BODY, 25), "left_hand": (HAND,), "right_hand": (HAND,), "face": FACES}


@dataclass(frozen=True)
class Poses:
    """People on a canvas of so many pixels."""

    people: tuple[Person, ...]
    width: int
    height: int


def read_poses(text: str, size: Size | None = None) -> Poses:
    """Reads OpenPose JSON; also a list with one frame in it, as ComfyUI's nodes write it.

    size  the canvas, width and height, if the file does not state it
    Raises GessoError for anything else, and if the canvas is not known.
    """
    frame = _frame(text)
    width, height = (_canvas(frame, key) for key in ("canvas_width", "canvas_height"))
    if width is None or height is None:
        if size is None:
            raise GessoError(
                "the keypoints do not state their canvas (canvas_width, canvas_height); give its size",
                code="invalid_value",
            )
        check_size(size)
        width, height = size
    people = frame.get("people")
    if not isinstance(people, list) or not all(isinstance(person, dict) for person in people):
        raise GessoError("not OpenPose keypoints: the list 'people' is missing", code="wrong_kind")
    if len(people) > MAX_PEOPLE:
        raise GessoError(f"keypoints of {len(people)} people, at most {MAX_PEOPLE} are drawn", code="too_large")
    parts = [{part: _points(person, part) for part in KEYS} for person in people]
    all_points = [point for person in parts for points in person.values() for point in points if point is not None]
    scale = (1.0, 1.0)
    if all_points and max(max(map(abs, point)) for point in all_points) <= SHARES:
        scale = (float(width), float(height))
        parts = [{part: _scaled(points, scale) for part, points in person.items()} for person in parts]
    if any(abs(x * scale[0]) > FARTHEST * width or abs(y * scale[1]) > FARTHEST * height for x, y in all_points):
        raise GessoError(
            f"keypoints far outside their canvas of {width}x{height}; is that its size?", code="unsuitable_hint"
        )
    return Poses(tuple(Person(**person) for person in parts), width, height)


def write_poses(poses: Poses) -> str:
    """JSON that OpenPose's readers and the editors of other tools take; `read_poses` gives the same poses."""
    people = [
        {"person_id": [-1], **{key: _flat(getattr(person, part)) for part, key in KEYS.items()}}
        for person in poses.people
    ]
    return json.dumps(
        {"version": 1.3, "people": people, "canvas_width": poses.width, "canvas_height": poses.height}, allow_nan=False
    )


def resized(poses: Poses, size: Size) -> Poses:
    """The same poses on a canvas of another size. Raises GessoError for one that cannot be."""
    check_size(size)
    scale = (size[0] / poses.width, size[1] / poses.height)
    people = tuple(Person(**{part: _scaled(getattr(person, part), scale) for part in KEYS}) for person in poses.people)
    return Poses(people, *size)


def _frame(text: str) -> Mapping[str, Any]:
    if len(text) > MAX_CHARACTERS:
        raise GessoError(f"keypoints of {len(text)} characters, at most {MAX_CHARACTERS} are read", code="too_large")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise GessoError(f"not JSON: {str(error)[:100] or 'nested too deeply'}", code="damaged") from error
    if isinstance(value, list):
        if len(value) != 1:
            raise GessoError(f"keypoints of {len(value)} frames, expected one; keep one of them", code="invalid_value")
        value = value[0]
    if not isinstance(value, dict):
        raise GessoError(
            f"not OpenPose keypoints: a JSON {type(value).__name__}, expected an object", code="wrong_kind"
        )
    return value


def _canvas(frame: Mapping[str, Any], key: str) -> int | None:
    side = frame.get(key)
    if side is None:
        return None
    if isinstance(side, bool) or not isinstance(side, int) or not 1 <= side <= MAX_CANVAS:
        raise GessoError(f"{key} is {str(side)[:40]!r}, expected 1 to {MAX_CANVAS}", code="invalid_value")
    return side


def _points(person: Mapping[str, Any], part: str) -> tuple[Point, ...]:
    """The points of one part of a person, in the order of COCO."""
    key = KEYS[part]
    numbers = person.get(key) or []
    if not isinstance(numbers, list) or not all(_is_number(number) for number in numbers):
        raise GessoError(f"{key}: expected a list of numbers up to {MAX_NUMBER:g}", code="invalid_value")
    expected = [3 * length for length in LENGTHS[part]]
    if numbers and len(numbers) not in expected:
        raise GessoError(
            f"{key}: {len(numbers)} numbers, expected {' or '.join(map(str, expected))} (x, y, confidence)",
            code="invalid_value",
        )
    points: list[Point] = [
        (float(x), float(y)) if sure > 0 else None
        for x, y, sure in zip(numbers[::3], numbers[1::3], numbers[2::3], strict=True)
    ]
    return tuple(points[index] for index in FROM_BODY_25) if part == "body" and len(points) == 25 else tuple(points)


def _is_number(number: object) -> bool:
    return isinstance(number, int | float) and not isinstance(number, bool) and abs(number) <= MAX_NUMBER  # not NaN


def _scaled(points: Sequence[Point], scale: tuple[float, float]) -> tuple[Point, ...]:
    return tuple(None if point is None else (point[0] * scale[0], point[1] * scale[1]) for point in points)


def _flat(points: Sequence[Point]) -> list[float]:
    return [number for point in points for number in ((0.0, 0.0, 0.0) if point is None else (*point, 1.0))]
