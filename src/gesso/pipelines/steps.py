"""The steps of a run: sigmas, timesteps for the network, and which of them an image to image run takes."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from gesso.diffusion.conventions import (
    ImageStart,
    a1111_image_start,
    a1111_timestep_sigmas,
    a1111_timesteps_image_start,
    a1111_unipc_sigmas,
    diffusers_image_start,
    discard_penultimate,
    initial_scale,
    whole_timesteps,
)
from gesso.diffusion.diffusers_steps import (
    DiffusersScheduler,
    diffusers_last_alpha,
    keeps_variance,
    settings_of,
    spacing_of,
)
from gesso.diffusion.noise_schedule import (
    ZERO_SNR_LAST_ALPHA_CUMPROD,
    NoiseSchedule,
    scaled_linear,
)
from gesso.diffusion.schedule import sigmas_of
from gesso.errors import GessoError
from gesso.families.base import Family
from gesso.notices import Notice
from gesso.request.checks import MAX_STEPS, RequestError
from gesso.request.request import ResolvedRequest

# The samplers for which A1111 chooses timesteps instead of sigmas; UniPC in a way of its own.
A1111_TIMESTEP_SAMPLERS = frozenset({"ddim", "ddim_cfgpp", "plms"})
A1111_OWN_SPACING = A1111_TIMESTEP_SAMPLERS | {"unipc"}

# Our name of a sampler -> the scheduler of diffusers that is the same solver, with the settings that make it so.
DIFFUSERS_SCHEDULERS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "lms": ("LMSDiscreteScheduler", {}),
    "dpm_2": ("KDPM2DiscreteScheduler", {}),
    "dpm_2_ancestral": ("KDPM2AncestralDiscreteScheduler", {}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
    "dpmpp_2m_sde": (
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "sde-dpmsolver++", "solver_type": "midpoint"},
    ),
    "dpmpp_2m_sde_heun": (
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "sde-dpmsolver++", "solver_type": "heun"},
    ),
    "unipc": ("UniPCMultistepScheduler", {"solver_type": "bh1"}),
    "unipc_bh2": ("UniPCMultistepScheduler", {"solver_type": "bh2"}),
    "deis": ("DEISMultistepScheduler", {}),
    "sa_solver": ("SASolverScheduler", {}),
    "ddim": ("DDIMScheduler", {}),
    "ddpm": ("DDPMScheduler", {}),
    "lcm": ("LCMScheduler", {}),
    "tcd": ("TCDScheduler", {}),
    "plms": ("PNDMScheduler", {"skip_prk_steps": True}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": False}),
}
# The largest ratio of sigmas that the first step may span in samplers that evaluate the model at both ends of a step.
# A model with zero terminal SNR begins with 50 to 200 if timesteps are evenly spaced. By eye, gesso-mini:
# docs/samplers.md.
LONGEST_START = {"pndm": 10.0, "plms": 60.0, "heun": 120.0, "restart": 120.0}
_RESPACED: Mapping[str, Mapping[str, Any]] = {
    "uniform": {},
    "karras": {"use_karras_sigmas": True},
    "exponential": {"use_exponential_sigmas": True},
    "beta": {"use_beta_sigmas": True},
}
_WAYS = {
    "use_karras_sigmas": "karras",
    "use_exponential_sigmas": "exponential",
    "use_lu_lambdas": "exponential",
    "use_beta_sigmas": "beta",
}
_CLASSES = frozenset(name for name, _ in DIFFUSERS_SCHEDULERS.values())


@dataclass(frozen=True, eq=False, kw_only=True)
class Steps:
    """The steps of one run.

    schedule      the model's noise schedule, computed as the request's conventions say
    sigmas        float64 [num_steps + 1], falling: those of this run
    ends          the smallest sigma above 0 and the largest of the whole schedule
    first         how many steps of the whole schedule an image to image run skips
    noise_scale   factor of the unit noise if a run starts from noise alone (init_noise_sigma)
    image_sigma   sigma of the noise that is added to the source picture of an image to image run
    image_scale   factor of the noisy picture then; 1 except for A1111's DDIM and PLMS
    final_scale   divisor of the last x: 1 unless noise is left and the variance is preserved
    timestep_of   the timestep that the network gets for a sigma; None: that of the schedule
    options       for the sampler
    notices       about the steps
    """

    schedule: NoiseSchedule
    sigmas: Tensor
    ends: tuple[float, float]
    first: int = 0
    noise_scale: float
    image_sigma: float
    image_scale: float = 1.0
    final_scale: float
    timestep_of: Callable[[Tensor], Tensor] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    notices: tuple[Notice, ...] = ()

    @property
    def num_steps(self) -> int:
        """Steps that are run; 0 if the strength leaves none."""
        return max(len(self.sigmas) - 1, 0)

    @property
    def num_planned(self) -> int:
        """Steps of the whole schedule."""
        return self.first + self.num_steps

    def switch_of(self, share: float) -> int:
        """How many of the steps come before a share of the timesteps (diffusers' denoising_end)."""
        last = self.schedule.num_timesteps
        cutoff = round(last - share * last)
        timesteps = (self.timestep_of or self.schedule.timestep_of)(self.sigmas[:-1])
        return int((timesteps >= cutoff).sum())


@dataclass(frozen=True, eq=False)
class _Planned:
    """Sigmas of the whole schedule, with the timesteps and sampler options of their spacing."""

    sigmas: Tensor
    timestep_of: Callable[[Tensor], Tensor] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    keeps_variance: bool = True  # where the initial noise does; else noise that is left stays as it is


def plan_steps(request: ResolvedRequest, family: Family, *, again: bool = False) -> Steps:
    """The steps of a request. Raises RequestError for settings that do not go together.

    again: for a second pass, in which A1111 runs all requested steps whatever the strength: the end of a schedule of
    num_steps / strength steps.
    """
    schedule = noise_table(request, family)
    try:
        exact = again and request.conventions.strength_rule == "a1111"
        spaced = replace(request, num_steps=_exact_schedule(request)) if exact else request
        planned = _planned(spaced, schedule, family)
        start = _image_start(request, schedule, len(planned.sigmas) - 1, exact=exact)
    except ValueError as error:
        if isinstance(error, RequestError):
            raise
        raise RequestError("num_steps", f"{request.num_steps} steps of {request.sampler}: {error}") from error
    sigmas = planned.sigmas
    variance = request.conventions.initial_noise == "variance"
    timestep_of = planned.timestep_of
    if timestep_of is None and request.conventions.round_timesteps:
        timestep_of = whole_timesteps(schedule)
    return Steps(
        schedule=schedule,
        sigmas=sigmas[start.first :],
        ends=(float(sigmas[sigmas > 0].min()), float(sigmas.max())),
        first=start.first,
        noise_scale=initial_scale(request.conventions.initial_noise, sigmas, schedule),
        image_sigma=float(sigmas[start.noisy]),
        image_scale=start.scale(sigmas),
        final_scale=math.hypot(1.0, float(sigmas[-1])) if variance and planned.keeps_variance else 1.0,
        timestep_of=timestep_of,
        options=planned.options,
        notices=_notices(request.sampler, sigmas[start.first :]),
    )


def _notices(sampler: str, sigmas: Tensor) -> tuple[Notice, ...]:
    if len(sigmas) > 1 and sigmas[0] > LONGEST_START.get(sampler, math.inf) * sigmas[1]:
        text = (
            f"{sampler}: the first step, from sigma {sigmas[0]:.0f} to {sigmas[1]:.0f}, is too large for this sampler, "
            "so the picture will be ruined. Use the sampler dpmpp_2m, or the schedule exponential"
        )
        return (Notice(text, code="first_step_too_long", field="sampler"),)
    return ()


def noise_table(request: ResolvedRequest, family: Family) -> NoiseSchedule:
    """The model's noise schedule, computed as the request's conventions say."""
    config, table = family.schedule, request.conventions.sigma_table
    last = ZERO_SNR_LAST_ALPHA_CUMPROD
    if table == "float32":
        last = diffusers_last_alpha(DIFFUSERS_SCHEDULERS.get(request.sampler, ("EulerDiscreteScheduler",))[0])
    return scaled_linear(
        beta_start=config.beta_start,
        beta_end=config.beta_end,
        num_timesteps=config.num_timesteps,
        zero_terminal_snr=config.zero_terminal_snr,
        last_alpha_cumprod=last,
        table=table,
    )


def diffusers_scheduler(sampler: str, schedule: str, spacing: str | None, family: Family) -> DiffusersScheduler:
    """The diffusers scheduler for a request; spacing None: the default in diffusers for this model.

    Raises RequestError for a sampler or a schedule that diffusers lacks.
    """
    if sampler not in DIFFUSERS_SCHEDULERS:
        known = ", ".join(sorted(DIFFUSERS_SCHEDULERS))
        raise RequestError(
            "conventions.timestep_spacing", f"{spacing}: diffusers has no scheduler like {sampler}. Use one of {known}"
        )
    if schedule not in _RESPACED:
        raise RequestError(
            "schedule", f"{schedule}: with diffusers' timestep spacings, use one of {', '.join(_RESPACED)}"
        )
    name, settings = DIFFUSERS_SCHEDULERS[sampler]
    carried = settings_of(name, _settings(family, name))
    ways: dict[str, Any] = {way: False for way in carried if way in _WAYS} | dict(_RESPACED[schedule])
    if schedule == "exponential" and carried.get("use_lu_lambdas"):
        ways = {"use_lu_lambdas": True}  # the same line in ln(sigma), with other timesteps
    chosen = {"timestep_spacing": spacing or default_spacing(sampler, family)}
    if family.prediction == "v":
        chosen["prediction_type"] = "v_prediction"
    try:
        return DiffusersScheduler.of_config({"_class_name": name} | carried | ways | chosen | dict(settings))
    except GessoError as error:
        raise RequestError(
            "sampler",
            f"{sampler}: the model's scheduler_config.json: {error}. Use another sampler, or the preset gesso, which "
            "does not read that file",
        ) from None


def _settings(family: Family, name: str) -> dict[str, Any]:
    """The settings of the model's scheduler that a scheduler of class `name` takes over."""
    own = family.scheduler
    if own is None:
        return {"steps_offset": 1, "set_alpha_to_one": False}
    offset = own.steps_offset
    # diffusers' pipelines of SD 1 and 2 make it 1. What the file does not say goes to no other scheduler.
    if family.layout in ("sd1", "sd2") and family.concat in ("none", "inpaint"):
        offset = 1 if name == own.name or offset or "steps_offset" in own.stated else 0
    fields: dict[str, Any] = {"steps_offset": offset}
    if own.set_alpha_to_one is not None:
        fields["set_alpha_to_one"] = own.set_alpha_to_one
    return _stated(family) | fields | ({"use_karras_sigmas": True} if own.use_karras_sigmas else {})


def _stated(family: Family) -> dict[str, Any]:
    """What the model's scheduler config says, where diffusers' pipelines do not say otherwise."""
    stated = dict(family.scheduler.stated) if family.scheduler is not None else {}
    if family.layout in ("sd1", "sd2") and family.concat == "none":
        stated.pop("clip_sample", None)  # the pipelines of SD 1 and 2 switch it off
    return stated


def default_sampler(family: Family) -> str | None:
    """The sampler that does what the model's scheduler does in diffusers; None: the model has no scheduler.

    Raises RequestError for a scheduler that gesso lacks.
    """
    own = family.scheduler
    if own is None:
        return None
    try:
        stated = settings_of(own.name, _stated(family)) if own.name in _CLASSES else {}
        found = DiffusersScheduler.of_config({"_class_name": own.name, "skip_prk_steps": own.skip_prk_steps} | stated)
    except GessoError as error:
        raise RequestError(
            "sampler", f"the model's scheduler_config.json: {error}. Choose a sampler, or the preset gesso"
        ) from None
    return found.sampler


def default_schedule(sampler: str, family: Family) -> str:
    """The schedule that the model's scheduler config means for a sampler."""
    if sampler not in DIFFUSERS_SCHEDULERS:
        return "karras" if family.scheduler is not None and family.scheduler.use_karras_sigmas else "uniform"
    name = DIFFUSERS_SCHEDULERS[sampler][0]
    settings = settings_of(name, _settings(family, name))
    return next((schedule for way, schedule in _WAYS.items() if settings.get(way)), "uniform")


def default_spacing(sampler: str, family: Family) -> str:
    """The default timestep spacing in diffusers: the class's own unless the model's scheduler config says one.

    It does where its spacing is not the default of the class that it names, as SDXL's, or is written down all the same.
    """
    own = family.scheduler
    if own is not None and ("timestep_spacing" in own.stated or own.timestep_spacing != spacing_of(own.name)):
        return own.timestep_spacing
    return spacing_of(DIFFUSERS_SCHEDULERS[sampler][0])


def _planned(request: ResolvedRequest, schedule: NoiseSchedule, family: Family) -> _Planned:
    if request.sigmas is not None:
        return _Planned(torch.tensor(request.sigmas, dtype=torch.float64))
    if request.conventions.timestep_spacing == "schedule":
        if request.conventions.discard_penultimate_sigma:
            return _Planned(discard_penultimate(sigmas_of(request.schedule, schedule, request.num_steps + 1)))
        return _Planned(sigmas_of(request.schedule, schedule, request.num_steps))
    if request.conventions.timestep_spacing == "a1111":
        if request.sampler not in A1111_OWN_SPACING:
            raise RequestError(
                "conventions.timestep_spacing", f"a1111: A1111 has no timestep spacing of its own for {request.sampler}"
            )
        make = a1111_timestep_sigmas if request.sampler in A1111_TIMESTEP_SAMPLERS else a1111_unipc_sigmas
        return _Planned(make(schedule, request.num_steps))
    scheduler = diffusers_scheduler(request.sampler, request.schedule, request.conventions.timestep_spacing, family)
    steps = scheduler.steps(schedule, request.num_steps)
    return _Planned(steps.sigmas, steps.timestep_of, steps.options, keeps_variance(scheduler.name))


def _exact_schedule(request: ResolvedRequest) -> int:
    """Steps of the schedule whose last num_steps steps are a share of `strength`. Raises RequestError for too many."""
    assert request.source.strength is not None
    num_steps = a1111_image_start(request.num_steps, request.source.strength, exact_steps=True).num_steps
    if num_steps > MAX_STEPS:
        raise RequestError(
            "hires",
            f"hires: {request.num_steps} steps at strength {request.source.strength:g} need a schedule of "
            f"{num_steps} steps, at most {MAX_STEPS} are allowed. Use fewer steps or a higher strength",
        )
    return num_steps


def _image_start(request: ResolvedRequest, schedule: NoiseSchedule, num_sigmas: int, *, exact: bool) -> ImageStart:
    """Where an image to image run starts in the schedule; without a picture, at its beginning."""
    strength, steps = request.source.strength, request.num_steps
    if strength is None:
        return ImageStart(steps, 0, 0)
    if request.conventions.strength_rule == "a1111":
        if request.conventions.timestep_spacing == "a1111" and request.sampler in A1111_TIMESTEP_SAMPLERS:
            return a1111_timesteps_image_start(schedule, steps, strength, exact_steps=exact)
        return a1111_image_start(steps, strength, exact_steps=exact)
    if request.conventions.strength_rule == "diffusers":
        return diffusers_image_start(steps, strength)
    num_run = max(math.floor(num_sigmas * strength + 0.5), 1 if strength > 0 else 0)
    return ImageStart(num_sigmas, num_sigmas - num_run, num_sigmas - num_run)
