"""Noise schedules and SCHEDULES (Karras, exponential, ...): the names that other packages import."""

from gesso.diffusion.noise_schedule import (
    ZERO_SNR_LAST_ALPHA_CUMPROD,
    NoiseSchedule,
    Table,
    scaled_linear,
)
from gesso.diffusion.schedule_table import SCHEDULES, Schedule
from gesso.diffusion.spacing import own_sigmas, sigmas_of

__all__ = [
    "SCHEDULES",
    "ZERO_SNR_LAST_ALPHA_CUMPROD",
    "NoiseSchedule",
    "Schedule",
    "Table",
    "own_sigmas",
    "scaled_linear",
    "sigmas_of",
]
