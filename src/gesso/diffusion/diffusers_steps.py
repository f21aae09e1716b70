"""diffusers' schedulers: their sigmas, timesteps and scale of the initial noise.

A folder in diffusers' layout sets its scheduler in scheduler/scheduler_config.json. Each scheduler class
has its own rule for the spacing of timesteps, for their rounding and for the end; what they share is here once. Their
solvers are our samplers (`DiffusersScheduler.sampler`). Written after the behaviour of diffusers 0.42, and held to it
by tests; sigmas are rounded to float32, as theirs are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from gesso.diffusion.beta_distribution import beta_quantile
from gesso.diffusion.noise_schedule import (
    DIFFUSERS_ZERO_SNR_LAST_ALPHA_CUMPROD,
    DIFFUSERS_ZERO_SNR_NO_ALPHA,
    NoiseSchedule,
    scaled_linear,
)
from gesso.errors import GessoError, short

TimestepSpacing = Literal["leading", "linspace", "trailing"]


@dataclass(frozen=True, eq=False, kw_only=True)
class SchedulerSteps:
    """The steps of a run.

    sigmas: float64 [n + 1], falling. timesteps: float64 [n], the network's input at the first call of each step.
    initial_scale: x = n * initial_scale begins. final_scale: the VAE gets x * final_scale.
    options: for the sampler. timestep_of, consistency: for `Denoiser`.
    """

    sigmas: Tensor
    timesteps: Tensor
    initial_scale: float
    final_scale: float
    options: Mapping[str, Any] = field(default_factory=dict)
    timestep_of: Callable[[Tensor], Tensor]
    consistency: bool = False


@dataclass(frozen=True)
class _Kind:
    """One scheduler class. sampler: the name in SAMPLERS.

    points: how timesteps are spaced. "n": num_steps of them, fractions allowed; "n whole": rounded; "n + 1": one more,
    rounded, the last dropped; "n of a list": some of those that a consistency model was distilled with. jumps: a step
    leads T // n timesteps down instead of to the next one of the list.
    in_z: works on z of unit variance, so noise is not scaled. end: where final_sigmas_type does not say: "zero",
    "sigma_min", or "alpha" (set_alpha_to_one).
    """

    sampler: str
    points: Literal["n", "n whole", "n + 1", "n of a list"]
    default_spacing: TimestepSpacing
    in_z: bool
    jumps: bool = False
    end: Literal["zero", "sigma_min", "alpha"] = "zero"
    final_sigmas_type: bool = False  # whether it has that setting


_MULTISTEP: dict[str, Any] = {"points": "n + 1", "default_spacing": "linspace", "in_z": True}
SAME_SIGMA = 1e-6
"""Sigmas that fall by less than this, relatively, are the same sigma: a few roundings of float32."""
APART = 1e-8  # what tells the middle of a step of KDPM2 ancestral from the next sigma, which it is, relatively
NOWHERE = 1e-9  # how far, relatively, a step leads that ends where it begins

_KINDS = {
    "DDIMScheduler": _Kind("ddim", "n whole", "leading", in_z=True, jumps=True, end="alpha"),
    "DDPMScheduler": _Kind("ddpm", "n whole", "leading", in_z=True),
    "PNDMScheduler": _Kind("plms", "n whole", "leading", in_z=True, jumps=True, end="alpha"),
    "EulerDiscreteScheduler": _Kind("euler", "n", "linspace", in_z=False, final_sigmas_type=True),
    "EulerAncestralDiscreteScheduler": _Kind("euler_ancestral", "n", "linspace", in_z=False),
    "HeunDiscreteScheduler": _Kind("heun", "n", "linspace", in_z=False),
    "LMSDiscreteScheduler": _Kind("lms", "n", "linspace", in_z=False),
    "KDPM2DiscreteScheduler": _Kind("dpm_2", "n", "linspace", in_z=False),
    "KDPM2AncestralDiscreteScheduler": _Kind("dpm_2_ancestral", "n", "linspace", in_z=False),
    "DPMSolverMultistepScheduler": _Kind("dpmpp_2m", **_MULTISTEP, final_sigmas_type=True),
    "UniPCMultistepScheduler": _Kind("unipc_bh2", **_MULTISTEP, final_sigmas_type=True),
    "DEISMultistepScheduler": _Kind("deis", **_MULTISTEP, end="sigma_min"),
    "SASolverScheduler": _Kind("sa_solver", **_MULTISTEP, end="sigma_min"),
    "LCMScheduler": _Kind("lcm", "n of a list", "leading", in_z=True),
    "TCDScheduler": _Kind("tcd", "n of a list", "leading", in_z=True, end="sigma_min"),
}


@dataclass(frozen=True, kw_only=True)
class DiffusersScheduler:
    """A scheduler_config.json, as far as it changes pictures and gesso supports it. Build it with `of_config`.

    name: the class. The rest: its settings, by diffusers' names; None where the class's own default holds.
    """

    name: str
    timestep_spacing: TimestepSpacing | None = None
    steps_offset: int = 0
    use_karras_sigmas: bool = False
    use_exponential_sigmas: bool = False
    use_beta_sigmas: bool = False
    use_lu_lambdas: bool = False
    set_alpha_to_one: bool | None = None
    lower_order_final: bool = True
    euler_at_final: bool = False
    final_sigmas_type: Literal["zero", "sigma_min"] | None = None
    skip_prk_steps: bool = False
    original_inference_steps: int = 50
    solver_order: int | None = None
    solver_type: str | None = None
    algorithm_type: str | None = None
    variance_type: str | None = None
    prediction_type: str | None = None

    def __post_init__(self) -> None:
        if self.name not in _KINDS:
            raise GessoError(
                f"scheduler '{self.name}' is not supported. Supported: {', '.join(_KINDS)}", code="unsupported"
            )
        if self.timestep_spacing not in (None, *get_args(TimestepSpacing)):
            raise GessoError(f"{self.name}: timestep_spacing is {self.timestep_spacing!r}", code="unsupported")
        if self.final_sigmas_type not in (None, "zero", "sigma_min"):
            raise GessoError(f"{self.name}: final_sigmas_type is {self.final_sigmas_type!r}", code="unsupported")
        if self.original_inference_steps < 1:
            raise GessoError(
                f"{self.name}: original_inference_steps is {self.original_inference_steps}", code="unsupported"
            )
        ways = (self.use_karras_sigmas, self.use_exponential_sigmas, self.use_beta_sigmas, self.use_lu_lambdas)
        if sum(ways) > 1:
            raise GessoError(
                f"{self.name}: only one of Karras, exponential, beta and Lu's sigmas can be used", code="unsupported"
            )
        if not self.lower_order_final and self.name in ("UniPCMultistepScheduler", "SASolverScheduler"):
            raise GessoError(f"{self.name}: lower_order_final is False, which is not supported", code="unsupported")
        self._check_solver()

    @classmethod
    def of_config(cls, config: Mapping[str, Any]) -> DiffusersScheduler:
        """From a scheduler_config.json. Raises GessoError for a class or a setting that we cannot do as it does."""
        name = str(config.get("_class_name", ""))
        for setting, off in _MUST_BE_OFF.items():
            if config.get(setting, off) not in (off, None):
                raise GessoError(
                    f"{name}: {setting} is {short(config[setting])}, which is not supported", code="unsupported"
                )
        if config.get("variance_type") not in _VARIANCES.get(name, (None, *_NO_VARIANCE)):
            raise GessoError(
                f"{name}: variance_type is {short(config['variance_type'])}, which is not supported",
                code="unsupported",
            )
        known = {f.name for f in fields(cls)} - {"name"}
        settings = {key: value for key, value in config.items() if key in known and value is not None}
        for key, value in settings.items():
            expected: type = type(_EXAMPLES[key])
            if type(value) is not expected:
                raise GessoError(
                    f"{name}: {key} is {short(value)}, expected a value of type {expected.__name__}", code="unsupported"
                )
        return cls(name=name, **settings)

    @property
    def sampler(self) -> str:
        """The name in SAMPLERS."""
        if self.name == "DPMSolverMultistepScheduler" and self.algorithm_type == "sde-dpmsolver++":
            return "dpmpp_2m_sde_heun" if self.solver_type == "heun" else "dpmpp_2m_sde"
        if self.name == "UniPCMultistepScheduler" and self.solver_type == "bh1":
            return "unipc"
        if self.name == "PNDMScheduler" and not self.skip_prk_steps:
            return "pndm"
        return _KINDS[self.name].sampler

    def steps(self, schedule: NoiseSchedule, num_steps: int) -> SchedulerSteps:
        """The steps of a run. schedule: best that of `scaled_linear(table="float32")`, which is diffusers' own.

        Raises ValueError unless 1 <= num_steps <= T, and where no step is left (DEIS and SA-Solver, Karras, one step).
        """
        if not 1 <= num_steps <= schedule.num_timesteps:
            raise ValueError(f"num_steps is {num_steps}, expected 1 .. {schedule.num_timesteps}")
        kind = _KINDS[self.name]
        timesteps = self._timesteps(schedule.num_timesteps, num_steps)
        table = _float32_sigmas(schedule)
        sigmas, timesteps = self._respaced(table, _interpolate(table, timesteps), timesteps)
        last = self._last_sigma(schedule, sigmas)
        listed = torch.cat([sigmas, sigmas.new_tensor([last])])
        if not kind.in_z or kind.points == "n + 1":
            listed = listed.float().double()
        first = float(listed[0])
        spacing = self.timestep_spacing or kind.default_spacing
        scaled = kind.in_z or spacing == "leading"
        falls = listed.diff() < -SAME_SIGMA * listed[:-1]
        if not falls.any():
            raise ValueError(f"{self.name} makes no step of {num_steps}: it would go from {first} to {last}")
        if not falls[-1] and kind.points == "n + 1":
            # A respaced list may end on the same sigma twice. That step goes nowhere, but it counts, for the order and
            # for a corrector, so it is made, from a sigma to just below it.
            falls[-1], listed[-1] = True, listed[-2] * (1 - NOWHERE)
        falling = listed[:-1][falls]
        return SchedulerSteps(
            sigmas=torch.cat([falling, listed[-1:]]),
            timesteps=timesteps[falls],
            initial_scale=math.hypot(1, first) if scaled else first,
            final_scale=1 / math.hypot(1, last) if kind.in_z else 1.0,
            options=self._options(schedule, num_steps, timesteps, len(falling)),
            timestep_of=_listed(schedule, listed[:-1], timesteps),
            consistency=self.name == "LCMScheduler",
        )

    def _timesteps(self, total: int, num_steps: int) -> Tensor:
        kind = _KINDS[self.name]
        if kind.points == "n of a list":
            count = self.original_inference_steps
            if num_steps > count:
                raise ValueError(f"num_steps is {num_steps}, {self.name} has {count} at most")
            listed = torch.arange(count, 0, -1) * (total // count) - 1
            place = np.floor(np.linspace(0, count, num_steps, endpoint=False)).astype(np.int64)  # numpy's rounding
            return listed[torch.from_numpy(place)].double()
        spacing = self.timestep_spacing or kind.default_spacing
        if spacing == "trailing":
            # numpy's arange: first, first + step, ...; the count is rounded up
            count = math.ceil(total / (total / num_steps))
            back = torch.arange(count, dtype=torch.float64)
            return (total - back * (total / num_steps)).round() - 1
        points = num_steps + (kind.points == "n + 1")
        if spacing == "leading":
            timesteps = torch.arange(points, dtype=torch.float64) * (total // points) + self.steps_offset
        else:
            # numpy's rounding, which decides where a timestep lies half way
            timesteps = torch.from_numpy(np.linspace(0, total - 1, points))
            timesteps = timesteps.float().double() if kind.points == "n" else timesteps.round()
        return timesteps.flip(0)[:num_steps]

    def _respaced(self, table: Tensor, sigmas: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """Karras, exponential or beta sigmas between the ends of the whole table, or of the spaced sigmas."""
        if not self._respaces:
            return sigmas, timesteps
        multistep = _KINDS[self.name].points == "n + 1"
        low, high = (float(table[0]), float(table[-1])) if multistep else (float(sigmas[-1]), float(sigmas[0]))
        line = torch.linspace(0, 1, len(sigmas), dtype=torch.float64)
        if self.use_karras_sigmas:
            sigmas = (high ** (1 / 7) + line * (low ** (1 / 7) - high ** (1 / 7))) ** 7
        elif self.use_exponential_sigmas or self.use_lu_lambdas:
            sigmas = (math.log(high) + line * math.log(low / high)).exp()
        else:
            shares = [beta_quantile(1 - share, 0.6, 0.6) for share in line.tolist()]
            sigmas = low + torch.tensor(shares, dtype=torch.float64) * (high - low)
        timesteps = _timestep_of(table, sigmas)
        if (self.use_karras_sigmas or self.use_lu_lambdas) and (multistep or self.name.startswith("KDPM2")):
            timesteps = timesteps.round()
        elif multistep:  # a cast to whole numbers cuts off: often 998 for sigma_max, by the rounding of a logarithm
            timesteps = timesteps.floor()
        return sigmas, timesteps

    @property
    def _respaces(self) -> bool:
        return self.use_karras_sigmas or self.use_exponential_sigmas or self.use_beta_sigmas or self.use_lu_lambdas

    def _last_sigma(self, schedule: NoiseSchedule, sigmas: Tensor) -> float:
        kind = _KINDS[self.name]
        end: str = kind.end
        if kind.final_sigmas_type:
            end = self.final_sigmas_type or "zero"
        if end == "alpha":
            to_one = self.name != "PNDMScheduler" if self.set_alpha_to_one is None else self.set_alpha_to_one
            end = "zero" if to_one else "sigma_min"
        if end == "zero":
            return 0.0
        if self._respaces and self.name != "EulerDiscreteScheduler" and self.name != "DPMSolverMultistepScheduler":
            return float(sigmas[-1])
        return schedule.sigma_min

    def _options(self, schedule: NoiseSchedule, num_steps: int, timesteps: Tensor, num_made: int) -> dict[str, Any]:
        kind = _KINDS[self.name]
        options: dict[str, Any] = {}
        if kind.jumps:
            options |= self._jumps(schedule, num_steps, timesteps, num_made)
        if self.name == "PNDMScheduler" and self.prediction_type == "v_prediction":
            options["velocity"] = 1.0
        if self.name == "SASolverScheduler":
            options["taus"] = [float(200 <= timestep <= 800) for timestep in timesteps.tolist()][:num_made]
        if self.name == "KDPM2AncestralDiscreteScheduler" and self.use_karras_sigmas:
            options["apart"] = APART
        if self.name == "DDPMScheduler" and self.variance_type == "fixed_large":
            options |= {"large": 1.0, "noisy_end": float(timesteps[-1] > 0)}
        if self.name in ("UniPCMultistepScheduler", "DEISMultistepScheduler"):
            options["max_order"] = self.solver_order or 2
        if self.name == "DPMSolverMultistepScheduler":
            options["euler_final"] = float(self.euler_at_final)
            if self.sampler == "dpmpp_2m":
                options |= {"max_order": self.solver_order or 2, "heun": float(self.solver_type == "heun")}
        if self.name in ("DPMSolverMultistepScheduler", "DEISMultistepScheduler"):
            # By the steps of the whole run: one that begins in the middle of many steps has few, but is not short.
            options["lower_final"] = float(self.lower_order_final and num_steps < 15)
        if self.sampler in ("pndm", "sa_solver", "tcd"):
            options["schedule"] = schedule
        return options

    def _jumps(self, schedule: NoiseSchedule, num_steps: int, timesteps: Tensor, num_made: int) -> dict[str, Any]:
        """Where steps lead that go T // n timesteps down, if that is not always the next one of the list."""
        length = schedule.num_timesteps // num_steps
        last, half = self._last_sigma(schedule, timesteps), length // 2

        def sigmas_at(places: Tensor) -> list[float]:
            return [float(schedule.sigmas[int(place)]) if place >= 0 else last for place in places][:num_made]

        down, following = timesteps - length, torch.cat([timesteps[1:], timesteps.new_tensor([-1])])
        even = torch.equal(down[:-1], timesteps[1:])
        options: dict[str, Any] = {} if even else {"landings": sigmas_at(down)}
        if self.sampler == "plms" and not even:
            options["departures"] = sigmas_at(following + length)
        if self.sampler == "pndm" and (length % 2 or not even):
            options |= {"halves": sigmas_at(following + half), "half_landings": sigmas_at(timesteps - half)}
        return options

    def _check_solver(self) -> None:
        if self.name == "DPMSolverMultistepScheduler":
            if self.algorithm_type not in (None, "dpmsolver++", "sde-dpmsolver++"):
                raise GessoError(
                    f"{self.name}: algorithm_type is {self.algorithm_type!r}, which is not supported",
                    code="unsupported",
                )
            if self.solver_type not in (None, "midpoint", "heun"):
                raise GessoError(
                    f"{self.name}: solver_type is {self.solver_type!r}, expected 'midpoint' or 'heun'",
                    code="unsupported",
                )
            # Order 3: its weight of the curvature ends in - 0.5 where the series has + 0.5, so it goes to -1, not to 0.
            if self.algorithm_type == "sde-dpmsolver++" and self.solver_order not in (None, 2):
                raise GessoError(
                    f"{self.name}: solver_order {self.solver_order} of the SDE is not supported, 2 is",
                    code="unsupported",
                )
        if self.name == "SASolverScheduler" and self.algorithm_type not in (None, "data_prediction"):
            raise GessoError(
                f"{self.name}: algorithm_type is {self.algorithm_type!r}, only 'data_prediction' is supported",
                code="unsupported",
            )
        if self.name == "UniPCMultistepScheduler" and self.solver_type not in (None, "bh1", "bh2"):
            raise GessoError(
                f"{self.name}: solver_type is {self.solver_type!r}, expected 'bh1' or 'bh2'", code="unsupported"
            )
        if self.name == "DEISMultistepScheduler" and self.solver_type not in (None, "logrho", "midpoint", "heun"):
            raise GessoError(
                f"{self.name}: solver_type is {self.solver_type!r}, only 'logrho' is supported", code="unsupported"
            )
        if self.solver_order not in (None, 1, 2, 3):
            raise GessoError(
                f"{self.name}: solver_order is {self.solver_order}, expected 1, 2 or 3", code="unsupported"
            )


