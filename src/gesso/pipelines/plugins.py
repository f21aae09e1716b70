"""The plug-ins that a picture is drawn with, for its recipe."""

from collections.abc import Iterator
from typing import Any

from gesso.diffusion.sampler_table import SAMPLERS
from gesso.diffusion.schedule_table import SCHEDULES
from gesso.families.gesso_mini import NAME as GESSO_MINI
from gesso.families.registry import FAMILIES
from gesso.hints.registry import PREPROCESSORS
from gesso.pipelines.upscaling import UPSCALERS
from gesso.registry import Registry
from gesso.request.hires import LATENT_UPSCALERS
from gesso.request.request import OWN_SCHEDULE, ResolvedRequest
from gesso.text.dialects import DIALECTS


def plugins_of(request: ResolvedRequest, *families: str) -> tuple[str, ...]:
    """Names and versions of the packages whose plug-ins a request uses ("gesso-extras 1.2"), sorted, each once.

    families: of its models
    """
    origins = {table.origin(name) for table, name in _rows(request, families)}
    return tuple(sorted(origin for origin in origins if origin is not None))


def _rows(request: ResolvedRequest, families: tuple[str, ...]) -> Iterator[tuple[Registry[Any], str]]:
    yield SAMPLERS, request.sampler
    yield DIALECTS, request.conventions.syntax
    if request.schedule != OWN_SCHEDULE:
        yield SCHEDULES, request.schedule
    for use in request.controls:
        if use.preprocessor is not None:
            yield PREPROCESSORS, PREPROCESSORS.find(use.preprocessor) or use.preprocessor
    if (hires := request.hires) is not None:
        yield from ((SAMPLERS, hires.sampler or request.sampler), (SCHEDULES, hires.schedule or "uniform"))
        if hires.upscaler is not None and hires.upscaler not in LATENT_UPSCALERS:
            yield UPSCALERS, hires.upscaler
    yield from ((FAMILIES, family) for family in families if family != GESSO_MINI)
