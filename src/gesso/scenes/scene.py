"""`Scene`: exactly what is in a synthetic picture; it can be rendered at any size and described in a caption.

Coordinates are shares of the picture's side: x to the right, y down, (0.5, 0.5) the middle.
"""

import zlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from gesso.scenes.vocabulary import BACKGROUNDS, COLOURS, NUMBERS, Thing

Category = Literal["single", "background", "colours", "counting", "two", "position", "attribution", "size", "style"]


@dataclass(frozen=True)
class Item:
    """One object in the picture."""

    thing: int  # row of the object table
    x: float
    y: float
    size: float  # longer side
    tint: str | None = None  # one of COLOURS
    style: str = "plain"


@dataclass(frozen=True)
class Scene:
    """What is in a picture, and as which kind of task it was drawn."""

    category: Category
    background: str
    items: tuple[Item, ...]
    relation: str | None = None  # of the first item to the second
    size_word: str | None = None


SINGLE_SIZE, SMALL_SIZE, LARGE_SIZE, PART_SIZE = 0.72, 0.40, 0.94, 0.44
# Where the objects stand. Fixed places with little play: what a small model need not guess, it can draw sharply.
PLACES = {
    1: ((0.5, 0.5),),
    2: ((0.26, 0.5), (0.74, 0.5)),
    3: ((0.5, 0.26), (0.26, 0.74), (0.74, 0.74)),
    4: ((0.26, 0.26), (0.74, 0.26), (0.26, 0.74), (0.74, 0.74)),
}
VERTICAL = ((0.5, 0.26), (0.5, 0.74))
SHARE_HELD_OUT = 0.1


def held_out(*combination: object) -> bool:
    """Whether a combination (object and colour, two objects, object and number) never occurs in training.

    Decided by a hash of the words, so that it is the same for every run and every table. Order does not matter.
    """
    key = "|".join(sorted(str(part) for part in combination))
    return zlib.crc32(key.encode()) % 1000 < 1000 * SHARE_HELD_OUT


def combinations(scene: Scene, things: tuple[Thing, ...]) -> Iterable[tuple[object, ...]]:
    """The combinations in a scene that hold-out looks at."""
    for item in scene.items:
        name = things[item.thing].name
        if item.tint is not None:
            yield (name, item.tint)
        if scene.background != "white":
            yield (name, "on", scene.background)
    if scene.category == "counting":
        yield (things[scene.items[0].thing].name, len(scene.items))
    elif len(scene.items) == 2:
        yield tuple(things[item.thing].name for item in scene.items)


class SceneSampler:
    """Draws scenes of given categories.

    mix: category -> share. split: "train" never shows a held-out combination; "any" does not look. Scenes about
    held-out combinations come from `mini.judging.composition.new_scenes`.
    """

    def __init__(
        self,
        things: tuple[Thing, ...],
        mix: dict[Category, float],
        split: Literal["train", "any"] = "train",
    ) -> None:
        if not mix or min(mix.values()) < 0 or sum(mix.values()) <= 0:
            raise ValueError(f"shares of the categories must be positive, found {mix}")
        self.things = things
        self.categories = list(mix)
        self.shares = np.array(list(mix.values())) / sum(mix.values())
        self.split = split

    def __call__(self, rng: np.random.Generator) -> Scene:
        """One scene; all its randomness comes from rng."""
        category = self.categories[rng.choice(len(self.categories), p=self.shares)]
        while True:
            scene = self._draw(category, rng)
            if self.split == "any" or not any(held_out(*one) for one in combinations(scene, self.things)):
                return scene

    def _draw(self, category: Category, rng: np.random.Generator) -> Scene:
        background = "white"
        colourful = [name for name in BACKGROUNDS if name != "white"]
        if category == "background" or (category not in ("single",) and rng.random() < 0.3):
            background = colourful[rng.integers(len(colourful))]
        tints = [name for name in COLOURS if name != background]
        relation, size_word, style, count, size, places = None, None, "plain", 1, SINGLE_SIZE, PLACES[1]
        if category == "counting":
            count, size = int(rng.choice(list(NUMBERS))), PART_SIZE
            places = PLACES[count]
        elif category in ("two", "position", "attribution"):
            count, size = 2, PART_SIZE
            relation = "left"
            if category == "position":
                relation = ("left", "right", "above", "below")[rng.integers(4)]
            places = {"left": PLACES[2], "right": PLACES[2][::-1], "above": VERTICAL, "below": VERTICAL[::-1]}[relation]
            if category != "position":
                relation = None
        elif category == "size":
            size_word = ("small", "large")[rng.integers(2)]
            size = SMALL_SIZE if size_word == "small" else LARGE_SIZE
        elif category == "style":
            style = ("silhouette", "grayscale")[rng.integers(2)]
            if style == "silhouette" and background == "black":
                background = "white"
        if category == "counting":
            chosen = [int(rng.integers(len(self.things)))] * count
        else:
            chosen = [int(i) for i in rng.choice(len(self.things), size=count, replace=False)]
        tint: list[str | None] = [None] * count
        if category == "colours":
            tint = [tints[rng.integers(len(tints))]]
        elif category == "attribution":
            tint = [tints[i] for i in rng.choice(len(tints), size=2, replace=False)]
        play = 1 / 32 if count == 1 else 1 / 64
        items = tuple(
            Item(
                thing,
                x + rng.integers(-1, 2) * play,
                y + rng.integers(-1, 2) * play,
                size * (1 + 0.04 * rng.uniform(-1, 1)),
                colour,
                style,
            )
            for thing, (x, y), colour in zip(chosen, places, tint, strict=True)
        )
        return Scene(category, background, items, relation, size_word)


def moved(scene: Scene, rng: np.random.Generator) -> Scene:
    """The whole scene, shrunk by up to a third, anywhere within the picture."""
    at = np.array([(item.x, item.y) for item in scene.items])
    half = np.array([[item.size / 2] for item in scene.items])
    low, high = (at - half).min(axis=0), (at + half).max(axis=0)
    scale = rng.uniform(2 / 3, 1) / max(1.0, float((high - low).max()))
    places = (at - low) * scale + rng.uniform(0, 1 - scale * (high - low))
    items = (
        replace(item, x=float(x), y=float(y), size=scale * item.size)
        for item, (x, y) in zip(scene.items, places, strict=True)
    )
    return replace(scene, items=tuple(items))
