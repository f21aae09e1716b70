"""SDXL-Lightning: SDXL distilled to 2, 4 or 8 steps, without guidance (Lin et al. 2024, arXiv:2402.13929).

Its file looks like one of SDXL, so its name has to be given; each file is made for one number of steps, 4 in
the commonest.
"""

from dataclasses import replace

from gesso.families.base import FamilyDefaults, SchedulerConfig
from gesso.families.sdxl import SDXL

SDXL_LIGHTNING = replace(
    SDXL,
    name="sdxl-lightning",
    defaults=FamilyDefaults(num_steps=4, guidance_scale=1.0, sampler="euler", schedule="sgm_uniform"),
    scheduler=SchedulerConfig(name="EulerDiscreteScheduler", timestep_spacing="trailing", steps_offset=1),
)
