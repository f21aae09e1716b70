"""Prompt adherence, in the manner of GenEval: prompts, a verdict per picture, and scores with confidence intervals.

In the manner of GenEval (Ghosh et al. 2023, arXiv:2310.11513), on gesso's own world of composed pictures: a detector
says what is in a picture, and a picture is right only if everything that its prompt says holds. The prompts are drawn
from the grammar of the captions, about combinations that training never showed. The detector is measured in the same
run, on fresh composed pictures, right ones and wrong ones.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import sqrt
from typing import Any

import numpy as np
from PIL import Image

from gesso.mini.judging.detector import DetectedObject, Detection, Detector, DetectorFile, detect
from gesso.scenes.caption import Captioner
from gesso.scenes.render import Renderer
from gesso.scenes.scene import PART_SIZE, PLACES, Category, Item, Scene, SceneSampler, held_out
from gesso.scenes.vocabulary import BACKGROUNDS, COLOURS, Thing

Generate = Callable[[list[str], list[int]], np.ndarray]
"""(prompts, one seed each) -> uint8 [B, H, H, 3], H >= 64"""

About = Callable[[tuple[object, ...]], bool]
"""Whether a combination (object and colour, two objects, object and number) is one to ask for."""

CATEGORIES: tuple[Category, ...] = ("single", "background", "colours", "two", "counting", "position", "attribution")
TITLES: dict[str, str] = {
    "single": "single object",
    "background": "object on a coloured background",
    "colours": "colours",
    "two": "two objects",
    "counting": "counting",
    "position": "position",
    "attribution": "colour attribution",
}
# What a model is meant to reach: trained on a CPU with 100 objects or more, on a GPU with 600 or more.
FLOORS: dict[str, dict[str, float]] = {
    "cpu": dict(zip(CATEGORIES, (0.92, 0.90, 0.80, 0.50, 0.50, 0.50, 0.30), strict=True)),
    "gpu": dict(zip(CATEGORIES, (0.95, 0.95, 0.90, 0.80, 0.70, 0.80, 0.60), strict=True)),
}
MIN_JUDGE_ACCURACY = 0.95  # a category whose judge is worse does not count
MIN_DISTANCE = 0.1  # share of the side that one object must be further left, right, up or down than the other
THUMBNAIL = 128


def wilson(right: int, total: int, z: float = 1.959964) -> tuple[float, float]:
    """Interval of a share that is seen `right` times in `total` (Wilson 1927); z = 1.96 for 95 %.  total > 0"""
    if not 0 <= right <= total or total == 0:
        raise ValueError(f"{right} of {total} is not a share")
    share = right / total
    middle = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return min(share, max(0.0, middle - half)), max(share, min(1.0, middle + half))  # rounding must not exclude it


# ---- prompts ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prompt:
    """What is asked for, in words and as a scene."""

    text: str
    scene: Scene

    @property
    def says_background(self) -> bool:
        """White goes without saying, and is then not asked for."""
        return self.scene.background != "white" or "white" in self.text.replace(",", " ").split()


def held_out_from_generators(combination: tuple[object, ...]) -> bool:
    return held_out(*combination)


def is_new(scene: Scene, things: tuple[Thing, ...], about: About = held_out_from_generators) -> bool:
    """Whether training never showed the combination that the scene's category is about (single objects have none)."""
    names = [things[item.thing].name for item in scene.items]
    tinted = [(name, item.tint) for name, item in zip(names, scene.items, strict=True)]
    match scene.category:
        case "background":
            return about((names[0], "on", scene.background))
        case "colours":
            return about(tinted[0])
        case "counting":
            return about((names[0], len(names)))
        case "two" | "position":
            return about(tuple(names))
        case "attribution":
            return any(map(about, tinted))
        case _:
            return True


def new_scenes(
    category: Category, things: tuple[Thing, ...], rng: np.random.Generator, about: About = held_out_from_generators
) -> Iterator[Scene]:
    """Scenes of a category about held-out combinations, without end. Raises ValueError where there seem to be none."""
    sampler = SceneSampler(things, {category: 1.0}, "any")
    tries = 0
    while tries < 5000:  # one in ten is held out
        scene = sampler(rng)
        tries += 1
        if is_new(scene, things, about):
            tries = 0
            yield scene
    raise ValueError(f"no {category} combination of these {len(things)} objects is held out; use a larger table")


