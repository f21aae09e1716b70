"""Default values and limits of a request, from the model's family and the preset."""

import inspect
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from gesso.diffusion.diffusers_steps import keeps_variance
from gesso.diffusion.noise import NOISE_SOURCES
from gesso.diffusion.samplers import SAMPLERS
from gesso.diffusion.schedule import SCHEDULES
from gesso.families.base import Family
from gesso.pipelines.steps import (
    A1111_OWN_SPACING,
    DIFFUSERS_SCHEDULERS,
    default_sampler,
    default_schedule,
    default_spacing,
)
from gesso.request.checks import MAX_NOISE_LEVEL, RequestError
from gesso.request.fields import Preset
from gesso.request.presets import PRESETS
from gesso.request.request import ResolvedRequest, TextToImageRequest
from gesso.request.resolving import Defaults
from gesso.text.dialects import DIALECTS
from gesso.text.emphasis import NEEDS_EMPTY


def defaults_for(request: TextToImageRequest, family: Family, *, has_refiner: bool = False) -> Defaults:
    """The default values of a request for a model and a preset, and the limits that they set.

    Conventions of a preset that depend on the sampler are those of the sampler that the request will have.
    """
    preset: Preset = request.preset or "gesso"
    sampler, schedule, presets = request.sampler, family.defaults.schedule, dict(PRESETS[preset])
    if preset == "diffusers":
        sampler = sampler or default_sampler(family) or family.defaults.sampler
        schedule = default_schedule(sampler, family)
    sampler = sampler or family.defaults.sampler
    row = SAMPLERS.get(sampler)
    if sampler == "tcd" and request.eta == 0 and preset != "diffusers" and not isinstance(request, ResolvedRequest):
        # In recipes a 0 stands for the default, since there was no choice.
        raise RequestError("eta", "eta 0: TCD without noise is DDIM; use the sampler ddim, or an eta above 0")
    if preset == "a1111" and row is not None:
        schedule = row.schedule if request.sampler is not None else schedule
        presets["conventions.discard_penultimate_sigma"] = row.discards_penultimate
        if sampler in A1111_OWN_SPACING and request.schedule is None:
            presets |= _spacing("a1111", "variance")
    if preset == "diffusers":
        presets |= _diffusers_spacing(request, sampler, family)
    syntax = request.conventions.syntax
    if syntax is not None and (syntax in NEEDS_EMPTY or DIALECTS.origin(syntax) is not None):
        presets["conventions.emphasis"] = DIALECTS[syntax].emphasis  # these syntaxes have their own rule for weights
    return Defaults(
        width=family.output_size,
        height=family.output_size,
        num_steps=family.defaults.num_steps,
        guidance_scale=family.defaults.guidance_scale,
        sampler=sampler,
        schedule=schedule,
        clip_skip=family.clip_skip,
        preset=preset,
        presets=presets,
        kind=family.concat,
        max_noise_level=family.max_level if family.max_level is not None else MAX_NOISE_LEVEL,
        has_refiner=has_refiner,
        multiple=family.size_multiple,
        max_clip_skip=family.text.num_layers,
        samplers=_Samplers(family.takes_guidance_scale),
        schedules=SCHEDULES.keys(),
        noises=NOISE_SOURCES.keys(),
        etas=_Etas(is_diffusers=preset == "diffusers"),
    )


@dataclass(frozen=True)
class _Samplers(Collection[str]):
    """The samplers that a model can be drawn with. A plug-in is imported where it is asked for, or all are listed.

    no_uncond  the model has no unconditional prediction
    """

    no_uncond: bool

    def __contains__(self, name: object) -> bool:
        row = SAMPLERS.get(name) if isinstance(name, str) else None
        return row is not None and not (self.no_uncond and row.asks_uncond)

    def __iter__(self) -> Iterator[str]:
        return (name for name in SAMPLERS if name in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)


@dataclass(frozen=True)
class _Etas(Mapping[str, float]):
    """The samplers that have an eta, with its default. A plug-in is imported where it is asked for.

    is_diffusers  by the preset "diffusers", whose pipelines pass TCD an eta of 0
    """

    is_diffusers: bool

    def __getitem__(self, name: str) -> float:
        row = SAMPLERS[name]
        if not _ETA_NAMES & row.options:
            raise KeyError(name)
        if name == "tcd" and self.is_diffusers:
            return 0.0
        parameters = inspect.signature(row.start).parameters
        return float(next(parameters[eta].default for eta in sorted(_ETA_NAMES) if eta in row.options))

    def __iter__(self) -> Iterator[str]:
        return (name for name in SAMPLERS if _ETA_NAMES & SAMPLERS[name].options)

    def __len__(self) -> int:
        return sum(1 for _ in self)


_ETA_NAMES = {"eta", "gamma"}  # diffusers calls the gamma of TCD eta, too


def _diffusers_spacing(request: TextToImageRequest, sampler: str, family: Family) -> dict[str, str]:
    """diffusers' timestep spacing and initial noise for a sampler; gesso's own for one that diffusers lacks."""
    if sampler not in DIFFUSERS_SCHEDULERS:
        return _spacing("schedule", "variance")
    spacing = request.conventions.timestep_spacing or default_spacing(sampler, family)
    in_variance = keeps_variance(DIFFUSERS_SCHEDULERS[sampler][0]) or spacing == "leading"
    return _spacing(spacing, "variance" if in_variance else "sigma")


def _spacing(timesteps: str, noise: str) -> dict[str, str]:
    return {"conventions.timestep_spacing": timesteps, "conventions.initial_noise": noise}
