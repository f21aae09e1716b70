"""Stable Diffusion 2.0-base and 2.1-base: SD 2 of 512 pixels with noise prediction."""

from dataclasses import replace

from gesso.families.sd15 import SD15
from gesso.families.sd21 import SD21

SD21_BASE = replace(SD21, name="sd21-base", prediction="eps", native_size=512, scheduler=SD15.scheduler)
