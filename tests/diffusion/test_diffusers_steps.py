"""The steps of diffusers' schedulers, side by side with diffusers itself."""

import inspect
import math
from dataclasses import MISSING, fields

import pytest
import torch

from gesso.diffusion.diffusers_steps import SAME_SIGMA, DiffusersScheduler, diffusers_noise_schedule
from gesso.diffusion.samplers import SAMPLERS, sample
from gesso.errors import GessoError

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
IN_Z = ["DDIMScheduler", "DDPMScheduler", "PNDMScheduler", "LCMScheduler", "TCDScheduler"]
K = ["EulerDiscreteScheduler", "HeunDiscreteScheduler", "KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler"]
MULTISTEP = ["DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "DEISMultistepScheduler", "SASolverScheduler"]
# LMS needs scipy even for its timesteps; it shares its rule with Euler, and its goldens are in golden/samplers.json.


def theirs_and_ours(name, num_steps, **settings):
    diffusers = pytest.importorskip("diffusers")
    diffusers.utils.logging.set_verbosity_error()
    config = {**BETAS, "steps_offset": 1, **settings}
    if name in ("LCMScheduler", "TCDScheduler"):
        config.pop("timestep_spacing", None)
    scheduler = getattr(diffusers, name)(**config)
    scheduler.set_timesteps(num_steps)
    ours = DiffusersScheduler.of_config({"_class_name": name, **config})
    return scheduler, ours.steps(diffusers_noise_schedule(config), num_steps), ours


def first_calls(scheduler, name):
    """Sigmas and timesteps without what second-order schedulers repeat, and without steps from a sigma to itself."""
    sigmas, timesteps = scheduler.sigmas.double(), scheduler.timesteps.double()
    if name.startswith("Heun"):
        sigmas = torch.cat([sigmas[:1], sigmas[1:-1:2], sigmas[-1:]])
        timesteps = torch.cat([timesteps[:1], timesteps[1::2]])
    if name.startswith("KDPM2"):
        sigmas = torch.cat([sigmas[:1], sigmas[1:-1:2]])
        timesteps = timesteps[::2]
    falls = sigmas.diff() < -SAME_SIGMA * sigmas[:-1]
    falls[-1] |= name in MULTISTEP  # a last step that leads nowhere is made, and counts for the order
    return torch.cat([sigmas[:-1][falls], sigmas[-1:]]), timesteps[: len(falls)][falls]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize("respaced", [{}, {"use_karras_sigmas": True}, {"use_exponential_sigmas": True}])
@pytest.mark.parametrize("name", [*K, *MULTISTEP])
@pytest.mark.sampled(5)
def test_sigmas_and_timesteps(name, respaced, spacing):
    """30 steps are a tie in rounding, 15 do not divide 1000. float32 leaves 3e-7 of sigma, and 1e-4 timesteps."""
    for num_steps in (15, 30):
        scheduler, steps, _ = theirs_and_ours(name, num_steps, timestep_spacing=spacing, **respaced)
        sigmas, timesteps = first_calls(scheduler, name)
        torch.testing.assert_close(steps.sigmas, sigmas, rtol=3e-7, atol=0)
        torch.testing.assert_close(steps.timesteps, timesteps, rtol=0, atol=1e-4)
        torch.testing.assert_close(steps.timestep_of(steps.sigmas[:-1]), timesteps, rtol=0, atol=1e-4)
        if name in K:
            assert steps.initial_scale == pytest.approx(float(scheduler.init_noise_sigma), rel=3e-7)
            assert steps.final_scale == 1
        else:
            assert steps.initial_scale == pytest.approx(math.hypot(1, float(sigmas[0])), rel=3e-7)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"])
@pytest.mark.parametrize("respaced", [{}, {"use_karras_sigmas": True}])
def test_an_end_at_sigma_min(name, respaced):
    scheduler, steps, _ = theirs_and_ours(name, 10, final_sigmas_type="sigma_min", **respaced)
    sigmas, _ = first_calls(scheduler, name)
    torch.testing.assert_close(steps.sigmas, sigmas, rtol=3e-7, atol=0)


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize("name", IN_Z)
def test_schedulers_without_sigmas(name, spacing):
    # Where PNDM ends at the first alpha, "linspace" has a last step from there to there, which gesso leaves out.
    only = {"skip_prk_steps": True, "set_alpha_to_one": True} if name == "PNDMScheduler" else {}
    for num_steps in (4, 10, 15):
        scheduler, steps, _ = theirs_and_ours(name, num_steps, timestep_spacing=spacing, **only)
        timesteps = scheduler.timesteps.double()
        if name == "PNDMScheduler":  # the second one comes twice
            timesteps = torch.cat([timesteps[:1], timesteps[2:]])
        torch.testing.assert_close(steps.timesteps, timesteps, rtol=0, atol=0)
        alphas_cumprod = scheduler.alphas_cumprod[timesteps.long()].double()
        torch.testing.assert_close(steps.sigmas[:-1], ((1 - alphas_cumprod) / alphas_cumprod).sqrt(), rtol=1e-6, atol=0)
        assert steps.initial_scale == pytest.approx(math.hypot(1, float(steps.sigmas[0])))


@pytest.mark.parametrize(("set_alpha_to_one", "last"), [(True, 0.0), (False, 0.0291675348)])
def test_the_last_alpha(set_alpha_to_one, last):
    _, steps, _ = theirs_and_ours("DDIMScheduler", 10, set_alpha_to_one=set_alpha_to_one)
    assert steps.sigmas[-1].item() == pytest.approx(last, rel=1e-5)
    assert steps.final_scale == pytest.approx(1 / math.hypot(1, last))


def test_ddim_lands_between_timesteps_that_do_not_follow_each_other():
    """Ten steps of "linspace" are 111 timesteps apart, but each leads 100 down."""
    _, steps, ours = theirs_and_ours("DDIMScheduler", 10, timestep_spacing="linspace", set_alpha_to_one=False)
    schedule = diffusers_noise_schedule(BETAS)
    assert steps.options["landings"][0] == pytest.approx(schedule.sigmas[899].item(), rel=1e-6)
    assert steps.sigmas[1].item() == pytest.approx(schedule.sigmas[888].item(), rel=1e-6)
    assert "landings" in SAMPLERS[ours.sampler].options
    assert "landings" not in theirs_and_ours("DDIMScheduler", 10)[1].options


@pytest.mark.parametrize(("num_steps", "falls"), [(14, 1.0), (15, 0.0)])
@pytest.mark.parametrize("name", ["DEISMultistepScheduler", "DPMSolverMultistepScheduler"])
def test_the_order_falls_at_the_end_of_runs_that_are_short_as_a_whole(name, num_steps, falls):
    steps = DiffusersScheduler(name=name).steps(diffusers_noise_schedule(BETAS), num_steps)
    assert steps.options["lower_final"] == falls


def test_a_run_that_begins_in_the_middle_lands_where_the_whole_one_does():
    _, steps, _ = theirs_and_ours("DDIMScheduler", 10, timestep_spacing="linspace", set_alpha_to_one=False)
    xs = []
    x = torch.linspace(-20, 20, 5)[None]
    whole = sample(
        SAMPLERS["ddim"],
        lambda x, sigma: x * 0.1,
        x,
        steps.sigmas,
        on_step=lambda step, x, x0: xs.append(x),
        **steps.options,
    )
    rest = sample(SAMPLERS["ddim"], lambda x, sigma: x * 0.1, xs[3], steps.sigmas[4:], **steps.options)
    assert torch.equal(rest, whole)


@pytest.mark.parametrize(
    ("config", "sampler", "options"),
    [
        ({"_class_name": "DPMSolverMultistepScheduler"}, "dpmpp_2m", {}),
        ({"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver++"}, "dpmpp_2m_sde", {}),
        ({"_class_name": "PNDMScheduler", "skip_prk_steps": True}, "plms", {}),
        ({"_class_name": "PNDMScheduler"}, "pndm", {"schedule"}),
        ({"_class_name": "UniPCMultistepScheduler", "solver_type": "bh1"}, "unipc", {"max_order"}),
        ({"_class_name": "UniPCMultistepScheduler"}, "unipc_bh2", {"max_order"}),
        ({"_class_name": "DEISMultistepScheduler", "solver_order": 3}, "deis", {"max_order"}),
        ({"_class_name": "DDPMScheduler", "variance_type": "fixed_large", "steps_offset": 1}, "ddpm", {"large"}),
    ],
)
def test_a_config_chooses_sampler_and_options(config, sampler, options):
    scheduler = DiffusersScheduler.of_config({**BETAS, "clip_sample": False, "_diffusers_version": "0.42.1", **config})
    steps = scheduler.steps(diffusers_noise_schedule(BETAS), 10)
    assert scheduler.sampler == sampler
    assert set(options) <= steps.options.keys() <= SAMPLERS[sampler].options


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [*IN_Z, *K, *MULTISTEP, "LMSDiscreteScheduler", "EulerAncestralDiscreteScheduler"])
def test_settings_that_a_config_leaves_out_are_those_of_the_class(name):
    diffusers = pytest.importorskip("diffusers")
    parameters = inspect.signature(getattr(diffusers, name).__init__).parameters
    ours = {one.name: one.default for one in fields(DiffusersScheduler) if one.default not in (MISSING, None)}
    assert len(ours) == 9
    for setting, default in ours.items():
        if setting in parameters:
            assert parameters[setting].default == default, setting
    stated = {key: value.default for key, value in parameters.items() if key in ours}
    theirs = getattr(diffusers, name)(**BETAS)
    scheduler = DiffusersScheduler.of_config({**BETAS, **stated, "_class_name": name})
    # The one setting whose default differs between classes; TCD's last step stays at its timestep.
    if "set_alpha_to_one" in parameters and name != "TCDScheduler":
        end = scheduler.steps(diffusers_noise_schedule(BETAS), 4).sigmas[-1]
        assert (end == 0) == parameters["set_alpha_to_one"].default
    for num_steps in (4, 20):
        if name == "LMSDiscreteScheduler":  # asks scipy for its timesteps
            continue
        theirs.set_timesteps(num_steps)
        first = scheduler.steps(diffusers_noise_schedule(BETAS), num_steps).timesteps[0]
        assert first == pytest.approx(float(theirs.timesteps[0]), abs=1e-4)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({}, "scheduler '' is not supported"),
        ({"_class_name": "../evil"}, "is not supported. Supported: DDIMScheduler"),
        ({"_class_name": "DDIMScheduler", "timestep_spacing": "sideways"}, "timestep_spacing is 'sideways'"),
        ({"_class_name": "DDIMScheduler", "steps_offset": "1"}, "steps_offset is '1', expected a value of type int"),
        ({"_class_name": "DDIMScheduler", "set_alpha_to_one": 1}, "set_alpha_to_one is 1, expected .* bool"),
        ({"_class_name": "DDIMScheduler", "thresholding": True}, "thresholding is True"),
        ({"_class_name": "EulerDiscreteScheduler", "final_sigmas_type": "one"}, "final_sigmas_type is 'one'"),
        (
            {"_class_name": "EulerDiscreteScheduler", "use_karras_sigmas": True, "use_beta_sigmas": True},
            "only one of Karras",
        ),
        ({"_class_name": "DPMSolverMultistepScheduler", "solver_order": 4}, "solver_order is 4"),
        ({"_class_name": "DPMSolverMultistepScheduler", "solver_type": "bh1"}, "expected 'midpoint' or 'heun'"),
        (
            {"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver++", "solver_order": 1},
            "solver_order 1 of the SDE is not supported",
        ),
        ({"_class_name": "UniPCMultistepScheduler", "lower_order_final": False}, "lower_order_final is False"),
        ({"_class_name": "UniPCMultistepScheduler", "solver_type": "bh3"}, "expected 'bh1' or 'bh2'"),
        ({"_class_name": "DEISMultistepScheduler", "solver_order": 4}, "expected 1, 2 or 3"),
        ({"_class_name": "LCMScheduler", "original_inference_steps": 0}, "original_inference_steps is 0"),
    ],
)
def test_configs_that_we_cannot_follow_are_refused(config, reason):
    with pytest.raises(GessoError, match=reason):
        DiffusersScheduler.of_config(config)


