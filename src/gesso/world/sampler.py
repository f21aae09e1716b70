"""`SceneSampler` draws scenes: what is in a picture and where, by category, never what is held out.

Worker processes draw thousands of scenes a second, so randomness comes from Python's random.Random, whose single draws
are twenty times faster than numpy's, and lists are made once.

Lengths inside this file are in units of the picture's shorter side: W and H are the picture's width and height, one of
them 1. A box is (x, y, half its width, half its height).
"""

from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from random import Random
from typing import Literal, TypeVar

import numpy as np

from gesso.world.heldout import ground_word, held_out
from gesso.world.objects import Thing
from gesso.world.scene import (
    BACKDROPS,
    COLOURS,
    GROUNDED,
    LOOKS,
    MAX_ITEMS,
    OUTDOORS,
    PLACES,
    RELATIONS,
    STYLES,
    Background,
    Category,
    Item,
    Scene,
)

T = TypeVar("T")
Mix = dict[Category, float]

# Objects and places first; then everything; at last, while the learning rate falls, what is hard: how objects stand
# together and which of them has which colour, with enough of the rest that its details go on getting better.
BROAD_MIX: Mix = {
    "single": 0.22,
    "background": 0.10,
    "scene": 0.20,
    "colours": 0.18,
    "counting": 0.06,
    "two": 0.05,
    "three": 0.02,
    "position": 0.03,
    "relation": 0.03,
    "attribution": 0.03,
    "size": 0.02,
    "style": 0.05,
    "negation": 0.01,
}
FULL_MIX: Mix = {
    "single": 0.10,
    "background": 0.07,
    "scene": 0.15,
    "colours": 0.12,
    "counting": 0.10,
    "two": 0.09,
    "three": 0.05,
    "position": 0.08,
    "relation": 0.08,
    "attribution": 0.08,
    "size": 0.02,
    "style": 0.05,
    "negation": 0.01,
}
LAST_MIX: Mix = {
    "single": 0.12,
    "background": 0.05,
    "scene": 0.15,
    "colours": 0.15,
    "counting": 0.10,
    "two": 0.08,
    "three": 0.05,
    "position": 0.08,
    "relation": 0.08,
    "attribution": 0.08,
    "size": 0.01,
    "style": 0.04,
    "negation": 0.01,
}

SMALLEST = 0.17  # size of an object; below it its drawing is no longer told from others
MARGIN = 0.01
MOST_OVERLAP = 0.10  # of the smaller box, where no relation asks for more
SHARE_STYLED = 0.10
SHARE_EMPTY = 0.08  # of the category "scene": a place with nothing in it
MAX_ANGLE = 12.0

WITHOUT_COLOUR = frozenset({"outline", "pencil", "silhouette", "grayscale"})
"""Styles that show no tint."""
ON_WHITE = frozenset({"outline", "pencil", "grayscale", "neon"})
"""Styles that show no colour of a plain background."""
LIGHT = ("orange", "yellow", "green", "teal", "pink", "gray")
"""Colours on which a silhouette is seen."""
WEIGHTLESS = frozenset({"sky", "space", "underwater"})
"""Places where objects are anywhere."""
WITH_GROUND = frozenset({*GROUNDED, "sea"})
"""Places where objects stand or float below a horizon."""
# fmt: off
PART_OF_PLACE = frozenset({
    "tree", "palm tree", "leaf", "house", "cloud", "rain cloud", "snow cloud", "thundercloud", "wave", "moon",
    "full moon", "new moon", "star", "glowing star", "shooting star", "sun", "sun face", "snowflake", "water drop",
    "sweat drop", "mountain", "mount fuji", "rainbow", "window", "bubbles", "island", "coral", "seedling", "herb",
    "flower", "cactus", "rock", "comet", "earth", "saturn", "sparkles", "sparkler", "door", "chair", "couch",
    "school", "office building", "pine tree", "christmas tree", "bare tree", "half moon", "full moon face",
    "crescent moon face", "framed picture", "village", "abandoned house", "house with a garden", "hotel", "hospital",
    "bank", "post office", "department store", "convenience store", "factory", "sun behind a cloud",
    "sun behind a rain cloud", "thunderstorm", "highway", "meteor",
})
# fmt: on
"""What a place may show by itself, so that no caption may say that it is not there."""
# fmt: off
HEADED = frozenset({
    "cat", "dog", "mouse", "rabbit", "tiger", "cow", "pig", "monkey", "duck", "ghost", "chick", "badger", "bird",
    "deer", "giraffe", "goat", "gorilla", "horse", "leopard", "llama", "moai", "parrot", "poodle", "rat", "rooster",
    "sauropod", "seal", "skunk", "dinosaur", "crow", "swan", "goose", "snake", "turtle", "flamingo", "zebra",
    "kangaroo", "guide dog", "standing person", "pedestrian", "runner", "blind person", "bigfoot", "beaver", "lizard",
    "sheep", "ram", "donkey",
})
# fmt: on
"""Besides faces, what wears a hat: its head is the highest part of it."""
INVISIBLE_TINTS = {"snow": ("white",), "space": ("black",)}

