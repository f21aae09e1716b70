"""Which step of a training is best, and why: `verdict_of` reads what was measured at each report.

Every figure has an interval: the middle 95 % of its values on pictures and prompts that are drawn again, with
replacement, from those that were measured (bootstrap: Efron 1979); all steps are measured with the same prompts and
noise, so that they are compared on the same draws. A share of copies has Wilson's interval instead, since none found
among few would have no spread.

The best step is the one with the highest score, unless an earlier one that is within one standard error of it (Breiman
et al. 1984, section 3.4.3) copies less: what is trained longer than it needs has more time to copy. Where no pictures
were drawn, nothing says whether a later step copies more, and the earliest within one standard error is taken.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

DRAWS = 2000
CLEAR = 0.95  # of the draws in which a difference must have one sign for a training to stop
ONE_ERROR = 0.84  # of the draws that tell two steps apart: how many must prefer the later one (one standard error)
PATIENCE = 2  # reports in a row that only copy more before a training stops
COPIED = 0.25  # share of copies from which a file gets a warning
# Of a step, in their order.
FIGURES = ("score", "likeness", "learned", "prompts", "gap", "copies", "drift", "seen", "held")
FORGOT = 1.0  # drift from which a file gets one: the change is as large as the model's own error

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Figure:
    """A value and the interval in which it lies with 95 %."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"

    def rounded(self) -> list[float]:
        """Value, low and high end, as JSON has them."""
        return [round(one, 4) for one in (self.value, self.low, self.high)]


@dataclass(frozen=True)
class StepVerdict:
    """One step. None: was not measured.

    likeness  0 as the model drew before, 1 as like your pictures as they are among themselves. Of a ControlNet: how
              well its pictures follow their hints; 0 as another picture's, 1 as the hint's own picture. Of a student:
              how near its teacher; 0 as before, 1 as the teacher in half of its steps
    drift     change of what the model says about other prompts, as a share of its own error there
    prompts   how often a picture fits its own prompt better than another's; 0.5 is chance
    gap       of a student: that less the same of its teacher
    copies    share of pictures that are copies of a training picture
    seen, held  error at fixed noise of pictures that are trained on and others, of that at the start
    learned   fall of that error (held out, else seen), as a share of the largest fall of all steps
    score     likeness x learned x prompt following x share without copies, each from 0 to 1; where no pictures were
              drawn, the fall of the error
    """

    step: int
    likeness: Figure | None
    drift: Figure | None
    prompts: Figure | None
    gap: Figure | None
    copies: Figure | None
    seen: Figure | None
    held: Figure | None
    learned: Figure | None
    score: Figure

    def figures(self) -> dict[str, Figure]:
        """What was measured, by name."""
        return {name: figure for name in FIGURES if (figure := getattr(self, name)) is not None}


@dataclass(frozen=True)
class Verdict:
    """best: the step to use; None where nothing was measured. stops: whether training on only copies"""

    steps: tuple[StepVerdict, ...]
    best: int | None
    reason: str
    stops: bool
    warnings: tuple[str, ...]

    @property
    def chosen(self) -> StepVerdict | None:
        """The figures of the best step."""
        return next((one for one in self.steps if one.step == self.best), None)


def read_measures(path: Path, upto: int | None = None) -> list[dict[str, Any]]:
    """The rows that a training wrote, in the order of their steps; of a step that was measured twice, the last.

    upto: no later steps. Torn lines are left out.
    """
    rows: dict[int, dict[str, Any]] = {}
    if path.exists():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict) and isinstance(row.get("step"), int):
                rows[row["step"]] = row
    return [rows[step] for step in sorted(rows) if upto is None or step <= upto]


def wilson(right: int, total: int, z: float = 1.959964) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927)."""
    if not total:
        return 0.0, 1.0
    share, room = right / total, z * z / total
    middle, half = share + room / 2, z * math.sqrt(share * (1 - share) / total + room / (4 * total))
    return max((middle - half) / (1 + room), 0.0), min((middle + half) / (1 + room), 1.0)


class _Draws:
    """The same draws of places for every figure of as many values."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, int], np.ndarray] = {}

    def __call__(self, kind: str, count: int) -> np.ndarray:
        if (kind, count) not in self._kept:
            seed = np.random.default_rng([count, *kind.encode()])
            self._kept[kind, count] = seed.integers(0, count, (DRAWS, count))
        return self._kept[kind, count]


