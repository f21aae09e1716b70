"""Samplers against the numbers of other programs, against closed forms, and against themselves in other batches."""

import itertools
import json
import math
import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from gesso.diffusion.calls import run_calls
from gesso.diffusion.conventions import (
    a1111_timestep_sigmas,
    a1111_unipc_sigmas,
    discard_penultimate,
    final_scale,
    initial_scale,
)
from gesso.diffusion.denoiser import Denoiser, boundary, to_x0
from gesso.diffusion.diffusers_steps import DiffusersScheduler, diffusers_noise_schedule
from gesso.diffusion.guidance import GuidedNetwork
from gesso.diffusion.noise import NoiseSource, PhiloxNoise
from gesso.diffusion.samplers import SAMPLERS, reply_to, sample
from gesso.diffusion.samplers import stochastic as stochastic_room
from gesso.diffusion.samplers.quadrature import lagrange_integrals
from gesso.diffusion.schedule import SCHEDULES, scaled_linear
from gesso.errors import GessoError

GOLDEN = json.loads((Path(__file__).parents[1] / "golden/samplers.json").read_text())
Z0 = torch.from_numpy(np.random.RandomState(0).standard_normal(8)).reshape(1, 8)
SD15 = scaled_linear()


class Alike:
    """A denoiser that says the same with and without a prompt, for the samplers that ask for both."""

    def __init__(self, x0_of):
        self.x0_of = x0_of

    def __call__(self, x, sigma):
        return self.x0_of(x, torch.as_tensor(sigma, dtype=torch.float64).reshape(-1, *[1] * (x.ndim - 1)).to(x) ** 2)

    def with_uncond(self, x, sigma):
        return self(x, sigma).expand(2, *x.shape)


class GoldenNoise(NoiseSource):
    """The noise of the saved problem: the k-th request is run_calls by numpy with seed 1000 + k."""

    def _draw_row(self, row, shape):
        return torch.from_numpy(np.random.RandomState(1000 + self.draws[row]).standard_normal(shape))

    def brownian(self, levels):
        return Independent(self)


class Independent:
    """In place of a Brownian path: each question is run_calls by the next draw."""

    def __init__(self, noise):
        self.noise = noise

    def increment(self, shape, a, b):
        return self.noise.draw(shape)


@Alike
def two_hills(x, s2):
    """The best denoiser for 0.3 N(-1, 0.25^2) + 0.7 N(0.5, 0.25^2), element by element."""
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
        reply = run_calls(reply_to(two_hills, call))


def gap(final, saved):
    """How far the final numbers are from the saved ones."""
    return (final - vector(saved["final"])).abs().max().item()


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
    "dpm_2": ("dpm_2", {}),
    "dpm_2_ancestral": ("dpm_2_ancestral", {}),
    "lms(order4)": ("lms", {}),
    "dpm_fast(eta=0)": ("dpm_fast", {}),
    "dpm_fast(eta=1)": ("dpm_fast", {"eta": 1.0}),
    "dpm_adaptive(eta=0)": ("dpm_adaptive", {}),
    "dpm_adaptive(eta=1)": ("dpm_adaptive", {"eta": 1.0}),
    "dpmpp_2s_ancestral": ("dpmpp_2s_ancestral", {}),
    "dpmpp_sde(eta=1,r=0.5)": ("dpmpp_sde", {}),
    "dpmpp_sde(eta=0)": ("dpmpp_sde", {"eta": 0.0}),
    "dpmpp_2m": ("dpmpp_2m", {}),
    "dpmpp_2m_sde(midpoint,eta=1)": ("dpmpp_2m_sde", {}),
    "dpmpp_2m_sde(midpoint,eta=0)": ("dpmpp_2m_sde", {"eta": 0.0}),
    "dpmpp_2m_sde(heun,eta=1)": ("dpmpp_2m_sde_heun", {}),
    "dpmpp_3m_sde(eta=1)": ("dpmpp_3m_sde", {}),
    "dpmpp_3m_sde(eta=0)": ("dpmpp_3m_sde", {"eta": 0.0}),
    "restart(auto list, steps=20)": ("restart", {}),
    "restart(auto list, steps=40)": ("restart", {}),
    "lcm_sigma_space(x=D; += sigma_next*noise)": ("lcm", {}),
}
# k-diffusion asks its noise source for an amount of 0 too: for churn 0 and eta 0 always, and in these cases once.
ASKED_FOR_NOTHING = {
    "dpm_fast(eta=1)": 1,
    "dpm_adaptive(eta=1)": 1,
    **{case: 1 for case in K_DIFFUSION if "churn" in case},
}


@cache
def as_k_diffusion(case):
    """-> the sampler's name, where it ended, what it asked, and its noise."""
    name, options = K_DIFFUSION[case.split(" | ")[0]]
    sigmas, noise = vector(GOLDEN["k_diffusion"][case]["sigmas"]), GoldenNoise([0])
    calls, final = calls_and_final(SAMPLERS[name], Z0 * sigmas[0], sigmas, noise, **options)
    return name, final[0], calls, noise


