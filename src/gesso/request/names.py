"""Samplers and schedules by whatever name a user brings: ours, A1111's, ComfyUI's, or both in one."""

from dataclasses import replace
from typing import TypeVar

from gesso.diffusion.names import SAMPLER_NAMES, SCHEDULE_NAMES, resolve
from gesso.request.checks import check_known
from gesso.request.request import OWN_SCHEDULE, TextToImageRequest

AUTOMATIC = "automatic"  # A1111: the schedule that goes with the sampler

R = TypeVar("R", bound=TextToImageRequest)


def with_canonical_names(request: R) -> R:
    """The same request with our own names of sampler and schedule.

    "DPM++ 2M Karras" is sampler and schedule in one, as A1111 wrote them before its version 1.9. Raises RequestError
    for names that nobody knows.
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


def _canonical(sampler: str | None, schedule: str | None) -> tuple[str | None, str | None]:
    if sampler is not None and (found := resolve(sampler, SAMPLER_NAMES)) is not None:
        sampler = found
    elif sampler is not None:
        sampler, implied = _split(sampler)
        schedule = schedule if schedule is not None else implied
    if schedule is not None and schedule.lower() == AUTOMATIC:
        schedule = SAMPLER_NAMES[sampler].schedule if sampler is not None else None
    elif schedule is not None:
        schedule = _schedule(schedule)
    return sampler, schedule


def _schedule(name: str) -> str:
    found = resolve(name, SCHEDULE_NAMES)
    if found is None:
        check_known("schedule", name, SCHEDULE_NAMES)
    assert found is not None
    return found


def _split(name: str) -> tuple[str, str]:
    """Sampler and schedule of a name that is both."""
    for end in range(len(name) - 1, 0, -1):
        if name[end] in " _" and (schedule := resolve(name[end + 1 :], SCHEDULE_NAMES)) is not None:
            sampler = resolve(name[:end], SAMPLER_NAMES)
            if sampler is not None:
                return sampler, schedule
    check_known("sampler", name, SAMPLER_NAMES)
    raise AssertionError(name)
