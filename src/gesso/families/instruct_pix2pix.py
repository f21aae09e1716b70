"""InstructPix2Pix: edits a picture by an instruction (Brooks et al. 2023, arXiv:2211.09800).

Stable Diffusion 1.5 whose UNet has 8 input channels: the noisy latents and those of the picture, unscaled.
"""

from dataclasses import replace

from gesso.families.base import SchedulerConfig
from gesso.families.sd15 import SD15

INSTRUCT_PIX2PIX = replace(
    SD15,
    name="instruct-pix2pix",
    unet=replace(SD15.unet, in_channels=8),
    concat="edit",
    scheduler=SchedulerConfig(name="EulerAncestralDiscreteScheduler", timestep_spacing="linspace", steps_offset=1),
)
