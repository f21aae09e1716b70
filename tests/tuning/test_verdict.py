"""The verdict on made-up measurements whose answer is known."""

import numpy as np
import pytest

from gesso.tuning.verdict import read_measures, verdict_of, wilson

RNG = np.random.default_rng(1)
BASE = RNG.normal(0, 0.05, 12)


def row(step, likeness=0.0, fits=1.0, near=0.1, drift=0.05, **more):
    """Twelve pictures around these means; the same prompts have the same luck at every step."""
    return {
        "step": step,
        "likeness": (likeness + BASE).tolist(),
        "own_likeness": [0.9, 1.0, 1.1, 1.0],
        "fits": np.clip(fits + BASE, 0, 1).tolist(),
        "nearest": np.clip(near + BASE, 0, 1).tolist(),
        "threshold": 0.6,
        "alike": [0.2, 0.3],
        "drift": [drift] * 6,
        **more,
    }


def test_the_earliest_of_equals_is_best():
    rows = [row(0), row(100, 0.5), row(200, 0.9), row(300, 0.9), row(400, 0.901)]
    found = verdict_of(rows)
    assert found.best == 400  # hardly better, but in every draw
    rows[-1] = row(400, 0.9 + 0.0)
    assert verdict_of(rows).best == 200
    chosen = verdict_of(rows).chosen
    assert chosen.likeness.low < chosen.likeness.value < chosen.likeness.high
    assert chosen.likeness.value == pytest.approx(0.9 + BASE.mean())


def test_steps_that_learned_nothing_do_not_tie_with_one_that_did():
    """Scores end at 0: draws in which two steps are both there prefer neither, and the one that learned is taken."""
    rows = [row(0), row(100, -0.1), row(200, -0.1), row(300, 0.005 - BASE.mean())]
    found = verdict_of(rows)
    assert [one.score.value for one in found.steps[:2]] == [0.0, 0.0] and found.steps[2].score.value > 0
    assert found.best == 300 and "the highest" in found.reason
    assert verdict_of([row(0), row(100, -0.9), row(200, -0.9)]).best == 100  # nothing tells them apart


def test_copies_cost_more_than_likeness_gains():
    rows = [row(0), row(100, 0.6), row(200, 0.8), row(300, 1.0, near=0.9)]
    found = verdict_of(rows)
    assert found.best == 200 and "copies more" in found.reason
    assert found.steps[-1].copies.value == 1.0 and found.steps[-1].score.value == 0.0
    assert found.steps[0].copies.low == 0.0 and found.steps[0].copies.high > 0.1  # none of twelve is not none


def test_of_steps_that_are_hardly_apart_the_one_that_copies_less_is_best():
    noisy = RNG.normal(0, 0.3, 12)
    later = row(200, 0.82)
    later["likeness"] = (np.asarray(later["likeness"]) + noisy - noisy.mean()).tolist()
    rows = [row(0), row(100, 0.8), later]
    found = verdict_of(rows)
    assert found.best == 200 and "the highest" in found.reason  # no more copies: no reason to end earlier
    later["nearest"] = [0.1] * 11 + [0.7]
    later["likeness"] = (np.asarray(later["likeness"]) + 0.08).tolist()
    found = verdict_of(rows)
    assert found.steps[1].score.value > found.steps[0].score.value
    assert found.best == 100 and "the earlier one copies less" in found.reason


def test_it_stops_when_later_steps_only_copy():
    rows = [row(0), row(100, 0.8), row(200, 0.85, near=0.65)]
    assert not verdict_of(rows).stops  # one report alone
    rows.append(row(300, 0.9, near=0.8))
    found = verdict_of(rows)
    assert found.best == 100 and found.stops and "only copy" in found.reason
    assert not verdict_of([*rows, row(400, 0.95, near=0.1)]).stops


def test_reports_of_different_numbers_of_pictures_are_not_paired():
    """A run that goes on may draw more pictures at a report than it did before."""
    more = [row(step, likeness, near=near) for step, likeness, near in ((200, 0.85, 0.65), (300, 0.9, 0.8))]
    for one in more:
        one |= {name: one[name] * 2 for name in ("likeness", "fits", "nearest")}
    found = verdict_of([row(0), row(100, 0.8), *more])
    assert found.best == 100 and not found.stops


def test_held_out_pictures_alone():
    def losses(step, seen, held):
        luck = np.array([0.0, 0.02, -0.02, 0.01])
        return {"step": step, "seen": (seen + luck).tolist(), "held": (held + luck).tolist()}

    rows = [losses(0, 1, 1), losses(50, 0.6, 0.7), losses(100, 0.5, 0.6), losses(150, 0.4, 0.7), losses(200, 0.3, 0.8)]
    found = verdict_of(rows)
    assert found.best == 100 and found.stops
    assert found.chosen.held.value == pytest.approx(0.6, abs=0.01) and found.chosen.likeness is None
    assert "held out" in found.reason


def test_where_nothing_tells_steps_apart_the_last_is_taken():
    rows = [{"step": step, "seen": [1.0 - step / 100]} for step in (0, 10, 20)]
    found = verdict_of(rows)
    assert found.best == 20 and "nothing tells the steps apart" in found.reason and not found.stops
    assert verdict_of([]).best is None and verdict_of(rows[:1]).steps == ()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"near": 0.9}, "are copies of training pictures"),
        ({"drift": 2.0}, "has changed a lot"),
        ({"fits": 0.4}, "hardly follows prompts"),
        ({"alike": [0.99, 0.99], "threshold": 0.99}, "copies cannot be told"),
    ],
)
def test_warnings(changes, words):
    assert any(words in line for line in verdict_of([row(0), row(10, 0.5, **changes)]).warnings)
    assert verdict_of([row(0), row(10, 0.5)]).warnings == ()


def test_intervals_cover():
    """Of a mean over pictures drawn from a known distribution, the interval holds the truth about as often as it says.

    Twelve are few: bootstrap's intervals are a little short there, which is known (about 0.91 for 0.95).
    """
    rng, inside = np.random.default_rng(0), 0
    for _ in range(60):
        values = rng.normal(0.5, 0.1, 12)
        one = {"step": 1, "likeness": values.tolist(), "own_likeness": [1.0], "fits": [], "nearest": []}
        figure = verdict_of([{"step": 0}, one]).steps[0].likeness
        inside += figure.low <= 0.5 <= figure.high
    assert inside >= 48


def test_wilson():
    assert wilson(0, 10) == (0.0, pytest.approx(0.2775, abs=1e-3))
    assert wilson(5, 10) == (pytest.approx(0.2366, abs=1e-3), pytest.approx(0.7634, abs=1e-3))
    assert wilson(0, 0) == (0.0, 1.0)


def test_rows_that_were_written_twice_or_torn(tmp_path):
    path = tmp_path / "measures.jsonl"
    path.write_text('{"step": 10, "seen": [1]}\n{"step": 5}\n{"step": 10, "seen": [2]}\n[1]\n{"step": 20, "se')
    assert [(one["step"], one.get("seen")) for one in read_measures(path)] == [(5, None), (10, [2])]
    assert [one["step"] for one in read_measures(path, 5)] == [5]
    assert read_measures(tmp_path / "none.jsonl") == []
