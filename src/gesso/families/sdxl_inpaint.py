"""Stable Diffusion XL for inpainting: a UNet with 9 input channels: latents, mask, masked picture."""

from dataclasses import replace

from gesso.families.sdxl import SDXL

SDXL_INPAINT = replace(SDXL, name="sdxl-inpaint", unet=replace(SDXL.unet, in_channels=9), concat="inpaint")