@pytest.mark.parametrize("case", GOLDEN["k_diffusion"])
def test_k_diffusion(case):
    """Every step in float64. Numbers are saved with twelve digits: 5e-11 at x = 30, 5e-13 at the end, times a few.

    The start is 5e-11 off in some cases, and DPM++ 3M SDE makes 1.5e-11 of it; all others end within 5e-12.
    """
    saved = GOLDEN["k_diffusion"][case]
    name, final, calls, noise = as_k_diffusion(case)
    assert len(calls) == saved["model_calls"]
    assert SAMPLERS[name].num_calls(len(saved["sigmas"]) - 1) in (len(calls), None)
    asked = torch.cat([call.sigma_of_rows() for call in calls])
    torch.testing.assert_close(asked, vector(saved["model_sigmas"]), rtol=1e-9, atol=0)
    if name == "dpm_fast":  # three calls a step of the solver
        starts = [call.x[0] for call in calls[::3]]
    elif name == "dpm_adaptive":  # three calls an attempt; saved is the x after it
        starts = [call.x[0] for call in calls[3::3]] + [final]
    else:
        starts = list({call.step: call.x[0] for call in reversed(calls)}.values())[::-1]  # the first call of a step
    assert ("x_before_each_step" in saved) != case.endswith("uniform10")  # of these the end alone is saved
    if "x_before_each_step" in saved:
        for ours, theirs in zip(starts, saved["x_before_each_step"], strict=True):
            torch.testing.assert_close(ours, vector(theirs), rtol=0, atol=3e-10)
    assert gap(final, saved) <= 2e-11
    if noise.draws[0]:
        assert noise.draws[0] == saved["noise_requests"] - ASKED_FOR_NOTHING.get(case.split(" | ")[0], 0)


@pytest.mark.parametrize("case", [case for case in GOLDEN["k_diffusion"] if case.endswith(("karras10", "uniform10"))])
def test_k_diffusion_with_our_own_sigmas(case):
    """The whole way: schedule, spacing and sampler."""
    told, spacing = case.split(" | ")
    name, options = K_DIFFUSION[told]
    sigmas = SCHEDULES[spacing.removesuffix("10")](SD15, 10)
    final = sample(SAMPLERS[name], two_hills, Z0 * sigmas[0], sigmas, GoldenNoise([0]), **options)
    torch.testing.assert_close(final[0], vector(GOLDEN["k_diffusion"][case]["final"]), rtol=0, atol=1e-11)


@pytest.mark.parametrize("case", [case for case in GOLDEN["k_diffusion"] if "discard" in case])
def test_the_discarded_sigma_of_a1111(case):
    sigmas = discard_penultimate(SCHEDULES["karras"](SD15, 11))
    torch.testing.assert_close(sigmas, vector(GOLDEN["k_diffusion"][case]["sigmas"]), rtol=0, atol=5e-11)
    assert SAMPLERS[K_DIFFUSION[case.split(" | ")[0]][0]].discards_penultimate


def scheduler_of(case):
    """The saved case as a scheduler_config.json would tell it."""
    said = case.split()[0]
    names = (f"{said}{middle}Scheduler" for middle in ("", "Discrete", "Multistep"))
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    known = {f.removesuffix("Scheduler") for f in KNOWN_SCHEDULERS}
    name = next((name for name in names if name.removesuffix("Scheduler") in known), f"{said}Scheduler")
    # TCD was asked for any timesteps in its golden run, not for those of its distillation.
    more = {"original_inference_steps": 1000} if said == "TCD" else {}
    more |= {"disable_corrector": []} if "no corrector" in case else {}  # an option of our sampler
    return {"_class_name": name, **betas, **GOLDEN["diffusers"][case]["config"], **more}


KNOWN_SCHEDULERS = [alias for row in SAMPLERS.values() for alias in row.aliases if alias.endswith("Scheduler")]
REFUSED = [
    "DPMSolverMultistep dpmsolver(noise) order2",
    "DPMSolverMultistep sde-dpmsolver++ order3 karras",  # a sign there is wrong: see DiffusersScheduler
    *(f"DPMSolverSinglestep dpmsolver++ order{rest}" for rest in ("2", "3", "2 karras")),
]
# Our x0 after a last step to 0 is a number there.
NAN = "UniPC bh1 order2 linspace (final sigma 0 -> nan at last step)"
# (largest gap, why): float32 in their sigmas leaves 4e-7 elsewhere.
WIDER = {
    "DEIS order3 logrho": 1e-5,  # float32 logarithms, cancelled
    "DEIS order2 logrho": 2e-6,
    "DDPM leading (fixed_large)": 1e-6,  # the golden is of another processor, whose float32 rounds otherwise
    "Euler v_prediction trailing rescale_betas_zero_snr": 5e-6,  # x is 4096 times larger than usual
}


@cache
def as_diffusers(case):
    """From its config to its final latents: noise schedule, steps, scales and solver. -> the sampler's name, the end"""
    saved, config = GOLDEN["diffusers"][case], scheduler_of(case)
    scheduler = DiffusersScheduler.of_config(config)
    num_steps = int(re.search(r"(\d+) steps|$", case)[1] or 10)
    steps = scheduler.steps(diffusers_noise_schedule(config), num_steps)
    options = dict(steps.options)
    if "eta" in saved["step_kw"]:
        options["gamma" if scheduler.sampler == "tcd" else "eta"] = saved["step_kw"]["eta"]
    if "no corrector" in case:
        options["corrector"] = 0.0
    noise = GoldenNoise([0])

    def denoise(x, sigma):
        x0 = two_hills(x, sigma)
        return boundary(x, x0, sigma, steps.timestep_of(sigma)) if steps.consistency else x0

    x = sample(SAMPLERS[scheduler.sampler], denoise, Z0 * steps.initial_scale, steps.sigmas, noise, **options)
    return scheduler.sampler, (x * steps.final_scale)[0]


