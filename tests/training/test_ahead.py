"""Work done ahead by other processes is the work done at once."""

import os

import numpy as np
import pytest

from gesso.mini.default_model import DefaultModel
from gesso.mini.pools import ChunkMaker, SceneLayout
from gesso.training.ahead import Ahead
from toy_training import OBJECTS, PREPARED, glyphs


def square(number):
    return number**2


def where(number):
    return os.getpid()


def test_without_workers_each_is_made_when_asked():
    ahead = Ahead(square)
    assert [ahead(number) for number in (3, 4, 2)] == [9, 16, 4]
    assert Ahead(where)(0) == os.getpid()


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])  # each imports torch
@pytest.mark.slow
def test_workers_make_the_same_in_any_order(tmp_path, workers):
    """Pictures and captions of a training, asked for in a row and with a jump, as a run that goes on asks."""
    making = DefaultModel(PREPARED, tmp_path, OBJECTS, glyphs())
    samplers = ((0, making.pictures({"two": 1.0}).sampler),)
    maker = ChunkMaker(making.captions, samplers, seed=3, size=8, chunk=4, passes=2)
    ahead = Ahead(maker, workers=workers)
    for number in (0, 1, 2, 7, 8):
        (layout, ids), (other_layout, other_ids) = ahead(number), maker(number)
        assert isinstance(layout, SceneLayout)
        assert np.array_equal(ids, other_ids)
        assert np.array_equal(layout.places, other_layout.places)
        assert np.array_equal(layout.glyphs, other_layout.glyphs)
    ahead.close()
