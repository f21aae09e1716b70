"""Latent consistency models: SD 1.5 and SDXL distilled to 2 to 8 steps (Luo et al. 2023, arXiv:2310.04378).

A file with an LCM-LoRA merged in looks like its base, so the name has to be given. A model that was distilled
as a whole has one more layer, which embeds the guidance scale: one call per step, and no negative prompt.
"""

from dataclasses import replace

from gesso.families.base import FamilyDefaults, SchedulerConfig
from gesso.families.sd15 import SD15
from gesso.families.sdxl import SDXL

_DEFAULTS = FamilyDefaults(num_steps=4, guidance_scale=1.0, sampler="lcm", schedule="sgm_uniform")
_SCHEDULER = SchedulerConfig(name="LCMScheduler", timestep_spacing="leading", steps_offset=1, set_alpha_to_one=True)

SD15_LCM = replace(SD15, name="sd15-lcm", defaults=_DEFAULTS, scheduler=_SCHEDULER)
SDXL_LCM = replace(SDXL, name="sdxl-lcm", defaults=_DEFAULTS, scheduler=_SCHEDULER)

_GUIDED = replace(_DEFAULTS, guidance_scale=8.5)  # of the published examples
_GUIDANCE_DIM = 256

SD15_LCM_FULL = replace(
    SD15_LCM, name="sd15-lcm-full", unet=replace(SD15.unet, guidance_dim=_GUIDANCE_DIM), defaults=_GUIDED
)
SDXL_LCM_FULL = replace(
    SDXL_LCM, name="sdxl-lcm-full", unet=replace(SDXL.unet, guidance_dim=_GUIDANCE_DIM), defaults=_GUIDED
)