# Schedulers that put 2^-24 at the end of a schedule of zero terminal SNR, so that sigma is not infinite.
_COUNT_IN_SIGMA = frozenset(
    f"{name}Scheduler" for name in ("EulerDiscrete", "EulerAncestralDiscrete", "DPMSolverMultistep", "UniPCMultistep")
)


def diffusers_last_alpha(name: str) -> float:
    """The last alphas_cumprod of zero terminal SNR in a scheduler of diffusers, by the name of its class."""
    return DIFFUSERS_ZERO_SNR_LAST_ALPHA_CUMPROD if name in _COUNT_IN_SIGMA else DIFFUSERS_ZERO_SNR_NO_ALPHA


def diffusers_noise_schedule(config: Mapping[str, Any]) -> NoiseSchedule:
    """The noise schedule of a scheduler_config.json, in diffusers' float32.

    With rescale_betas_zero_snr the last alphas_cumprod is that of `diffusers_last_alpha`. Raises GessoError for betas
    that are none of Stable Diffusion's kind.
    """
    kind, trained = config.get("beta_schedule", "linear"), config.get("trained_betas")
    if kind != "scaled_linear" or trained is not None:
        raise GessoError(
            f"scheduler: beta_schedule is {kind!r}, only 'scaled_linear' without trained_betas is supported",
            code="unsupported",
        )
    try:
        return scaled_linear(
            beta_start=float(config.get("beta_start", 0.0001)),
            beta_end=float(config.get("beta_end", 0.02)),
            num_timesteps=int(config.get("num_train_timesteps", 1000)),
            zero_terminal_snr=bool(config.get("rescale_betas_zero_snr", False)),
            last_alpha_cumprod=diffusers_last_alpha(str(config.get("_class_name", ""))),
            table="float32",
        )
    except (TypeError, ValueError) as error:
        raise GessoError(f"scheduler: {error}", code="unsupported") from None


