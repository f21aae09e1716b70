"""Buckets beside the rules of kohya's trainer, written out a second time as they stand there."""

import math
import random

import numpy as np
import pytest

from gesso.tuning.buckets import BucketRules, framing


def their_sizes(max_reso, min_size, max_size, divisible):
    max_area = max_reso[0] * max_reso[1]
    resos = set()
    width = int(math.sqrt(max_area) // divisible) * divisible
    resos.add((width, width))
    width = min_size
    while width <= max_size:
        height = min(max_size, int((max_area // width) // divisible) * divisible)
        if height >= min_size:
            resos.add((width, height))
            resos.add((height, width))
        width += divisible
    return sorted(resos)


def their_choice(width, height, resos):
    if (width, height) in resos:
        return (width, height), (width, height)
    aspect = width / height
    reso = resos[int(np.abs(np.array([w / h for w, h in resos]) - aspect).argmin())]
    scale = reso[1] / height if aspect > reso[0] / reso[1] else reso[0] / width
    return reso, (int(width * scale + 0.5), int(height * scale + 0.5))


@pytest.mark.parametrize(("side", "low", "high"), [(512, 256, 1024), (1024, 512, 2048), (768, 320, 1280)])
def test_sizes_and_choices_are_those_of_kohya(side, low, high):
    rules = BucketRules(resolution=(side, side), low=low, high=high, step=64)
    sizes = rules.sizes()
    assert sizes == their_sizes((side, side), low, high, 64)
    rng = random.Random(0)
    for _ in range(300):
        width, height = rng.randint(64, 4000), rng.randint(64, 4000)
        found = framing((width, height), rules, sizes)
        bucket, scaled = their_choice(width, height, sizes)
        assert found.bucket == bucket
        assert all(
            abs(ours - peer) <= 1 for ours, peer in zip(found.scaled, scaled, strict=True)
        )  # halves round to even
        assert found.scaled[0] >= bucket[0] and found.scaled[1] >= bucket[1]
        assert bucket[0] in (found.scaled[0], scaled[0]) or bucket[1] in (found.scaled[1], scaled[1])
        assert 0 <= found.left <= found.scaled[0] - bucket[0] and 0 <= found.top <= found.scaled[1] - bucket[1]


def test_a_picture_of_a_buckets_size_is_taken_as_it_is():
    rules = BucketRules(resolution=(512, 512), low=256, high=1024, step=64)
    found = framing((448, 576), rules, rules.sizes())
    assert (found.bucket, found.scaled, found.left, found.top) == ((448, 576), (448, 576), 0, 0)


def test_without_buckets_all_are_cropped_to_one():
    rules = BucketRules(resolution=(64, 64), enabled=False, low=8, high=8, step=64)
    found = framing((200, 100), rules, rules.sizes())
    assert (found.bucket, found.scaled, found.left, found.top) == ((64, 64), (128, 64), 32, 0)


@pytest.mark.parametrize(
    ("size", "bucket", "scaled"),
    [
        ((300, 200), (256, 192), (300, 200)),  # small: its own size, rounded down to the step
        ((2000, 1000), (640, 320), (640, 320)),  # large: the area fits, and 640 keeps the aspect where 704 does not
        ((30, 30), (64, 64), (64, 64)),  # smaller than a step
    ],
)
def test_without_enlarging(size, bucket, scaled):
    rules = BucketRules(resolution=(512, 512), low=256, high=1024, step=64, upscale=False)
    found = framing(size, rules, rules.sizes())
    assert (found.bucket, found.scaled) == (bucket, scaled)