@pytest.mark.parametrize("case", [case for case in GOLDEN["diffusers"] if case not in REFUSED])
def test_diffusers(case):
    _, final = as_diffusers(case)
    if case == NAN:
        assert torch.isfinite(final).all()
        return
    assert gap(final, GOLDEN["diffusers"][case]) <= WIDER.get(case, 5e-7)


@pytest.mark.parametrize("case", REFUSED)
def test_what_we_cannot_do_as_diffusers_does_is_refused(case):
    with pytest.raises(GessoError, match="supported"):
        DiffusersScheduler.of_config(scheduler_of(case))


@cache
def as_a1111(case):
    """In VP space, on timesteps 901, 801 .. 1. -> the sampler's name, the end, x after each step, its noise"""
    name, num_steps = case.split()[0].lower(), int(re.search(r"steps=(\d+)", case)[1])
    noise, xs, options = GoldenNoise([0]), [], {}
    if name == "unipc":
        sigmas = a1111_unipc_sigmas(SD15, num_steps)
        options = {"max_order": 2.0 if "order2" in case else 3.0}
        name = "unipc_bh2" if "bh2" in case else "unipc"
    else:
        sigmas = a1111_timestep_sigmas(SD15, num_steps)
        if "eta=1" in case:
            options = {"eta": 1.0}
    x = Z0 * initial_scale("variance", sigmas, SD15)

    def keep(step, x, x0):
        xs.append((x * final_scale(sigmas[: step + 2]))[0])

    final = sample(SAMPLERS[name], two_hills, x, sigmas, noise, on_step=keep, **options)
    return name, (final * final_scale(sigmas))[0], xs, noise


@pytest.mark.parametrize("case", GOLDEN["a1111"])
def test_timesteps_samplers_of_a1111(case):
    """Every step, in float64. Its UniPC holds its table in float32."""
    saved = GOLDEN["a1111"][case]
    name, final, xs, noise = as_a1111(case)
    if name.startswith("unipc"):  # our x after a step has not met the corrector yet
        assert gap(final, saved) <= 2e-6
        return
    assert gap(final, saved) <= 1e-11
    for ours, theirs in zip(xs, saved["x_after_each_step"], strict=True):
        torch.testing.assert_close(ours, vector(theirs), rtol=0, atol=1e-11)
    assert noise.draws == [saved["noise_requests"] if "eta=1" in case else 0]


def test_the_page_says_how_near_they_come():
    """Column "gap" of docs/samplers.md, to a factor: the last bits differ between processors."""
    runs = {
        ("k_diffusion", 0): as_k_diffusion,
        ("a1111", 0): as_a1111,
        ("diffusers", 1): as_diffusers,
    }
    gaps = {}  # (sampler, column): of each case
    for (program, column), run in runs.items():
        for case, saved in GOLDEN[program].items():
            if case not in (*REFUSED, NAN):
                name, final, *_ = run(case)
                gaps.setdefault((name, column), []).append(gap(final, saved))
    page = (Path(__file__).parents[2] / "docs/samplers.md").read_text(encoding="utf-8")
    told = {}
    for name, last in re.findall(r"^\| `(\w+)` \|.*\| ([^|]+) \|$", page, flags=re.MULTILINE):
        if columns := re.fullmatch(r"(\S+) / (\S+)", last):
            told |= {(name, column): columns[column + 1] for column in range(2) if columns[column + 1] != "–"}
    assert told.keys() == gaps.keys()
    for row, text in told.items():
        assert max(gaps[row]) / 2 <= float(text) <= 4 * max(gaps[row]), (row, gaps[row])


# --- closed forms: for Gaussian data N(MEAN, STD^2) the best denoiser and the exact solution are known

MEAN, STD = 0.4, 0.6


@Alike
def gaussian(x, s2):
    return (MEAN * s2 + x * STD**2) / (STD**2 + s2)


def smooth_sigmas(num_steps, top=10.0, bottom=0.1):
    """Steps of one smooth family, as an order of convergence needs; it ends above 0, where no sampler changes order.

    First and last steps are small, since some samplers make them with a lower order.
    """
    u = torch.linspace(0, 1, num_steps + 1, dtype=torch.float64)
    u = u**3 * (10 - 15 * u + 6 * u**2)
    return torch.lerp(torch.full_like(u, top ** (1 / 3)), torch.full_like(u, bottom ** (1 / 3)), u) ** 3


def ode_error(name, num_steps, *, denoise=None, **options):
    sigmas = smooth_sigmas(num_steps)
    x = torch.linspace(-20, 20, 9, dtype=torch.float64).reshape(1, 9)
    shrink = ((STD**2 + sigmas[-1] ** 2) / (STD**2 + sigmas[0] ** 2)).sqrt()
    exact = MEAN + (x - MEAN) * shrink
    return (sample(SAMPLERS[name], denoise or gaussian, x, sigmas, **options) - exact).abs().max().item()