# One value of the type that each setting has in a config.
_EXAMPLES: dict[str, object] = {
    **dict.fromkeys(("timestep_spacing", "final_sigmas_type", "solver_type", "algorithm_type", "variance_type"), ""),
    "prediction_type": "",
    **dict.fromkeys(("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"), False),
    **dict.fromkeys(("use_lu_lambdas", "lower_order_final", "euler_at_final"), False),
    **dict.fromkeys(("set_alpha_to_one", "skip_prk_steps"), False),
    **dict.fromkeys(("steps_offset", "solver_order", "original_inference_steps"), 1),
}

# Settings of diffusers' schedulers that we do not follow: a config that uses them is refused, not bent.
_MUST_BE_OFF = {
    "thresholding": False,
    "use_flow_sigmas": False,
    "use_dynamic_shifting": False,
    "interpolation_type": "linear",
    "timestep_type": "discrete",
    "sigma_min": None,
    "sigma_max": None,
    "shift_terminal": None,
    "lambda_min_clipped": -math.inf,
    "predict_x0": True,
    "disable_corrector": [],
    "solver_p": None,
    "predictor_order": 2,
    "corrector_order": 2,
    "tau_func": None,
    "timestep_scaling": 10.0,
    "clip_sample": False,
}
_NO_VARIANCE = ("fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log")  # the network predicts none
_VARIANCES = {"DDPMScheduler": (None, "fixed_small", "fixed_small_log", "fixed_large")}

