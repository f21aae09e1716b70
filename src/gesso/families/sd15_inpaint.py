"""Stable Diffusion 1.5 for inpainting: a UNet with 9 input channels: latents, mask and masked picture.

Rombach et al. 2022, arXiv:2112.10752, section 4.5; sizes are those of Runway's v1-inpainting-inference.yaml.
"""

from dataclasses import replace

from gesso.families.sd15 import SD15

SD15_INPAINT = replace(SD15, name="sd15-inpaint", unet=replace(SD15.unet, in_channels=9), concat="inpaint")
