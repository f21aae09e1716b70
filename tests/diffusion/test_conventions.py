"""The choices of other tools: against their documented numbers and against themselves."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from gesso.diffusion.conventions import (
    CFGPP_SCALE,
    EnsdNoise,
    a1111_image_start,
    a1111_sigmas,
    a1111_timestep_sigmas,
    a1111_timesteps,
    a1111_timesteps_image_start,
    a1111_unipc_sigmas,
    diffusers_image_start,
    discard_penultimate,
    final_scale,
    first_noise,
    initial_scale,
    paste_middle,
    slerp,
    slerp_a1111,
    whole_timesteps,
)
from gesso.diffusion.noise import CpuNoise, NvNoise, PhiloxNoise, nv_normal
from gesso.diffusion.samplers import SAMPLERS
from gesso.diffusion.schedule import SCHEDULES, scaled_linear

RNG = json.loads((Path(__file__).parents[1] / "golden/rng.json").read_text())
SD15 = scaled_linear()
SHAPE = (4, 8, 8)


def test_how_much_noise_a_run_starts_from():
    full, low = SCHEDULES["karras"](SD15, 10), SCHEDULES["ddim_uniform"](SD15, 10)
    assert initial_scale("sigma", full, SD15) == pytest.approx(14.6146412293)
    assert initial_scale("variance", full, SD15) == pytest.approx(14.6488, abs=1e-4)
    assert initial_scale("comfyui", full, SD15) == initial_scale("variance", full, SD15)
    assert initial_scale("comfyui", low, SD15) == initial_scale("sigma", low, SD15) == low[0].item()
    with pytest.raises(ValueError, match="rule is 'loud'"):
        initial_scale("loud", full, SD15)


def test_what_the_vae_gets():
    assert final_scale(SCHEDULES["karras"](SD15, 10)) == 1
    assert final_scale(a1111_timestep_sigmas(SD15, 10)) == pytest.approx(SD15.alphas_cumprod[1].item() ** 0.5)


def test_discarding_the_penultimate_sigma():
    assert discard_penultimate(torch.tensor([3.0, 2.0, 1.0, 0.0])).tolist() == [3.0, 2.0, 0.0]
    with pytest.raises(ValueError, match="3 or more"):
        discard_penultimate(torch.tensor([1.0, 0.0]))


@pytest.mark.parametrize(("name", "discards"), [("dpmpp_2m", False), ("dpm_2", True), ("dpmpp_3m_sde", True)])
def test_sigmas_of_a1111(name, discards):
    sigmas, scale = a1111_sigmas(SAMPLERS[name], SCHEDULES["karras"], SD15, 10)
    assert len(sigmas) == 11
    assert scale == sigmas[0].item() == pytest.approx(SD15.sigma_max, rel=1e-12)
    assert (sigmas[-2].item() > 2 * SD15.sigma_min) == discards
    always, sgm = a1111_sigmas(SAMPLERS[name], SCHEDULES["karras"], SD15, 10, always_discard=True, sgm_noise=True)
    assert torch.equal(always, discard_penultimate(SCHEDULES["karras"](SD15, 11)))
    assert sgm == math.hypot(1, always[0].item())


def test_timesteps_of_a1111():
    """The saved lists of its DDIM are in golden/samplers.json and used in test_samplers.py."""
    assert a1111_timesteps(SD15, 10).tolist() == list(range(1, 1000, 100))
    assert len(a1111_timesteps(SD15, 15)) == 16
    assert a1111_timesteps(SD15, 1000)[-1] == 999  # 1000 is clipped
    assert torch.equal(a1111_timestep_sigmas(SD15, 10), SD15.sigmas[torch.arange(901, 0, -100)])
    for num_steps in (0, 1001):
        with pytest.raises(ValueError, match=r"expected 1 \.\. 1000"):
            a1111_timesteps(SD15, num_steps)
    with pytest.raises(ValueError, match="2 is the minimum"):
        a1111_timestep_sigmas(SD15, 1)


def test_unipc_of_a1111_goes_from_the_last_timestep_to_the_first():
    sigmas = a1111_unipc_sigmas(SD15, 10)
    assert sigmas[[0, -1]].tolist() == pytest.approx([SD15.sigma_max, SD15.sigma_min], rel=1e-12)
    told = SD15.timestep_of(sigmas)
    torch.testing.assert_close(told, torch.linspace(999, 0, 11, dtype=torch.float64), rtol=0, atol=2e-3)
    with pytest.raises(ValueError, match="num_steps is 0"):
        a1111_unipc_sigmas(SD15, 0)


def test_whole_timesteps():
    sigma = SD15.sigma_of(torch.tensor([41.4, 41.6, 999.0]))
    assert whole_timesteps(SD15)(sigma).tolist() == [41.0, 42.0, 999.0]


@pytest.mark.parametrize(
    ("rule", "num_steps", "strength", "first"),
    [
        (a1111_image_start, 20, 0.75, 4),  # 16 calls
        (a1111_image_start, 20, 1.0, 0),  # 20 calls: strength counts as 0.999
        (a1111_image_start, 20, 0.0, 19),
        (a1111_image_start, 30, 0.5, 14),
        (diffusers_image_start, 20, 0.75, 5),  # 15 calls
        (diffusers_image_start, 20, 1.0, 0),
        (diffusers_image_start, 50, 0.8, 10),
    ],
)
def test_where_image_to_image_begins(rule, num_steps, strength, first):
    start = rule(num_steps, strength)
    assert (start.num_steps, start.first, start.noisy) == (num_steps, first, first)
    assert start.scale(SCHEDULES["karras"](SD15, num_steps)) == 1


def test_image_to_image_of_a1111_with_exactly_so_many_steps():
    start = a1111_image_start(20, 0.5, exact_steps=True)
    assert (start.num_steps, start.num_steps - start.first) == (40, 20)
    assert a1111_image_start(20, 1.0, exact_steps=True).num_steps == 20


def test_image_to_image_of_a1111_on_timesteps():
    """Twenty steps at 0.75 keep 15 of the timesteps: noise of the 16th, first call at the 15th, fourteen steps."""
    sigmas, start = a1111_timestep_sigmas(SD15, 20), a1111_timesteps_image_start(SD15, 20, 0.75)
    rising = a1111_timesteps(SD15, 20)
    assert sigmas[start.noisy] == SD15.sigmas[rising[15]]
    assert sigmas[start.first] == SD15.sigmas[rising[14]]
    assert len(sigmas[start.first :]) == 15
    # z = sqrt(ab) x0 + sqrt(1 - ab) n of the noisy one, as x of the other: what the first call is scaled by comes back
    noisy, first = sigmas[start.noisy].item(), sigmas[start.first].item()
    assert start.scale(sigmas) / math.hypot(1, first) == pytest.approx(1 / math.hypot(1, noisy))


def test_strengths_that_make_no_sense_are_refused():
    for rule in (a1111_image_start, diffusers_image_start):
        for num_steps, strength in ((0, 0.5), (10, -0.1), (10, 1.1), (10, math.nan)):
            with pytest.raises(ValueError, match="num_steps and strength"):
                rule(num_steps, strength)
    with pytest.raises(ValueError, match="no step"):
        diffusers_image_start(10, 0.05)
    with pytest.raises(ValueError, match="no step"):
        a1111_image_start(10, 0.0, exact_steps=True)
    with pytest.raises(ValueError, match="no step"):
        a1111_timesteps_image_start(SD15, 10, 0.1)


def test_ensd_changes_all_draws_but_the_first():
    """rng.py ImageRNG.first: after the first draw every generator begins again with seed + ENSD, here 31337."""
    source = EnsdNoise(NvNoise([5, 5], [0, 1]), 31337)
    first, second, third = (source.draw(SHAPE) for _ in range(3))
    for row in range(2):
        assert torch.equal(first[row], nv_normal(SHAPE, seed=5 + row))
        assert torch.equal(second[row], nv_normal(SHAPE, seed=5 + row + 31337, draw=0))
        assert torch.equal(third[row], nv_normal(SHAPE, seed=5 + row + 31337, draw=1))
    assert source.draws == [3, 3]
    assert torch.equal(
        source.brownian([2.0, 1.0]).increment(SHAPE, 2.0, 1.0),
        NvNoise([5, 5], [0, 1]).brownian([2.0, 1.0]).increment(SHAPE, 2.0, 1.0),
    )


@pytest.mark.parametrize("kind", [PhiloxNoise, CpuNoise, NvNoise])
def test_ensd_of_zero_changes_nothing(kind):
    plain, with_zero = kind([3], [2]), EnsdNoise(kind([3], [2]), 0)
    for _ in range(3):
        assert torch.equal(plain.draw(SHAPE), with_zero.draw(SHAPE))


def test_variation_seed_of_a1111():
    """Saved with float32 on another machine; sin and acos there may round otherwise."""
    saved = RNG["a1111 slerp(0.3, philox seed 1 (4,8,8), philox seed 2 (4,8,8))"]
    mixed = slerp_a1111(nv_normal(SHAPE, seed=1)[None], nv_normal(SHAPE, seed=2)[None], 0.3)[0]
    torch.testing.assert_close(mixed.flatten()[:8], torch.tensor(saved["first8"]), rtol=0, atol=3e-6)
    assert mixed.std().item() == pytest.approx(saved["std"], abs=1e-6)


def test_a1111_mixes_noise_with_itself_the_wrong_way_round():
    noise = nv_normal(SHAPE, seed=1)[None]
    almost = noise * 1.001
    assert torch.equal(slerp_a1111(noise, almost, 0.25), noise * 0.25 + almost * 0.75)


def test_slerp_keeps_the_length_and_reaches_both_ends():
    one, other = PhiloxNoise([1, 2]).draw(SHAPE), PhiloxNoise([3, 4]).draw(SHAPE)
    torch.testing.assert_close(slerp(one, other, 0.0), one)
    torch.testing.assert_close(slerp(one, other, 1.0), other)
    assert slerp(one, other, 0.5).std().item() == pytest.approx(1, abs=0.05)
    torch.testing.assert_close(slerp(one, one * 1.5, 0.5), one * 1.25)
    assert torch.equal(slerp(one, other, 0.3)[1], slerp(one[1:], other[1:], 0.3)[0])


@pytest.mark.parametrize(
    ("small", "large", "rows_in", "rows_out"),
    [
        (4, 8, slice(0, 4), slice(2, 6)),
        (5, 8, slice(0, 5), slice(1, 6)),
        (8, 8, slice(0, 8), slice(0, 8)),
        (8, 4, slice(2, 6), slice(0, 4)),
        (9, 4, slice(3, 6), slice(0, 3)),  # A1111 halves -5 downwards, to -3: one row fewer than would fit
    ],
)
def test_noise_of_another_size_goes_into_the_middle(small, large, rows_in, rows_out):
    inner, outer = torch.randn(1, 2, small, 6), torch.randn(1, 2, large, 6)
    pasted = paste_middle(inner, outer)
    assert torch.equal(pasted[:, :, rows_out], inner[:, :, rows_in])
    rest = torch.ones(large, dtype=torch.bool)
    rest[rows_out] = False
    assert torch.equal(pasted[:, :, rest], outer[:, :, rest])


def test_first_noise_of_a1111():
    """One draw of the source whatever else is asked, so later draws stay where they are."""
    plain = NvNoise([9, 9], [0, 1])
    assert torch.equal(first_noise(plain, SHAPE), NvNoise([9, 9], [0, 1]).draw(SHAPE))
    source, other = NvNoise([9, 9], [0, 0]), NvNoise([70, 70], [0, 1])
    mixed = first_noise(source, SHAPE, variation=other, strength=0.4, mix=slerp_a1111)
    assert torch.equal(mixed, slerp_a1111(NvNoise([9, 9]).draw(SHAPE), NvNoise([70, 70], [0, 1]).draw(SHAPE), 0.4))
    source = EnsdNoise(NvNoise([9]), 31337)
    resized = first_noise(source, SHAPE, resized_from=(4, 6))
    assert torch.equal(resized[0, :, 2:6, 1:7], nv_normal((4, 4, 6), seed=9))
    assert torch.equal(resized[0, :, :2], nv_normal(SHAPE, seed=9)[:, :2])
    assert torch.equal(source.draw(SHAPE)[0], nv_normal(SHAPE, seed=9 + 31337))
    assert torch.equal(first_noise(NvNoise([9]), SHAPE, variation=other, strength=0.0), NvNoise([9]).draw(SHAPE))


def test_cfgpp_scale():
    assert pytest.approx(0.6) == CFGPP_SCALE * 7.5


def test_rows_may_be_left_out_of_a_draw():
    """A sampler that goes its own way in every row (DPM adaptive) draws for some of them."""
    for kind in (PhiloxNoise, CpuNoise, NvNoise):
        source = kind([1, 2, 3])
        drawn = source.draw(SHAPE, rows=[True, False, True])
        assert source.draws == [1, 0, 1]
        assert not drawn[1].any()
        assert torch.equal(drawn[[0, 2]], kind([1, 3]).draw(SHAPE))
        assert torch.equal(source.draw(SHAPE)[1], kind([2]).draw(SHAPE)[0])
        assert not source.draw(SHAPE, rows=[False] * 3).any()


def test_scales_are_plain_numbers():
    assert isinstance(initial_scale("variance", SCHEDULES["uniform"](SD15, 4), SD15), float)
    assert not isinstance(final_scale(torch.tensor([1.0, 0.5])), np.floating)
