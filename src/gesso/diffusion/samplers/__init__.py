"""Samplers: from noise to a picture, as generators over model calls. `seam` explains what they share.

One file a kind of solver, one row a sampler in `gesso.diffusion.sampler_table`.
"""

from gesso.diffusion.sampler_row import Sampler
from gesso.diffusion.sampler_table import SAMPLERS
from gesso.diffusion.samplers.running import reply_to, sample, sampling
from gesso.diffusion.samplers.seam import ModelCall, OnStep, Sampling, ignore

__all__ = [
    "SAMPLERS",
    "ModelCall",
    "OnStep",
    "Sampler",
    "Sampling",
    "ignore",
    "reply_to",
    "sample",
    "sampling",
]
