"""`Scene`: exactly what is in a synthetic picture; it can be drawn at any size, put into words and judged.

x and y are shares of the picture's width and height, x to the right, y down; sizes are shares of its shorter side.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

MAX_ITEMS = 8
NUMBERS = {1: "one", 2: "two", 3: "three", 4: "four", 5: "five", 6: "six"}

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (221, 46, 46),
    "orange": (247, 138, 30),
    "yellow": (250, 214, 40),
    "green": (56, 168, 72),
    "teal": (24, 158, 158),
    "blue": (44, 104, 224),
    "purple": (136, 66, 196),
    "pink": (246, 138, 190),
    "brown": (132, 84, 48),
    "gray": (150, 150, 150),
    "black": (28, 28, 28),
    "white": (246, 246, 246),
}
"""What an object can be tinted with: middle tones of a ramp from dark to light."""

BACKDROPS: dict[str, tuple[int, int, int]] = COLOURS | {"white": (255, 255, 255), "black": (16, 16, 16)}
"""Plain colours that can stand behind the objects; white where a caption says nothing."""

PLAIN = ("plain", "gradient", "stripes", "dots", "checks")
"""Backgrounds of one colour or two."""
PLACES = (
    "sky", "meadow", "sea", "beach", "desert", "snow", "mountains", "forest", "city", "room", "space", "underwater",
)  # fmt: skip
BACKGROUNDS = (*PLAIN, *PLACES)
OUTDOORS = ("sky", "meadow", "sea", "beach", "desert", "snow", "mountains", "forest", "city")
"""Places that have a time of day and weather."""
GROUNDED = ("meadow", "beach", "desert", "snow", "mountains", "forest", "city", "room")
"""Places with a ground that objects stand on, with their shadow."""
TIMES = ("day", "sunset", "night")
WEATHERS = ("clear", "rain", "snowfall")

LOOKS = ("noto", "flat", "3d", "cartoon")
"""Drawings of an object: Noto Color Emoji (where no style is named), Fluent emoji flat and in 3D, Twemoji."""
STYLES = (
    "plain", "flat", "3d", "cartoon", "outline", "pixel", "pencil", "watercolor", "neon", "silhouette", "grayscale",
)  # fmt: skip
"""What a caption can ask for. flat, 3d and cartoon are looks; the rest are drawn from the plain picture."""
RELATIONS = (
    "left", "right", "above", "below", "on", "behind", "front", "beside", "inside", "riding", "wearing",
)  # fmt: skip
"""Of the first object to the second. "below" is also under; "wearing": the second is worn by the first."""

Category = Literal[
    "single", "background", "scene", "colours", "counting", "two", "three", "position", "relation", "attribution",
    "size", "style", "negation",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Item:
    """One object in the picture."""

    thing: int  # row of the object table
    x: float  # of its middle
    y: float
    size: float  # longer side of its drawing
    tint: str | None = None  # one of COLOURS
    flip: bool = False  # left and right changed
    angle: float = 0.0  # degrees, counter-clockwise
    group: int = 0  # which of the things that a caption names: the three cats of "three cats and a dog" share 0


@dataclass(frozen=True, slots=True)
class Background:
    """What stands behind the objects."""

    kind: str = "plain"  # one of BACKGROUNDS
    colours: tuple[str, str] = ("white", "white")  # of BACKDROPS, for PLAIN kinds
    time: str = "day"  # one of TIMES, for OUTDOORS
    weather: str = "clear"  # one of WEATHERS, for OUTDOORS
    horizon: float = 0.6  # share of the height above the ground
    seed: int = 0  # of everything that is drawn at random


@dataclass(frozen=True, slots=True)
class Scene:
    """What is in a picture, and as which kind of task it was drawn."""

    category: Category
    items: tuple[Item, ...]  # as the caption names them: group 0 first
    background: Background = Background()
    style: str = "plain"  # one of STYLES
    relation: str | None = None  # one of RELATIONS, of group 0 to group 1
    size_word: str | None = None  # "small" or "large", where the one object is
    absent: int | None = None  # a thing that the caption says is not there
    order: tuple[int, ...] | None = None  # in which items are drawn, the farthest first; None: as they are listed
    aspect: float = 1.0  # width / height


@dataclass(frozen=True)
class SceneLayout:
    """B scenes as numbers, items in the order in which they are drawn; N = MAX_ITEMS.

    things       int32 [B, N], row of the object table, -1 where there is no further object
    looks        int8 [B], index into LOOKS
    tints        int8 [B, N], index into COLOURS, -1: none
    places       float32 [B, N, 3], x, y, size
    flips        bool [B, N]
    angles       float32 [B, N], degrees
    kinds        int8 [B], index into BACKGROUNDS
    colours      uint8 [B, 2, 3]
    times, weathers   int8 [B], indices into TIMES and WEATHERS
    horizons     float32 [B]
    seeds        int32 [B], non-negative
    styles       int8 [B], index into STYLES
    """

    things: np.ndarray
    looks: np.ndarray
    tints: np.ndarray
    places: np.ndarray
    flips: np.ndarray
    angles: np.ndarray
    kinds: np.ndarray
    colours: np.ndarray
    times: np.ndarray
    weathers: np.ndarray
    horizons: np.ndarray
    seeds: np.ndarray
    styles: np.ndarray

    def __len__(self) -> int:
        return len(self.things)

    def part(self, start: int, stop: int) -> "SceneLayout":
        return SceneLayout(*(getattr(self, name)[start:stop] for name in SceneLayout.__dataclass_fields__))


_TINTS = {name: row for row, name in enumerate(COLOURS)}
_LOOK_OF_STYLE = {name: row for row, name in enumerate(LOOKS)}


def lay_out(scenes: Sequence[Scene]) -> SceneLayout:
    """Scenes of at most MAX_ITEMS objects -> SceneLayout."""
    count = len(scenes)
    things = np.full((count, MAX_ITEMS), -1, dtype=np.int32)
    tints = np.full((count, MAX_ITEMS), -1, dtype=np.int8)
    places = np.zeros((count, MAX_ITEMS, 3), dtype=np.float32)
    flips = np.zeros((count, MAX_ITEMS), dtype=bool)
    angles = np.zeros((count, MAX_ITEMS), dtype=np.float32)
    for row, scene in enumerate(scenes):
        for column, index in enumerate(scene.order or range(len(scene.items))):
            item = scene.items[index]
            things[row, column] = item.thing
            if item.tint is not None:
                tints[row, column] = _TINTS[item.tint]
            places[row, column] = item.x, item.y, item.size
            flips[row, column] = item.flip
            angles[row, column] = item.angle
    grounds = [scene.background for scene in scenes]
    return SceneLayout(
        things=things,
        looks=np.array([_LOOK_OF_STYLE.get(scene.style, 0) for scene in scenes], dtype=np.int8),
        tints=tints,
        places=places,
        flips=flips,
        angles=angles,
        kinds=np.array([BACKGROUNDS.index(one.kind) for one in grounds], dtype=np.int8),
        colours=np.array([[BACKDROPS[name] for name in one.colours] for one in grounds], np.uint8).reshape(-1, 2, 3),
        times=np.array([TIMES.index(one.time) for one in grounds], dtype=np.int8),
        weathers=np.array([WEATHERS.index(one.weather) for one in grounds], dtype=np.int8),
        horizons=np.array([one.horizon for one in grounds], dtype=np.float32),
        seeds=np.array([one.seed for one in grounds], dtype=np.int32),
        styles=np.array([STYLES.index(scene.style) for scene in scenes], dtype=np.int8),
    )