Box = tuple[float, float, float, float]
Spot = tuple[float, float, float]  # x, y, size


@dataclass(frozen=True, slots=True)
class Shape:
    """What a layout must know of a drawing; lengths are shares of its size, from its middle, x right, y down."""

    width: float = 1.0
    height: float = 1.0
    seat: float = -0.5  # where it is highest near its middle: what stands on it or rides it touches it there
    head: tuple[float, float] = (0.0, -0.45)  # where it is highest: under a hat
    head_width: float = 0.5


FULL = Shape()
Shapes = tuple[tuple[Shape | None, ...], ...]
"""A row a look, in the order of LOOKS, of one shape a thing; None where there is no such drawing."""


def shapes_of(pixels: np.ndarray, present: np.ndarray, things: Sequence[Thing]) -> Shapes:
    """What layouts must know of all drawings, measured on their ink.

    pixels uint8 [L, N, G, G, 4] and present bool [L, N] as in `drawings.Drawings`
    """
    return tuple(
        tuple(
            _shape(drawing[..., 3], thing) if there else None
            for drawing, there, thing in zip(*look, things, strict=True)
        )
        for look in zip(pixels, present, strict=True)
    )


def _shape(alpha: np.ndarray, thing: Thing) -> Shape:
    """alpha uint8 [G, G]"""
    ink = alpha > 100
    side = len(ink)
    rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    height, middle = bottom - top, (left + right) / 2

    def highest(low: float, high: float) -> float:
        """How high the ink reaches between two columns, where it reaches least."""
        part = ink[:, max(left, round(low)) : max(left, round(low)) + max(1, round(high - low))]
        return float(np.median(np.where(part.any(0), part.argmax(0), bottom)))

    reach = 0.15 * (right - left)
    seat = highest(middle - reach, middle + reach)
    if "face" in thing.tags:  # ears stand beside the hat
        head_x, head_y = middle, highest(middle - reach / 2, middle + reach / 2)
        width = ink[round(head_y) : round(head_y + max(1.0, 0.3 * height))].any(0).sum()
    else:  # what is near the highest ink; there may be another ear beside it
        columns = np.flatnonzero(ink[top : top + max(1, round(0.16 * height))].any(0))
        columns = columns[np.abs(columns - np.flatnonzero(ink[top])[0]) <= 0.3 * side]
        head_x, head_y = (columns[0] + columns[-1] + 1) / 2, top + 0.02 * height
        width = min(1.1 * len(columns), 0.45 * side)
    return Shape(
        width=float((right - left) / side),
        height=float(height / side),
        seat=float(seat / side - 0.5),
        head=(float(head_x / side - 0.5), float(head_y / side - 0.5)),
        head_width=float(np.clip(width / side, 0.2, 0.9)),
    )


