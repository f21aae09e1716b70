"""SD-Turbo: SD 2.1 distilled to one to four steps without guidance (Sauer et al. 2023, arXiv:2311.17042).

Its file looks like one of SD 2.1, so its name has to be given.
"""

from dataclasses import replace

from gesso.families.base import FamilyDefaults, SchedulerConfig
from gesso.families.sd21_base import SD21_BASE

TURBO_DEFAULTS = FamilyDefaults(num_steps=1, guidance_scale=1.0, sampler="euler_ancestral", schedule="sgm_uniform")
TURBO_SCHEDULER = SchedulerConfig(name="EulerAncestralDiscreteScheduler", timestep_spacing="trailing", steps_offset=1)

SD_TURBO = replace(
    SD21_BASE,
    name="sd-turbo",
    defaults=TURBO_DEFAULTS,
    scheduler=replace(TURBO_SCHEDULER, name="EulerDiscreteScheduler"),
)
