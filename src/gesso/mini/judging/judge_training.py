"""Training of the judge's detector on composed pictures.

The pictures are those of the prompt set's kinds, and scattered ones: nothing to four objects anywhere. What a generator
must not be shown, its judge must know well; a few combinations of its own are kept from it (`unseen_by_judge`), and how
it does on those is measured too. They are roughened the way a small generator roughens its own (blur, smear, wobble,
noise, washed colours), so that the judge is not thrown off by it; and some are spoiled beyond it (two objects mixed
into one, shapes smeared away) and labelled as none of the table, so that the judge does not become lenient.
"""

import math
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from gesso.errors import GessoError
from gesso.mini.judging.composition import JudgeFigures, judge_figures
from gesso.mini.judging.detector import (
    GRID_SIZE,
    INPUT_SIZE,
    TINTS,
    Detector,
    DetectorConfig,
    Scores,
    channels_last,
    save_detector,
    table_hash,
    to_input,
)
from gesso.scenes.render import Renderer
from gesso.scenes.scene import Category, Item, Scene, SceneSampler, combinations
from gesso.scenes.vocabulary import BACKGROUNDS, COLOURS, Thing
from gesso.training.loop import save_atomically

MIX: dict[Category, float] = {
    "single": 1.0,
    "background": 1.5,
    "colours": 4.0,
    "counting": 2.0,
    "two": 1.5,
    "position": 1.5,
    "attribution": 4.0,
}
SHARE_SCATTERED = 0.3
SHARE_LARGE = 0.15  # drawn at twice the size and shrunk, as the pictures of a larger model are
SIZE_STEP = 1 / 32  # sizes are rounded to it: the renderer keeps scaled glyphs, and few sizes are drawn quickly
SHARE_MIXED = 0.12  # two objects in one: none of the table
SHARE_SMEARED = 0.04  # smeared away: none of the table
SHARE_STRANGE = 0.08  # red, green and blue change places: shape alone must tell the object, and no tint is asked for
SHARE_UNSEEN = 0.04  # of the combinations, kept from the judge


@dataclass(frozen=True, kw_only=True)
class JudgePlan:
    """How long to train; samples count pictures."""

    total_samples: int = 120_000
    batch_size: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 0.02
    warmup_samples: int = 6_400
    ema_decay: float = 0.998
    seed: int = 0

    def factor(self, samples: int) -> float:
        """Share of the learning rate after so many samples: up in a line, down along a cosine."""
        rising = min(1.0, (samples + 1) / self.warmup_samples)
        return rising * 0.5 * (1 + math.cos(math.pi * min(1.0, samples / self.total_samples)))


# ---- pictures and what is in them ------------------------------------------------------------------------------------


def unseen_by_judge(combination: tuple[object, ...]) -> bool:
    """Whether training of the judge never shows a combination (object and colour, two objects, object and number).

    Decided by its words, independently of what is held out from generators.
    """
    key = "|".join(["judge", *sorted(str(part) for part in combination)])
    return zlib.crc32(key.encode()) % 1000 < 1000 * SHARE_UNSEEN


def scattered(things: tuple[Thing, ...], rng: np.random.Generator) -> Scene:
    """Nothing to four objects of any size, anywhere, often tinted; nothing that is kept from the judge."""
    while True:
        background = list(BACKGROUNDS)[rng.integers(len(BACKGROUNDS))] if rng.random() < 0.5 else "white"
        tints = [name for name in COLOURS if name != background]
        count = int(rng.choice(5, p=(0.06, 0.3, 0.28, 0.22, 0.14)))
        largest = {0: 0.9, 1: 0.9, 2: 0.5}.get(count, 0.46)
        items: list[Item] = []
        for _ in range(30):  # tries: crowded pictures may end up with fewer
            x, y = rng.uniform(0.2, 0.8, size=2)
            if len(items) == count:
                break
            if all(max(abs(x - other.x), abs(y - other.y)) > 0.36 for other in items):
                tint = tints[rng.integers(len(tints))] if rng.random() < 0.4 else None
                thing = items[0].thing if items and rng.random() < 0.3 else int(rng.integers(len(things)))
                items.append(Item(thing, x, y, _rounded(rng.uniform(0.34, largest)), tint))
        scene = Scene("two", background, tuple(items))
        if not any(map(unseen_by_judge, combinations(scene, things))):
            return scene