class SceneSampler:
    """Draws scenes of given categories; a value that worker processes get.

    mix: category -> share. split: "train" never shows a held-out combination; "any" does not look. aspects: width /
    height of the pictures, one drawn for each scene. shapes: of the drawings, by look; a look that lacks an object is
    not asked for. Without them every drawing counts as a full square. Raises ValueError for shares that are none, for a
    table of less than eight objects and for shapes of other objects.
    """

    def __init__(
        self,
        things: Sequence[Thing],
        mix: Mix,
        split: Literal["train", "any"] = "train",
        *,
        aspects: tuple[float, ...] = (1.0,),
        shapes: Shapes | None = None,
    ) -> None:
        if not mix or min(mix.values()) < 0 or sum(mix.values()) <= 0:
            raise ValueError(f"shares of the categories must be positive, found {mix}")
        if len(things) < 8:
            raise ValueError(f"a table of {len(things)} objects, expected 8 or more")
        if not aspects or min(aspects) < 0.25 or max(aspects) > 4:
            raise ValueError(f"aspects {aspects}, expected numbers from 0.25 to 4")
        if shapes is not None and [len(look) for look in shapes] != [len(things)] * len(LOOKS):
            raise ValueError(f"shapes of {[len(look) for look in shapes]}, expected {len(things)} for each of {LOOKS}")
        self.things, self.mix, self.split, self.aspects = tuple(things), dict(mix), split, aspects
        self.shapes: Shapes = shapes or ((Shape(),) * len(things),) * len(LOOKS)
        self._categories = list(mix)
        self._shares = list(accumulate(mix.values()))
        self._rows: dict[tuple[str | None, str | None, str], list[int]] = {}
        self._out: dict[tuple[object, ...], frozenset[int]] = {}
        self._tints: dict[int, list[str]] = {}
        self._symbol = [("symbol" in thing.tags) for thing in things]
        self._flies = [("flies" in thing.tags) for thing in things]
        self._deniable = [row for row, thing in enumerate(things) if thing.name not in PART_OF_PLACE]
        self._relations = self._possible_relations()

    def __call__(self, rng: Random, aspect: float | None = None) -> Scene:
        """One scene; all its randomness comes from rng. aspect: in place of one of `aspects`."""
        if aspect is None:
            aspect = self.aspects[0] if len(self.aspects) == 1 else _pick(rng, self.aspects)
        category = self._categories[bisect(self._shares, rng.random() * self._shares[-1], 0, len(self._shares) - 1)]
        while True:
            scene = self._draw(category, rng, aspect)
            if scene is not None:
                return scene

    # What is in a scene

    def _draw(self, category: Category, rng: Random, aspect: float) -> Scene | None:
        """A scene, or None where what was drawn does not go together."""
        style = self._style(category, rng)
        relation = None
        if category == "position":
            relation = _pick(rng, ("left", "right", "above", "below"))
        elif category == "relation":
            relation = _pick(rng, self._relations)
            if style == "silhouette" and relation in ("behind", "front", "wearing"):
                return None  # black on black
        ground = self._background(category, style, rng)
        word = ground_word(ground)
        counts = self._counts(category, rng)
        if counts == ():
            return Scene(category, (), ground, style, aspect=aspect)
        things = self._things(counts, category, relation, ground, word, style, rng)
        if things is None:
            return None
        tints = self._tinted(things, category, ground, style, rng)
        if tints is None:
            return None
        absent = None
        if category == "negation":
            while absent is None or absent in things:
                absent = _pick(rng, self._deniable)
        size_word = None
        if category == "size" or (
            len(things) == 1 and counts == (1,) and category in ("scene", "colours", "style") and rng.random() < 0.06
        ):
            size_word = "small" if rng.random() < 0.5 else "large"
        width, height = (aspect, 1.0) if aspect >= 1 else (1.0, 1.0 / aspect)
        rows = [thing for thing, count in zip(things, counts, strict=True) for _ in range(count)]
        groups = [group for group, count in enumerate(counts) for _ in range(count)]
        flips = [not self._symbol[row] and rng.random() < 0.5 for row in rows]
        shapes = self.shapes[LOOKS.index(style) if style in LOOKS else 0]
        page = _Page(rng, width, height, ground, [shapes[row] or FULL for row in rows], flips)
        if relation is None:
            spots = page.group([self._flies[row] for row in rows], groups, size_word)
        else:
            spots = page.related(relation, [self.things[row] for row in rows])
        if spots is None:
            return None
        free = ground.kind not in WITH_GROUND and relation in (None, "left", "right", "above", "below")
        items = []
        for row, group, flip, (x, y, size) in zip(rows, groups, flips, spots, strict=True):
            angle = 0.0
            if free and not self._symbol[row] and rng.random() < 0.3:
                angle = MAX_ANGLE * (2 * rng.random() - 1)
            items.append(Item(row, x / width, y / height, size, tints[group], flip, angle, group))
        return Scene(category, tuple(items), ground, style, relation, size_word, absent, page.order, aspect)

    def _style(self, category: Category, rng: Random) -> str:
        if category != "style" and rng.random() >= SHARE_STYLED:
            return "plain"
        while True:
            style = STYLES[1 + int(rng.random() * (len(STYLES) - 1))]
            if category in ("colours", "attribution") and style in WITHOUT_COLOUR:
                continue
            if category == "background" and (style in ON_WHITE or style == "silhouette"):
                continue
            return style

    def _background(self, category: Category, style: str, rng: Random) -> Background:
        share = rng.random()
        seed = rng.getrandbits(31)
        horizon = 0.45 + 0.3 * rng.random()
        if category == "single":
            return Background(seed=seed)
        if category == "scene" or (category != "background" and share < 0.45):
            kind = PLACES[int(rng.random() * len(PLACES))]
            time, weather = "day", "clear"
            if kind in OUTDOORS and style != "outline":  # lines show neither
                draw = rng.random()
                time = "day" if draw < 0.5 else "sunset" if draw < 0.75 else "night"
                draw = rng.random()
                weather = "clear" if draw < 0.76 else "rain" if draw < 0.88 else "snowfall"
            return Background(kind, time=time, weather=weather, horizon=horizon, seed=seed)
        if category == "background":
            kind = "plain" if share < 0.55 else "gradient" if share < 0.75 else _pick(rng, PATTERNS)
        elif share < 0.65:
            kind = "plain"
        elif share < 0.71:
            kind = "gradient" if share < 0.68 else _pick(rng, PATTERNS)
        else:
            return Background(seed=seed)
        if style in ON_WHITE or (style == "silhouette" and kind != "plain"):
            return Background(seed=seed)
        if kind == "plain":
            colour = _pick(rng, LIGHT if style == "silhouette" else NOT_WHITE)
            return Background(kind, (colour, colour), seed=seed)
        first = _pick(rng, BACKDROP_NAMES)
        second = first
        while second == first:
            second = _pick(rng, BACKDROP_NAMES)
        return Background(kind, (first, second), seed=seed)

    def _counts(self, category: Category, rng: Random) -> tuple[int, ...]:
        """How many of each group."""
        draw = rng.random()
        if category == "counting":
            return (2 + int(draw * 5),)
        if category == "two":
            if draw < 0.65:
                return (1, 1)
            return _pick(rng, ((2, 1), (1, 2), (2, 2), (3, 1), (1, 3), (3, 2), (2, 3), (4, 1), (1, 4), (3, 3), (4, 2)))
        if category == "three":
            return (1, 1, 1) if draw < 0.75 else _pick(rng, ((2, 1, 1), (1, 2, 1), (1, 1, 2), (2, 2, 1), (3, 1, 1)))
        if category in ("position", "relation", "attribution"):
            return (1, 1)
        if category == "negation":
            return (1,) if draw < 0.5 else (2,) if draw < 0.7 else (3,) if draw < 0.8 else (1, 1)
        if category == "style":
            return (1,) if draw < 0.7 else (2,) if draw < 0.8 else (1, 1)
        if category == "scene":
            return () if draw < SHARE_EMPTY else (1,)
        return (1,)

    def _things(
        self,
        counts: tuple[int, ...],
        category: Category,
        relation: str | None,
        ground: Background,
        word: str | None,
        style: str,
        rng: Random,
    ) -> list[int] | None:
        tags: list[str | None] = [None] * len(counts)
        if relation in ("riding", "wearing"):
            if relation == "riding":
                tags = ["living", "mount" if rng.random() < 0.6 else "vehicle"]
            else:
                tags = ["face", "glasses" if rng.random() < 0.35 else "hat"]
                if tags[1] == "hat" and rng.random() < 0.4:
                    tags[0] = "headed"
        elif relation == "inside":
            tags = [None, "holds"]
        elif relation == "on" and rng.random() < 0.5:
            tags = [None, "flat"]
        elif relation in ("above", "below") and ground.kind in WITH_GROUND:
            tags[0 if relation == "above" else 1] = "flies"
        if category == "attribution" and rng.random() < 0.2:  # a red car and a blue car
            row = _pick(rng, self._allowed(None, word, style))
            return [row, row]
        things: list[int] = []
        for count, tag in zip(counts, tags, strict=True):
            rows = self._allowed(tag, word, style)
            if not rows:
                return None
            for _ in range(30):
                row = rows[int(rng.random() * len(rows))]
                if row in things or (count > 1 and row in self._out_with(("number", count))):
                    continue
                if relation is not None and self._symbol[row] and relation not in ("left", "right", "above", "below"):
                    continue
                if self.split == "train" and any(self._pair_out(row, other) for other in things):
                    continue
                things.append(row)
                break
            else:
                return None
        return things

    def _tinted(
        self, things: list[int], category: Category, ground: Background, style: str, rng: Random
    ) -> list[str | None] | None:
        """A tint or none a group; None where there is none to be had."""
        tints: list[str | None] = [None] * len(things)
        if style in WITHOUT_COLOUR or category in ("single", "scene", "size", "background"):
            return tints
        if category in ("colours", "attribution"):
            which = range(len(things))
        else:
            share = {"counting": 0.2, "position": 0.15, "relation": 0.15}.get(category, 0.1)
            if rng.random() >= share:
                return tints
            one = int(rng.random() * len(things))
            which = range(len(things)) if len(things) == 2 and rng.random() < 0.4 else range(one, one + 1)
        taken = set(ground.colours) if ground.kind not in PLACES else set(INVISIBLE_TINTS.get(ground.kind, ()))
        if ground.time == "night":
            taken.add("black")
        if style == "neon":
            taken |= {"black", "white", "gray", "brown"}
        for index in which:
            row = things[index]
            free = self._tints_of(row)
            for _ in range(20):
                tint = free[int(rng.random() * len(free))]
                if tint not in taken:
                    break
            else:
                return None
            tints[index] = tint
            taken.add(tint)
        return tints

    # What is held out

    def _out_with(self, combination: tuple[object, ...]) -> frozenset[int]:
        """The things that are held out together with something: ("number", 3), ("on", "beach"), ("style", "3d")."""
        if self.split == "any":
            return frozenset()
        found = self._out.get(combination)
        if found is None:
            parts = combination[1:] if combination[0] == "number" else combination
            found = frozenset(row for row, thing in enumerate(self.things) if held_out(thing.name, *parts))
            self._out[combination] = found
        return found

    def _pair_out(self, row: int, other: int) -> bool:
        return held_out(self.things[row].name, self.things[other].name)

    def _allowed(self, tag: str | None, word: str | None, style: str) -> list[int]:
        """Things of a tag that may be seen on a ground and in a style."""
        key = (tag, word, style)
        rows = self._rows.get(key)
        if rows is None:
            out = self._out_with(("on", word)) if word is not None else frozenset[int]()
            if style != "plain":
                out |= self._out_with(("style", style))
            there = self.shapes[LOOKS.index(style) if style in LOOKS else 0]
            rows = [row for row in self._tagged(tag) if row not in out and there[row] is not None]
            self._rows[key] = rows
        return rows

    def _tagged(self, tag: str | None) -> list[int]:
        things = enumerate(self.things)
        if tag == "headed":
            return [row for row, thing in things if thing.name in HEADED]
        return [row for row, thing in things if tag is None or tag in thing.tags]

    def _tints_of(self, row: int) -> list[str]:
        tints = self._tints.get(row)
        if tints is None:
            name = self.things[row].name
            tints = [tint for tint in COLOURS if self.split == "any" or not held_out(name, tint)]
            self._tints[row] = tints
        return tints

    def _possible_relations(self) -> tuple[str, ...]:
        """The relations of the category that the table has things for."""
        tags = {tag for thing in self.things for tag in thing.tags}
        needed = {
            "riding": {"living", "mount", "vehicle"},
            "wearing": {"face", "hat", "glasses"},
            "inside": {"holds"},
            "on": {"flat"},
        }
        return tuple(relation for relation in RELATIONS[4:] if needed.get(relation, set()) <= tags)