# How to make a solver of the ODE of a sampler that is none at its defaults.
WITHOUT_NOISE = {"tcd": {"gamma": 0.0}, "sa_solver": {"tau": 0.0}, "restart": {}, "deis": {"lower_final": 0.0}}
NO_ODE = {"lcm", "ddpm", "er_sde", "dpm_adaptive"}  # LCM and DDPM: see their moments; the others have tests below
# DPM fast ends in steps of order 2 and 1, or 1, as the number of steps goes; Restart restarts from 20 on.
STEPS = {"dpm_fast": (160, 640), "restart": (9, 18), "unipc": (320, 640)}


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name not in NO_ODE])
def test_error_falls_with_the_order_of_the_sampler(name):
    options = WITHOUT_NOISE.get(name, {"eta": 0.0} if SAMPLERS[name].stochastic else {})
    few, many = STEPS.get(name, (160, 320))
    ratio = ode_error(name, few, **options) / ode_error(name, many, **options)
    assert math.log(ratio) / math.log(many / few) == pytest.approx(SAMPLERS[name].order, abs=0.25)


@pytest.mark.parametrize(
    ("name", "options", "order"),
    [
        ("dpmpp_2m", {"max_order": 1}, 1),
        ("dpmpp_2m", {"heun": 1}, 2),
        ("dpmpp_sde", {"eta": 0.0, "r": 0.3}, 2),
        ("lms", {"max_order": 1}, 1),
        ("lms", {"max_order": 2}, 2),
        ("lms", {"max_order": 3}, 3),
        ("ipndm", {"max_order": 1}, 1),
        ("deis", {"max_order": 2, "lower_final": 0.0}, 2),
        ("unipc", {"max_order": 1}, 2),  # the corrector adds one
        ("unipc", {"max_order": 2}, 3),
        ("unipc", {"max_order": 2, "corrector": 0.0}, 2),
    ],
)
def test_options_give_the_order_that_they_name(name, options, order):
    ratio = ode_error(name, 160, **options) / ode_error(name, 320, **options)
    assert math.log2(ratio) == pytest.approx(order, abs=0.1)


@pytest.mark.parametrize(("order", "tols"), [(2, (1e-4, 1e-6)), (3, (1e-6, 1e-8))])
def test_the_error_of_dpm_adaptive_falls_with_its_calls(order, tols):
    """It chooses its steps itself, so its order shows in the number of calls that a smaller error costs."""
    counts, errors = [], []
    for tol in tols:
        asked = []
        counting = Alike(lambda x, s2, asked=asked: asked.append(1) or gaussian.x0_of(x, s2))
        errors.append(
            ode_error("dpm_adaptive", 10, denoise=counting, order=order, rtol=tol, atol=tol / 10, h_init=0.01)
        )
        counts.append(len(asked))
    assert math.log(errors[0] / errors[1]) / math.log(counts[1] / counts[0]) == pytest.approx(order, abs=0.25)


def test_dpm_adaptive_is_as_exact_as_it_is_asked_to_be():
    errors = [ode_error("dpm_adaptive", 10, rtol=tol, atol=tol / 10, h_init=0.01) for tol in (1e-2, 1e-3, 1e-4)]
    for tol, error in zip((1e-2, 1e-3, 1e-4), errors, strict=True):
        assert error < 3 * tol
    assert ode_error("dpm_adaptive", 10, order=2, rtol=1e-3) < 0.02


@pytest.mark.parametrize(("max_order", "order"), [(1, 1), (2, 2), (3, 2)])
def test_er_sde_without_its_noise_scale_is_an_ode_solver(monkeypatch, max_order, order):
    """With phi(s) = s nothing is random and the step is that of Euler, corrected by slope and curvature."""
    monkeypatch.setattr(stochastic_room, "_phi", lambda sigma: sigma)
    errors = [ode_error("er_sde", num_steps, max_order=max_order) for num_steps in (160, 320)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.1)


@pytest.mark.parametrize("max_order", [1, 2, 3])
def test_er_sde_beside_its_formulas(max_order):
    """Algorithms 3 to 5 of arXiv:2309.06169 in sigma, their integrals as sums of many rectangles."""

    def phi(s):
        return s * (np.exp(s**0.3) + 10)

    def integrate(f, b, a, count=20_000):
        s = b + (np.arange(count) + 0.5) * (a - b) / count
        return (f(s) / phi(s)).sum() * (a - b) / count

    sigmas, noise = SCHEDULES["karras"](SD15, 8).tolist(), GoldenNoise([0])
    x = Z0 * sigmas[0]
    said, slopes = [], []  # x0 and its slope of each step
    for step, (a, b) in enumerate(itertools.pairwise(sigmas[:-1])):
        said.append(two_hills(x, a))
        if step > 0:
            slopes.append((said[step] - said[step - 1]) / (a - sigmas[step - 1]))
        share = phi(b) / phi(a)
        x = share * x + (1 - share) * said[step]
        if step > 0 and max_order >= 2:
            x = x + (b - a + phi(b) * integrate(lambda s: 1.0, b, a)) * slopes[-1]
        if step > 1 and max_order >= 3:
            curve = 2 * (slopes[-1] - slopes[-2]) / (a - sigmas[step - 2])
            x = x + ((b - a) ** 2 / 2 + phi(b) * integrate(lambda s, a=a: s - a, b, a)) * curve
        x = x + noise.draw((8,)) * math.sqrt(b**2 - (share * a) ** 2)
    expected = two_hills(x, sigmas[-2])
    found = sample(SAMPLERS["er_sde"], two_hills, Z0 * sigmas[0], vector(sigmas), GoldenNoise([0]), max_order=max_order)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-7)