_WAYS = frozenset({"use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"})
_STEPS = frozenset({"timestep_spacing", "steps_offset"})
_MORE = frozenset({"solver_order", "solver_type", "algorithm_type", "lower_order_final", "thresholding"})
_FLOW = frozenset({"use_flow_sigmas", "use_dynamic_shifting"})
_LISTED = frozenset({"original_inference_steps", "timestep_scaling", "set_alpha_to_one", "thresholding", "clip_sample"})
_CLIPPED = frozenset({"lambda_min_clipped", "variance_type"})
# Class -> its settings that change a picture; those of another class are not its own, and diffusers drops them.
_SETTINGS: Mapping[str, frozenset[str]] = {
    "DDIMScheduler": _STEPS | {"set_alpha_to_one", "thresholding", "clip_sample"},
    "DDPMScheduler": _STEPS | {"variance_type", "thresholding", "clip_sample"},
    "PNDMScheduler": _STEPS | {"set_alpha_to_one", "skip_prk_steps"},
    "EulerDiscreteScheduler": _STEPS
    | _WAYS
    | {"interpolation_type", "timestep_type", "sigma_min", "sigma_max", "final_sigmas_type"},
    "EulerAncestralDiscreteScheduler": _STEPS,
    "HeunDiscreteScheduler": _STEPS | _WAYS | {"clip_sample"},
    "LMSDiscreteScheduler": _STEPS | _WAYS,
    "KDPM2DiscreteScheduler": _STEPS | _WAYS,
    "KDPM2AncestralDiscreteScheduler": _STEPS | _WAYS,
    "DPMSolverMultistepScheduler": _STEPS
    | _WAYS
    | _MORE
    | _FLOW
    | _CLIPPED
    | {"euler_at_final", "use_lu_lambdas", "final_sigmas_type"},
    "UniPCMultistepScheduler": _STEPS
    | _WAYS
    | _MORE
    | _FLOW
    | {"predict_x0", "disable_corrector", "solver_p", "final_sigmas_type", "sigma_min", "sigma_max", "shift_terminal"},
    "DEISMultistepScheduler": _STEPS | _WAYS | _MORE | _FLOW,
    "SASolverScheduler": (
        _STEPS | _WAYS | _MORE | _FLOW | _CLIPPED | {"predictor_order", "corrector_order", "tau_func"}
    )
    - {"solver_order", "solver_type"},
    "LCMScheduler": _STEPS | _LISTED,
    "TCDScheduler": _STEPS | _LISTED,
}
# What the name of another class's solver means here: diffusers takes the default of this class instead.
_OWN_WORDS: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("DPMSolverMultistepScheduler", "solver_type"): ("midpoint", "heun"),
    ("DPMSolverMultistepScheduler", "algorithm_type"): ("dpmsolver", "dpmsolver++", "sde-dpmsolver", "sde-dpmsolver++"),
    ("UniPCMultistepScheduler", "solver_type"): ("bh1", "bh2"),
    ("DEISMultistepScheduler", "solver_type"): ("logrho",),
    ("DEISMultistepScheduler", "algorithm_type"): ("deis",),
    ("SASolverScheduler", "algorithm_type"): ("data_prediction", "noise_prediction"),
}
# The value of each setting of a folder's scheduler where nothing is said. lower_order_final has two, by the class.
COMMON_SETTINGS: Mapping[str, object] = {
    **_MUST_BE_OFF,
    **dict.fromkeys((*_WAYS, "use_lu_lambdas", "euler_at_final"), False),
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "lower_order_final": True,
    "final_sigmas_type": "zero",
    "solver_order": 2,
    "original_inference_steps": 50,
    **dict.fromkeys(("solver_type", "algorithm_type", "variance_type")),
}


