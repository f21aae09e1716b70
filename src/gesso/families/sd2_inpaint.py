"""Stable Diffusion 2 for inpainting: 512 pixels, noise prediction, 9 input channels with mask and masked picture."""

from dataclasses import replace

from gesso.families.sd21_base import SD21_BASE

SD2_INPAINT = replace(SD21_BASE, name="sd2-inpaint", unet=replace(SD21_BASE.unet, in_channels=9), concat="inpaint")
