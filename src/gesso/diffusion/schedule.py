"""Noise schedules and the spacing of a sampler's steps: the names that other rooms use."""

from gesso.diffusion.noise_schedule import (
    ZERO_SNR_LAST_ALPHA_CUMPROD,
    NoiseSchedule,
    Table,
    scaled_linear,
)
from gesso.diffusion.spacing import SCHEDULES, Spacing, own_sigmas

__all__ = [
    "SCHEDULES",
    "ZERO_SNR_LAST_ALPHA_CUMPROD",
    "NoiseSchedule",
    "Spacing",
    "Table",
    "own_sigmas",
    "scaled_linear",
]
