"""The Brownian path of other tools, beside the library that they take it from."""

import math
import warnings
from itertools import pairwise

import pytest
import torch

from gesso.diffusion.noise import CpuNoise, NvNoise
from gesso.diffusion.schedule import SCHEDULES, scaled_linear
from gesso.diffusion.torchsde_tree import TorchsdeTree

torchsde = pytest.importorskip("torchsde", reason="the oracle; in the dev extra")
SHAPE = (4, 8, 8)
SIGMAS = SCHEDULES["karras"](scaled_linear(), 12).float()
LOW, HIGH = SIGMAS[SIGMAS > 0].min(), SIGMAS.max()


def cpu_normal(seed, shape):
    return CpuNoise([seed]).draw(shape)[0]


def theirs(seed):
    """As k-diffusion makes it: a tree between the sigmas as float32 numbers, the seed of the picture."""
    return torchsde.BrownianTree(LOW, torch.zeros(SHAPE), HIGH, entropy=seed)


def ours(*seeds):
    return TorchsdeTree(seeds, float(LOW), float(HIGH), cpu_normal)


def expected(tree, a, b):
    """k-diffusion's noise sampler: the interval sorted, the sign of going down, unit variance."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a point a rounding outside the range
        return tree(b, a) * -1 / (b - a).abs().sqrt()


@pytest.mark.parametrize("seed", [0, 1, 2**32 + 5])
def test_the_same_numbers_along_a_run(seed):
    tree, path = theirs(seed), ours(seed)
    for a, b in pairwise(SIGMAS[:-1]):
        found = path.increment(SHAPE, float(a), float(b))[0]
        torch.testing.assert_close(found, expected(tree, a, b), rtol=0, atol=1e-6)  # order of float32 sums


def test_the_same_numbers_for_the_two_intervals_of_a_step():
    """DPM++ SDE asks for a part of the step and for the whole of it."""
    tree, path = theirs(3), ours(3)
    for a, b in pairwise(SIGMAS[:-1]):
        middle = (a * b).sqrt()
        for low in (middle, b):
            torch.testing.assert_close(
                path.increment(SHAPE, float(a), float(low))[0], expected(tree, a, low), rtol=0, atol=1e-6
            )


def test_a_row_is_the_same_alone_and_in_a_batch_and_in_any_order():
    together = ours(5, 9)
    late = together.increment(SHAPE, 2.0, 0.5)
    assert torch.equal(late[1], ours(9).increment(SHAPE, 2.0, 0.5)[0])
    first = together.increment(SHAPE, 14.0, 2.0)
    assert torch.equal(first, ours(5, 9).increment(SHAPE, 14.0, 2.0))


def test_intervals_fit_together():
    path = ours(5)
    parts = sum(path.increment(SHAPE, a, b) * math.sqrt(a - b) for a, b in pairwise((9.0, 3.0, 1.0, 0.5)))
    torch.testing.assert_close(path.increment(SHAPE, 9.0, 0.5) * math.sqrt(8.5), parts, rtol=0, atol=1e-5)


def test_numbers_of_the_nv_source():
    """A1111 puts its own noise source in the tree: the first draw of a generator with the node's seed."""
    path = TorchsdeTree([7], 0.1, 10.0, lambda seed, shape: NvNoise([seed]).draw(shape)[0])
    z = path.increment((4, 64, 64), 5.0, 1.0)
    assert abs(z.mean()) < 0.05
    assert z.std() == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (2.0, 1.0), (-1.0, 1.0)])
def test_a_range_that_is_none_is_refused(low, high):
    with pytest.raises(ValueError, match="0 < low < high"):
        TorchsdeTree([1], low, high, cpu_normal)


def test_sigmas_must_fall():
    with pytest.raises(ValueError, match="must fall"):
        ours(1).increment(SHAPE, 1.0, 1.0)