def prompt_set(
    things: tuple[Thing, ...], num_prompts: int, seed: int, *, every_object: bool = True
) -> tuple[Prompt, ...]:
    """At least num_prompts prompts, the categories in order and of equal number, no text twice.

    every_object: single objects get as many prompts as there are objects, if that is more than their share. The same
    arguments give the same prompts.
    """
    if num_prompts < 1 or not things:
        raise ValueError(f"{num_prompts} prompts about {len(things)} objects: expected 1 or more of both")
    share = -(-num_prompts // len(CATEGORIES))
    prompts: list[Prompt] = []
    for index, category in enumerate(CATEGORIES):
        rng = np.random.default_rng((seed, index))
        captioner, scenes = Captioner(things), new_scenes(category, things, rng)
        count = max(share, len(things)) if category == "single" and every_object else share
        order = rng.permutation(len(things))
        texts: set[str] = set()
        chosen: list[Prompt] = []
        for scene, _ in zip(scenes, range(100 * count), strict=False):
            if len(chosen) == count:
                break
            if category == "single":  # every object in turn
                scene = replace(scene, items=(replace(scene.items[0], thing=int(order[len(chosen) % len(things)])),))
            text = captioner(scene, rng)
            if text not in texts:
                texts.add(text)
                chosen.append(Prompt(text, scene))
        prompts += chosen
    return tuple(prompts)


# ---- verdicts --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PromptVerdict:
    """Which clauses of a prompt hold in its picture; clauses that the prompt does not have are absent."""

    clauses: Mapping[str, bool]

    @property
    def right(self) -> bool:
        return all(self.clauses.values())

    @property
    def broken(self) -> tuple[str, ...]:
        return tuple(name for name, holds in self.clauses.items() if not holds)


def judge(prompt: Prompt, detection: Detection) -> PromptVerdict:
    """Compares a prompt with the objects detected in its picture.

    objects     every object named is there
    number      as many of each as named, and nothing else
    tint        those that the prompt gives a colour have it; others may have any
    position    the first is left of, right of, above or below the second: further in that direction than across it
    background  has the colour named
    """
    scene = prompt.scene
    expected = Counter(item.thing for item in scene.items)
    detected = Counter(one.thing for one in detection.objects)
    clauses = {"objects": all(detected[thing] for thing in expected), "number": detected == expected}
    if any(item.tint is not None for item in scene.items):
        clauses["tint"] = all(item.tint is None or _any_tinted(detection, item) for item in scene.items)
    if scene.relation is not None:
        first, second = (_best(detection, item.thing) for item in scene.items)
        clauses["position"] = first is not None and second is not None and _holds(scene.relation, first, second)
    if prompt.says_background:
        clauses["background"] = detection.background == scene.background
    return PromptVerdict(clauses)


def _any_tinted(detection: Detection, item: Item) -> bool:
    return any(one.thing == item.thing and one.tint == item.tint for one in detection.objects)


def _best(detection: Detection, thing: int) -> DetectedObject | None:
    return max((one for one in detection.objects if one.thing == thing), key=lambda one: one.confidence, default=None)


def _holds(relation: str, first: DetectedObject, second: DetectedObject) -> bool:
    dx, dy = second.x - first.x, second.y - first.y
    along, across = {"left": (dx, dy), "right": (-dx, dy), "above": (dy, dx), "below": (-dy, dx)}[relation]
    return along >= MIN_DISTANCE and along > abs(across)


def describe(detection: Detection, things: tuple[Thing, ...]) -> str:
    """What is seen, in words: "red cat, something unknown on blue"."""
    names = (
        "something unknown" if one.thing is None else f"{one.tint} {name}" if one.tint else name
        for one in detection.objects
        for name in [things[one.thing].name if one.thing is not None else ""]
    )
    return f"{', '.join(names) or 'nothing'} on {detection.background or 'an unclear background'}"


# ---- the judge judged ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class JudgeFigures:
    """Accuracy of the judge on new composed pictures of one category."""

    total: int
    right: int  # true pictures called right
    fooled: int  # pictures with one clause broken, as many, called right

    @property
    def accuracy(self) -> float:
        return self.right / self.total


def spoiled(scene: Scene, things: tuple[Thing, ...], rng: np.random.Generator) -> Scene:
    """A scene that breaks one thing that its category asks for."""
    items, choice = scene.items, int(rng.integers(3))
    if scene.category == "background" and choice < 2:
        names = [name for name in BACKGROUNDS if name != scene.background]
        return replace(scene, background=names[rng.integers(len(names))])
    if scene.category == "colours" and choice < 2:
        return replace(scene, items=(replace(items[0], tint=_other_tint(scene, items[0], rng)),))
    if scene.category == "counting" and choice < 2:
        counts = [count for count in PLACES if count != len(items)]
        places = PLACES[counts[rng.integers(len(counts))]]
        return replace(scene, items=tuple(replace(items[0], x=x, y=y, size=PART_SIZE) for x, y in places))
    if scene.category == "two" and choice == 0:
        return replace(scene, items=items[:1])
    if scene.category == "position" and choice < 2:  # they change places
        return replace(scene, items=(_at(items[0], items[1]), _at(items[1], items[0])))
    if scene.category == "attribution" and choice == 0:  # they change colours
        first, second = (replace(a, tint=b.tint) for a, b in (items, items[::-1]))
        return replace(scene, items=(first, second))
    if scene.category == "attribution" and choice == 1:
        return replace(scene, items=(items[0], replace(items[1], tint=_other_tint(scene, items[1], rng))))
    others = [row for row in range(len(things)) if all(row != item.thing for item in items)]
    other = others[rng.integers(len(others))]
    count = len(items) if scene.category == "counting" else 1  # the last, or all of them
    kept, changed = items[:-count], items[-count:]
    return replace(scene, items=(*kept, *(replace(item, thing=other) for item in changed)))


def _at(item: Item, place: Item) -> Item:
    return replace(item, x=place.x, y=place.y)


def _other_tint(scene: Scene, item: Item, rng: np.random.Generator) -> str:
    tints = [name for name in COLOURS if name not in (item.tint, scene.background)]
    return tints[rng.integers(len(tints))]


def judge_figures(
    detector: Detector,
    things: tuple[Thing, ...],
    renderer: Renderer,
    *,
    per_category: int = 200,
    seed: int = 0,
    size: int = 64,
    about: About = held_out_from_generators,
    roughen: Callable[[np.ndarray], np.ndarray] = lambda images: images,
) -> dict[str, JudgeFigures]:
    """Measure the judge on pictures that the compositor draws, true ones and spoiled ones of the same prompts.

    size: of the pictures, before the judge shrinks them. about: which combinations. roughen: uint8 [B, H, H, 3] -> the
    same, applied to all.
    """
    figures: dict[str, JudgeFigures] = {}
    for index, category in enumerate(CATEGORIES):
        rng = np.random.default_rng((seed, 10**6 + index))  # away from the prompt sets
        captioner, scenes = Captioner(things), new_scenes(category, things, rng, about)
        truths = [scene for scene, _ in zip(scenes, range(per_category), strict=False)]
        prompts = [Prompt(captioner(scene, rng), scene) for scene in truths]
        lies = [spoiled(scene, things, rng) for scene in truths]
        counted = []
        for drawn in (truths, lies):
            images = roughen(np.stack([renderer(scene, size) for scene in drawn]))
            detections = detect(detector, images)
            counted.append(sum(judge(prompt, one).right for prompt, one in zip(prompts, detections, strict=True)))
        figures[category] = JudgeFigures(per_category, counted[0], counted[1])
    return figures


# ---- the report ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class JudgedPicture:
    """One picture of an evaluation."""

    prompt: Prompt
    seed: int
    detection: Detection
    verdict: PromptVerdict
    thumbnail: np.ndarray = field(repr=False)  # uint8 [h, h, 3], h at most 128


@dataclass(frozen=True, kw_only=True)
class CategoryScore:
    """One row of the report."""

    category: str
    total: int
    right: int
    judge_accuracy: float | None  # None: no judge figure for this category
    judge_total: int | None  # pictures that it was measured on in this run; None: the figure of the judge's file
    judge_fooled: float | None  # share of wrong pictures that the judge called right
    floor: float | None

    @property
    def score(self) -> float:
        return self.right / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """95 %, Wilson."""
        return wilson(self.right, self.total)

    @property
    def counts(self) -> bool:
        """Whether the judge is good enough for the score to mean something."""
        return self.judge_accuracy is not None and self.judge_accuracy >= MIN_JUDGE_ACCURACY

    @property
    def reached(self) -> bool | None:
        """Whether the score is at its floor; None where there is no floor or the category does not count."""
        return None if self.floor is None or not self.counts else self.score >= self.floor


@dataclass(frozen=True, kw_only=True)
class CompositionReport:
    """What an evaluation found."""

    scores: tuple[CategoryScore, ...]
    seed: int
    settings: Mapping[str, Any]  # model, steps, guidance: whatever else decides the pictures
    num_objects: int
    judged: tuple[JudgedPicture, ...] = field(repr=False)
    words: tuple[str, ...] = field(repr=False)  # what was seen in each picture

    @property
    def overall(self) -> float | None:
        """Mean score of the categories that count; None where none does."""
        counted = [score.score for score in self.scores if score.counts]
        return sum(counted) / len(counted) if counted else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: scores, and every prompt with its seed, clauses and what was seen."""
        rows = []
        for score in self.scores:
            low, high = score.interval
            row = {**asdict(score), "score": score.score, "low": low, "high": high}
            rows.append({**row, "counts": score.counts, "reached": score.reached})
        pictures = [
            {
                "category": one.prompt.scene.category,
                "prompt": one.prompt.text,
                "seed": one.seed,
                "right": one.verdict.right,
                "clauses": dict(one.verdict.clauses),
                "seen": words,
            }
            for one, words in zip(self.judged, self.words, strict=True)
        ]
        return {
            "format": "gesso-composition",
            "version": 1,
            "settings": dict(self.settings),
            "seed": self.seed,
            "num_objects": self.num_objects,
            "num_prompts": len(self.judged),
            "overall": self.overall,
            "scores": rows,
            "pictures": pictures,
        }

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False)

    def table(self) -> list[list[str]]:
        """Heading and rows in words, for a terminal or a page."""
        rows = [["category", "n", "score", "95 % interval", "floor", "judge right", "judge fooled", "counts"]]
        for score in self.scores:
            low, high = score.interval
            floor = "" if score.floor is None else f"{score.floor:.2f}"
            if score.reached is not None:
                floor += " reached" if score.reached else " missed"
            rows.append(
                [
                    TITLES[score.category],
                    str(score.total),
                    f"{score.score:.3f}",
                    f"{low:.3f} to {high:.3f}",
                    floor,
                    _share(score.judge_accuracy),
                    _share(score.judge_fooled),
                    "yes" if score.counts else "does not count",
                ]
            )
        overall = "none" if self.overall is None else f"{self.overall:.3f}"
        rows.append(["mean of what counts", str(len(self.judged)), overall, "", "", "", "", ""])
        return rows

    def text(self) -> str:
        """The table with aligned columns."""
        rows = self.table()
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
        return "\n".join(line.rstrip() for line in lines)


def _share(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"


def evaluate_composition(
    generate: Generate,
    detector: DetectorFile,
    *,
    things: tuple[Thing, ...],
    renderer: Renderer | None,
    num_prompts: int = 560,
    seed: int = 0,
    batch_size: int = 32,
    every_object: bool = True,
    judge_pictures: int = 200,
    floors: Mapping[str, float] | None = None,
    settings: Mapping[str, Any] | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> CompositionReport:
    """Draw a prompt set and judge the pictures.

    generate        see Generate; gets batch_size prompts at most, picture i with seed + i
    renderer        of the same table; measures the judge on judge_pictures true and as many false pictures a category.
                    None (no emoji font here): the figures in the detector's file are taken
    floors          by category; without them those for a CPU-trained model, from 600 objects on those for a GPU
    on_progress     gets the number of pictures judged, and of all
    Raises ValueError where `generate` gives pictures of another number or shape than asked for.
    """
    prompts = prompt_set(things, num_prompts, seed, every_object=every_object)
    judged: list[JudgedPicture] = []
    size = 64
    for start in range(0, len(prompts), batch_size):
        batch = prompts[start : start + batch_size]
        seeds = [seed + start + row for row in range(len(batch))]
        images = generate([prompt.text for prompt in batch], seeds)
        if len(images) != len(batch):
            raise ValueError(f"{len(images)} pictures for {len(batch)} prompts")
        size = images.shape[1]
        for prompt, one, detection, image in zip(batch, seeds, detect(detector.detector, images), images, strict=True):
            judged.append(JudgedPicture(prompt, one, detection, judge(prompt, detection), thumbnail(image)))
        on_progress(len(judged), len(prompts))
    fresh: Mapping[str, JudgeFigures] = {}
    if renderer is not None:
        fresh = judge_figures(
            detector.detector, things, renderer, per_category=judge_pictures, seed=seed, size=min(size, 256)
        )
    floors = floors or FLOORS["gpu" if len(things) >= 600 else "cpu"]
    return CompositionReport(
        scores=tuple(_score(category, judged, fresh, detector.accuracy, floors) for category in CATEGORIES),
        seed=seed,
        settings=settings or {},
        num_objects=len(things),
        judged=tuple(judged),
        words=tuple(describe(one.detection, things) for one in judged),
    )


def _score(
    category: str,
    judged: Sequence[JudgedPicture],
    fresh: Mapping[str, JudgeFigures],
    accuracy: Mapping[str, float],
    floors: Mapping[str, float],
) -> CategoryScore:
    rows = [one.verdict.right for one in judged if one.prompt.scene.category == category]
    measured = fresh.get(category)
    return CategoryScore(
        category=category,
        total=len(rows),
        right=sum(rows),
        judge_accuracy=measured.accuracy if measured else accuracy.get(category),
        judge_total=measured.total if measured else None,
        judge_fooled=measured.fooled / measured.total if measured else None,
        floor=floors.get(category),
    )


def thumbnail(image: np.ndarray) -> np.ndarray:
    """uint8 [H, H, 3] -> the same, at most 128 a side"""
    if len(image) <= THUMBNAIL:
        return image.copy()
    return np.asarray(Image.fromarray(image).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX))