class ImpulseNoise(NoiseSource):
    """Row k of the batch gets 1 in draw k - 2 and 0 in all others; rows 0 and 1 get no noise."""

    def _draw_row(self, row, shape):
        return torch.full(shape, float(self.draws[row] == row - 2), dtype=torch.float64)

    def brownian(self, levels):
        return Independent(self)


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
    ("name", "options", "order"),
    [
        ("euler_ancestral", {}, 1),
        ("euler_ancestral", {"eta": 0.5}, 1),
        ("ddim", {"eta": 1.0}, 1),
        ("ddim_cfgpp", {"eta": 1.0}, 1),
        ("ddpm", {}, 1),
        ("ddpm", {"large": 1.0}, 1),
        ("dpm_2_ancestral", {}, 2),
        ("dpmpp_2s_ancestral", {}, 2),
        ("dpmpp_2m_sde", {}, 2),
        ("dpmpp_2m_sde", {"eta": 0.5}, 2),
        ("dpmpp_2m_sde_heun", {}, 2),
        ("dpmpp_3m_sde", {}, 2),
        ("er_sde", {}, 2),
        ("er_sde", {"max_order": 1}, 1),
        ("sa_solver", {}, 2),
        ("sa_solver", {"tau_from": 0, "tau_to": 999}, 2),
    ],
)
@pytest.mark.sampled(2)
def test_stochastic_samplers_reach_the_right_mean_and_variance(name, options, order):
    expected = STD**2 + smooth_sigmas(2)[-1].item() ** 2
    errors = []
    for num_steps in (50, 100, 200):
        mean, variance, draws = exact_moments(name, num_steps, **options)
        assert mean == pytest.approx(MEAN, abs=1e-9)
        assert draws == num_steps or name == "sa_solver"
        errors.append(variance / expected - 1)
    coarse, middle, fine = errors
    assert coarse / middle > 1.7**order
    assert middle / fine > 1.7**order
    assert abs(fine) < 0.05


def test_lcm_keeps_less_than_the_variance_of_the_data():
    """Each step is the mean that the model believes in, and fresh noise; more steps do not mend it: order 0."""
    gaps = []
    for num_steps in (50, 100, 200):
        sigmas = smooth_sigmas(num_steps).tolist()
        variance = STD**2 + sigmas[0] ** 2
        for a, b in itertools.pairwise(sigmas):
            variance = variance * (STD**2 / (STD**2 + a**2)) ** 2 + b**2
        mean, found, draws = exact_moments("lcm", num_steps)
        assert (mean, found, draws) == (pytest.approx(MEAN), pytest.approx(variance), num_steps)
        gaps.append(1 - variance / (STD**2 + sigmas[-1] ** 2))
    assert gaps == pytest.approx([0.5] * 3, abs=0.05)


class Scaled(GoldenNoise):
    """The noise of the saved problem, so many times as strong."""

    def __init__(self, factor):
        super().__init__([0])
        self.factor = factor

    def _draw_row(self, row, shape):
        return super()._draw_row(row, shape) * self.factor


@pytest.mark.parametrize("name", [name for name, row in SAMPLERS.items() if "s_noise" in row.options])
def test_s_noise_is_how_strong_the_noise_is(name):
    sigmas = SCHEDULES["karras"](SD15, 24)  # Restart restarts
    options = {"s_churn": 20.0} if "s_churn" in SAMPLERS[name].options else {}
    options |= {"eta": 1.0} if "eta" in SAMPLERS[name].options else {}
    louder = sample(SAMPLERS[name], two_hills, Z0 * sigmas[0], sigmas, Scaled(1.0), s_noise=1.25, **options)
    expected = sample(SAMPLERS[name], two_hills, Z0 * sigmas[0], sigmas, Scaled(1.25), **options)
    torch.testing.assert_close(louder, expected, rtol=0, atol=1e-12)
    plain = sample(SAMPLERS[name], two_hills, Z0 * sigmas[0], sigmas, Scaled(1.0), **options)
    assert (louder - plain).abs().max() > 1e-3


