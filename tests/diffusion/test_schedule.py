"""The noise schedule, its sigma view, and the spacings of steps."""

import json
from pathlib import Path

import pytest
import torch

from gesso.diffusion.beta_distribution import beta_cdf, beta_quantile
from gesso.diffusion.schedule import SCHEDULES, NoiseSchedule, own_sigmas, scaled_linear
from gesso.diffusion.spacing import karras, polyexponential
from gesso.errors import GessoError

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
    assert ours.dtype == torch.float64
    if name == "linear_quadratic":  # no numbers saved: see the test below
        return
    saved = torch.tensor(GOLDEN["sigma_tables"][str(num_steps)][name], dtype=torch.float64)
    torch.testing.assert_close(ours, saved, rtol=0, atol=TWELVE_DIGITS)


@pytest.mark.parametrize("num_steps", [10, 20])
def test_polyexponential_with_another_power(num_steps):
    saved = torch.tensor(GOLDEN["sigma_tables"][str(num_steps)]["polyexponential rho=2"], dtype=torch.float64)
    torch.testing.assert_close(polyexponential(SD15, num_steps, rho=2.0), saved, rtol=0, atol=TWELVE_DIGITS)


@pytest.mark.parametrize(
    "theirs",
    [
        [1.0, 0.975, 0.71875, 0.0],
        [1, 0.995, 0.99, 0.985, 0.98, 0.975, 0.932, 0.813, 0.618, 0.347, 0],
    ],
)
def test_linear_quadratic_is_that_of_diffusers(theirs):
    """linear_quadratic_schedule(num_steps, 0.025) of its Mochi pipeline (0.42.1), and a 0; it begins at 1."""
    ours = SCHEDULES["linear_quadratic"](SD15, len(theirs) - 1) / SD15.sigma_max
    torch.testing.assert_close(ours, torch.tensor(theirs, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "timesteps"),
    [
        ("simple", [999, 857, 714, 571, 428, 285, 142]),  # 1000 / 7 times i, cut off, from the end
        ("turbo", [999, 856, 713, 570, 428, 285, 142]),  # 1000 / 7 times k, less 1, to the nearest
        ("turbo", [999, 936, 874, 812, 749, 686, 624, 562, 499, 436, 374, 312, 249, 186, 124, 62]),  # ties to even
        ("ddim_uniform", [997, 831, 665, 499, 333, 167, 1]),  # 1000 // 6 apart, so one more
    ],
)
def test_whole_timesteps_of_steps_that_do_not_divide_them(name, timesteps):
    """The saved tables have 10 and 20 steps, where nothing is rounded."""
    num_steps = 6 if name == "ddim_uniform" else len(timesteps)
    sigmas = SCHEDULES[name](SD15, num_steps)
    assert SD15.timestep_of(sigmas[:-1]).tolist() == timesteps


@pytest.mark.parametrize(("name", "count", "first"), [("simple", 70, 38), ("turbo", 17, 208)])
def test_whole_timesteps_are_divided_exactly(name, count, first):
    """ComfyUI and Forge divide first, in floating point: a timestep away where docs/samplers.md says."""

    def theirs(num_steps):
        if name == "simple":
            return [999 - int(i * (1000 / num_steps)) for i in range(num_steps)]
        steps = torch.arange(1, num_steps + 1) * float(1000.0 / num_steps) - 1
        return steps.flip(0).round().long().clip(0, 999).tolist()

    gaps = {}
    for num_steps in range(1, 1001):
        ours = SCHEDULES[name](SD15, num_steps)[:-1]
        gap = (ours.log() - SD15.log_sigmas[theirs(num_steps)]).abs().max().item()
        if gap > 0:
            gaps[num_steps] = max(
                abs(a - b) for a, b in zip(SD15.timestep_of(ours).round().tolist(), theirs(num_steps), strict=True)
            )
    assert (len(gaps), min(gaps), set(gaps.values())) == (count, first, {1.0})


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("num_steps", [1, 2, 3, 7, 50, 999, 1000])
def test_every_spacing_falls_from_sigma_max_to_zero(name, num_steps):
    spacing = SCHEDULES[name]
    sigmas = spacing(SD15, num_steps)
    if spacing.exact_steps:
        assert sigmas.shape == (num_steps + 1,)
    if name != "ddim_uniform":
        assert sigmas[0].item() == pytest.approx(SD15.sigma_max, rel=5e-5)  # align_your_steps rounds to 14.615
    assert sigmas[-1] == 0 if spacing.ends_in_zero else sigmas[-1] == pytest.approx(SD15.sigma_min, rel=1e-12)
    assert (sigmas.diff() < 0).all()


# The quantiles of the beta distribution take 20 ms: of those, one number of steps in eleven is quick.
@pytest.mark.parametrize(
    ("name", "every"),
    [(name, 11 if name.startswith("beta") else 1) for name in SCHEDULES]
    + [pytest.param(name, 1, marks=pytest.mark.slow) for name in SCHEDULES if name.startswith("beta")],
)
def test_every_number_of_steps_ends_in_zero_itself(name, every):
    """Not in what rounding leaves of it: 1.6e-15 is a sigma that samplers take a step to."""
    for num_steps in range(1, 301, every):
        sigmas = SCHEDULES[name](SD15, num_steps)
        assert (sigmas.diff() < 0).all(), num_steps
        assert float(sigmas[-1]) == 0 or not SCHEDULES[name].ends_in_zero, num_steps
        assert float(sigmas[-2]) > 1e-5, num_steps


