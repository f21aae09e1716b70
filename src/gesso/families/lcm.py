"""Latent consistency models: SD 1.5 and SDXL distilled to 2 to 8 steps (Luo et al. 2023, arXiv:2310.04378).

A file with an LCM-LoRA merged in cannot be told from its base, so the name has to be given.
"""

from dataclasses import replace

from gesso.families.base import Defaults, SchedulerConfig
from gesso.families.sd15 import SD15
from gesso.families.sdxl import SDXL

_DEFAULTS = Defaults(num_steps=4, guidance_scale=1.0, sampler="lcm", schedule="sgm_uniform")
_SCHEDULER = SchedulerConfig(name="LCMScheduler", timestep_spacing="leading", steps_offset=1, set_alpha_to_one=True)

SD15_LCM = replace(SD15, name="sd15-lcm", defaults=_DEFAULTS, scheduler=_SCHEDULER)
SDXL_LCM = replace(SDXL, name="sdxl-lcm", defaults=_DEFAULTS, scheduler=_SCHEDULER)
