"""The seam `denoise(x, sigma) -> x0`: three ways to predict, one answer."""

import math

import pytest
import torch

from gesso.diffusion.conventions import whole_timesteps
from gesso.diffusion.denoiser import Denoiser, add_noise, boundary, per_row, scale_input, target, to_x0
from gesso.diffusion.schedule import scaled_linear

SCHEDULE = scaled_linear()
PREDICTIONS = ["eps", "v", "x0"]


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("sigma", [0.03, 1.0, 14.6, torch.tensor([0.03, 1.0, 14.6])])
def test_target_and_to_x0_are_inverse(prediction, sigma):
    x0, eps = normal(3, 4, 5, 6), normal(3, 4, 5, 6, seed=1)
    x = add_noise(x0, eps, sigma)
    assert_close = torch.testing.assert_close
    assert_close(to_x0(prediction, x, sigma, target(prediction, x0, eps, sigma)), x0, rtol=0, atol=1e-13)


def test_v_is_what_the_paper_says():
    """Salimans & Ho 2022: v = sqrt(ab) eps - sqrt(1 - ab) x0."""
    t = 321
    ab = SCHEDULE.alphas_cumprod[t]
    x0, eps = normal(2, 4, 3, 3), normal(2, 4, 3, 3, seed=1)
    expected = ab.sqrt() * eps - (1 - ab).sqrt() * x0
    torch.testing.assert_close(target("v", x0, eps, SCHEDULE.sigmas[t]), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_three_networks_that_know_the_same_give_the_same_x0(prediction):
    """A network of each kind that believes in the same x0 for every x."""
    believed = normal(2, 4, 3, 3)
    sigma = torch.tensor([0.7, 9.0], dtype=torch.float64)
    x = normal(2, 4, 3, 3, seed=1) * 5

    def network(z, timestep):
        s = per_row(SCHEDULE.sigma_of(timestep), z)
        x_again = z * (1 + s**2).sqrt()
        return target(prediction, believed, (x_again - believed) / s, SCHEDULE.sigma_of(timestep))

    x0 = Denoiser(network, SCHEDULE, prediction)(x, sigma)
    # The timestep reaches the network as float32, which moves sigma by up to 1e-7 of itself.
    torch.testing.assert_close(x0, believed, rtol=0, atol=1e-5)


def test_network_sees_scaled_input_and_float32_timesteps():
    seen = {}

    def network(z, timestep):
        seen.update(z=z, timestep=timestep)
        return torch.zeros_like(z, dtype=torch.bfloat16)

    x = normal(3, 4, 2, 2, dtype=torch.float32)
    sigma = SCHEDULE.sigmas[[0, 500, 999]]
    x0 = Denoiser(network, SCHEDULE, "eps")(x, sigma)
    assert torch.equal(seen["timestep"], torch.tensor([0.0, 500.0, 999.0]))
    expected = x.double() * SCHEDULE.alphas_cumprod[[0, 500, 999]].sqrt().reshape(3, 1, 1, 1)
    torch.testing.assert_close(seen["z"].double(), expected, rtol=2e-7, atol=0)  # two float32 roundings
    assert seen["z"].dtype == x0.dtype == torch.float32
    assert torch.equal(x0, x)  # eps 0: what we see is the picture


def test_timesteps_may_be_fractional():
    seen = []

    def network(z, timestep):
        seen.append(timestep)
        return z

    Denoiser(network, SCHEDULE, "eps")(normal(1, 4, 2, 2), SCHEDULE.sigma_of(123.25))
    assert seen[0].item() == pytest.approx(123.25, abs=1e-5)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_do_not_depend_on_the_batch(prediction, dtype):
    """Bit for bit, at a size that fills no vector register, sigma given as a number, a scalar or a list."""
    x = normal(5, 3, 7, 5, dtype=torch.float32).to(dtype) * 9
    sigma = torch.tensor([0.05, 0.3, 1.7, 6.0, 14.0], dtype=torch.float64)
    denoise = Denoiser(lambda z, t: z * 0.25 + t.reshape(-1, 1, 1, 1).to(z) * 0.01, SCHEDULE, prediction)
    together = denoise(x, sigma)
    for row in range(5):
        alone = x[row : row + 1]
        for one in (sigma[row], sigma[row].item(), sigma[row : row + 1]):
            assert torch.equal(denoise(alone, one)[0], together[row])


def test_v_keeps_its_head_at_zero_terminal_snr():
    """At sigma 4518 x is noise alone; with v the network's x0 = -v comes through in float32."""
    schedule = scaled_linear(zero_terminal_snr=True)
    x0, eps = normal(1, 4, 8, 8, dtype=torch.float32), normal(1, 4, 8, 8, seed=1, dtype=torch.float32)
    sigma = schedule.sigma_max
    x = add_noise(x0, eps, sigma)
    answer = to_x0("v", x, sigma, target("v", x0, eps, sigma))
    torch.testing.assert_close(answer, x0, rtol=0, atol=1e-5)


def test_wrong_arguments_are_refused():
    x = normal(3, 4, 2, 2)
    with pytest.raises(ValueError, match="prediction is 'epsilon'"):
        Denoiser(lambda z, t: z, SCHEDULE, "epsilon")
    with pytest.raises(ValueError, match="prediction"):
        to_x0("flow", x, 1.0, x)
    with pytest.raises(ValueError, match="prediction"):
        target("flow", x, x, 1.0)
    for sigma in (torch.ones(2), torch.ones(3, 1)):
        with pytest.raises(ValueError, match="one per row"):
            scale_input(x, sigma)


def test_the_network_may_be_told_other_timesteps():
    told = []

    def network(z, timestep):
        told.append(timestep)
        return z

    sigma = SCHEDULE.sigma_of(torch.tensor([41.4, 700.6]))
    Denoiser(network, SCHEDULE, "eps")(torch.ones(2, 3), sigma)
    Denoiser(network, SCHEDULE, "eps", timestep_of=whole_timesteps(SCHEDULE))(torch.ones(2, 3), sigma)
    torch.testing.assert_close(told[0], torch.tensor([41.4, 700.6]), rtol=0, atol=1e-4)
    assert told[1].tolist() == [41.0, 701.0]


def test_boundary_of_a_consistency_model():
    """c_skip(0) = 1 and c_out(0) = 0 make it the identity at timestep 0; from timestep 100 on it says x0 to 1e-6."""
    x, x0, sigma = torch.full((2, 3), 2.0), torch.full((2, 3), -1.0), torch.tensor([SCHEDULE.sigma_min, 3.0])
    out = boundary(x, x0, sigma, torch.tensor([0.0, 100.0]))
    torch.testing.assert_close(out[0], x[0] / math.hypot(1, SCHEDULE.sigma_min))
    torch.testing.assert_close(out[1], x0[1], rtol=0, atol=1e-6)
    denoiser = Denoiser(lambda z, timestep: z * 0, SCHEDULE, "x0", consistency=True)
    expected = boundary(x, x0 * 0, sigma, SCHEDULE.timestep_of(sigma))
    torch.testing.assert_close(denoiser(x, sigma), expected)


def test_a_network_that_cannot_go_without_a_prompt_is_refused():
    with pytest.raises(ValueError, match="GuidedNetwork"):
        Denoiser(lambda z, timestep: z, SCHEDULE, "eps").with_uncond(torch.ones(1, 2), 1.0)