def verdict_of(rows: Sequence[Row]) -> Verdict:
    """The verdict on a training from the rows of its reports, the first of which is that of step 0."""
    start = next((row for row in rows if row["step"] == 0), None)
    later = [row for row in rows if row["step"] > 0]
    if not later:
        return Verdict((), None, "nothing was measured after the start", False, ())
    draws, steps, samples = _Draws(), [], {}
    largest = _largest_fall(later, start, draws)
    for row in later:
        one, samples[row["step"]] = _step(row, start, draws, largest)
        steps.append(one)
    drawn = any(one.likeness is not None for one in steps)
    best = _best(steps, samples) if drawn or any(one.held is not None for one in steps) else None
    if best is None:
        last = steps[-1].step
        reason = f"step {last} is the last; no pictures were drawn and none held out, so nothing tells the steps apart"
        return Verdict(tuple(steps), last, reason, False, ())
    chosen = next(one for one in steps if one.step == best)
    stops = _stops(later, best, chosen, steps, draws)
    return Verdict(tuple(steps), best, _reason(steps, samples, chosen, stops), stops, _warnings(chosen, later))


def _fall(row: Row, start: Row | None, draws: _Draws) -> tuple[float, np.ndarray] | None:
    """By how much the error of pictures held out fell since the start, of those that are seen where none are."""
    found = _relative(row, start, "held", draws) or _relative(row, start, "seen", draws)
    return None if found is None else (1 - found[0].value, 1 - found[1])


def _largest_fall(rows: Sequence[Row], start: Row | None, draws: _Draws) -> tuple[float, np.ndarray]:
    falls = [fall for row in rows if (fall := _fall(row, start, draws)) is not None]
    if not falls:
        return 0.0, np.zeros(DRAWS)
    return max(value for value, _ in falls), np.max([drawn for _, drawn in falls], axis=0)


def _step(
    row: Row, start: Row | None, draws: _Draws, largest: tuple[float, np.ndarray]
) -> tuple[StepVerdict, np.ndarray]:
    """The figures of a step, and its score in every draw."""
    likeness = prompts = gap = copies = drift = learned = None
    fall = _fall(row, start, draws)
    if fall is not None and largest[0] > 0:
        shares = np.clip(fall[1] / np.maximum(largest[1], 1e-9), 0, 1)
        share = min(max(fall[0] / largest[0], 0.0), 1.0)
        learned = _figure(share, shares)
    score: np.ndarray | None = None
    point = 0.0
    if row.get("likeness"):
        values = np.asarray(row["likeness"], float)
        places = draws("prompts", len(values))
        mine = values[places].mean(axis=1)
        scale = np.ones(DRAWS)
        if row.get("own_likeness"):
            own = np.asarray(row["own_likeness"], float)
            scale = np.maximum(own[draws("pictures", len(own))].mean(axis=1), 0.05)
        likeness = _figure(float(values.mean()), mine / scale)
        score, point = np.clip(mine / scale, 0, 1), float(np.clip(values.mean(), 0, 1))
        if learned is not None:
            score, point = score * shares, point * share
        if row.get("fits"):
            fits = np.asarray(row["fits"], float)
            drawn = fits[draws("prompts", len(fits))].mean(axis=1)
            prompts = _figure(float(fits.mean()), drawn)
            if len(row.get("teacher_fits", ())) == len(fits):
                less = fits - np.asarray(row["teacher_fits"], float)
                gap = _figure(float(less.mean()), less[draws("prompts", len(less))].mean(axis=1))
            score = score * np.clip(2 * drawn - 1, 0, 1)
            point *= float(np.clip(2 * fits.mean() - 1, 0, 1))
        if row.get("nearest"):
            found = np.asarray(row["nearest"], float) >= row["threshold"]
            copies = Figure(float(found.mean()), *wilson(int(found.sum()), len(found)))
            score = score * (1 - found[draws("prompts", len(found))].mean(axis=1))
            point *= 1 - float(found.mean())
    if row.get("drift"):
        values = np.asarray(row["drift"], float)
        drift = _figure(float(values.mean()), values[draws("others", len(values))].mean(axis=1))
    seen, held = (_relative(row, start, kind, draws) for kind in ("seen", "held"))
    if score is None:
        point, score = fall or (0.0, np.zeros(DRAWS))
    found_seen, found_held = (one[0] if one else None for one in (seen, held))
    whole = _figure(point, score)
    found = StepVerdict(row["step"], likeness, drift, prompts, gap, copies, found_seen, found_held, learned, whole)
    return found, score


def _relative(row: Row, start: Row | None, kind: str, draws: _Draws) -> tuple[Figure, np.ndarray] | None:
    if start is None or not row.get(kind) or len(row[kind]) != len(start.get(kind, ())):
        return None
    now, was = (np.asarray(one[kind], float) for one in (row, start))
    places = draws(kind, len(now))
    drawn = now[places].mean(axis=1) / np.maximum(was[places].mean(axis=1), 1e-12)
    return _figure(float(now.mean() / max(was.mean(), 1e-12)), drawn), drawn


def _figure(value: float, draws: np.ndarray) -> Figure:
    low, high = np.quantile(draws, [0.025, 0.975])
    return Figure(value, min(float(low), value), max(float(high), value))


