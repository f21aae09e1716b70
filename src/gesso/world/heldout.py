"""Combinations that training never shows, so that a judge can ask for something new.

Decided by a hash of the words: the same for every run, every table and every split of the work.
"""

import zlib
from collections.abc import Iterable, Sequence

from gesso.world.objects import Thing
from gesso.world.scene import Background, Item, Scene

SHARE_HELD_OUT = 0.1

Combination = tuple[object, ...]


def held_out(*combination: object) -> bool:
    """Whether a combination never occurs in training. The order of its parts does not matter."""
    key = "|".join(sorted(str(part) for part in combination))
    return zlib.crc32(key.encode()) % 1000 < 1000 * SHARE_HELD_OUT


def ground_word(background: Background) -> str | None:
    """What a combination calls a background: a colour, or a kind where that says more. None: plain white."""
    if background.kind != "plain":
        return background.kind
    return None if background.colours[0] == "white" else background.colours[0]


def combinations(scene: Scene, things: Sequence[Thing]) -> Iterable[Combination]:
    """The combinations in a scene that hold-out looks at.

    Object and tint, object and background, object and style, object and number (from two on), two objects.
    """
    ground = ground_word(scene.background)
    groups: dict[int, list[Item]] = {}
    for item in scene.items:
        groups.setdefault(item.group, []).append(item)
    for items in groups.values():
        name = things[items[0].thing].name
        if len(items) > 1:
            yield (name, len(items))
        for tint in dict.fromkeys(item.tint for item in items if item.tint is not None):
            yield (name, tint)
    names = list(dict.fromkeys(things[item.thing].name for item in scene.items))
    for index, name in enumerate(names):
        if ground is not None:
            yield (name, "on", ground)
        if scene.style != "plain":
            yield (name, "style", scene.style)
        for other in names[index + 1 :]:
            yield (name, other)