def shaken(scene: Scene, rng: np.random.Generator) -> Scene:
    """The scene with everything moved and scaled a little."""
    dx, dy = rng.uniform(-0.04, 0.04, size=2)
    scale = rng.uniform(0.88, 1.1)
    moves = rng.uniform(-0.02, 0.02, size=(len(scene.items), 2))
    items = (
        replace(item, x=item.x + dx + mx, y=item.y + dy + my, size=_rounded(item.size * scale))
        for item, (mx, my) in zip(scene.items, moves, strict=True)
    )
    return replace(scene, items=tuple(items))


def _rounded(size: float) -> float:
    return round(size / SIZE_STEP) * SIZE_STEP


@dataclass(frozen=True)
class Targets:
    """What the detector should say. Weights are 0 where nothing is to be learned of object and tint."""

    middle: Tensor  # [B, G, G], 1 in the cell of an object's middle, falling off around it
    thing: Tensor  # int64 [B, G, G]
    tint: Tensor  # int64 [B, G, G]
    weight: Tensor  # [B, G, G]
    tint_weight: Tensor  # [B, G, G]


def targets_of(scenes: Sequence[Scene], unknown: np.ndarray, num_things: int) -> Targets:
    """unknown: bool [B], where the objects are to be called none of the table."""
    shape = (len(scenes), GRID_SIZE, GRID_SIZE)
    middle, weight = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    thing, tint = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    rows = np.arange(GRID_SIZE)
    for index, scene in enumerate(scenes):
        for item in scene.items:
            x, y = item.x * GRID_SIZE - 0.5, item.y * GRID_SIZE - 0.5
            bump = np.exp(-((rows[:, None] - y) ** 2 + (rows[None] - x) ** 2) / (2 * 0.9**2)).astype(np.float32)
            column, row = (int(np.clip(round(at), 0, GRID_SIZE - 1)) for at in (x, y))
            bump[row, column] = 1.0
            np.maximum(middle[index], bump, out=middle[index])
            near = np.s_[index, max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
            thing[near] = num_things if unknown[index] else item.thing
            tint[near] = TINTS.index(item.tint)
            weight[near] = bump[near[1:]]
    return Targets(*(torch.from_numpy(array) for array in (middle, thing, tint, weight, weight.copy())))


class JudgePictures:
    """Batches of pictures with targets, the same for the same (seed, step)."""

    def __init__(self, things: tuple[Thing, ...], renderer: Renderer) -> None:
        self.things, self.renderer = things, renderer
        self.sampler = SceneSampler(things, MIX, "any")

    def batch(self, seed: int, step: int, batch_size: int) -> tuple[Tensor, Targets]:
        """-> pixels [B, 3, 64, 64] in [-1, 1], targets"""
        rng = np.random.default_rng((seed, step))
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        scenes = [
            scattered(self.things, rng) if rng.random() < SHARE_SCATTERED else shaken(self.random_scene(rng), rng)
            for _ in range(batch_size)
        ]
        pixels = self.draw(scenes, rng)
        spoiled = rng.random(batch_size)
        mixed = spoiled < SHARE_MIXED
        smeared = (spoiled >= SHARE_MIXED) & (spoiled < SHARE_MIXED + SHARE_SMEARED)
        for index in np.flatnonzero(mixed):
            other = self.draw([self.twin(scenes[index], rng)], rng)
            pixels[index : index + 1] = torch.lerp(pixels[index : index + 1], other, mask_of(scenes[index], rng))
        for index in np.flatnonzero(smeared):
            side = int(rng.integers(7, 11)) if len(scenes[index].items) <= 1 else int(rng.integers(8, 14))
            pixels[index : index + 1] = shrunk_and_back(pixels[index : index + 1], side)
        targets = targets_of(scenes, mixed | smeared, len(self.things))
        strange = rng.random(batch_size) < SHARE_STRANGE
        for index in np.flatnonzero(strange):
            order = [(1, 2, 0), (2, 0, 1), (0, 2, 1), (2, 1, 0), (1, 0, 2)][rng.integers(5)]
            pixels[index] = pixels[index, list(order)]
        targets.tint_weight[torch.from_numpy(strange)] = 0
        return roughen(pixels, generator), targets

    def random_scene(self, rng: np.random.Generator) -> Scene:
        """A random scene of the kinds in the prompt set, except those held out from the judge's training."""
        while any(map(unseen_by_judge, combinations(scene := self.sampler(rng), self.things))):
            pass
        return scene

    def draw(self, scenes: Sequence[Scene], rng: np.random.Generator) -> Tensor:
        drawn = []
        for scene in scenes:
            size = 2 * INPUT_SIZE if rng.random() < SHARE_LARGE else INPUT_SIZE
            drawn.append(to_input(self.renderer(scene, size)[None]))
        return torch.cat(drawn)

    def twin(self, scene: Scene, rng: np.random.Generator) -> Scene:
        """The same places and tints with other objects."""
        count = len(self.things)
        steps = rng.integers(1, count, size=len(scene.items))
        items = (
            replace(item, thing=(item.thing + int(by)) % count) for item, by in zip(scene.items, steps, strict=True)
        )
        return replace(scene, items=tuple(items))


def mask_of(scene: Scene, rng: np.random.Generator) -> Tensor:
    """How much of the twin shows where, so that neither object is whole.  -> [1, 1, 64, 64]"""
    if rng.random() < 0.5:  # one through the other
        return torch.full((1, 1, INPUT_SIZE, INPUT_SIZE), float(rng.uniform(0.35, 0.65)))
    at = (np.arange(INPUT_SIZE) + 0.5) / INPUT_SIZE  # half of the one beside half of the other
    mask = np.zeros((INPUT_SIZE, INPUT_SIZE), np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    nearest = np.full(mask.shape, np.inf)
    for item in scene.items:
        dx, dy = at[None] - item.x, at[:, None] - item.y
        distance = dx**2 + dy**2
        mask = np.where(distance < nearest, (dx * np.cos(angle) + dy * np.sin(angle) > 0).astype(np.float32), mask)
        nearest = np.minimum(nearest, distance)
    return torch.from_numpy(mask)[None, None]


# ---- roughening ------------------------------------------------------------------------------------------------------


def shrunk_and_back(pixels: Tensor, side: int) -> Tensor:
    """Smear: [B, 3, S, S] down to `side` and up again."""
    small = F.interpolate(pixels, size=(side, side), mode="bilinear", antialias=True)
    return F.interpolate(small, size=pixels.shape[-2:], mode="bilinear")


def roughen(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """A random amount of what small generators do to pictures, no more than leaves them readable.

    pixels [B, 3, S, S] in [-1, 1] -> the same. A quarter of the pictures stays as it is.
    """
    count, _, side, _ = pixels.shape

    def amount(most: float, share: float) -> Tensor:
        """[B, 1, 1, 1]: 0 in some rows, up to `most` in a share of them."""
        rows = torch.rand((2, count, 1, 1, 1), generator=generator)
        return torch.where(rows[0] < share, rows[1] * most, 0.0)

    def normal(*shape: int) -> Tensor:
        return torch.randn((count, *shape), generator=generator)

    pixels = pixels.contiguous()  # the kernels below are quicker on it than on channels last
    x = wobbled(pixels, amount(1.0, 0.35), generator)
    x = torch.lerp(x, F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1), amount(1.0, 0.4))
    smaller = (28, 32, 40, 48)[int(torch.randint(4, (), generator=generator))]
    x = torch.lerp(x, shrunk_and_back(x, smaller), amount(1.0, 0.4))
    x = x * (1 + amount(0.15, 0.5) * normal(1, 1, 1).clamp(-1, 1)) + amount(0.08, 0.5) * normal(3, 1, 1).clamp(
        -1.5, 1.5
    )
    blotches = F.interpolate(normal(3, side // 4, side // 4), size=(side, side), mode="bilinear")
    x = x + amount(0.12, 0.4) * blotches + amount(0.1, 0.4) * normal(3, side, side)
    untouched = torch.rand((count, 1, 1, 1), generator=generator) < 0.25
    return torch.where(untouched, pixels, x.clamp(-1, 1)).contiguous(memory_format=torch.channels_last)


def wobbled(pixels: Tensor, amount: Tensor, generator: torch.Generator) -> Tensor:
    """Outlines shifted smoothly by about `amount` pixels ([B, 1, 1, 1])."""
    count, _, side, _ = pixels.shape
    shift = torch.randn((count, 2, side // 8, side // 8), generator=generator)
    shift = F.interpolate(shift, size=(side, side), mode="bicubic") * amount * (2 / side)
    grid = F.affine_grid(torch.eye(2, 3).expand(count, 2, 3), [count, 1, side, side], align_corners=False)
    return F.grid_sample(pixels, grid + shift.permute(0, 2, 3, 1), padding_mode="border", align_corners=False)


# ---- the loop --------------------------------------------------------------------------------------------------------


def detector_loss(scores: Scores, targets: Targets) -> tuple[Tensor, dict[str, float]]:
    """Penalty-reduced focal loss of the middles (arXiv:1904.07850, equation 1) + cross entropy of object and tint."""
    log_p, log_q = F.logsigmoid(scores.middle), F.logsigmoid(-scores.middle)
    is_middle = targets.middle == 1
    here = (log_q.exp() ** 2 * log_p)[is_middle].sum()
    elsewhere = ((1 - targets.middle) ** 4 * log_p.exp() ** 2 * log_q)[~is_middle].sum()
    middle = -(here + elsewhere) / is_middle.sum().clamp(min=1)
    thing = _cross_entropy(scores.thing, targets.thing, targets.weight)
    tint = _cross_entropy(scores.tint, targets.tint, targets.tint_weight)
    figures = {"middle": middle, "thing": thing, "tint": tint}
    return middle + thing + 1.5 * tint, {name: float(value.detach()) for name, value in figures.items()}


def _cross_entropy(scores: Tensor, targets: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean over the cells.  scores [B, K, G, G], wanted int64 [B, G, G], weight [B, G, G] -> []"""
    at = weight > 0
    each = F.cross_entropy(scores.permute(0, 2, 3, 1)[at], targets[at], reduction="none")
    return (each * weight[at]).sum() / weight.sum().clamp(min=1e-6)


def train_detector(
    things: tuple[Thing, ...],
    renderer: Renderer,
    folder: Path,
    plan: JudgePlan,
    *,
    config: DetectorConfig | None = None,
    start: Detector | None = None,
    stop_after: float = float("inf"),
    save_every: float = 60.0,
    log_every: int = 50,
    on_log: Callable[[dict[str, float]], None] = lambda row: None,
) -> Detector | None:
    """Train until the plan's samples are used up; goes on from `judge.pt` in the folder where there is one.

    renderer: draws the things. start: a detector to begin with, in place of a new one of `config`. -> the averaged
    detector in eval mode, or None where stop_after seconds ended the run before its end. Everything random follows from
    (plan.seed, step). Raises GessoError where the state in the folder belongs to another table of objects or cannot be
    read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    last = folder / "judge.pt"
    config = start.config if start is not None else config or DetectorConfig(num_things=len(things))
    torch.manual_seed(plan.seed)
    detector = channels_last(Detector(config))
    if start is not None:
        detector.load_state_dict(start.state_dict())
    optimizer = torch.optim.AdamW(
        detector.parameters(), lr=plan.learning_rate, weight_decay=plan.weight_decay, fused=True
    )
    average = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    pictures = JudgePictures(things, renderer)
    step, seconds_before = 0, 0.0
    if last.exists():
        state = _load(last, things)
        detector.load_state_dict(state["detector"])
        optimizer.load_state_dict(state["optimizer"])
        average, step, seconds_before = state["average"], state["step"], state["seconds"]
    started = saved = time.monotonic()
    sums: dict[str, float] = {}

    def state_now() -> dict[str, Any]:
        seconds = seconds_before + time.monotonic() - started
        parts = {"detector": detector.state_dict(), "optimizer": optimizer.state_dict(), "average": average}
        return {**parts, "step": step, "seconds": seconds, "things": table_hash(things)}

    while step * plan.batch_size < plan.total_samples and time.monotonic() - started < stop_after:
        factor = plan.factor(step * plan.batch_size)
        for group in optimizer.param_groups:
            group["lr"] = plan.learning_rate * factor
        pixels, targets = pictures.batch(plan.seed, step, plan.batch_size)
        loss, figures = detector_loss(detector(pixels), targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(detector.parameters(), 5.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        _update(average, detector, min(plan.ema_decay, (1 + step) / (10 + step)))
        for key, value in figures.items():
            sums[key] = sums.get(key, 0.0) + value / log_every
        if step % log_every == 0:
            seconds = seconds_before + time.monotonic() - started
            on_log({"step": step, "samples": step * plan.batch_size, "seconds": round(seconds, 1), **sums})
            sums = {}
        if time.monotonic() - saved > save_every:
            save_atomically(state_now(), last)
            saved = time.monotonic()
    save_atomically(state_now(), last)
    if step * plan.batch_size < plan.total_samples:
        return None
    detector.load_state_dict(average)
    return detector.eval().requires_grad_(False)


def make_judge(
    things: tuple[Thing, ...],
    renderer: Renderer,
    folder: Path,
    output: Path,
    plan: JudgePlan,
    *,
    start: Detector | None = None,
    stop_after: float = float("inf"),
    per_category: int = 1000,
    on_log: Callable[[dict[str, float]], None] = lambda row: None,
) -> dict[str, JudgeFigures] | None:
    """Train a detector, measure it, write its file. None where stop_after seconds were not enough.

    renderer, start: as in `train_detector`. The figures are those of `measure_and_save`.
    """
    detector = train_detector(things, renderer, folder, plan, start=start, stop_after=stop_after, on_log=on_log)
    if detector is None:
        return None
    training = f"{plan.total_samples} pictures"
    return measure_and_save(detector, things, renderer, output, training=training, per_category=per_category)


def measure_and_save(
    detector: Detector,
    things: tuple[Thing, ...],
    renderer: Renderer,
    output: Path,
    *,
    training: str,
    per_category: int = 1000,
    seed: int = 1,
) -> dict[str, JudgeFigures]:
    """Round a detector to what its file holds, measure it, write it.

    The figures are taken on fresh composed pictures of combinations held out from generators, per_category true and as
    many false ones; a fifth as many on combinations that the judge itself never saw go into the file beside them.
    """
    with torch.no_grad():
        for tensor in detector.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(tensor.half())
    fewer = max(1, per_category // 5)
    figures = judge_figures(detector, things, renderer, per_category=per_category, seed=seed)
    unseen = judge_figures(detector, things, renderer, per_category=fewer, seed=seed + 1, about=unseen_by_judge)
    accuracy, accuracy_unseen = (
        {name: one.accuracy for name, one in figures_of.items()} for figures_of in (figures, unseen)
    )
    fooled = max(one.fooled / one.total for one in figures.values())
    notes = {
        "description": f"Trained on {training} composed of {len(things)} emoji. Accuracy on {per_category} fresh ones "
        f"of held-out combinations a category, and on {fewer} of combinations that its training never showed; of as "
        f"many wrong pictures it took at most {fooled:.3f} of a category for right.",
    }
    save_detector(output, detector, things, accuracy, accuracy_unseen, notes)
    return figures


@torch.no_grad()
def _update(average: dict[str, Tensor], detector: Detector, decay: float) -> None:
    for name, tensor in detector.state_dict().items():
        if tensor.is_floating_point():
            average[name].lerp_(tensor, 1 - decay)
        else:
            average[name].copy_(tensor)


def _load(path: Path, things: Sequence[Thing]) -> dict[str, Any]:
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        table = state["things"]
    except Exception as error:  # the unpickler raises many kinds
        raise GessoError(
            f"{path}: not a training state of the judge ({error}). Remove it to start again",
            code="damaged",
            data={"path": str(path)},
        ) from error
    if table != table_hash(things):
        raise GessoError(
            f"{path}: trained on another table of objects. Remove it to start again",
            code="other_training",
            data={"path": str(path)},
        )
    return state
