"""How well pictures show what their prompts say, by a `SceneJudge`: prompts, a verdict per picture, and scores.

In the manner of GenEval (Ghosh et al. 2023, arXiv:2310.11513): a picture is right only if everything that its prompt
says holds. Prompts come from the grammar of the captions, about combinations that training never showed. The judge is
measured in the same run, on composed pictures of the same scenes.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from gesso.mini.judging.composition import wilson
from gesso.mini.judging.scene_judge import GRID_SIZE, INPUT_SIZE, TINTS, WHOLE, SceneJudge
from gesso.world.caption import Captioner
from gesso.world.heldout import combinations, held_out
from gesso.world.objects import Thing
from gesso.world.sampler import SceneSampler
from gesso.world.scene import BACKDROPS, BACKGROUNDS, PLAIN, STYLES, TIMES, WEATHERS, Category, Scene

CATEGORIES: tuple[Category, ...] = (
    "single", "background", "scene", "colours", "two", "three", "counting", "position", "relation", "attribution",
    "style",
)  # fmt: skip
MIN_MIDDLE = 0.35  # a peak below this is nothing
PEAK_RADIUS = 2  # cells; composed objects keep more between their middles
MIN_DISTANCE = 0.08  # share of the side that one object must be further left, right, up or down than the other

Draw = Callable[[Sequence[str], Sequence[int]], Tensor]
"""Prompts and seeds -> float32 [B, 3, 256, 256] in [-1, 1]"""


@dataclass(frozen=True)
class Found:
    """One object that the judge sees; x and y are shares of the side."""

    thing: int
    tint: str | None
    x: float
    y: float
    sure: float


@dataclass(frozen=True)
class Seen:
    """What the judge sees in a picture."""

    objects: tuple[Found, ...]
    kind: str
    colour: str
    time: str
    weather: str
    style: str


@torch.no_grad()
def see(judge: SceneJudge, pixels: Tensor) -> list[Seen]:
    """pixels [B, 3, S, S] in [-1, 1], of any S -> what is in each."""
    if pixels.shape[-1] != INPUT_SIZE:
        pixels = F.interpolate(pixels, size=(INPUT_SIZE, INPUT_SIZE), mode="bilinear", antialias=True)
    middle, features, whole = judge(pixels)
    heat = middle.sigmoid()
    peak = heat == F.max_pool2d(heat[:, None], 2 * PEAK_RADIUS + 1, 1, PEAK_RADIUS)[:, 0]
    parts = dict(zip(WHOLE, whole.split(list(WHOLE.values()), dim=1), strict=True))
    seen = []
    for row in range(len(pixels)):
        down, across = torch.nonzero(peak[row] & (heat[row] >= MIN_MIDDLE), as_tuple=True)
        at = features[row][:, down, across].T
        things, tints = judge.thing(at).softmax(1).max(1), judge.tint(at).argmax(1)
        objects = tuple(
            Found(int(thing), TINTS[int(tint)], (float(x) + 0.5) / GRID_SIZE, (float(y) + 0.5) / GRID_SIZE, float(sure))
            for thing, sure, tint, x, y in zip(things.indices, things.values, tints, across, down, strict=True)
        )
        answers = {name: int(part[row].argmax()) for name, part in parts.items()}
        seen.append(
            Seen(
                objects,
                BACKGROUNDS[answers["kind"]],
                list(BACKDROPS)[answers["first"]],
                TIMES[answers["time"]],
                WEATHERS[answers["weather"]],
                STYLES[answers["style"]],
            )
        )
    return seen


@dataclass(frozen=True)
class Prompt:
    """What is asked for, in words and as a scene."""

    text: str
    scene: Scene


def prompts_of(category: Category, things: tuple[Thing, ...], count: int, seed: int) -> list[Prompt]:
    """Prompts of a category about held-out combinations where the category has any, no text twice."""
    rng, captioner = Random(f"{seed}-{category}"), Captioner(things)
    sampler = SceneSampler(things, {category: 1.0}, "any")
    order = rng.sample(range(len(things)), len(things))
    found: dict[str, Prompt] = {}
    while len(found) < count:
        scene = sampler(rng)
        if category == "single":  # every object in turn
            thing = order[len(found) % len(things)]
            scene = replace(scene, items=tuple(replace(one, thing=thing) for one in scene.items), style="plain")
        elif not any(held_out(*one) for one in combinations(scene, things)):
            continue
        text = captioner(scene, rng)
        found.setdefault(text, Prompt(text, scene))
    return list(found.values())


def verdict(scene: Scene, seen: Seen) -> dict[str, bool]:
    """Which clauses of a prompt hold; clauses that it does not have are absent.

    objects     every object named is there
    number      as many of each as named, and nothing else
    tint        those that the prompt gives a colour have it
    position    of the two groups, where the relation says something about it
    background  the place, pattern or colour; time and weather where they are not the usual ones
    style       the style named, or none
    """
    wanted = Counter(item.thing for item in scene.items)
    there = Counter(one.thing for one in seen.objects)
    clauses = {"objects": all(there[thing] for thing in wanted), "number": there == wanted}
    tinted = [(item.thing, item.tint) for item in scene.items if item.tint is not None]
    if tinted:
        seen_tints = Counter((one.thing, one.tint) for one in seen.objects)
        clauses["tint"] = all(seen_tints[pair] >= number for pair, number in Counter(tinted).items())
    if scene.relation is not None and scene.relation not in ("behind", "front"):
        clauses["position"] = _relation_holds(scene, seen)
    ground = scene.background
    clauses["background"] = seen.kind == ground.kind and (ground.kind != "plain" or seen.colour == ground.colours[0])
    if ground.kind not in PLAIN and ground.time != "day":
        clauses["time"] = seen.time == ground.time
    if ground.kind not in PLAIN and ground.weather != "clear":
        clauses["weather"] = seen.weather == ground.weather
    if scene.style in ("outline", "pencil", "neon", "silhouette"):
        clauses.pop("background")  # which these do not keep
    clauses["style"] = seen.style == scene.style
    return clauses


def _relation_holds(scene: Scene, seen: Seen) -> bool:
    groups = [next(item.thing for item in scene.items if item.group == number) for number in (0, 1)]
    middles = []
    for thing in groups:
        of_it = [one for one in seen.objects if one.thing == thing]
        if not of_it:
            return False
        middles.append((np.mean([one.x for one in of_it]), np.mean([one.y for one in of_it])))
    dx, dy = middles[1][0] - middles[0][0], middles[1][1] - middles[0][1]
    match scene.relation:
        case "left":
            return bool(dx >= MIN_DISTANCE and dx > abs(dy))
        case "right":
            return bool(-dx >= MIN_DISTANCE and -dx > abs(dy))
        case "above" | "on" | "riding":
            return bool(dy >= MIN_DISTANCE and dy > abs(dx))
        case "below":
            return bool(-dy >= MIN_DISTANCE and -dy > abs(dx))
        case "beside":
            return bool(abs(dx) >= MIN_DISTANCE and abs(dx) > abs(dy))
        case "inside" | "wearing":
            return bool(max(abs(dx), abs(dy)) < 0.4)
    return True


@dataclass
class Score:
    """How often a category was right."""

    right: int = 0
    total: int = 0
    broken: Counter[str] = field(default_factory=Counter)

    def add(self, clauses: Mapping[str, bool]) -> None:
        self.total += 1
        self.right += all(clauses.values())
        self.broken.update(name for name, holds in clauses.items() if not holds)

    def row(self) -> dict[str, Any]:
        low, high = wilson(self.right, self.total)
        return {
            "score": round(self.right / self.total, 3),
            "interval": (round(low, 3), round(high, 3)),
            "broken": dict(self.broken.most_common()),
        }


def score(
    judge: SceneJudge,
    prompts: Mapping[Category, Sequence[Prompt]],
    draw: Draw,
    compose: Callable[[Sequence[Scene]], Tensor],
    *,
    batch_size: int = 16,
) -> tuple[dict[str, Score], dict[str, Score], list[tuple[Prompt, Seen]]]:
    """Scores by category of drawn pictures and of composed ones (the judge's own limit), and all that was seen."""
    drawn: dict[str, Score] = {name: Score() for name in prompts}
    composed: dict[str, Score] = {name: Score() for name in prompts}
    everything: list[tuple[Prompt, Seen]] = []
    for name, ones in prompts.items():
        for start in range(0, len(ones), batch_size):
            part = ones[start : start + batch_size]
            pictures = draw([one.text for one in part], list(range(start, start + len(part))))
            for prompt, seen in zip(part, see(judge, pictures), strict=True):
                drawn[name].add(verdict(prompt.scene, seen))
                everything.append((prompt, seen))
            for prompt, seen in zip(part, see(judge, compose([one.scene for one in part])), strict=True):
                composed[name].add(verdict(prompt.scene, seen))
    return drawn, composed, everything
