"""SDXL-Turbo: SDXL distilled to one to four steps at 512 pixels, without guidance (Sauer et al. 2023,
arXiv:2311.17042). Its file looks like one of SDXL, so its name has to be given.
"""

from dataclasses import replace

from gesso.families.sd_turbo import TURBO_DEFAULTS, TURBO_SCHEDULER
from gesso.families.sdxl import SDXL

SDXL_TURBO = replace(SDXL, name="sdxl-turbo", native_size=512, defaults=TURBO_DEFAULTS, scheduler=TURBO_SCHEDULER)