@pytest.mark.parametrize("name", ["simple", "turbo", "ddim_uniform"])
def test_more_steps_than_timesteps_are_refused(name):
    with pytest.raises(ValueError, match="num_steps is 1001"):
        SCHEDULES[name](SD15, 1001)


def test_fifteen_steps_of_ddim_are_sixteen():
    """1000 // 15 = 66, and 1000 / 66 is above 15: a quirk that A1111 and ComfyUI share."""
    assert len(SCHEDULES["ddim_uniform"](SD15, 15)) == 17
    assert len(SCHEDULES["ddim_uniform"](SD15, 20)) == 21


def test_karras_between_other_ends():
    sigmas = karras(SD15, 5, sigma_min=0.1, sigma_max=10.0)
    assert (sigmas[0].item(), sigmas[-2].item()) == (pytest.approx(10, rel=1e-12), pytest.approx(0.1, rel=1e-12))
    with pytest.raises(ValueError, match="sigma_min < sigma_max"):
        karras(SD15, 5, sigma_min=10.0, sigma_max=0.1)


@pytest.mark.parametrize(("a", "b"), [(0.6, 0.6), (0.5, 0.7), (2.0, 5.0), (0.1, 10.0)])
def test_quantiles_of_the_beta_distribution(a, b):
    """mpmath, which torch brings along, has the function itself; 1e-12 is what float64 leaves of 1 - p near 1."""
    mpmath = pytest.importorskip("mpmath")
    for p in (1e-9, 1e-3, 0.1, 0.3, 0.5, 0.7, 0.95, 0.999):
        x = beta_quantile(p, a, b)
        assert float(mpmath.betainc(a, b, 0, x, regularized=True)) == pytest.approx(p, rel=1e-12)
        assert beta_cdf(x, a, b) == pytest.approx(p, rel=1e-12)


def test_closed_forms_of_the_beta_distribution():
    assert [beta_quantile(p, 1.0, 1.0) for p in (0.0, 0.25, 1.0)] == pytest.approx([0, 0.25, 1], abs=1e-15)
    assert beta_quantile(0.25, 2.0, 1.0) == pytest.approx(0.5, rel=1e-14)  # I_x(2, 1) = x^2
    assert beta_quantile(1 / 3, 0.5, 0.5) == pytest.approx(0.25, rel=1e-14)  # sin^2(pi p / 2)
    with pytest.raises(ValueError, match="p, a, b"):
        beta_quantile(1.5, 1.0, 1.0)


def test_own_sigmas_are_checked():
    assert own_sigmas([3, 1, 0]).tolist() == [3.0, 1.0, 0.0]
    for values, reason in (
        ([], "0 given"),
        ([1.0], "1 given"),
        ([1.0, float("nan")], "number 2 is nan"),
        ([float("inf"), 1.0], "number 1 is inf"),
        ([1.0, -1.0], "number 2 is -1.0"),
        ([2.0, 1.0, 1.0, 0.0], "number 3 is 1.0 after 1.0"),
    ):
        with pytest.raises(GessoError, match=reason):
            own_sigmas(values)


def test_schedules_are_found_by_any_name():
    for name, said in (
        ("uniform", "Normal"),
        ("karras", "Karras"),
        ("sgm_uniform", "SGM Uniform"),
        ("ddim_uniform", "DDIM"),
        ("align_your_steps", "Align Your Steps"),
        ("kl_optimal", "KL Optimal"),
        ("beta_comfyui", "beta_comfyui"),
    ):
        assert SCHEDULES.find(said) == name
    assert SCHEDULES.find("nonsense") is None
    said = [text.lower() for row in SCHEDULES.values() for text in (row.label, *row.aliases)]
    assert len(set(said)) == len(said)


@pytest.mark.parametrize(("table", "tolerance"), [("rounded", 4e-5), ("float32", 4e-5)])
def test_tables_of_other_tools(table, tolerance):
    theirs = scaled_linear(table=table)
    saved = GOLDEN["sd15_schedule"]
    assert 1e-7 < (theirs.sigmas / SD15.sigmas - 1).abs().max() < tolerance
    assert torch.equal(theirs.alphas_cumprod, theirs.alphas_cumprod.float().double())
    if table == "float32":
        assert theirs.sigma_min == pytest.approx(saved["sigma_min_fp32"], rel=2e-7)  # of float32, in sigma
        assert theirs.sigma_max == pytest.approx(saved["sigma_max_fp32"], rel=2e-7)
    with pytest.raises(ValueError, match="table is 'half'"):
        scaled_linear(table="half")


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
    for numbers in ([1.0, 0.5], [0.9, 0.0], [0.9, -0.1], [0.9, 0.5, 0.5], [0.5, 0.9, 0.1]):
        with pytest.raises(ValueError, match=r"must fall strictly and stay inside \(0, 1\)"):
            NoiseSchedule(torch.tensor(numbers, dtype=torch.float64))
    for start, end in ((0.012, 0.00085), (0.0, 0.5), (0.5, 1.0), (-0.1, 0.5)):
        with pytest.raises(ValueError, match="betas are"):
            scaled_linear(beta_start=start, beta_end=end)
    for number in (1, 0):
        with pytest.raises(ValueError, match="num_timesteps"):
            scaled_linear(num_timesteps=number)
    with pytest.raises(ValueError, match="table is 'half', expected one of"):
        scaled_linear(table="half")
    least = scaled_linear(beta_start=0.5, beta_end=0.5, num_timesteps=2)
    assert least.alphas_cumprod.tolist() == pytest.approx([0.5, 0.25])
    assert (least.num_timesteps, least.sigma_min, least.sigma_max) == (2, pytest.approx(1), pytest.approx(3**0.5))
