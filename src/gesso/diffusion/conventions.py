"""Conventions of other tools (A1111, ComfyUI, diffusers) that change a picture of the same model, seed and sampler.

Each is one named function or value, so that a preset can name it and a recipe can record it. What diffusers' schedulers
choose is in `diffusers_steps`; the tables of the noise schedule are `scaled_linear(table=...)`, sources of noise are in
`noise`, the weights of a consistency model are `Denoiser(consistency=True)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from gesso.diffusion.noise import Brownian, NoiseSource
from gesso.diffusion.noise_schedule import NoiseSchedule
from gesso.diffusion.sampler_row import Sampler
from gesso.diffusion.schedule_table import Schedule

# --- how much noise a picture starts from

# sigma:    x = n * sigma_0 (k-diffusion, A1111; diffusers' Euler family on "linspace" and "trailing")
# variance: x = n * sqrt(1 + sigma_0^2), the variance that the network saw: z = n (official SDXL; A1111's "SGM noise
#           multiplier" and its DDIM, PLMS, UniPC; diffusers' others)
# comfyui:  "variance" where sigma_0 is the noise schedule's sigma_max, else "sigma"
InitialNoise = Literal["sigma", "variance", "comfyui"]


def initial_scale(rule: InitialNoise, sigmas: Tensor, schedule: NoiseSchedule) -> float:
    """What unit noise is multiplied with to make the x that a sampler begins with.

    sigmas: of the run. Raises ValueError for another rule.
    """
    first = float(sigmas[0])
    if rule not in get_args(InitialNoise):
        raise ValueError(f"rule is {rule!r}, expected one of {get_args(InitialNoise)}")
    at_top = math.isclose(first, schedule.sigma_max, rel_tol=1e-5) or first > schedule.sigma_max
    if rule == "variance" or (rule == "comfyui" and at_top):
        return math.hypot(1, first)
    return first


def final_scale(sigmas: Tensor) -> float:
    """What the x at the end is multiplied with where a tool hands z = x / sqrt(1 + sigma^2) to the VAE.

    It is 1 where sigmas end in 0. DDIM and PLMS of A1111 end at timestep 1, DDIM and PNDM of diffusers
    (set_alpha_to_one=False) at timestep 0: 0.9991 and 0.9996.
    """
    return 1 / math.hypot(1, float(sigmas[-1]))


# --- options

# A1111 passes its eta for ancestral samplers, 1, to every sampler of k-diffusion that takes one; these have 0 else.
A1111_OPTIONS: Mapping[str, Mapping[str, float]] = {"dpm_fast": {"eta": 1.0}, "dpm_adaptive": {"eta": 1.0}}


# --- which sigmas


def discard_penultimate(sigmas: Tensor) -> Tensor:
    """The sigmas without the last but one, which is sigma_min in most schedules. Raises ValueError below 3 of them."""
    if len(sigmas) < 3:
        raise ValueError(f"{len(sigmas)} sigmas: the last but one cannot be left out, expected 3 or more")
    return torch.cat([sigmas[:-2], sigmas[-1:]])


def a1111_sigmas(
    sampler: Sampler,
    spacing: Schedule,
    schedule: NoiseSchedule,
    num_steps: int,
    *,
    always_discard: bool = False,
    sgm_noise: bool = False,
) -> tuple[Tensor, float]:
    """The sigmas of A1111 for a k-diffusion sampler, and what unit noise is multiplied with.

    For samplers that discard (DPM2, DPM2 a, DPM++ 3M SDE) or always_discard, the option "always discard next-to-last
    sigma", one step more is spaced and the last but one left out. sgm_noise: the option "SGM noise multiplier".
    Raises ValueError for a num_steps that the spacing lacks.
    """
    discards = sampler.discards_penultimate or always_discard
    sigmas = spacing(schedule, num_steps + discards)
    if discards:
        sigmas = discard_penultimate(sigmas)
    return sigmas, initial_scale("variance" if sgm_noise else "sigma", sigmas, schedule)


def a1111_timesteps(schedule: NoiseSchedule, num_steps: int) -> Tensor:
    """The timesteps of A1111 for DDIM, DDIM CFG++ and PLMS: whole, rising, 1, 1 + T // n, ...

    -> int64, num_steps of them or a few more (16 for 15 steps). Raises ValueError unless 1 <= num_steps <= T.
    """
    total = schedule.num_timesteps
    if not 1 <= num_steps <= total:
        raise ValueError(f"num_steps is {num_steps}, expected 1 .. {total}")
    return (torch.arange(0, total, total // num_steps) + 1).clamp(0, total - 1)


def a1111_timestep_sigmas(schedule: NoiseSchedule, num_steps: int) -> Tensor:
    """The sigmas of A1111 for DDIM, DDIM CFG++ and PLMS: those of `a1111_timesteps`, and no 0 after them.

    So ten steps call the model nine times, at 901 .. 101, and the picture is what noise of timestep 1 is left in
    (`final_scale`); it starts with the "variance" rule. -> float64, falling, num_steps of them or a few more.
    Raises ValueError unless 2 <= num_steps <= T.
    """
    if num_steps < 2:
        raise ValueError(f"num_steps is {num_steps}: with this spacing A1111 runs one step fewer, so 2 is the minimum")
    return schedule.sigmas[a1111_timesteps(schedule, num_steps).flip(0)]


def a1111_unipc_sigmas(schedule: NoiseSchedule, num_steps: int) -> Tensor:
    """The sigmas of A1111 for UniPC with its default spacing "time uniform": 999 down to 0, in equal steps.

    Ends at timestep 0, not at sigma 0; between whole timesteps ln(alpha) is on a line (that of the authors' code), not
    ln(sigma). It starts with the "variance" rule and ends with `final_scale`. -> float64 [num_steps + 1].
    Raises ValueError if num_steps < 1.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps is {num_steps}, expected 1 or more")
    log_alphas = schedule.alphas_cumprod.log()
    place = torch.linspace(schedule.num_timesteps - 1, 0, num_steps + 1, dtype=torch.float64)
    low = place.floor().long().clamp(max=schedule.num_timesteps - 2)
    alphas_cumprod = torch.lerp(log_alphas[low], log_alphas[low + 1], place - low).exp()
    return ((1 - alphas_cumprod) / alphas_cumprod).sqrt()


def whole_timesteps(schedule: NoiseSchedule) -> Callable[[Tensor], Tensor]:
    """For `Denoiser.timestep_of`: the nearest whole timestep (A1111's option "quantization in K samplers")."""
    return lambda sigma: schedule.timestep_of(sigma).round()


# --- where image to image begins


@dataclass(frozen=True)
class ImageStart:
    """Where a run from a picture begins.

    num_steps: how many steps to space. first: the sampler gets sigmas[first:]. noisy: the picture gets noise of
    sigmas[noisy], x = x0 + sigmas[noisy] * n; where it is not `first` (A1111's DDIM and PLMS), that x is then taken for
    one at sigmas[first] in the scale of the network: see `ImageStart.scale`.
    """

    num_steps: int
    first: int
    noisy: int

    def scale(self, sigmas: Tensor) -> float:
        """What x is multiplied with after the noise is added; 1 unless `noisy` is not `first`."""
        if self.noisy == self.first:
            return 1.0
        return math.hypot(1, float(sigmas[self.first])) / math.hypot(1, float(sigmas[self.noisy]))


def a1111_image_start(num_steps: int, strength: float, *, exact_steps: bool = False) -> ImageStart:
    """A1111's rule: int(strength * num_steps) + 1 calls of a first-order sampler; 20 steps at 0.75 start at index 4.

    exact_steps: the option "do exactly the amount of steps the slider specifies". Strength 1 counts as 0.999.
    Raises ValueError unless num_steps >= 1 and 0 <= strength <= 1, and for exact_steps with strength 0.
    """
    _check_strength(num_steps, strength)
    strength = min(strength, 0.999)
    if exact_steps:
        if strength == 0:
            raise ValueError("strength 0 leaves no step; exact_steps needs a strength above 0")
        steps, kept = int(num_steps / strength), num_steps - 1
    else:
        steps, kept = num_steps, int(strength * num_steps)
    first = steps - kept - 1
    return ImageStart(steps, first, first)


def a1111_timesteps_image_start(
    schedule: NoiseSchedule, num_steps: int, strength: float, *, exact_steps: bool = False
) -> ImageStart:
    """A1111's rule for DDIM, DDIM CFG++ and PLMS, whose sigmas are `a1111_timestep_sigmas`.

    With kept = int(strength * num_steps): noise of timesteps[kept], but the first call at timesteps[kept - 1], so the
    picture is taken for less noisy than it is. exact_steps: num_steps - 1 are kept, of a schedule that is longer.
    Raises ValueError where no call is left, and as `a1111_image_start`.
    """
    whole = a1111_image_start(num_steps, strength, exact_steps=exact_steps)
    num_steps, kept = whole.num_steps, whole.num_steps - 1 - whole.first
    if kept < 2:
        raise ValueError(f"strength {strength} of {num_steps} steps leaves no step: A1111 runs one fewer than {kept}")
    last = len(a1111_timesteps(schedule, num_steps)) - 1
    return ImageStart(num_steps, first=last - kept + 1, noisy=last - kept)


def diffusers_image_start(num_steps: int, strength: float) -> ImageStart:
    """diffusers' rule: int(strength * num_steps) steps, so one fewer than A1111; 20 at 0.75 start at index 5.

    Raises ValueError unless num_steps >= 1 and 0 <= strength <= 1, and where no step is left.
    """
    _check_strength(num_steps, strength)
    num_run = min(int(num_steps * strength), num_steps)
    if num_run < 1:
        raise ValueError(f"strength {strength} of {num_steps} steps leaves no step")
    return ImageStart(num_steps, num_steps - num_run, num_steps - num_run)


def _check_strength(num_steps: int, strength: float) -> None:
    if num_steps < 1 or not 0 <= strength <= 1:
        raise ValueError(f"num_steps and strength are {num_steps} and {strength}, expected 1 or more and 0..1")


# --- guidance

CFGPP_SCALE = 1 / 12.5  # A1111's DDIM CFG++ multiplies the user's scale with it: 7.5 becomes lambda 0.6


# --- noise: variation seeds, other sizes, ENSD


class EnsdNoise(NoiseSource):
    """A1111's "eta noise seed delta": each row's first draw comes from its seed, all later ones from seed + delta.

    source: of the first draws, fresh; any kind. A Brownian path does not know of the delta, nor does it in A1111.
    31337 is what NovelAI's pictures need; A1111's default is 0, which changes nothing.
    """

    def __init__(self, source: NoiseSource, delta: int) -> None:
        super().__init__(source.seeds, source.pictures, draws=source.draws)
        seeds = [(seed + delta) % 2**64 for seed in source.seeds] if delta else source.seeds
        # Without a delta the later draws go on where the first one stopped.
        draws = [0 if delta else 1] * len(seeds)
        self.delta = delta
        self._first, self._later = source, type(source)(seeds, source.pictures, draws=draws)

    def fresh(self) -> EnsdNoise:
        """The same source as if nothing had been drawn."""
        return EnsdNoise(self._first.fresh(), self.delta)

    def brownian(self, levels: Sequence[float]) -> Brownian:
        """The path of the source of the first draws."""
        return self._first.brownian(levels)

    def _draw_row(self, row: int, shape: tuple[int, ...]) -> Tensor:
        source = self._first if self.draws[row] == 0 else self._later
        return source.draw(shape, rows=[other == row for other in range(len(self.seeds))])[row]


def slerp(noise: Tensor, other: Tensor, strength: float) -> Tensor:
    """From noise (0) to other (1) along a great circle, each row as one vector.

    noise, other [B, ...] -> [B, ...]. Rows that point the same way to within 0.03 degrees are mixed on a line.
    """
    rows = [_slerp(a.flatten(), b.flatten(), strength).reshape(a.shape) for a, b in zip(noise, other, strict=True)]
    return torch.stack(rows)


def slerp_a1111(noise: Tensor, other: Tensor, strength: float) -> Tensor:
    """A1111's way of mixing in a variation seed: along a great circle in every column, of height alone.

    noise, other [B, C, H, W] -> [B, C, H, W]. Its norms run over axis 1 of a [C, H, W] tensor, which is the height;
    and where the two are alike (mean cosine above 0.9995) it mixes on a line the wrong way round.
    """
    rows = []
    for low, high in zip(noise, other, strict=True):
        cosine = (low / low.norm(dim=1, keepdim=True) * (high / high.norm(dim=1, keepdim=True))).sum(1, keepdim=True)
        if cosine.mean() > 0.9995:
            rows.append(low * strength + high * (1 - strength))
            continue
        angle = cosine.acos()
        near, far = ((1 - strength) * angle).sin() / angle.sin(), (strength * angle).sin() / angle.sin()
        rows.append(near * low + far * high)
    return torch.stack(rows)


def paste_middle(small: Tensor, large: Tensor) -> Tensor:
    """Noise of one size in the middle of noise of another ("resize seed from"): what fits is kept, the rest is new.

    small [B, C, h, w], large [B, C, H, W] -> [B, C, H, W]. Odd differences are halved downwards, as in A1111.
    """
    out = large.clone()
    rows_in, rows_out = _overlap(small.shape[-2], large.shape[-2])
    columns_in, columns_out = _overlap(small.shape[-1], large.shape[-1])
    out[..., rows_out, columns_out] = small[..., rows_in, columns_in]
    return out


def first_noise(
    noise: NoiseSource,
    shape: tuple[int, int, int],
    *,
    variation: NoiseSource | None = None,
    strength: float = 0.0,
    mix: Callable[[Tensor, Tensor, float], Tensor] = slerp,
    resized_from: tuple[int, int] | None = None,
) -> Tensor:
    """The noise that a picture starts from: one draw of `noise`, mixed and pasted as A1111 does it.

    shape [C, H, W] -> float32 [B, C, H, W], of unit variance (nearly, where mixed). variation: a source of the
    variation seeds; A1111 gives picture i the variation seed + i, and then the same seed to all pictures.
    strength: of the variation, 0..1. mix: slerp or slerp_a1111. resized_from: height and width in latents of the run
    whose composition is wanted: its noise, drawn afresh from the same seeds, goes into the middle of the new one.
    """
    drawn = shape if resized_from is None else (shape[0], *resized_from)
    first = noise.draw(shape)
    inner = first if drawn == shape else noise.fresh().draw(drawn)
    if variation is not None and strength != 0:
        inner = mix(inner, variation.fresh().draw(drawn), strength)
    return inner if drawn == shape else paste_middle(inner, first)


def _overlap(small: int, large: int) -> tuple[slice, slice]:
    """Where the middle of the smaller one lies in itself and in the larger one; either may be the smaller."""
    shift = (large - small) // 2
    size = small if shift >= 0 else small + 2 * shift
    return slice(max(-shift, 0), max(-shift, 0) + size), slice(max(shift, 0), max(shift, 0) + size)


def _slerp(low: Tensor, high: Tensor, strength: float) -> Tensor:
    a, b = low.double(), high.double()
    cosine = float((a / a.norm() * (b / b.norm())).sum().clamp(-1, 1))
    angle = math.acos(cosine)
    if math.sin(angle) < 5e-4:
        return torch.lerp(low, high, strength)
    mixed = a * (math.sin((1 - strength) * angle) / math.sin(angle)) + b * (
        math.sin(strength * angle) / math.sin(angle)
    )
    return mixed.to(low)