def _best(steps: Sequence[StepVerdict], samples: Mapping[int, np.ndarray]) -> int:
    highest = max(steps, key=lambda one: one.score.value)
    near = [
        one
        for one in steps
        if one.step <= highest.step and _not_clearly_below(samples[one.step], samples[highest.step])
    ]
    if highest.copies is None:
        return near[0].step
    fewer = [one for one in near if one.copies is not None and one.copies.value < highest.copies.value]
    return min(fewer, key=lambda one: (one.copies.value if one.copies else 0.0, one.step), default=highest).step


def _not_clearly_below(one: np.ndarray, other: np.ndarray) -> bool:
    return _share_below(one, other) < ONE_ERROR


def _share_below(one: np.ndarray, other: np.ndarray) -> float:
    """In which share of the draws that tell two steps apart the first is lower; 0 where none does.

    Scores end at 0, where early steps often lie: a draw that puts both there says nothing for either.
    """
    lower, higher = int((one < other).sum()), int((one > other).sum())
    return lower / (lower + higher) if lower + higher else 0.0


def _stops(rows: Sequence[Row], best: int, chosen: StepVerdict, steps: Sequence[StepVerdict], draws: _Draws) -> bool:
    """Whether the last reports are all after the best step, no better, and copy more."""
    after = [(row, one) for row, one in zip(rows, steps, strict=True) if one.step > best]
    if len(after) < PATIENCE:
        return False
    at_best = next(row for row in rows if row["step"] == best)
    return all(
        one.score.value <= chosen.score.value and _copies_more(row, one, at_best, chosen, draws)
        for row, one in after[-PATIENCE:]
    )


def _copies_more(row: Row, one: StepVerdict, at_best: Row, chosen: StepVerdict, draws: _Draws) -> bool:
    if one.copies is not None and chosen.copies is not None and one.copies.value > chosen.copies.value:
        now, was = np.asarray(row["nearest"], float), np.asarray(at_best["nearest"], float)
        if len(now) == len(was):  # a run that goes on may draw more or fewer pictures
            rises = (now - was)[draws("prompts", len(now))].mean(axis=1) > 0
            if float(rises.mean()) >= CLEAR:
                return True
    if one.held is None or one.seen is None or chosen.held is None or chosen.seen is None:
        return False
    now, was = np.asarray(row["held"], float), np.asarray(at_best["held"], float)
    rises = (now - was)[draws("held", len(now))].mean(axis=1) > 0
    return float(rises.mean()) >= CLEAR and one.seen.value < chosen.seen.value


def _reason(steps: Sequence[StepVerdict], samples: Mapping[int, np.ndarray], chosen: StepVerdict, stops: bool) -> str:
    highest = max(steps, key=lambda one: one.score.value)
    what = "score" if chosen.likeness is not None else "fall of the error of pictures held out"
    parts = [f"step {chosen.step} has the {what} {chosen.score}"]
    if highest.step == chosen.step:
        parts.append("the highest" if len(steps) > 1 else "the only one")
    else:
        share = _share_below(samples[chosen.step], samples[highest.step])
        less = "copies less" if chosen.copies is not None else "had less time to copy"
        parts.append(
            f"step {highest.step} has {highest.score}, better in {share:.0%} of the draws, less than one standard "
            f"error: the earlier one {less}"
        )
    if (later := [one for one in steps if one.step > chosen.step]) and highest.step == chosen.step:
        worst = later[-1]
        parts.append(f"step {worst.step} after it has {worst.score}{_why_less(worst, chosen)}")
    if stops:
        parts.append("the steps after it only copy")
    return "; ".join(parts)


def _why_less(one: StepVerdict, chosen: StepVerdict) -> str:
    """In which measure a step fell behind most."""
    gaps = {}
    for name, better in (("likeness", 1), ("learned", 1), ("prompts", 1), ("copies", -1)):
        now, was = getattr(one, name), getattr(chosen, name)
        if now is not None and was is not None:
            gaps[name] = better * (was.value - now.value)
    if not gaps or max(gaps.values()) <= 0:
        return ""
    name = max(gaps, key=lambda key: gaps[key])
    words = {
        "likeness": "less likeness",
        "learned": "larger error",
        "prompts": "follows prompts less",
        "copies": "copies more",
    }
    return f" ({words[name]}: {getattr(one, name).value:.2f} after {getattr(chosen, name).value:.2f})"


def _warnings(chosen: StepVerdict, rows: Sequence[Row]) -> tuple[str, ...]:
    found = []
    if chosen.copies is not None and chosen.copies.value >= COPIED:
        found.append(f"{chosen.copies.value:.0%} of its pictures are copies of training pictures")
    if chosen.drift is not None and chosen.drift.low >= FORGOT:
        found.append(f"what it says about other prompts has changed a lot ({chosen.drift}); use pictures of the class")
    if chosen.prompts is not None and chosen.prompts.low <= 0.5:
        found.append(f"it hardly follows prompts ({chosen.prompts}; 0.5 is chance)")
    row = next(row for row in rows if row["step"] == chosen.step)
    if row.get("alike") and row["threshold"] >= 0.95:
        found.append("your pictures are so alike among themselves that copies cannot be told")
    return tuple(found)