# Where it is


class _Page:
    """Finds places for the objects of one scene."""

    def __init__(
        self, rng: Random, width: float, height: float, ground: Background, shapes: list[Shape], flips: list[bool]
    ) -> None:
        self.rng, self.width, self.height, self.shapes, self.flips = rng, width, height, shapes, flips
        self.order: tuple[int, ...] | None = None
        self.horizon = ground.horizon * height if ground.kind in WITH_GROUND else None
        self.lowest = height * (0.9 if ground.kind == "sea" else 0.98)  # where a foot may be

    def group(self, flies: list[bool], groups: list[int], size_word: str | None) -> list[Spot] | None:
        """Anywhere, without much overlap. Sizes of a group are about the same."""
        rng, count = self.rng, len(flies)
        low, high = SIZES[count]
        if count > 2:  # a long picture has room for more
            high *= min(1.25, max(self.width, self.height) ** 0.5)
        if size_word is not None:
            low, high = (0.18, 0.28) if size_word == "small" else (0.86, 0.97)
        base = low + (high - low) * rng.random()
        if self.horizon is not None:
            if count == 1:
                return self._one_on_ground(flies[0], base, size_word)
            return self._on_ground(flies, groups, base)
        if count == 1:
            x, y = self._inside(0, base)
            return [(x, y, base)]
        if rng.random() < 0.45 and (spots := self._rows_of(base)) is not None:
            return spots
        for _ in range(5):
            sizes = self._sizes(groups, base)
            if (spots := self._scattered(sizes)) is not None:
                return spots
            base *= 0.92
        return self._rows_of(SIZES[count][0])

    def related(self, relation: str, things: list[Thing]) -> list[Spot] | None:
        """Two objects, the first in a relation to the second."""
        if relation in ("left", "right"):
            spots = self._beside_each_other(first_left=relation == "left")
        elif relation in ("above", "below"):
            spots = self._above_each_other(first_above=relation == "above")
        else:
            place = {
                "on": self._on,
                "behind": self._behind,
                "front": self._front,
                "beside": self._beside,
                "inside": self._held,
                "riding": self._riding,
                "wearing": self._wearing,
            }[relation]
            spots = place(things)
            spots = None if spots is None else self._fit(spots)
        return spots

    # Parts

    def _half(self, index: int, size: float) -> tuple[float, float]:
        shape = self.shapes[index]
        return size * shape.width / 2, size * shape.height / 2

    def _inside(self, index: int, size: float) -> tuple[float, float]:
        """A middle with the whole object in the picture."""
        half_width, half_height = self._half(index, size)
        random = self.rng.random
        x = _between(random(), half_width + MARGIN, self.width - half_width - MARGIN)
        y = _between(random(), half_height + MARGIN, self.height - half_height - MARGIN)
        return x, y

    def _sizes(self, groups: list[int], base: float) -> list[float]:
        random = self.rng.random
        of_group = [0.85 + 0.3 * random() for _ in range(groups[-1] + 1)]
        return [max(SMALLEST, base * of_group[group] * (0.93 + 0.14 * random())) for group in groups]

    def _scattered(self, sizes: list[float]) -> list[Spot] | None:
        boxes: list[Box] = []
        spots: list[Spot] = []
        for index, size in enumerate(sizes):
            half_width, half_height = self._half(index, size)
            for _ in range(12):
                x, y = self._inside(index, size)
                if _fits((x, y, half_width, half_height), boxes):
                    boxes.append((x, y, half_width, half_height))
                    spots.append((x, y, size))
                    break
            else:
                return None
        return spots

    def _rows_of(self, base: float) -> list[Spot] | None:
        """In one row or several, with some play; None where they would become too small."""
        rng, count = self.rng, len(self.shapes)
        gap = 0.03 + 0.2 * rng.random()
        best = None
        for rows in (1, 2, 3) if count > 2 else (1,):
            columns = -(-count // rows)
            room = min(self.width / columns, self.height / rows) * 0.97 / (1 + gap)
            if room >= SMALLEST and (best is None or room > best[2]):
                best = (rows, columns, room)
            if rows == 1 and room >= max(SMALLEST, 0.8 * base):
                break
        if best is None:
            return None
        rows, columns, room = best
        size = min(base, room)
        cell = size * (1 + gap)
        left = (self.width - columns * cell) * rng.random()
        top = (self.height - rows * cell) * rng.random()
        play = gap * size * 0.9
        spots = []
        for index in range(count):
            row, column = divmod(index, columns)
            in_row = min(columns, count - row * columns)
            x = left + (column + 0.5 + (columns - in_row) / 2) * cell + play * (rng.random() - 0.5)
            y = top + (row + 0.5) * cell + play * (rng.random() - 0.5)
            spots.append((x, y, max(SMALLEST, size * (0.94 + 0.06 * rng.random()))))
        rng.shuffle(spots)
        return spots

    def _one_on_ground(self, flies: bool, base: float, size_word: str | None) -> list[Spot]:
        if flies and self.rng.random() < 0.6:
            x, y = self._inside(0, base)
            return [(x, y, base)]
        return [self._standing(0, base, 0.0 if size_word else 0.35)]

    def _standing(self, index: int, base: float, depth: float) -> Spot:
        """One object with its foot on the ground: the nearer, the lower and larger. depth: how much."""
        assert self.horizon is not None
        random = self.rng.random
        near = random()
        size = max(SMALLEST, base * (1 - depth * (1 - near)))
        half_width, half_height = self._half(index, size)
        low = max(self.horizon + 0.03 * self.height, 2 * half_height + MARGIN)
        foot = low + (self.lowest - low) * near if low < self.lowest else self.height - MARGIN
        x = _between(random(), half_width + MARGIN, self.width - half_width - MARGIN)
        return x, foot - half_height, size

    def _on_ground(self, flies: list[bool], groups: list[int], base: float) -> list[Spot] | None:
        for _ in range(6):
            sizes = self._sizes(groups, base)
            spots: list[Spot] = []
            boxes: list[Box] = []
            for index, size in enumerate(sizes):
                hangs = flies[index] and self.rng.random() < 0.6
                for _ in range(14):
                    spot = (*self._inside(index, size), size) if hangs else self._standing(index, size, 0.3)
                    box = (spot[0], spot[1], *self._half(index, spot[2]))
                    if _fits(box, boxes):
                        boxes.append(box)
                        spots.append(spot)
                        break
                else:
                    break
            if len(spots) == len(sizes):
                feet = [y + half_height for _, y, _, half_height in boxes]
                self.order = tuple(sorted(range(len(spots)), key=feet.__getitem__))
                return spots
            base = max(SMALLEST, base * 0.88)
        return None

    def _beside_each_other(self, *, first_left: bool) -> list[Spot] | None:
        """|dx| > 1.5 |dy|, both as lengths and as shares of the sides."""
        random, wide = self.rng.random, self.width / self.height
        steepest = 1 / 1.6 if wide <= 1 else 1 / (1.6 * wide)  # |dy| / |dx|
        for _ in range(12):
            base = 0.26 + 0.2 * random()
            sizes = [base * (0.85 + 0.3 * random()) for _ in range(2)]
            spots = []
            for index, size in enumerate(sizes):
                if self.horizon is None:
                    spots.append((*self._inside(index, size), size))
                else:
                    spots.append(self._standing(index, size, 0.2))
            left, right = (0, 1) if spots[0][0] < spots[1][0] else (1, 0)
            dx, dy = spots[right][0] - spots[left][0], spots[right][1] - spots[left][1]
            apart = self._half(left, spots[left][2])[0] + self._half(right, spots[right][2])[0]
            if dx < 0.97 * apart:  # draw both outwards
                x_left = self._half(left, spots[left][2])[0] + MARGIN
                x_right = self.width - self._half(right, spots[right][2])[0] - MARGIN
                slack = x_right - x_left - apart
                if slack < 0:
                    continue
                x_left += slack * random() * 0.5
                x_right -= slack * random() * 0.5
                spots[left], spots[right] = (x_left, *spots[left][1:]), (x_right, *spots[right][1:])
                dx = x_right - x_left
            if abs(dy) > steepest * dx:
                if self.horizon is not None:
                    continue
                middle, shift = (spots[0][1] + spots[1][1]) / 2, steepest * dx * (2 * random() - 1) / 2
                ys = [middle - shift, middle + shift]
                spots = [(x, self._clip_y(index, ys[index], size), size) for index, (x, _, size) in enumerate(spots)]
                if abs(spots[0][1] - spots[1][1]) > steepest * dx:
                    continue
            if (left == 0) == first_left or self._swap(spots, steepest):
                return spots
        return None

    def _swap(self, spots: list[Spot], steepest: float) -> bool:
        """Change the x of both; False where one would leave the picture."""
        (x0, y0, s0), (x1, y1, s1) = spots
        for index, (x, size) in enumerate(((x1, s0), (x0, s1))):
            half_width = self._half(index, size)[0]
            if not half_width - MARGIN <= x <= self.width - half_width + MARGIN:
                return False
        spots[:] = [(x1, y0, s0), (x0, y1, s1)]
        return abs(y0 - y1) <= steepest * abs(x0 - x1)

    def _clip_y(self, index: int, y: float, size: float) -> float:
        half_height = self._half(index, size)[1]
        return min(max(y, half_height + MARGIN), self.height - half_height - MARGIN)

    def _above_each_other(self, *, first_above: bool) -> list[Spot] | None:
        """|dy| > 1.5 |dx|, both as lengths and as shares of the sides."""
        random, wide = self.rng.random, self.width / self.height
        flattest = 1 / 1.6 if wide >= 1 else wide / 1.6  # |dx| / |dy|
        top, bottom = (0, 1) if first_above else (1, 0)
        for _ in range(12):
            base = 0.26 + 0.19 * random()
            sizes = [base * (0.85 + 0.3 * random()) for _ in range(2)]
            halves = [self._half(index, size) for index, size in enumerate(sizes)]
            apart = halves[0][1] + halves[1][1]
            room = self.height - 2 * MARGIN - 2 * apart
            if room < 0:
                continue
            if self.horizon is None:
                y_top = halves[top][1] + MARGIN + room * random() * 0.6
                y_bottom = y_top + apart + (self.height - MARGIN - halves[bottom][1] - y_top - apart) * random()
                x_bottom = _between(random(), halves[bottom][0] + MARGIN, self.width - halves[bottom][0] - MARGIN)
            else:
                x_bottom, y_bottom, sizes[bottom] = self._standing(bottom, sizes[bottom], 0.2)
                highest = halves[top][1] + MARGIN
                lowest = y_bottom - apart
                if lowest < highest:
                    continue
                y_top = highest + (lowest - highest) * random()
            reach = flattest * (y_bottom - y_top)
            low = max(x_bottom - reach, halves[top][0] + MARGIN)
            high = min(x_bottom + reach, self.width - halves[top][0] - MARGIN)
            if high < low:
                continue
            spots = [(0.0, 0.0, 0.0)] * 2
            spots[top] = (low + (high - low) * random(), y_top, sizes[top])
            spots[bottom] = (x_bottom, y_bottom, sizes[bottom])
            return spots
        return None

    # Relations: places in units of the size of the second object, which is at the origin

    def _on(self, things: list[Thing]) -> list[Spot]:
        random = self.rng.random
        first, second = self.shapes
        size = 0.45 + 0.35 * random()
        if "flat" not in things[1].tags:
            size *= 0.85
        sink = 0.05 if "flat" in things[1].tags else 0.02
        y = second.seat + sink - size * first.height / 2
        self.order = (1, 0)
        return [((random() - 0.5) * 0.2 * second.width, y, size), (0.0, 0.0, 1.0)]

    def _behind(self, things: list[Thing]) -> list[Spot] | None:
        return self._hidden(0)

    def _front(self, things: list[Thing]) -> list[Spot] | None:
        return self._hidden(1)

    def _hidden(self, far: int) -> list[Spot] | None:
        """One object behind the other, 20 to 45 % of its box hidden."""
        rng, near = self.rng, 1 - far
        self.order = (far, near)
        size = 0.85 + 0.3 * rng.random()
        far_width, far_height = size * self.shapes[far].width, size * self.shapes[far].height
        near_width, near_height = self.shapes[near].width, self.shapes[near].height
        for _ in range(30):
            dx = (rng.random() - 0.5) * (far_width + near_width)
            foot = -(0.05 + 0.4 * rng.random()) * near_height  # of the far one, above that of the near one
            dy = near_height / 2 + foot - far_height / 2
            hidden = _overlap((dx, dy, far_width / 2, far_height / 2), (0, 0, near_width / 2, near_height / 2))
            if 0.22 <= hidden / (far_width * far_height) <= 0.43:
                spots = [(0.0, 0.0, 1.0)] * 2
                spots[far] = (dx, dy, size)
                return spots
        return None

    def _beside(self, things: list[Thing]) -> list[Spot]:
        random = self.rng.random
        first, second = self.shapes
        size = 0.75 + 0.5 * random()
        dx = (size * first.width + second.width) / 2 + 0.02 + 0.13 * random()
        dy = (second.height - size * first.height) / 2 + 0.08 * (random() - 0.5)
        return [(dx if random() < 0.5 else -dx, dy, size), (0.0, 0.0, 1.0)]

    def _held(self, things: list[Thing]) -> list[Spot]:
        """The first looks out of the second, whose front hides its lower half."""
        random = self.rng.random
        first, second = self.shapes
        self.order = (0, 1)
        size = (0.5 + 0.2 * random()) * second.width
        y = second.seat + 0.04 - (0.04 + 0.16 * random()) * size * first.height
        return [((random() - 0.5) * 0.12 * second.width, y, size), (0.0, 0.0, 1.0)]

    def _riding(self, things: list[Thing]) -> list[Spot]:
        random = self.rng.random
        first, second = self.shapes
        size = 0.5 + 0.25 * random()
        self.order = (1, 0)
        y = second.seat + (0.1 + 0.08 * random()) - size * first.height / 2
        return [((random() - 0.5) * 0.16, y, size), (0.0, 0.0, 1.0)]

    def _wearing(self, things: list[Thing]) -> list[Spot]:
        """Here the first object, who wears, is the unit."""
        random = self.rng.random
        first, second = self.shapes
        self.order = (0, 1)
        side = -1 if self.flips[0] else 1
        x = side * first.head[0]
        if "hat" in things[1].tags:
            size = first.head_width * (0.75 + 0.25 * random()) / second.width
            y = first.head[1] + (0.1 + 0.08 * random()) * first.head_width - size * second.height / 2
        else:
            size = first.head_width * (0.75 + 0.15 * random()) / second.width
            y = first.head[1] + (0.42 + 0.06 * random()) * first.head_width
        return [(0.0, 0.0, 1.0), (x, y, size)]

    def _fit(self, spots: list[Spot]) -> list[Spot] | None:
        """Two objects placed to each other -> the same somewhere in the picture, at some size."""
        random = self.rng.random
        sides = [(x, y, *self._half(index, size)) for index, (x, y, size) in enumerate(spots)]
        left = min(x - half_width for x, _, half_width, _ in sides)
        right = max(x + half_width for x, _, half_width, _ in sides)
        top = min(y - half_height for _, y, _, half_height in sides)
        bottom = max(y + half_height for _, y, _, half_height in sides)
        most = min((self.width - 2 * MARGIN) / (right - left), (self.height - 2 * MARGIN) / (bottom - top))
        least = SMALLEST / min(size for _, _, size in spots)
        # Between half and all of the shorter side, whatever the longer one is.
        most = min(most, 1.0 / max(right - left, bottom - top) * 1.3)
        low = max(least, 0.6 * most)
        if low > most:
            return None
        scale = low + (most - low) * random()
        x0 = _between(random(), MARGIN - scale * left, self.width - MARGIN - scale * right)
        lowest = self.height - MARGIN - scale * bottom
        if self.horizon is None:
            y0 = _between(random(), MARGIN - scale * top, lowest)
        else:
            highest = max(MARGIN - scale * top, self.horizon + 0.03 * self.height - scale * bottom)
            lowest = min(lowest, self.lowest - scale * bottom)
            y0 = lowest if highest > lowest else _between(random(), highest, lowest)
            y0 = max(y0, MARGIN - scale * top)
        return [(x0 + scale * x, y0 + scale * y, scale * size) for x, y, size in spots]


PATTERNS = ("stripes", "dots", "checks")
BACKDROP_NAMES = tuple(BACKDROPS)
NOT_WHITE = tuple(name for name in BACKDROPS if name != "white")
SIZES = {
    1: (0.4, 0.85), 2: (0.28, 0.48), 3: (0.24, 0.40), 4: (0.22, 0.36), 5: (0.2, 0.32), 6: (0.19, 0.29), 7: (0.18, 0.26),
    8: (0.17, 0.24),
}  # fmt: skip
"""Of the objects of a group, by their number."""
assert max(SIZES) == MAX_ITEMS


def _pick(rng: Random, options: Sequence[T]) -> T:
    return options[int(rng.random() * len(options))]


def _between(share: float, low: float, high: float) -> float:
    """low + share of the way to high; their middle where high is the lower one."""
    return low + share * (high - low) if high >= low else (low + high) / 2


def _overlap(one: Box, other: Box) -> float:
    """The area that two boxes share."""
    across = min(one[0] + one[2], other[0] + other[2]) - max(one[0] - one[2], other[0] - other[2])
    down = min(one[1] + one[3], other[1] + other[3]) - max(one[1] - one[3], other[1] - other[3])
    return across * down if across > 0 and down > 0 else 0.0


def _fits(box: Box, others: list[Box]) -> bool:
    """Whether a box shares little enough with all others."""
    x, y, half_width, half_height = box
    for ox, oy, owidth, oheight in others:
        across = half_width + owidth - abs(x - ox)
        if across > 0:
            down = half_height + oheight - abs(y - oy)
            if down > 0 and across * down > MOST_OVERLAP * 4 * min(half_width * half_height, owidth * oheight):
                return False
    return True