@pytest.mark.parametrize(("gamma", "sigma"), [(0.3, 1.0), (1.0, 0.5), (0.0, 0.5)])
def test_tcd_adds_the_noise_that_it_took_away(gamma, sigma):
    """Whatever gamma, x holds noise of the next sigma: what is left of the old one and the new draw make it up."""
    sigmas = vector([4.0, sigma, 0.2])
    calls, _ = calls_and_final(SAMPLERS["tcd"], torch.zeros(1, 1), sigmas, ImpulseNoise([0]), gamma=gamma)
    noise_in = ImpulseNoise([0, 0, 0])
    sampling = SAMPLERS["tcd"](torch.tensor([[0.0], [1.0], [0.0]]).double(), sigmas, noise_in, gamma=gamma)
    next(sampling)
    after = sampling.send(torch.zeros(3, 1, dtype=torch.float64)).x[:, 0]  # x0 = 0: x is noise alone
    assert (after[1].item() * 4.0) ** 2 + after[2].item() ** 2 == pytest.approx(sigma**2)
    assert [call.sigma for call in calls] == [4.0, sigma]


def test_noise_of_dpmpp_sde_must_be_that_of_one_path():
    """With a path of Brownian motion the variance converges with order 2, with independent numbers it misses its aim.

    The gains of the draws n1 (a, m) and n2 (m, b) of each step: W(a) - W(b) is the sum of both.
    """

    class OnePath:
        def __init__(self, noise):
            self.noise, self.last = noise, None

        def increment(self, shape, a, b):
            first = self.noise.draw(shape)
            if self.last is None or self.last[0] != a:
                self.last = a, b, first
                return first
            _, middle, half = self.last
            return (half * math.sqrt(a - middle) + first * math.sqrt(middle - b)) / math.sqrt(a - b)

    class Path(ImpulseNoise):
        def brownian(self, levels):
            return OnePath(self)

    def error(kind, num_steps):
        sigmas, rows = smooth_sigmas(num_steps), 2 * num_steps + 2
        start = torch.zeros(rows, 1, dtype=torch.float64)
        start[1] = 1.0
        final = sample(SAMPLERS["dpmpp_sde"], gaussian, start, sigmas, kind([0] * rows))[:, 0]
        gains = final[1:] - final[0]
        variance = gains[0] ** 2 * (STD**2 + sigmas[0] ** 2) + (gains[1:] ** 2).sum()
        return abs(variance.item() / (STD**2 + sigmas[-1].item() ** 2) - 1)

    assert error(Path, 50) / error(Path, 100) > 3.5  # measured: 0.0046 and 0.0010
    assert error(ImpulseNoise, 100) > 30 * error(Path, 100)  # 0.073


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


class Guided:
    """A network that says the same with and without a prompt."""

    def __init__(self, network):
        self.network = network

    def __call__(self, z, timestep):
        return self.network(z, timestep)

    def with_uncond(self, z, timestep):
        return self(z, timestep).expand(2, *z.shape)


@pytest.mark.parametrize("name", SAMPLERS)
def test_prediction_types_make_the_same_picture(name):
    """One belief about x0, told as eps, as v and as x0; float32 timesteps leave 1e-6."""
    sigmas = SCHEDULES["karras"](SD15, 10)
    finals = []
    for prediction in ("eps", "v", "x0"):

        @Guided
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


class Counted(PhiloxNoise):
    """Plain noise that also counts what is asked of its path."""

    increments = 0

    def brownian(self, levels):
        self.path = super().brownian(levels)
        return self

    def increment(self, shape, a, b):
        self.increments += 1
        return self.path.increment(shape, a, b)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("num_steps", [1, 2, 5, 24])
@pytest.mark.sampled(3)
def test_counts_of_draws_calls_and_steps(name, num_steps):
    """Each sampler draws just the noise that it uses, and calls the model as often as its row says."""
    sampler, steps, calls = SAMPLERS[name], [], []

    class Listed(Alike):
        def __call__(self, x, sigma):
            calls.append(sigma)
            return super().__call__(x, sigma)

    sigmas, noise = SCHEDULES["karras"](SD15, num_steps), Counted([1, 2])
    x = torch.ones(2, 4, 3, 3) * sigmas[0].item()
    options = {"tau_from": 0, "tau_to": 999} if name == "sa_solver" else {}
    denoise = Listed(two_hills.x0_of)
    final = sample(sampler, denoise, x, sigmas, noise, on_step=lambda step, x, x0: steps.append((step, x)), **options)
    draws = sampler.draws_per_step * (num_steps - 1)
    if name == "tcd":  # from timestep 0 there is nothing below
        draws = max(num_steps - 2, 0)
    if name == "restart":
        draws = int(num_steps == 24)
    assert noise.draws == [draws] * 2
    assert noise.increments == (sampler.calls_per_step * (num_steps - 1) if sampler.brownian else 0)
    assert sampler.stochastic == (sampler.draws_per_step > 0 or sampler.brownian or name == "restart")
    if sampler.num_calls(num_steps) is not None:
        assert len(calls) == sampler.num_calls(num_steps)
    assert all(sigma.shape == (2,) and (sigma > 0).all() for sigma in calls)
    told = [step for step, _ in steps]
    if sampler.row_steps:
        assert told == sorted(set(told)) and told[-1] <= num_steps - 1
    else:
        assert told == list(range(num_steps))
    assert torch.equal(steps[-1][1], final)


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("num_steps", [1, 2, 3, 8, 24])
@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.sampled(2)
def test_steps_are_numbered_below_their_count_and_all_are_taken(name, num_steps, rows):
    """DPM adaptive once gave the calls of its last attempts later numbers where a picture was drawn alone."""
    sigmas = SCHEDULES["karras"](SD15, num_steps)
    x = PhiloxNoise([1, 2][:rows]).draw((4, 3, 3)) * sigmas[0].item()
    told: list[int] = []
    denoise = Alike(two_hills.x0_of)
    whole = sample(SAMPLERS[name], denoise, x, sigmas, PhiloxNoise([1, 2][:rows]))
    stopped = sample(
        SAMPLERS[name],
        denoise,
        x,
        sigmas,
        PhiloxNoise([1, 2][:rows]),
        stop=num_steps,
        on_step=lambda step, x, x0: told.append(step),
    )
    assert torch.equal(whole, stopped)
    assert told == sorted(set(told)) and told[-1] < num_steps


