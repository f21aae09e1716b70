"""Timesteps, noise and weights against their closed forms."""

import math

import pytest
import torch

from gesso.diffusion.schedule import scaled_linear
from gesso.tuning.objective import Objective, quantile_times

SCHEDULE = scaled_linear()


def made(prediction="eps", **options):
    return Objective(schedule=SCHEDULE, prediction=prediction, **options)


def test_timesteps_follow_their_distribution():
    generator = torch.Generator().manual_seed(1)
    uniform = made().draw_times(20_000, generator)
    assert (int(uniform.min()), int(uniform.max())) == (0, 999)
    assert abs(uniform.double().mean() - 499.5) < 4 * 1000 / math.sqrt(12 * 20_000)
    part = made(low=200, high=400).draw_times(20_000, generator)
    assert (int(part.min()), int(part.max())) == (200, 400)
    sigmoid = made(timesteps="sigmoid").draw_times(20_000, generator)
    share = torch.distributions.Normal(0, 1).cdf(torch.logit(torch.tensor(0.25)))  # below a quarter of the way
    assert abs((sigmoid < 250).double().mean() - share) < 4 * math.sqrt(share * (1 - share) / 20_000)
    moved = made(timesteps="logit-normal", mean=1.0, std=0.5).draw_times(20_000, generator)
    assert abs(torch.logit((moved + 0.5) / 1000).median() - 1.0) < 0.03


def test_noise_offset_moves_whole_channels():
    like = torch.zeros(400, 4, 8, 8)
    plain = made().draw_noise(like, torch.Generator().manual_seed(1))
    moved = made(noise_offset=0.5).draw_noise(like, torch.Generator().manual_seed(1)) - plain
    assert torch.allclose(moved, moved[:, :, :1, :1].expand_as(moved), atol=1e-6)
    assert abs(moved[:, :, 0, 0].std() - 0.5) < 0.04


@pytest.mark.parametrize("prediction", ["eps", "v", "x0"])
def test_min_snr_weighs_the_error_of_x0_alike_for_every_prediction(prediction):
    """Hang et al. 2023, equation 6: whatever is predicted, the error of x0 counts min(snr, gamma)."""
    times = torch.tensor([0, 100, 500, 900, 999])
    objective = made(prediction, min_snr=5.0)
    snr = SCHEDULE.alphas_cumprod[times] / (1 - SCHEDULE.alphas_cumprod[times])
    of_x0 = {"eps": snr, "v": snr + 1, "x0": torch.ones(5)}[prediction]  # error of the prediction by that of x0
    assert torch.allclose(objective.weights(times) * of_x0, snr.clamp(max=5.0))
    assert torch.equal(made(prediction).weights(times), torch.ones(5, dtype=torch.float64))


def test_masks_and_pictures_of_the_class():
    latents, eps = torch.zeros(2, 4, 4, 4), torch.ones(2, 4, 4, 4)
    mask = torch.zeros(2, 1, 4, 4)
    mask[:, :, :, :1] = 1
    times = torch.tensor([10, 500])
    output = torch.zeros_like(eps)  # an error of 1 everywhere
    assert made().errors(output, latents, eps, times, mask).tolist() == [0.25, 0.25]
    assert made(mask_floor=0.2).errors(output, latents, eps, times, mask).tolist() == pytest.approx([0.4, 0.4])
    errors = torch.tensor([1.0, 1.0])
    assert made(prior_weight=0.5).loss(errors, times, torch.tensor([False, True])) == 0.75


def test_fixed_timesteps():
    assert quantile_times(SCHEDULE) == [62, 187, 312, 437, 562, 687, 812, 937]