def spacing_of(name: str) -> TimestepSpacing:
    """The default timestep_spacing of a scheduler class of diffusers."""
    return _KINDS[name].default_spacing if name in _KINDS else "linspace"


def settings_of(name: str, stated: Mapping[str, Any]) -> dict[str, Any]:
    """Of the settings of one scheduler those that another takes over, as `from_config` of diffusers does.

    name: of the other's class, one that gesso knows. Raises KeyError for one that it does not.
    """
    return {
        key: value
        for key, value in stated.items()
        if key in _SETTINGS[name] and value in _OWN_WORDS.get((name, key), (value,))
    }


def keeps_variance(name: str) -> bool:
    """Whether a scheduler class works on latents of unit variance, also where it ends in noise."""
    return _KINDS[name].in_z


def _float32_sigmas(schedule: NoiseSchedule) -> Tensor:
    """The table as diffusers computes it, in float32; float64 [T]."""
    alphas_cumprod = schedule.alphas_cumprod.float()
    return (((1 - alphas_cumprod) / alphas_cumprod) ** 0.5).double()


def _timestep_of(table: Tensor, sigmas: Tensor) -> Tensor:
    """Fractional timesteps, straight lines between logarithms in float32."""
    logs, log_sigmas = table.float().log().double(), sigmas.log()
    low = (torch.searchsorted(logs, log_sigmas, right=True) - 1).clamp(0, len(table) - 2)
    return low + ((log_sigmas - logs[low]) / (logs[low + 1] - logs[low])).clamp(0, 1)


def _interpolate(table: Tensor, timesteps: Tensor) -> Tensor:
    """Straight lines in sigma itself, unlike `NoiseSchedule.sigma_of`."""
    low = timesteps.floor().long().clamp(0, len(table) - 2)
    return torch.lerp(table[low], table[low + 1], (timesteps - low).clamp(0, 1))


def _listed(schedule: NoiseSchedule, sigmas: Tensor, timesteps: Tensor) -> Callable[[Tensor], Tensor]:
    """A rule sigma -> timestep: the listed one for a listed sigma, the noise schedule's for any other."""

    def timestep_of(sigma: Tensor) -> Tensor:
        gap, place = (sigma.flatten()[:, None].double() / sigmas.to(sigma.device) - 1).abs().min(dim=1)
        listed = timesteps.to(sigma.device)[place].reshape(sigma.shape)
        return torch.where(gap.reshape(sigma.shape) < 1e-9, listed, schedule.timestep_of(sigma))

    return timestep_of
