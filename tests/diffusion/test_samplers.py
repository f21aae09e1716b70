"""Samplers against the numbers of other programs, against closed forms, and against themselves in other batches."""

import json
import math
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from gesso.diffusion.denoiser import Denoiser, to_x0
from gesso.diffusion.guidance import GuidedNetwork
from gesso.diffusion.noise import NoiseSource, PhiloxNoise
from gesso.diffusion.samplers import SAMPLERS, sample
from gesso.diffusion.schedule import SCHEDULES, scaled_linear

GOLDEN = json.loads((Path(__file__).parents[1] / "golden/samplers.json").read_text())
Z0 = torch.from_numpy(np.random.RandomState(0).standard_normal(8)).reshape(1, 8)
SD15 = scaled_linear()


class GoldenNoise(NoiseSource):
    """The noise of the saved problem: the k-th request is answered by numpy with seed 1000 + k."""

    def _draw_row(self, row, shape):
        return torch.from_numpy(np.random.RandomState(1000 + self.draws[row]).standard_normal(shape))

    def brownian(self, levels):
        return Independent(self)


class Independent:
    """In place of a Brownian path: each question is answered by the next draw."""

    def __init__(self, noise):
        self.noise = noise

    def increment(self, shape, a, b):
        return self.noise.draw(shape)


def two_hills(x, sigma):
    """The best denoiser for 0.3 N(-1, 0.25^2) + 0.7 N(0.5, 0.25^2), element by element."""
    s2 = torch.as_tensor(sigma, dtype=torch.float64).reshape(-1, *[1] * (x.ndim - 1)).to(x) ** 2
    means, weights, var = (-1.0, 0.5), (0.3, 0.7), 0.0625
    logs = torch.stack(
        [math.log(w) - (x - m) ** 2 / (2 * (var + s2)) for m, w in zip(means, weights, strict=True)]
    ).softmax(0)
    return sum(r * (m * s2 + x * var) / (var + s2) for r, m in zip(logs, means, strict=True))


def calls_and_final(sampler, x, sigmas, noise, **options):
    """What the sampler asked, and where it ended."""
    calls, sampling, reply = [], sampler(x, sigmas, noise, **options), None
    while True:
        try:
            call = sampling.send(reply)
        except StopIteration as end:
            return calls, end.value
        calls.append(call)
        reply = two_hills(call.x, call.sigma)