@pytest.mark.parametrize("name", SAMPLERS)
def test_last_step_to_zero_gives_what_the_model_said(name):
    sigmas = vector([0.5, 0.0])
    x = Z0.clone()
    assert torch.equal(sample(SAMPLERS[name], two_hills, x, sigmas, GoldenNoise([0])), two_hills(x, 0.5))
    assert torch.equal(x, Z0)  # the argument is left alone


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "pndm"])  # as its docstring says
def test_sampling_stays_finite_from_zero_terminal_snr(name):
    sigmas = SCHEDULES["sgm_uniform"](scaled_linear(zero_terminal_snr=True), 8)
    x = PhiloxNoise([0]).draw((4, 8, 8)) * sigmas[0].item()
    final = sample(SAMPLERS[name], two_hills, x, sigmas, PhiloxNoise([0]))
    left = sigmas[-2].item() if name in ("dpm_fast", "dpm_adaptive") else 0.0  # where these end
    assert final.abs().max() < 3 + 5 * left


@pytest.mark.parametrize("name", [name for name, row in SAMPLERS.items() if not row.row_steps])  # these look at x
@pytest.mark.parametrize("prediction", ["eps", "v", "x0"])
@pytest.mark.sampled(2)
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
    if sampler.stochastic and name != "restart":  # which restarts from 20 steps on
        with pytest.raises(ValueError, match="noise source"):
            sample(sampler, two_hills, x, vector([2.0, 1.0, 0.0]))


def test_churn_without_noise_is_refused():
    with pytest.raises(ValueError, match="noise source"):
        sample(SAMPLERS["euler"], two_hills, Z0, vector([1.0, 0.0]), s_churn=10.0)


def test_labels_are_those_of_a1111_and_differ():
    assert len({sampler.label for sampler in SAMPLERS.values()}) == len(SAMPLERS)
    assert SAMPLERS["dpmpp_2m"].label == "DPM++ 2M"


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("Euler a", "euler_ancestral"),
        ("k_euler_a", "euler_ancestral"),
        ("DPM++ 2M", "dpmpp_2m"),
        ("k_dpmpp_2m", "dpmpp_2m"),
        ("dpmpp_2m_sde_gpu", "dpmpp_2m_sde"),
        ("DPM++ 2M SDE Heun", "dpmpp_2m_sde_heun"),
        ("DPM++ 3M SDE", "dpmpp_3m_sde"),
        ("DPM2 a", "dpm_2_ancestral"),
        ("uni_pc", "unipc"),
        ("UniPC", "unipc"),
        ("uni_pc_bh2", "unipc_bh2"),
        ("UniPCMultistepScheduler", "unipc_bh2"),
        ("ddpm", "ddpm"),
        ("DDIM CFG++", "ddim_cfgpp"),
        ("sa_solver", "sa_solver"),
        ("er_sde", "er_sde"),
    ],
)
def test_samplers_are_found_by_any_name(said, name):
    assert SAMPLERS.find(said) == name


def test_no_name_means_two_samplers():
    plain = [re.sub(r"[^a-z0-9]", "", name.lower().replace("++", "pp")) for name in ALL_NAMES]
    clashes = {name for name in plain if plain.count(name) > 1}
    assert not clashes


ALL_NAMES = [
    said
    for name, row in SAMPLERS.items()
    for said in {re.sub(r"[^a-z0-9]", "", text.lower().replace("++", "pp")) for text in (name, row.label, *row.aliases)}
]


def test_every_default_schedule_exists():
    assert {row.schedule for row in SAMPLERS.values()} <= SCHEDULES.keys()


def test_cfgpp_renoises_with_the_prediction_without_a_prompt():
    """arXiv:2406.08070, equation 10 in sigma: x0 guided plus the noise that the network sees without the prompt."""

    class Split(Alike):
        def with_uncond(self, x, sigma):
            return torch.stack([self(x, sigma) + 0.1, self(x, sigma)])

    x, sigmas = Z0 * 4.0, vector([4.0, 1.0])
    uncond = gaussian(x, 4.0)
    expected = uncond + 0.1 + (x - uncond) / 4.0
    assert torch.equal(sample(SAMPLERS["ddim_cfgpp"], Split(gaussian.x0_of), x, sigmas), expected)
    with pytest.raises(ValueError, match="guided Denoiser"):
        sample(SAMPLERS["ddim_cfgpp"], lambda x, sigma: x, x, sigmas)


