"""Brownian paths: their law, and that they depend on nothing but seed, picture and the points asked for."""

import hashlib
import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from gesso.diffusion.noise import NOISE_SOURCES, BrownianPath, PhiloxNoise
from gesso.diffusion.schedule import SCHEDULES, scaled_linear

SD15 = scaled_linear()
LEVELS = SCHEDULES["karras"](SD15, 10).tolist()
SHAPE = (10_000,)
FIVE_ERRORS = 5 / math.sqrt(SHAPE[0])  # five standard errors of a mean of so many numbers


def path(seed=0, picture=0, levels=LEVELS):
    return BrownianPath([seed], [picture], levels)


def between(a, b, *, path, shape=SHAPE):
    return path.increment(shape, a, b)[0].double()


@pytest.mark.parametrize(("a", "b"), [(14.6, 12.0), (5.0, 0.03), (0.05, 0.03), (1.0, 0.9)])
def test_an_increment_is_standard_normal(a, b):
    z = between(a, b, path=path())
    assert abs(z.mean()) < FIVE_ERRORS
    assert abs((z**2).mean() - 1) < FIVE_ERRORS * math.sqrt(2)
    assert abs((z**4).mean() - 3) < FIVE_ERRORS * math.sqrt(96)


def test_increments_of_separate_intervals_are_independent():
    one = path()
    steps = torch.stack([between(a, b, path=one) for a, b in pairwise(LEVELS[:-1])])
    products = torch.corrcoef(steps) - torch.eye(len(steps), dtype=torch.float64)
    assert products.abs().max() < FIVE_ERRORS


def test_nested_intervals_add_up():
    """W(a) - W(b) = (W(a) - W(m)) + (W(m) - W(b)), where the points are those of the grid: sqrt(2) powers here."""
    one = path()
    a, m, b = 4.0, 2.0, 0.5
    whole, first, second = (between(*ends, path=one) for ends in ((a, b), (a, m), (m, b)))
    expected = (first * math.sqrt(a - m) + second * math.sqrt(m - b)) / math.sqrt(a - b)
    torch.testing.assert_close(whole, expected, rtol=0, atol=1e-6)  # of float32


def test_nested_intervals_of_a_sampler_share_their_noise():
    """What DPM++ SDE asks for: (a, m) and (a, b). Points move by a sixteenth of a step at most."""
    one = path()
    a, b = LEVELS[2], LEVELS[3]
    m = math.sqrt(a * b)
    share = (between(a, m, path=one) * between(a, b, path=one)).mean().item()
    assert share == pytest.approx(math.sqrt((a - m) / (a - b)), abs=0.05)


def test_the_order_of_questions_does_not_matter():
    forwards, backwards = path(), path()
    steps = list(pairwise(LEVELS[:-1]))
    first = [forwards.increment((4, 3), a, b) for a, b in steps]
    second = [backwards.increment((4, 3), a, b) for a, b in reversed(steps)][::-1]
    alone = [path().increment((4, 3), a, b) for a, b in steps]
    for one, two, three in zip(first, second, alone, strict=True):
        assert torch.equal(one, two)
        assert torch.equal(one, three)


def test_a_row_is_the_same_alone_and_in_a_batch():
    together = BrownianPath([1, 1, 7], [0, 3, 2], LEVELS).increment((4, 5), 5.0, 1.0)
    for row, (seed, picture) in enumerate(((1, 0), (1, 3), (7, 2))):
        assert torch.equal(path(seed, picture).increment((4, 5), 5.0, 1.0)[0], together[row])
    assert not torch.equal(together[0], together[1])


def test_the_path_does_not_depend_on_the_number_of_steps():
    """More steps look at the same path more closely: over the whole range the increment is the same to 1e-2."""
    few = path(levels=SCHEDULES["exponential"](SD15, 8).tolist())
    many = path(levels=SCHEDULES["exponential"](SD15, 64).tolist())
    gap = between(14.0, 0.1, path=few) - between(14.0, 0.1, path=many)
    assert gap.std() < 0.2
    assert few.depth < many.depth


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("num_steps", [2, 25])
@pytest.mark.sampled(3)
def test_every_step_of_every_schedule_has_its_noise(name, num_steps):
    """Also half of a step, where steps are at their closest, and zero terminal SNR, whose sigmas reach 4519."""
    for schedule in (SD15, scaled_linear(zero_terminal_snr=True)):
        levels = SCHEDULES[name](schedule, num_steps).tolist()
        positive = [level for level in levels if level > 0]
        if len(positive) < 2:
            continue
        one = path(levels=levels)
        for a, b in pairwise(positive):
            halves = one.increment((2,), a, math.sqrt(a * b)), one.increment((2,), math.sqrt(a * b), b)
            assert all(half.isfinite().all() and half.abs().max() < 6 for half in halves)


def test_the_path_never_changes():
    """Bit for bit the same on every machine; a change here breaks every saved recipe of an SDE sampler."""
    numbers = BrownianPath([20240229], [3], [10.0, 3.0, 1.0]).increment((4, 8, 8), 10.0, 1.0)
    assert numbers.dtype == torch.float32
    assert hashlib.sha256(numbers.numpy().astype("<f4").tobytes()).hexdigest() == GOLDEN_HASH


GOLDEN_HASH = "a2c056ad47e7bff822ffa0ab2002401c5806e76fde9437e1b2037da6452d3596"


@pytest.mark.parametrize("name", NOISE_SOURCES)
def test_every_source_has_the_same_path(name):
    """torchsde's path, which A1111 takes, is not reproduced: its own sources get ours, and count no draws."""
    source = NOISE_SOURCES[name]([5, 6], [0, 1])
    numbers = source.brownian(LEVELS).increment((3, 3), 2.0, 1.0)
    assert torch.equal(numbers, BrownianPath([5, 6], [0, 1], LEVELS).increment((3, 3), 2.0, 1.0))
    assert source.draws == [0, 0]


def test_the_path_is_not_made_of_plain_draws():
    drawn = PhiloxNoise([5]).draw((64,))
    numbers = BrownianPath([5], [0], LEVELS).increment((64,), 2.0, 1.0)
    assert abs(np.corrcoef(drawn[0], numbers[0])[0, 1]) < 0.5


def test_what_a_path_cannot_answer_is_refused():
    with pytest.raises(ValueError, match="two different sigmas"):
        path(levels=[1.0, 0.0])
    one = path()
    for a, b in ((1e9, 1.0), (1.0, 1e-9), (1.0, 0.0)):
        with pytest.raises(ValueError, match="goes from"):
            one.increment((2,), a, b)
    for a, b in ((1.0, 1.0), (1.0, 2.0), (1.0, 1.0 - 1e-9)):
        with pytest.raises(ValueError, match="must fall"):
            one.increment((2,), a, b)
