"""Samplers: from noise to a picture, as generators over model calls. `seam` tells what they share.

One file a kind of solver, one row a sampler in `table`.
"""

from gesso.diffusion.samplers.registry import Sampler
from gesso.diffusion.samplers.running import answering, sample, sampling
from gesso.diffusion.samplers.seam import ModelCall, OnStep, Sampling, ignore
from gesso.diffusion.samplers.table import SAMPLERS

__all__ = [
    "SAMPLERS",
    "ModelCall",
    "OnStep",
    "Sampler",
    "Sampling",
    "answering",
    "ignore",
    "sample",
    "sampling",
]