def test_cfgpp_through_guidance():
    """The network gets one call on both halves, and at scale 1 the two samplers of DDIM are one."""
    calls = []

    def network(z, timestep, context):
        calls.append(len(z))
        return z * 0.3 + context

    def denoiser(scale):
        halves = {"cond": torch.full((1, 1), 0.2), "uncond": torch.full((1, 1), -0.1)}
        cat = lambda first, second: torch.cat([first, second])  # noqa: E731
        return Denoiser(GuidedNetwork(network, scale=scale, cat=cat, **halves), SD15, "eps")

    x, sigmas = Z0 * 4.0, vector([4.0, 1.0, 0.0])
    plain = sample(SAMPLERS["ddim"], denoiser(0.0), x, sigmas)
    torch.testing.assert_close(sample(SAMPLERS["ddim_cfgpp"], denoiser(0.0), x, sigmas), plain)
    calls.clear()
    assert not torch.allclose(sample(SAMPLERS["ddim_cfgpp"], denoiser(1.0), x, sigmas), plain)
    assert calls == [2, 2]


def test_ipndm_is_that_of_diffusers():
    """Its scheduler on a noise schedule that we give it; it holds its numbers in float32."""
    diffusers = pytest.importorskip("diffusers")
    sigmas = SCHEDULES["karras"](SD15, 12)[:-1]
    scheduler = diffusers.IPNDMScheduler(trained_betas=(sigmas / (1 + sigmas**2).sqrt()).tolist())
    scheduler.set_timesteps(11)
    scheduler.betas, scheduler.alphas = sigmas / (1 + sigmas**2).sqrt(), (1 + sigmas**2).rsqrt()  # in float64
    z = Z0.clone()
    for index, timestep in enumerate(scheduler.timesteps):
        x, s = z * math.hypot(1, sigmas[index]), sigmas[index].item()
        eps = (x - two_hills(x, s)) / s
        v = (eps - scheduler.betas[index] * z) / scheduler.alphas[index]  # it wants this, to make eps of it again
        z = scheduler.step(v, timestep, z).prev_sample
    ours = sample(SAMPLERS["ipndm"], two_hills, Z0 * math.hypot(1, sigmas[0]), sigmas) * final_scale(sigmas)
    torch.testing.assert_close(ours, z, rtol=0, atol=1e-10)


def test_lagrange_integrals():
    """Against polynomials integrated by hand, and quadrature against the closed form."""
    assert sum(lagrange_integrals([3.0, 2.0, 0.5], 1.0, 4.0)) == pytest.approx(3.0, rel=1e-13)  # of 1
    weights = lagrange_integrals([3.0, 2.0, 0.5], 1.0, 4.0)
    assert sum(w * u**2 for w, u in zip(weights, (3.0, 2.0, 0.5), strict=True)) == pytest.approx(21.0, rel=1e-13)
    far = lagrange_integrals([0.0, 0.4, 1.0], -40.0, 0.0, rate=1.0)
    endless = lagrange_integrals([0.0, 0.4, 1.0], -math.inf, 0.0, rate=1.0)
    assert far == pytest.approx(endless, rel=1e-7)
    tiny = lagrange_integrals([1e-4, 2e-4], 0.0, 1e-4, rate=2.0)
    assert sum(tiny) == pytest.approx(-math.expm1(-2e-4) / 2, rel=1e-12)


def test_dpm_adaptive_gives_every_row_its_own_steps():
    """Rows of different difficulty: alone or together, the calls of a row and its picture are the same, bit by bit."""
    x = torch.stack([torch.full((3, 5), 400.0), torch.linspace(-2, 2, 15).reshape(3, 5)])
    sigmas = SCHEDULES["karras"](SD15, 10)
    together, final = calls_and_final(SAMPLERS["dpm_adaptive"], x, sigmas, PhiloxNoise([1, 2]), eta=1.0)
    alone = []
    for row in range(2):
        calls, picture = calls_and_final(
            SAMPLERS["dpm_adaptive"], x[row : row + 1], sigmas, PhiloxNoise([row + 1]), eta=1.0
        )
        alone.append(len(calls))
        torch.testing.assert_close(picture[0], final[row], rtol=0, atol=1e-5)  # torch's exp changes with its place
    assert alone[0] != alone[1]
    assert len(together) == max(alone)


def test_dpm_adaptive_ends_where_numbers_are_not_finite():
    x = torch.tensor([[math.nan, 1.0], [1.0, 2.0]])
    final = sample(SAMPLERS["dpm_adaptive"], gaussian, x, SCHEDULES["karras"](SD15, 10))
    assert final[0].isnan().any() and final[1].isfinite().all()


def test_a_plug_ins_row_is_checked_against_its_function():
    def stochastic(x, sigmas, noise=None, *, eta=1.0):
        yield

    def unready(x, sigmas, noise=None, *, eta=None):
        yield

    row = replace(SAMPLERS["euler_ancestral"], function=stochastic, options=frozenset({"eta"}))
    row.check()
    replace(row, options=frozenset(), function=unready).check()
    with pytest.raises(TypeError, match="eta needs a default that is a number"):
        replace(row, function=unready).check()
    with pytest.raises(TypeError, match="takes no s_noise, which its options name"):
        replace(row, options=frozenset({"eta", "s_noise"})).check()
