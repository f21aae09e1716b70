"""The noise schedule, its sigma view, and the spacings of steps."""

import json
from pathlib import Path

import pytest
import torch

from gesso.diffusion.schedule import SCHEDULES, NoiseSchedule, scaled_linear

GOLDEN = json.loads((Path(__file__).parents[1] / "golden/samplers.json").read_text())
SD15 = scaled_linear()

# The saved numbers have twelve digits: half a unit in the last place of 14.6146412293 is 5e-11.
TWELVE_DIGITS = 5e-11


def test_schedule_of_stable_diffusion():
    saved = GOLDEN["sd15_schedule"]
    for t, sigma in saved["sigma_at_t"].items():
        assert SD15.sigmas[int(t)].item() == pytest.approx(sigma, abs=TWELVE_DIGITS)
    for t, alpha_cumprod in saved["alphas_cumprod_at_t"].items():
        assert SD15.alphas_cumprod[int(t)].item() == pytest.approx(alpha_cumprod, abs=TWELVE_DIGITS)
    assert SD15.sigma_min == pytest.approx(saved["sigma_min_fp64"], abs=TWELVE_DIGITS)
    assert SD15.sigma_max == pytest.approx(saved["sigma_max_fp64"], abs=TWELVE_DIGITS)


def test_float32_tables_of_other_tools_are_as_far_away_as_the_docstring_says():
    saved = GOLDEN["sd15_schedule"]
    for ours, theirs in ((SD15.sigma_min, saved["sigma_min_fp32"]), (SD15.sigma_max, saved["sigma_max_fp32"])):
        assert 1e-7 < abs(ours / theirs - 1) < 1.4e-5


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("num_steps", [10, 20])
def test_sigmas_are_those_of_other_tools(name, num_steps):
    ours = SCHEDULES[name](SD15, num_steps)
    saved = torch.tensor(GOLDEN["sigma_tables"][str(num_steps)][name], dtype=torch.float64)
    assert ours.dtype == torch.float64
    torch.testing.assert_close(ours, saved, rtol=0, atol=TWELVE_DIGITS)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("num_steps", [1, 2, 3, 7, 50, 999, 1000])
def test_every_spacing_falls_from_sigma_max_to_zero(name, num_steps):
    sigmas = SCHEDULES[name](SD15, num_steps)
    assert sigmas.shape == (num_steps + 1,)
    assert sigmas[0].item() == pytest.approx(SD15.sigma_max, rel=1e-12)
    assert sigmas[-1] == 0
    assert (sigmas.diff() < 0).all()


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("num_steps", [0, -3])
def test_no_step_is_refused(name, num_steps):
    with pytest.raises(ValueError, match=f"num_steps is {num_steps}"):
        SCHEDULES[name](SD15, num_steps)


def test_sgm_uniform_never_visits_sigma_min():
    assert SCHEDULES["uniform"](SD15, 10)[-2].item() == pytest.approx(SD15.sigma_min, rel=1e-12)
    assert SCHEDULES["sgm_uniform"](SD15, 10)[-2].item() > 10 * SD15.sigma_min


def test_whole_timesteps_come_back_exactly():
    t = torch.arange(1000)
    assert torch.equal(SD15.timestep_of(SD15.sigmas), t.double())
    torch.testing.assert_close(SD15.sigma_of(t), SD15.sigmas, rtol=1e-14, atol=0)  # exp(log(sigma))


def test_timestep_and_sigma_are_inverse_between_the_timesteps():
    t = torch.linspace(0, 999, 1777, dtype=torch.float64).reshape(-1, 1)
    torch.testing.assert_close(SD15.timestep_of(SD15.sigma_of(t)), t, rtol=0, atol=1e-9)
    half = (SD15.sigmas[41] * SD15.sigmas[42]).sqrt()  # half the way in ln(sigma)
    assert SD15.timestep_of(half).item() == pytest.approx(41.5, abs=1e-9)


def test_timesteps_are_clamped():
    assert SD15.timestep_of(1e-9).item() == 0
    assert SD15.timestep_of(1e9).item() == 999
    assert SD15.sigma_of(-1).item() == pytest.approx(SD15.sigma_min, rel=1e-14)
    assert SD15.sigma_of(2000).item() == pytest.approx(SD15.sigma_max, rel=1e-14)


def test_zero_terminal_snr():
    """arXiv:2305.08891: the first timestep stays, the last carries no signal; 4518.76 is ComfyUI's sigma_max."""
    shifted = scaled_linear(zero_terminal_snr=True)
    assert shifted.alphas_cumprod[0].item() == pytest.approx(SD15.alphas_cumprod[0].item(), rel=1e-14)
    assert shifted.alphas_cumprod[-1].item() == 4.8973451890853435e-08
    assert shifted.sigma_max == pytest.approx(4518.76, abs=0.01)
    between = shifted.alphas_cumprod[1:-1]
    assert (between < SD15.alphas_cumprod[1:-1]).all()


def test_schedules_that_make_no_sense_are_refused():
    good = SD15.alphas_cumprod
    for bad in (good.float(), good.flip(0), good[:1], good.reshape(2, -1), torch.cat([good[:-1], good.new_zeros(1)])):
        with pytest.raises(ValueError, match="alphas_cumprod"):
            NoiseSchedule(bad)
    with pytest.raises(ValueError, match="betas"):
        scaled_linear(beta_start=0.012, beta_end=0.00085)
    with pytest.raises(ValueError, match="num_timesteps"):
        scaled_linear(num_timesteps=1)
