"""Stable Diffusion XL for inpainting: the UNet sees the mask and the masked picture beside the latents."""

from dataclasses import replace

from gesso.families.sdxl import SDXL

SDXL_INPAINT = replace(SDXL, name="sdxl-inpaint", unet=replace(SDXL.unet, in_channels=9), concat="inpaint")