def vector(numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def test_the_problem_is_the_saved_one():
    saved = GOLDEN["problem"]
    torch.testing.assert_close(Z0[0], vector(saved["Z0"]), rtol=0, atol=1e-11)
    for sigma, x0 in saved["D_check"].items():
        ours = two_hills(vector(saved["D_check_x"])[None], float(sigma))[0]
        torch.testing.assert_close(ours, vector(x0), rtol=0, atol=1e-11)


CHURN = {"s_churn": 40, "s_tmin": 0.05, "s_tmax": 50, "s_noise": 1.003}
K_DIFFUSION = {
    "euler": ("euler", {}),
    "euler_churn40(s_tmin=0.05,s_tmax=50,s_noise=1.003)": ("euler", CHURN),
    "euler_ancestral": ("euler_ancestral", {}),
    "euler_ancestral(eta=0.5,s_noise=1.05)": ("euler_ancestral", {"eta": 0.5, "s_noise": 1.05}),
    "heun": ("heun", {}),
    "heun_churn40(s_tmin=0.05,s_tmax=50,s_noise=1.003)": ("heun", CHURN),
    "dpmpp_2m": ("dpmpp_2m", {}),
    "dpmpp_2m_sde(midpoint,eta=1)": ("dpmpp_2m_sde", {}),
    "dpmpp_2m_sde(midpoint,eta=0)": ("dpmpp_2m_sde", {"eta": 0.0}),
}


@pytest.mark.parametrize("case", GOLDEN["k_diffusion"])
def test_k_diffusion(case):
    """Every step in float64. Numbers are saved with twelve digits: 5e-11 at x = 30, 5e-13 at the end, times a few."""
    saved = GOLDEN["k_diffusion"][case]
    name, options = K_DIFFUSION[case.split(" | ")[0]]
    sigmas, noise = vector(saved["sigmas"]), GoldenNoise([0])
    calls, final = calls_and_final(SAMPLERS[name], Z0 * sigmas[0], sigmas, noise, **options)
    assert len(calls) == saved["model_calls"] == SAMPLERS[name].num_calls(10)
    torch.testing.assert_close(
        vector([call.sigma for call in calls]), vector(saved["model_sigmas"]), rtol=1e-10, atol=0
    )
    before_each_step = {call.step: call.x[0] for call in reversed(calls)}  # the first call of the step stays
    for step, x in enumerate(saved["x_before_each_step"]):
        torch.testing.assert_close(before_each_step[step], vector(x), rtol=0, atol=2e-10)
    torch.testing.assert_close(final[0], vector(saved["final"]), rtol=0, atol=2e-11)


@pytest.mark.parametrize("case", [case for case in GOLDEN["k_diffusion"] if "karras10" in case])
def test_k_diffusion_with_our_own_sigmas(case):
    """The whole way: schedule, spacing and sampler."""
    name, options = K_DIFFUSION[case.split(" | ")[0]]
    sigmas = SCHEDULES["karras"](SD15, 10)
    final = sample(SAMPLERS[name], two_hills, Z0 * sigmas[0], sigmas, GoldenNoise([0]), **options)
    torch.testing.assert_close(final[0], vector(GOLDEN["k_diffusion"][case]["final"]), rtol=0, atol=1e-10)


DIFFUSERS = {
    "DDIM": "ddim",
    "EulerAncestral": "euler_ancestral",
    "Euler": "euler",
    "Heun": "heun",
    "DPMSolverMultistep dpmsolver++": "dpmpp_2m",
    "DPMSolverMultistep sde-dpmsolver++": "dpmpp_2m_sde",
}


@pytest.mark.parametrize("case", GOLDEN["diffusers"])
def test_diffusers(case):
    """Its own sigmas, float32, are fed; 1e-5 is what float32 tables leave."""
    saved = GOLDEN["diffusers"][case]
    name = next(ours for theirs, ours in DIFFUSERS.items() if case.startswith(theirs))
    # DDIM goes on to alphas_cumprod[0]; the schedulers write the sigmas of Heun twice.
    sigmas = saved["scheduler_sigmas"] or [*saved["sigma_used"], GOLDEN["sd15_schedule"]["sigma_min_fp32"]]
    sigmas = vector([sigmas[0], *(b for a, b in pairwise(sigmas) if a - b > 1e-7)])
    variance_preserving = saved["init_noise_sigma"] == 1
    start = math.sqrt(1 + sigmas[0] ** 2) if variance_preserving else saved["init_noise_sigma"]
    options = {"eta": 1.0} if "DDIM eta=1" in case else {}
    noise = GoldenNoise([0])
    final = sample(SAMPLERS[name], two_hills, Z0 * start, sigmas, noise, **options)
    if variance_preserving:
        final = final / math.sqrt(1 + sigmas[-1] ** 2)
    torch.testing.assert_close(final[0], vector(saved["final"]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("case", GOLDEN["a1111"])
def test_ddim_of_a1111(case):
    """In VP space, on timesteps 901, 801 .. 1: every step, in float64."""
    saved = GOLDEN["a1111"][case]
    sigmas = SD15.sigmas[torch.tensor(saved["timesteps_ascending"]).flip(0)]
    to_vp = (1 + sigmas**2).rsqrt()
    eta = float(re.search(r"eta=(\d)", case)[1])
    noise, xs = GoldenNoise([0]), []
    final = sample(
        SAMPLERS["ddim"],
        two_hills,
        Z0 / to_vp[0],
        sigmas,
        noise,
        eta=eta,
        on_step=lambda step, x, x0: xs.append(x * to_vp[step + 1]),
    )
    assert len(xs) == len(saved["x_after_each_step"])
    for ours, theirs in zip(xs, saved["x_after_each_step"], strict=True):
        torch.testing.assert_close(ours[0], vector(theirs), rtol=0, atol=1e-10)
    torch.testing.assert_close(final[0] * to_vp[-1], vector(saved["final"]), rtol=0, atol=1e-10)
    assert noise.draws == [saved["noise_requests"] if eta else 0]


# --- closed forms: for Gaussian data N(MEAN, STD^2) the best denoiser and the exact solution are known

MEAN, STD = 0.4, 0.6


def gaussian(x, sigma):
    s2 = torch.as_tensor(sigma, dtype=torch.float64).reshape(-1, *[1] * (x.ndim - 1)).to(x) ** 2
    return (MEAN * s2 + x * STD**2) / (STD**2 + s2)


def smooth_sigmas(num_steps, top=10.0, bottom=0.1):
    """Steps of one smooth family, as an order of convergence needs; it ends above 0, where no sampler changes order."""
    return torch.linspace(top ** (1 / 3), bottom ** (1 / 3), num_steps + 1, dtype=torch.float64) ** 3


def ode_error(name, num_steps, **options):
    sigmas = smooth_sigmas(num_steps)
    x = torch.linspace(-20, 20, 9, dtype=torch.float64).reshape(1, 9)
    shrink = ((STD**2 + sigmas[-1] ** 2) / (STD**2 + sigmas[0] ** 2)).sqrt()
    exact = MEAN + (x - MEAN) * shrink
    return (sample(SAMPLERS[name], gaussian, x, sigmas, **options) - exact).abs().max().item()


@pytest.mark.parametrize("name", SAMPLERS)
def test_error_falls_with_the_order_of_the_sampler(name):
    options = {"eta": 0.0} if SAMPLERS[name].stochastic else {}
    ratio = ode_error(name, 160, **options) / ode_error(name, 320, **options)
    assert ratio == pytest.approx(2 ** SAMPLERS[name].order, rel=0.1)


class ImpulseNoise(NoiseSource):
    """Row k of the batch gets 1 in draw k - 2 and 0 in all others; rows 0 and 1 get no noise."""

    def _draw_row(self, row, shape):
        return torch.full(shape, float(self.draws[row] == row - 2), dtype=torch.float64)


def exact_moments(name, num_steps, **options):
    """Mean and variance of what a sampler makes of N(MEAN, STD^2 + sigma_0^2), without chance.

    For Gaussian data every sampler is linear in x and in each of its draws, so the answers to a start of 0 and 1 and to
    one impulse a draw say all.
    """
    sigmas = smooth_sigmas(num_steps)
    rows = num_steps + 2
    start = torch.zeros(rows, 1, dtype=torch.float64)
    start[1] = 1.0
    noise = ImpulseNoise([0] * rows)
    final = sample(SAMPLERS[name], gaussian, start, sigmas, noise, **options)[:, 0]
    offset, gains = final[0], final[1:] - final[0]
    mean = offset + gains[0] * MEAN
    variance = gains[0] ** 2 * (STD**2 + sigmas[0] ** 2) + (gains[1:] ** 2).sum()
    return mean.item(), variance.item(), noise.draws[0]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("euler_ancestral", {}),
        ("euler_ancestral", {"eta": 0.5}),
        ("ddim", {"eta": 1.0}),
        ("dpmpp_2m_sde", {}),
        ("dpmpp_2m_sde", {"eta": 0.5}),
    ],
)
def test_stochastic_samplers_reach_the_right_mean_and_variance(name, options):
    expected = STD**2 + smooth_sigmas(2)[-1].item() ** 2
    errors = []
    for num_steps in (50, 100, 200):
        mean, variance, draws = exact_moments(name, num_steps, **options)
        assert mean == pytest.approx(MEAN, abs=1e-9)
        assert draws == num_steps
        errors.append(variance / expected - 1)
    coarse, middle, fine = errors
    assert coarse / middle > 1.7  # at least of first order
    assert middle / fine > 1.7
    assert abs(fine) < 0.05
    assert abs(2 * fine - middle) < 0.005  # where a first-order error is heading for


def test_churn_keeps_the_variance_of_the_noise():
    """After the jump x holds noise of the sigma that the model is asked for."""
    sigmas, churn = vector([4.0, 1.0]), {"s_churn": 0.3}
    x = torch.zeros(3, 1, dtype=torch.float64)
    call = next(SAMPLERS["euler"](x, sigmas, ImpulseNoise([0] * 3), **churn))
    assert call.sigma == pytest.approx(4.0 * 1.3)
    assert 4.0**2 + call.x[2, 0].item() ** 2 == pytest.approx(call.sigma**2)


# --- relations between samplers


@pytest.mark.parametrize("spacing", SCHEDULES)
def test_dpmpp_2m_sde_without_noise_is_dpmpp_2m(spacing):
    sigmas = SCHEDULES[spacing](SD15, 12)
    sde = sample(SAMPLERS["dpmpp_2m_sde"], two_hills, Z0 * sigmas[0], sigmas, eta=0.0)
    torch.testing.assert_close(sde, sample(SAMPLERS["dpmpp_2m"], two_hills, Z0 * sigmas[0], sigmas), rtol=0, atol=1e-13)


def test_ddim_is_euler_and_with_noise_the_ancestral_one():
    sigmas = SCHEDULES["uniform"](SD15, 12)
    x = Z0 * sigmas[0]
    assert torch.equal(sample(SAMPLERS["ddim"], two_hills, x, sigmas), sample(SAMPLERS["euler"], two_hills, x, sigmas))
    assert torch.equal(
        sample(SAMPLERS["ddim"], two_hills, x, sigmas, PhiloxNoise([3]), eta=1.0),
        sample(SAMPLERS["euler_ancestral"], two_hills, x, sigmas, PhiloxNoise([3])),
    )


@pytest.mark.parametrize("name", SAMPLERS)
def test_prediction_types_make_the_same_picture(name):
    """One belief about x0, told as eps, as v and as x0; float32 timesteps leave 1e-6."""
    sigmas = SCHEDULES["karras"](SD15, 10)
    finals = []
    for prediction in ("eps", "v", "x0"):

        def network(z, timestep, prediction=prediction):
            s = SD15.sigma_of(timestep).reshape(-1, 1)
            x = z * (1 + s**2).sqrt()
            x0 = two_hills(x, s)
            # What a network of this kind says, found by solving to_x0 for its output, which enters linearly.
            at_0 = to_x0(prediction, x, s.flatten(), torch.zeros_like(x))
            at_1 = to_x0(prediction, x, s.flatten(), torch.ones_like(x))
            return (x0 - at_0) / (at_1 - at_0)

        denoise = Denoiser(network, SD15, prediction)
        finals.append(sample(SAMPLERS[name], denoise, Z0 * sigmas[0], sigmas, GoldenNoise([0])))
    torch.testing.assert_close(finals[1], finals[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(finals[2], finals[0], rtol=0, atol=1e-5)


# --- what every sampler keeps


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_row_is_the_same_alone_and_in_a_batch(name):
    """Bit for bit in float32, at a size that fills no vector register.

    With the denoiser of + - * / alone: torch's exp, which two_hills needs, changes with the place in the batch.
    """
    sigmas, shape = SCHEDULES["karras"](SD15, 6), (3, 5, 7)
    x = PhiloxNoise([1, 2, 3], [4, 5, 6]).draw(shape) * sigmas[0].item()
    together = sample(SAMPLERS[name], gaussian, x, sigmas, PhiloxNoise([1, 2, 3], [4, 5, 6], draws=[1, 1, 1]))
    assert together.dtype == torch.float32
    for row in range(3):
        noise = PhiloxNoise([row + 1], [row + 4], draws=[1])
        assert torch.equal(sample(SAMPLERS[name], gaussian, x[row : row + 1], sigmas, noise)[0], together[row])


def test_requests_with_other_samplers_and_sigmas_share_the_model_calls():
    """The caller gathers one call of each request into a batch; every picture stays as it was, bit by bit."""
    requests = [("heun", "karras", 3), ("dpmpp_2m_sde", "uniform", 5), ("euler_ancestral", "sgm_uniform", 2)]

    def begin(index):
        name, spacing, num_steps = requests[index]
        sigmas, noise = SCHEDULES[spacing](SD15, num_steps), PhiloxNoise([index, index], [0, 1])
        return SAMPLERS[name], noise.draw((3, 5, 7)) * sigmas[0].item(), sigmas, noise

    running, finals = {}, {}
    for index in range(len(requests)):
        sampler, *rest = begin(index)
        sampling = sampler(*rest)
        running[index] = sampling, next(sampling)
    while running:
        calls = [call for _, call in running.values()]
        sigma = torch.cat([torch.full((len(call.x),), call.sigma, dtype=torch.float64) for call in calls])
        answers = gaussian(torch.cat([call.x for call in calls]), sigma).split([len(call.x) for call in calls])
        for (index, (sampling, _)), x0 in zip(list(running.items()), answers, strict=True):
            try:
                running[index] = sampling, sampling.send(x0)
            except StopIteration as end:
                finals[index] = end.value
                del running[index]
    for index in range(len(requests)):
        sampler, x, sigmas, noise = begin(index)
        assert torch.equal(finals[index], sample(sampler, gaussian, x, sigmas, noise))


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("num_steps", [1, 2, 5])
def test_counts_of_draws_calls_and_steps(name, num_steps):
    sampler, steps, calls = SAMPLERS[name], [], []

    def denoise(x, sigma):
        calls.append(sigma)
        return two_hills(x, sigma)

    sigmas, noise = SCHEDULES["karras"](SD15, num_steps), PhiloxNoise([1, 2])
    x = torch.ones(2, 4, 3, 3) * sigmas[0].item()
    final = sample(sampler, denoise, x, sigmas, noise, on_step=lambda step, x, x0: steps.append((step, x)))
    assert noise.draws == [num_steps - 1 if sampler.stochastic else 0] * 2
    assert len(calls) == sampler.num_calls(num_steps)
    assert all(sigma.shape == (2,) and (sigma > 0).all() for sigma in calls)
    assert [step for step, _ in steps] == list(range(num_steps))
    assert torch.equal(steps[-1][1], final)


@pytest.mark.parametrize("name", SAMPLERS)
def test_last_step_to_zero_gives_what_the_model_said(name):
    sigmas = vector([0.5, 0.0])
    x = Z0.clone()
    assert torch.equal(sample(SAMPLERS[name], two_hills, x, sigmas, GoldenNoise([0])), two_hills(x, 0.5))
    assert torch.equal(x, Z0)  # the argument is left alone


@pytest.mark.parametrize("name", SAMPLERS)
def test_sampling_stays_finite_from_zero_terminal_snr(name):
    sigmas = SCHEDULES["sgm_uniform"](scaled_linear(zero_terminal_snr=True), 8)
    x = PhiloxNoise([0]).draw((4, 8, 8)) * sigmas[0].item()
    final = sample(SAMPLERS[name], two_hills, x, sigmas, PhiloxNoise([0]))
    assert final.abs().max() < 3


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("prediction", ["eps", "v", "x0"])
def test_all_is_done_on_the_device_of_x(name, prediction):
    """Sigmas and noise come from the CPU; on torch's meta device any arithmetic across devices raises."""
    guided = GuidedNetwork(
        lambda z, timestep, context: z * timestep.reshape(-1, 1, 1, 1) + context,
        cond=torch.zeros(2, 1, 1, 1, device="meta"),
        uncond=torch.zeros(2, 1, 1, 1, device="meta"),
        scale=torch.tensor([1.0, 7.0]),
        cat=lambda first, second: torch.cat([first, second]),
        rescale=torch.tensor([0.0, 0.7]),
    )
    x = torch.empty(2, 4, 3, 3, device="meta")
    sigmas = SCHEDULES["uniform"](SD15, 3)
    final = sample(SAMPLERS[name], Denoiser(guided, SD15, prediction), x, sigmas, PhiloxNoise([1, 2]))
    assert (final.device.type, final.dtype, final.shape) == ("meta", torch.float32, x.shape)


@pytest.mark.parametrize("name", SAMPLERS)
def test_wrong_arguments_are_refused(name):
    sampler, x = SAMPLERS[name], Z0
    for bad in (
        [1.0],
        [1.0, 1.0, 0.0],
        [1.0, 2.0],
        [1.0, -0.5],
        [math.inf, 1.0],
        [math.nan, 0.0],
        [1.0, math.nan, 0.0],
    ):
        with pytest.raises(ValueError, match="sigmas"):
            sample(sampler, two_hills, x, vector(bad), GoldenNoise([0]))
    with pytest.raises(ValueError, match="no option warp"):
        sample(sampler, two_hills, x, vector([1.0, 0.0]), warp=9.0)
    if sampler.stochastic:
        with pytest.raises(ValueError, match="noise source"):
            sample(sampler, two_hills, x, vector([2.0, 1.0, 0.0]))


def test_churn_without_noise_is_refused():
    with pytest.raises(ValueError, match="noise source"):
        sample(SAMPLERS["euler"], two_hills, Z0, vector([1.0, 0.0]), s_churn=10.0)


def test_labels_are_those_of_a1111_and_differ():
    assert len({sampler.label for sampler in SAMPLERS.values()}) == len(SAMPLERS)
    assert SAMPLERS["dpmpp_2m"].label == "DPM++ 2M"
