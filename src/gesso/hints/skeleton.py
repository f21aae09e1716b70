"""Poses as the coloured skeletons that ControlNets for poses learned.

Colours, order and sizes as in ControlNet 1.1 and the tools that use it: limbs in 0.6 of their colour, joints above them
in full; hands as thin lines around the colour wheel with blue joints; faces as white dots.
"""

import colorsys
import math
from typing import Any

import numpy as np
from PIL import Image

from gesso.hints.opencv import opencv
from gesso.hints.poses import Point, Poses, resized
from gesso.hints.sizing import Size, check_size

USUAL_SIDE = 512  # pixels of the shorter side at which the sizes below hold
STICK = 4  # half the width of a limb, radius of a joint
HAND_LINE, HAND_JOINT, FACE_DOT = 2, 4, 3

# Joints of COCO from 0: nose, neck, right shoulder, elbow, wrist, the left ones, right hip, knee, ankle, the left ones,
# right eye, left eye, right ear, left ear. Limb i and joint i have colour i.
LIMBS = (
    *((1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13)),
    *((1, 0), (0, 14), (14, 16), (0, 15), (15, 17)),
)
COLOURS = (
    *((255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0), (0, 255, 0)),
    *((0, 255, 85), (0, 255, 170), (0, 255, 255), (0, 170, 255), (0, 85, 255), (0, 0, 255), (85, 0, 255)),
    *((170, 0, 255), (255, 0, 255), (255, 0, 170), (255, 0, 85)),
)
# Five fingers of four bones each, all from the wrist.
BONES = tuple((0 if bone == 0 else finger + bone, finger + bone + 1) for finger in range(0, 20, 4) for bone in range(4))


def draw_poses(poses: Poses, size: Size | None = None, *, hands: bool = True, face: bool = True) -> Image.Image:
    """The skeletons on black, RGB of `size` (width, height; None: the canvas's own).

    Lines and dots grow with the shorter side, and are those of other tools where it is 512. Raises GessoError for a
    size that cannot be, and without OpenCV.
    """
    cv2 = opencv("openpose")
    if size is not None:
        poses = resized(poses, size)
    check_size((poses.width, poses.height))
    canvas = np.zeros((poses.height, poses.width, 3), dtype=np.uint8)
    pen = _Pen(cv2, canvas, min(poses.width, poses.height) / USUAL_SIDE)
    for person in poses.people:
        pen.body(person.body)
    for person in poses.people:
        for hand in (person.left_hand, person.right_hand) if hands else ():
            pen.hand(hand)
        if face:
            pen.dots(person.face, FACE_DOT, (255, 255, 255))
    return Image.fromarray(canvas)


class _Pen:
    """Draws on one canvas; `scale` is by how much larger than usual it is."""

    def __init__(self, cv2: Any, canvas: np.ndarray[Any, np.dtype[np.uint8]], scale: float) -> None:
        self.cv2, self.canvas, self.scale = cv2, canvas, scale

    def body(self, points: tuple[Point, ...]) -> None:
        for (start, end), colour in zip(LIMBS, COLOURS, strict=False):
            if points and (first := points[start]) and (second := points[end]):
                self._limb(first, second, tuple(int(0.6 * level) for level in colour))
        for point, colour in zip(points, COLOURS, strict=False):
            self.dots((point,), STICK, colour)

    def hand(self, points: tuple[Point, ...]) -> None:
        for index, (start, end) in enumerate(BONES):
            if points and (first := points[start]) and (second := points[end]):
                colour = [255 * level for level in colorsys.hsv_to_rgb(index / len(BONES), 1, 1)]
                self.cv2.line(self.canvas, _whole(first), _whole(second), colour, thickness=self._wide(HAND_LINE))
        self.dots(points, HAND_JOINT, (0, 0, 255))

    def dots(self, points: tuple[Point, ...], radius: int, colour: tuple[int, ...]) -> None:
        for point in points:
            if point is not None:
                self.cv2.circle(self.canvas, _whole(point), self._wide(radius), colour, thickness=-1)

    def _limb(self, first: tuple[float, float], second: tuple[float, float], colour: tuple[int, ...]) -> None:
        """An ellipse from joint to joint."""
        across, down = first[0] - second[0], first[1] - second[1]
        middle = _whole(((first[0] + second[0]) / 2, (first[1] + second[1]) / 2))
        axes = (int(math.hypot(across, down) / 2), self._wide(STICK))
        outline = self.cv2.ellipse2Poly(middle, axes, int(math.degrees(math.atan2(down, across))), 0, 360, 1)
        self.cv2.fillConvexPoly(self.canvas, outline, colour)

    def _wide(self, pixels: int) -> int:
        return max(1, round(pixels * self.scale))


def _whole(point: tuple[float, float]) -> tuple[int, int]:
    return int(point[0]), int(point[1])
