"""Stable Diffusion 1.x: 1.1 to 1.5 and everything fine-tuned from them (Rombach et al. 2022, arXiv:2112.10752).

Sizes are those of CompVis' v1-inference.yaml.
"""

from gesso.families.base import Family, FamilyDefaults, ScheduleConfig, SchedulerConfig
from gesso.models.clip import CLIPTextConfig
from gesso.models.unet import UNetConfig
from gesso.models.vae import VAEConfig

SD15 = Family(
    name="sd15",
    unet=UNetConfig(
        in_channels=4,
        out_channels=4,
        channels=(320, 640, 1280, 1280),
        attention=(1, 1, 1, 0),
        mid_attention=1,
        num_heads=(8, 8, 8, 8),
        num_res_blocks=2,
        context_dim=768,
    ),
    vae=VAEConfig(
        channels=(128, 256, 512, 512),
        num_res_blocks=2,
        latent_channels=4,
        scaling_factor=0.18215,
    ),
    text=CLIPTextConfig(
        vocab_size=49408,
        max_length=77,
        dim=768,
        num_layers=12,
        num_heads=12,
        mlp_dim=3072,
        activation="quick_gelu",
        eos_id=49407,
    ),
    prediction="eps",
    schedule=ScheduleConfig(beta_start=0.00085, beta_end=0.012, num_timesteps=1000, zero_terminal_snr=False),
    native_size=512,
    defaults=FamilyDefaults(num_steps=25, guidance_scale=7.5, sampler="dpmpp_2m", schedule="karras"),
    scheduler=SchedulerConfig(name="PNDMScheduler", timestep_spacing="leading", steps_offset=1),
)
