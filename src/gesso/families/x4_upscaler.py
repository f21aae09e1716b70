"""Stable Diffusion x4 upscaler: enlarges a picture of 128 pixels to 512, guided by a prompt.

Sizes are those of Stability AI's x4-upscaling.yaml. The UNet sees the small picture, with some noise, beside the
latents, and takes its noise level; the autoencoder has three levels, so a latent stands for 4 x 4 pixels.
"""

from dataclasses import replace

from gesso.families.base import FamilyDefaults, ScheduleConfig
from gesso.families.sd21 import SD21
from gesso.models.unet import UNetConfig
from gesso.models.vae import VAEConfig

X4_UPSCALER = replace(
    SD21,
    name="x4-upscaler",
    unet=UNetConfig(
        in_channels=7,
        out_channels=4,
        channels=(256, 512, 512, 1024),
        attention=(0, 1, 1, 1),
        mid_attention=1,
        num_heads=(8, 8, 8, 8),
        num_res_blocks=2,
        context_dim=1024,
        cross_only=(True, True, True, False),
        noise_levels=1000,
        upcast_attention=True,
    ),
    vae=VAEConfig(channels=(128, 256, 512), num_res_blocks=2, latent_channels=4, scaling_factor=0.08333),
    concat="upscale",
    max_level=350,
    schedule=ScheduleConfig(beta_start=0.0001, beta_end=0.02, num_timesteps=1000, zero_terminal_snr=False),
    native_size=512,
    defaults=FamilyDefaults(num_steps=40, guidance_scale=9.0, sampler="ddim", schedule="uniform"),
)
