"""Philox noise against published vectors, the compatibility sources against saved numbers."""

import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from gesso.diffusion import noise as room
from gesso.diffusion.noise import NOISE_SOURCES, CpuNoise, NvNoise, PhiloxNoise, philox4x32, philox_normal

RNG = json.loads((Path(__file__).parents[1] / "golden/rng.json").read_text())
LATENTS = (4, 64, 64)


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_philox_gives_the_published_words(counter, key, words):
    """The known-answer vectors of Random123 for philox4x32, 10 rounds."""

    def number(text):
        return tuple(int(word, 16) for word in text.split())

    k0, k1 = number(key)
    assert tuple(philox4x32(number(counter), (k0, k1))[:, 0].tolist()) == number(words)


def test_philox_takes_arrays_of_counters():
    blocks = np.arange(5, dtype=np.uint64)
    together = philox4x32((blocks, 7, 2**32 - 1, 0), (3, 4))
    for block in range(5):
        assert (together[:, block] == philox4x32((block, 7, 2**32 - 1, 0), (3, 4))[:, 0]).all()


def test_layout_of_the_counter():
    """Block b of draw d of picture p: counter (b, d, p, 0), key = low and high half of the seed."""
    seed, picture, draw = 0x0123456789ABCDEF, 5, 9
    numbers = philox_normal((3, 7), seed=seed, picture=picture, draw=draw).flatten().tolist()
    for element in (0, 1, 2, 3, 4, 17, 20):
        words = philox4x32((element // 4, draw, picture, 0), (0x89ABCDEF, 0x01234567))[:, 0].tolist()
        first = words[0:2] if element % 4 < 2 else words[2:4]
        u, v = ((word + 0.5) / 2**32 for word in first)
        wave = math.cos if element % 2 == 0 else math.sin
        expected = math.sqrt(-2 * math.log(u)) * wave(2 * math.pi * v)
        assert numbers[element] == pytest.approx(expected, rel=1e-7, abs=1e-12)  # float32 rounding: 6e-8


def test_noise_never_changes():
    """Bit for bit the same on every machine; a change here breaks every saved recipe."""
    numbers = philox_normal((4, 8, 8), seed=20240229, picture=3, draw=2)
    assert numbers.dtype == torch.float32
    assert hashlib.sha256(numbers.numpy().astype("<f4").tobytes()).hexdigest() == (
        "46a8909227d767213b652d5c3027db72e4ad39d24f18200ddf32ba58da3ba3b6"
    )


def test_own_logarithm_and_waves_are_those_of_the_library():
    """A few units in the last place of float64, where float32 is what leaves: 4e-16 relative, 1e-15 absolute."""
    words = np.random.RandomState(0).randint(0, 2**32, 100_000).astype(np.float64)
    u = np.concatenate([(words + 0.5) / 2**32, [2.0**-33, 0.5, math.sqrt(0.5), 1 - 2.0**-33]])
    cosine, sine = room._cos_sin(u)
    assert np.abs(room._ln(u) / np.log(u) - 1).max() < 1e-15
    assert np.abs(cosine - np.cos(2 * np.pi * u)).max() < 2e-15
    assert np.abs(sine - np.sin(2 * np.pi * u)).max() < 2e-15


def test_philox_noise_is_standard_normal():
    """A million numbers: the tolerances are five standard errors."""
    z = philox_normal((1_000_000,), seed=1).double()
    count = len(z)
    assert abs(z.mean()) < 5 / count**0.5
    assert abs(z.var() - 1) < 5 * (2 / count) ** 0.5
    assert abs((z**4).mean() - 3) < 5 * (96 / count) ** 0.5
    below = (z < 1).double().mean()
    assert abs(below - 0.841344746) < 5 * 0.366 / count**0.5
    for lag in (1, 2, 3, 4):  # the four numbers of a block, and neighbouring blocks
        assert abs((z[lag:] * z[:-lag]).mean()) < 5 / count**0.5


def test_largest_number_is_finite():
    assert math.sqrt(-2 * room._ln(np.array([2.0**-33]))[0]) < 6.8
    assert room._ln(np.array([1 - 2.0**-33]))[0] < 0


@pytest.mark.parametrize("part", ["seed", "picture", "draw"])
def test_every_part_of_the_key_gives_other_numbers(part):
    base = {"seed": 7, "picture": 7, "draw": 7}
    z = philox_normal((10_000,), **base)
    other = philox_normal((10_000,), **{**base, part: 8})
    assert abs((z * other).mean()) < 5 / 100


def test_high_half_of_the_seed_counts():
    assert not torch.equal(philox_normal((8,), seed=1), philox_normal((8,), seed=1 + 2**32))


@pytest.mark.parametrize("shape", [(), (1,), (5,), (4, 3, 3), (0, 2)])
def test_shapes_take_a_prefix_of_the_same_numbers(shape):
    numbers = philox_normal(shape, seed=11)
    assert numbers.shape == shape
    assert torch.equal(numbers.flatten(), philox_normal((64,), seed=11)[: numbers.numel()])


@pytest.mark.parametrize("key", [k for k in RNG if k.startswith("philox")])
def test_nv_is_what_a1111_computes(key):
    """Bit for bit: the same integers, the same formula in float64, one rounding."""
    source = NvNoise([int(key.split("=")[1].split()[0])])
    _check_first_and_second_draw(source, RNG[key])


@pytest.mark.parametrize("key", [k for k in RNG if k.startswith("torch cpu")])
def test_cpu_is_the_generator_of_torch(key):
    source = CpuNoise([int(key.split("=")[1].split()[0])])
    _check_first_and_second_draw(source, RNG[key], atol=1e-6)  # torch's vectors of float32, a few units by processor


def _check_first_and_second_draw(source, saved, atol=0.0):
    first, second = source.draw(LATENTS).flatten(), source.draw(LATENTS).flatten()
    for ours, theirs in (
        (first[:8], saved["first8"]),
        (first[-4:], saved["last4"]),
        (second[:4], saved["second_call_first4"]),
    ):
        torch.testing.assert_close(ours, torch.tensor(theirs), rtol=0, atol=atol)


@pytest.mark.parametrize("name", ["cpu", "nv"])
def test_compatibility_sources_add_the_index_to_the_seed(name):
    row = NOISE_SOURCES[name]([40], [2]).draw((4, 8, 8))
    assert torch.equal(row, NOISE_SOURCES[name]([42]).draw((4, 8, 8)))


@pytest.mark.parametrize("name", NOISE_SOURCES)
def test_a_row_is_the_same_alone_and_in_a_batch(name):
    seeds, pictures, shape = [5, 2**64 - 1, 5], [0, 1, 3], (4, 5, 7)
    batch = NOISE_SOURCES[name](seeds, pictures)
    together = [batch.draw(shape) for _ in range(3)]
    for row, (seed, picture) in enumerate(zip(seeds, pictures, strict=True)):
        alone = NOISE_SOURCES[name]([seed], [picture])
        for draw in together:
            assert torch.equal(draw[row], alone.draw(shape)[0])
    assert not torch.equal(together[0][0], together[0][2])
    assert not torch.equal(together[0][0], together[1][0])


@pytest.mark.parametrize("name", NOISE_SOURCES)
def test_a_source_goes_on_where_another_stopped(name):
    shape = (4, 6, 6)
    first = NOISE_SOURCES[name]([8, 9], [0, 1])
    for _ in range(3):
        first.draw(shape)
    again = NOISE_SOURCES[name](first.seeds, first.pictures, draws=first.draws)
    assert torch.equal(first.draw(shape), again.draw(shape))
    assert first.draws == again.draws == [4, 4]
    # Rows that came together late: each goes on from its own count.
    mixed = NOISE_SOURCES[name]([8, 9], [0, 1], draws=[4, 0])
    fresh = NOISE_SOURCES[name]([9], [1])
    together = mixed.draw(shape)
    assert torch.equal(together[0], first.draw(shape)[0])
    assert torch.equal(together[1], fresh.draw(shape)[0])


def test_no_source_touches_the_global_generator():
    state = torch.get_rng_state()
    for make in NOISE_SOURCES.values():
        make([1]).draw((4, 8, 8))
    assert torch.equal(state, torch.get_rng_state())


def test_wrong_numbers_are_refused():
    for wrong in (-1, 2**64):
        with pytest.raises(ValueError, match="seed"):
            PhiloxNoise([wrong])
    with pytest.raises(ValueError, match="picture"):
        PhiloxNoise([1], [2**32])
    with pytest.raises(ValueError, match="draw"):
        philox_normal((4,), seed=1, draw=-1)
    with pytest.raises(ValueError, match="one of each per row"):
        PhiloxNoise([1, 2], [0])


def test_a_run_without_rows_draws_nothing():
    for name, kind in NOISE_SOURCES.items():
        assert kind([]).draw((4, 2, 2)).shape == (0, 4, 2, 2), name
