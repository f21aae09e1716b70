"""Names of samplers and schedules: gesso's, A1111's or ComfyUI's, or both in one. Imports no torch."""

from dataclasses import replace
from typing import Any, TypeVar

from gesso.diffusion.sampler_table import SAMPLERS
from gesso.diffusion.schedule_table import SCHEDULES
from gesso.errors import short
from gesso.registry import Registry
from gesso.request.checks import RequestError, unknown, unknown_data
from gesso.request.request import OWN_SCHEDULE, TextToImageRequest

AUTOMATIC = "automatic"  # A1111: the schedule that goes with the sampler

R = TypeVar("R", bound=TextToImageRequest)


def with_canonical_names(request: R) -> R:
    """The same request with gesso's names for sampler and schedule.

    "DPM++ 2M Karras" is sampler and schedule in one, as A1111 wrote them before its version 1.9. Raises RequestError
    for unknown names.
    """
    own = request.schedule == OWN_SCHEDULE and request.sigmas is not None
    sampler, schedule = _canonical(request.sampler, None if own else request.schedule)
    schedule = OWN_SCHEDULE if own else schedule
    hires = request.hires
    if hires is not None:
        again, spacing = _canonical(hires.sampler, hires.schedule)
        hires = replace(hires, sampler=again, schedule=spacing)
    if (sampler, schedule, hires) == (request.sampler, request.schedule, request.hires):
        return request
    return replace(request, sampler=sampler, schedule=schedule, hires=hires)


def sampler_label(name: str) -> str:
    """A1111's name for a sampler."""
    return SAMPLERS[name].label


def schedule_label(name: str) -> str:
    """A1111's name for a schedule; "Own" where a request brings its own sigmas."""
    return "Own" if name == OWN_SCHEDULE else SCHEDULES[name].label


def _canonical(sampler: str | None, schedule: str | None) -> tuple[str | None, str | None]:
    if sampler is not None and (both := _builtin_pair(sampler)) is not None:  # so that no plug-in is looked for
        sampler, implied = both
        schedule = schedule if schedule is not None else implied
    elif sampler is not None and (canonical := SAMPLERS.find(sampler)) is not None:
        sampler = canonical
    elif sampler is not None:
        sampler, implied = _split(sampler)
        schedule = schedule if schedule is not None else implied
    if schedule is not None and schedule.lower() == AUTOMATIC:
        schedule = SAMPLERS[sampler].schedule if sampler is not None else None
    elif schedule is not None:
        schedule = _schedule(schedule)
    return sampler, schedule


def _schedule(name: str) -> str:
    canonical = SCHEDULES.find(name)
    if canonical is None:
        raise _unknown("schedule", name, SCHEDULES, "sampler", SAMPLERS)
    return canonical


def _builtin_pair(name: str) -> tuple[str, str | None] | None:
    """Sampler and schedule of a name of gesso itself, or of two in one."""
    if (sampler := SAMPLERS.find_builtin(name)) is not None:
        return sampler, None
    for end in range(len(name) - 1, 0, -1):
        if name[end] in " _" and (schedule := SCHEDULES.find_builtin(name[end + 1 :])) is not None:
            sampler = SAMPLERS.find_builtin(name[:end])
            if sampler is not None:
                return sampler, schedule
    return None


def _split(name: str) -> tuple[str, str]:
    """Sampler and schedule of a name that is both."""
    for end in range(len(name) - 1, 0, -1):
        if name[end] in " _" and (schedule := SCHEDULES.find(name[end + 1 :])) is not None:
            sampler = SAMPLERS.find(name[:end])
            if sampler is not None:
                return sampler, schedule
    if (end := name.rfind(" ")) > 0 and SAMPLERS.find(name[:end]) is not None:  # "DPM++ 2M Karas"
        raise _unknown("schedule", name[end + 1 :], SCHEDULES)
    raise _unknown("sampler", name, SAMPLERS, "schedule", SCHEDULES)


def _unknown(
    field: str, name: str, rows: Registry[Any], other: str = "", others: Registry[Any] | None = None
) -> RequestError:
    """The error for an unknown name. One of the other table is told: diffusers calls samplers schedulers."""
    if others is not None and (found := others.find(name)) is not None:
        text = f"{field} {short(name)} is a {other}; use `{other}={found}`"
    else:
        text = unknown(field, name, rows, [name for row in rows.values() for name in (row.label, *row.aliases)])
    return RequestError(field, text, data=unknown_data(name, rows))
