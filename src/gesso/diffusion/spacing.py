"""The ways to space the steps of a sampler: (noise schedule, number of steps) -> sigmas.

Every way gives float64, falling, from about sigma_max to 0; where it departs from that (one more step, an end above 0,
a start below sigma_max), its docstring says so. Tools differ under the same name: where they do there are two
rows in `schedule_table`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from gesso.diffusion.beta_distribution import beta_quantile
from gesso.diffusion.noise_schedule import NoiseSchedule
from gesso.diffusion.schedule_table import SCHEDULES
from gesso.errors import GessoError


def uniform(schedule: NoiseSchedule, num_steps: int) -> Tensor:
    """Equal steps in time from sigma_max to sigma_min, then 0 (k-diffusion's and A1111's standard for Euler).

    -> float64 [num_steps + 1]. Raises ValueError if num_steps < 1.
    """
    _check(num_steps)
    last = schedule.num_timesteps - 1
    return _end_in_zero(schedule.sigma_of(_line(last, 0, num_steps)))


def sgm_uniform(schedule: NoiseSchedule, num_steps: int) -> Tensor:
    """Equal steps in time from sigma_max to 0, so that sigma_min is never visited (Stability's generative-models).

    -> float64 [num_steps + 1]. Raises ValueError if num_steps < 1.
    """
    _check(num_steps)
    last = schedule.num_timesteps - 1
    return _end_in_zero(schedule.sigma_of(_line(last, 0, num_steps + 1)[:-1]))


def karras(
    schedule: NoiseSchedule,
    num_steps: int,
    *,
    rho: float = 7.0,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
) -> Tensor:
    """Equal steps in sigma^(1/rho) from sigma_max to sigma_min, then 0 (Karras et al. 2022, arXiv:2206.00364, eq. 5).

    sigma_min, sigma_max: the schedule's where left out. -> float64 [num_steps + 1]. Raises ValueError if num_steps < 1.
    """
    _check(num_steps)
    low, high = _ends(schedule, sigma_min, sigma_max)
    roots = _line(high ** (1 / rho), low ** (1 / rho), num_steps)
    return _end_in_zero(roots**rho)


def exponential(
    schedule: NoiseSchedule, num_steps: int, *, sigma_min: float | None = None, sigma_max: float | None = None
) -> Tensor:
    """Equal steps in ln(sigma) from sigma_max to sigma_min, then 0 (k-diffusion).

    -> float64 [num_steps + 1]. Raises ValueError if num_steps < 1.
    """
    return polyexponential(schedule, num_steps, rho=1.0, sigma_min=sigma_min, sigma_max=sigma_max)


def polyexponential(
    schedule: NoiseSchedule,
    num_steps: int,
    *,
    rho: float = 1.0,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
) -> Tensor:
    """A power of a line in ln(sigma) (k-diffusion). rho 1, A1111's default, is `exponential`.

    -> float64 [num_steps + 1]. Raises ValueError if num_steps < 1.
    """
    _check(num_steps)
    low, high = _ends(schedule, sigma_min, sigma_max)
    share = _line(1, 0, num_steps) ** rho
    return _end_in_zero((share * math.log(high / low) + math.log(low)).exp())


def simple(schedule: NoiseSchedule, num_steps: int) -> Tensor:
    """Whole timesteps at equal distance, rounded up, from the last one on (A1111, ComfyUI).

    -> float64 [num_steps + 1]. Raises ValueError unless 1 <= num_steps <= T.
    """
    _check(num_steps, schedule.num_timesteps)
    back = torch.tensor([int(i * schedule.num_timesteps / num_steps) for i in range(num_steps)])
    return _end_in_zero(schedule.sigmas[schedule.num_timesteps - 1 - back])


def ddim_uniform(schedule: NoiseSchedule, num_steps: int) -> Tensor:
    """Timesteps 1, 1 + T // n, 1 + 2 (T // n) ... backwards, then 0 (A1111, ComfyUI; DDIM's spacing, "leading").

    Starts below sigma_max: at 11.03 for 20 steps, at sigma 0.04 for one. -> float64, more than num_steps + 1 of them
    where num_steps does not divide T: 15 steps become 16. Raises ValueError unless 1 <= num_steps <= T.
    """
    _check(num_steps, schedule.num_timesteps)
    steps = torch.arange(1, schedule.num_timesteps, schedule.num_timesteps // num_steps)
    return _end_in_zero(schedule.sigmas[steps.flip(0)])


def turbo(schedule: NoiseSchedule, num_steps: int) -> Tensor:
    """Timesteps T k / n - 1 rounded, k = n .. 1, then 0: 999 for one step, as SDXL Turbo wants (Forge; "trailing").

    -> float64 [num_steps + 1]. Raises ValueError unless 1 <= num_steps <= T.
    """
    _check(num_steps, schedule.num_timesteps)
    steps = [round(k * (schedule.num_timesteps / num_steps) - 1) for k in range(num_steps, 0, -1)]
    return _end_in_zero(schedule.sigmas[torch.tensor(steps)])


def beta(schedule: NoiseSchedule, num_steps: int, *, a: float = 0.6, b: float = 0.6) -> Tensor:
    """Quantiles of the beta distribution on a line from sigma_min to sigma_max, then 0 (A1111, Forge).

    Lee et al. 2024 (arXiv:2407.12173) space timesteps so, as `beta_comfyui` does; this spaces sigma and so makes 7 of
    20 steps above sigma 10. -> float64 [num_steps + 1]. Raises ValueError if num_steps < 1.
    """
    _check(num_steps)
    low, high = schedule.sigma_min, schedule.sigma_max
    shares = [beta_quantile(1 - share, a, b) for share in _line(0, 1, num_steps).tolist()]
    return _end_in_zero(low + torch.tensor(shares, dtype=torch.float64) * (high - low))


def beta_comfyui(schedule: NoiseSchedule, num_steps: int, *, a: float = 0.6, b: float = 0.6) -> Tensor:
    """Quantiles of the beta distribution as whole timesteps, then 0 (ComfyUI; Lee et al. 2024, arXiv:2407.12173).

    Timesteps that come twice are left out. -> float64, at most num_steps + 1. Raises ValueError if num_steps < 1.
    """
    _check(num_steps)
    last = schedule.num_timesteps - 1
    steps = [round(beta_quantile(1 - i / num_steps, a, b) * last) for i in range(num_steps)]
    return _end_in_zero(schedule.sigmas[torch.tensor(sorted(set(steps), reverse=True))])


def linear_quadratic(schedule: NoiseSchedule, num_steps: int, *, threshold: float = 0.025) -> Tensor:
    """Half of the steps on a line down to (1 - threshold) of sigma_max, the rest on a parabola to 0 (ComfyUI, Mochi).

    Made for flow models; on Stable Diffusion, half of the steps stay in the noise. -> float64 [num_steps + 1].
    Raises ValueError if num_steps < 1.
    """
    _check(num_steps)
    linear = num_steps // 2
    curved = num_steps - linear
    if linear == 0:
        return torch.tensor([schedule.sigma_max, 0.0], dtype=torch.float64)
    slope = threshold / linear
    # Of noise taken away: i slope on the line; then a parabola with the same slope in its first point that ends in 1.
    bend = (1 - threshold - slope * curved) / curved**2
    away = [i * slope for i in range(linear)]
    away += [threshold + slope * i + bend * i**2 for i in range(curved)] + [1.0]  # not what rounding leaves of 1
    return (1 - torch.tensor(away, dtype=torch.float64)).clamp(min=0) * schedule.sigma_max


def kl_optimal(schedule: NoiseSchedule, num_steps: int) -> Tensor:
    """Equal steps in arctan(sigma) (A1111, Forge; Sabour et al. 2024, arXiv:2404.14507, section 3.1).

    Ends AT sigma_min, so the picture keeps noise of 0.029. -> float64 [num_steps + 1]. Raises ValueError if
    num_steps < 1.
    """
    _check(num_steps)
    return _line(math.atan(schedule.sigma_max), math.atan(schedule.sigma_min), num_steps + 1).tan()


def kl_optimal_comfyui(schedule: NoiseSchedule, num_steps: int) -> Tensor:
    """`kl_optimal` with num_steps points from sigma_max to sigma_min, then 0 (ComfyUI).

    -> float64 [num_steps + 1]. Raises ValueError if num_steps < 1.
    """
    _check(num_steps)
    return _end_in_zero(_line(math.atan(schedule.sigma_max), math.atan(schedule.sigma_min), num_steps).tan())


# Sabour et al. 2024 (arXiv:2404.14507): the published sigmas for ten steps, rounded as A1111 has them, and in full.
_AYS_SD15 = (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029)
_AYS_SDXL = (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029)
_AYS_SD15_FULL = (
    *(14.6146412293, 6.4745760956, 3.8636745985, 2.6946151520, 1.8841921177, 1.3943805092),
    *(0.9642583904, 0.6523686016, 0.3977456272, 0.1515232662, 0.0291671582),
)
_AYS_SDXL_FULL = (
    *(14.6146412293, 6.3184485287, 3.7681790315, 2.1811480769, 1.3405244945, 0.8620721141),
    *(0.5550693289, 0.3798540708, 0.2332364134, 0.1114188177, 0.0291671582),
)


def align_your_steps(schedule: NoiseSchedule, num_steps: int) -> Tensor:
    """Sigmas optimised for Stable Diffusion 1.5, interpolated in ln(sigma), then 0 (A1111; arXiv:2404.14507).

    Says nothing of `schedule`. -> float64 [num_steps + 1]. Raises ValueError if num_steps < 1.
    """
    return _end_in_zero(_interpolated(_AYS_SD15, num_steps))


def align_your_steps_sdxl(schedule: NoiseSchedule, num_steps: int) -> Tensor:
    """As `align_your_steps`, optimised for SDXL."""
    return _end_in_zero(_interpolated(_AYS_SDXL, num_steps))


def align_your_steps_comfyui(schedule: NoiseSchedule, num_steps: int) -> Tensor:
    """As `align_your_steps`, but of num_steps + 1 points the last is replaced by 0 (ComfyUI; the authors' own way)."""
    _check(num_steps)
    return _end_in_zero(_interpolated(_AYS_SD15_FULL, num_steps + 1)[:-1])


def align_your_steps_sdxl_comfyui(schedule: NoiseSchedule, num_steps: int) -> Tensor:
    """As `align_your_steps_comfyui`, optimised for SDXL."""
    _check(num_steps)
    return _end_in_zero(_interpolated(_AYS_SDXL_FULL, num_steps + 1)[:-1])


def own_sigmas(values: Sequence[float]) -> Tensor:
    """Sigmas that the user gives, as they are.

    -> float64 [len(values)]. They need not end in 0: what is left then is noise of the last one. Raises GessoError
    unless there are two or more finite numbers that fall and are 0 at least.
    """
    numbers = [float(value) for value in values]
    if len(numbers) < 2:
        raise GessoError(
            f"sigmas: {len(numbers)} given, at least 2 needed (one step from the first to the second)",
            code="invalid_value",
            field="sigmas",
        )
    for index, number in enumerate(numbers):
        if not math.isfinite(number) or number < 0:
            raise GessoError(
                f"sigmas: number {index + 1} is {number}, expected a finite number of 0 or more",
                code="invalid_value",
                field="sigmas",
            )
    for index, (first, second) in enumerate(pairwise(numbers)):
        if not first > second:
            raise GessoError(
                f"sigmas: number {index + 2} is {second} after {first}, expected falling numbers",
                code="invalid_value",
                field="sigmas",
            )
    return torch.tensor(numbers, dtype=torch.float64)


def sigmas_of(name: str, schedule: NoiseSchedule, num_steps: int) -> Tensor:
    """The sigmas of a way in SCHEDULES -> float64. Those of a plug-in are checked as a user's own are.

    Raises ValueError for a num_steps that it lacks, PluginError and GessoError for a plug-in that gives no sigmas.
    """
    way = SCHEDULES[name]
    if SCHEDULES.origin(name) is None:
        return way(schedule, num_steps)
    with SCHEDULES.guard(name, ValueError):
        return own_sigmas(torch.as_tensor(way(schedule, num_steps)).tolist())


def _interpolated(points: Sequence[float], num_points: int) -> Tensor:
    """num_points numbers along the given ones, straight lines in the logarithm; one point is the first."""
    _check(num_points)
    logs = torch.tensor(points, dtype=torch.float64).log()
    place = _line(0, len(points) - 1, num_points)
    low = place.floor().long().clamp(max=len(points) - 2)
    return torch.lerp(logs[low], logs[low + 1], place - low).exp()


def _ends(schedule: NoiseSchedule, sigma_min: float | None, sigma_max: float | None) -> tuple[float, float]:
    low = schedule.sigma_min if sigma_min is None else sigma_min
    high = schedule.sigma_max if sigma_max is None else sigma_max
    if not 0 < low < high:
        raise ValueError(f"sigma_min and sigma_max are {low} and {high}, expected 0 < sigma_min < sigma_max")
    return low, high


def _line(first: float, last: float, num_points: int) -> Tensor:
    """Points at equal distance, both ends included; one point is `first`."""
    return torch.linspace(first, last, num_points, dtype=torch.float64)


def _end_in_zero(sigmas: Tensor) -> Tensor:
    return torch.cat([sigmas, sigmas.new_zeros(1)])


def _check(num_steps: int, most: int | None = None) -> None:
    if num_steps < 1:
        raise ValueError(f"num_steps is {num_steps}, expected 1 or more")
    if most is not None and num_steps > most:
        raise ValueError(f"num_steps is {num_steps}, this schedule has no more than {most}")