def test_noise_schedules_that_we_cannot_follow_are_refused():
    for config, reason in (
        ({}, "beta_schedule is 'linear'"),
        ({**BETAS, "trained_betas": [0.1]}, "without trained_betas"),
        ({**BETAS, "beta_end": 2.0}, "betas are"),
        ({**BETAS, "beta_end": "much"}, "scheduler: "),
    ):
        with pytest.raises(GessoError, match=reason):
            diffusers_noise_schedule(config)


def test_numbers_of_steps_that_cannot_be():
    schedule = diffusers_noise_schedule(BETAS)
    with pytest.raises(ValueError, match="num_steps is 0"):
        DiffusersScheduler(name="EulerDiscreteScheduler").steps(schedule, 0)
    with pytest.raises(ValueError, match="50 at most"):
        DiffusersScheduler(name="LCMScheduler").steps(schedule, 51)
    with pytest.raises(ValueError, match="makes no step"):
        DiffusersScheduler(name="DEISMultistepScheduler", use_karras_sigmas=True).steps(schedule, 1)


def test_the_network_is_told_the_schedule_s_timestep_for_a_sigma_that_is_not_listed():
    """Such as the middle of a step of DPM2."""
    schedule = diffusers_noise_schedule(BETAS)
    steps = DiffusersScheduler(name="EulerDiscreteScheduler", use_karras_sigmas=True).steps(schedule, 10)
    sigma = torch.tensor([2.0, float(steps.sigmas[3])], dtype=torch.float64)
    told = steps.timestep_of(sigma)
    assert told[0] == schedule.timestep_of(2.0)
    assert told[1] == steps.timesteps[3]
