"""Stable Diffusion XL (Podell et al. 2023, arXiv:2307.01952): two text encoders, and size conditioning.

Sizes are those of Stability AI's sd_xl_base.yaml.
"""

from dataclasses import replace

from gesso.families.base import Family, FamilyDefaults, SchedulerConfig
from gesso.families.sd15 import SD15
from gesso.models.clip import CLIPTextConfig
from gesso.models.unet import UNetConfig

VIT_BIGG = CLIPTextConfig(
    vocab_size=49408,
    max_length=77,
    dim=1280,
    num_layers=32,
    num_heads=20,
    mlp_dim=5120,
    activation="gelu",
    eos_id=49407,
    projection_dim=1280,
)
LEADING = SchedulerConfig(name="EulerDiscreteScheduler", timestep_spacing="leading", steps_offset=1)

SDXL = Family(
    name="sdxl",
    layout="sdxl",
    unet=UNetConfig(
        in_channels=4,
        out_channels=4,
        channels=(320, 640, 1280),
        attention=(0, 2, 10),
        mid_attention=10,
        num_heads=(5, 10, 20),  # 64 wide each
        num_res_blocks=2,
        context_dim=768 + 1280,
        added_dim=1280 + 6 * 256,
    ),
    vae=replace(SD15.vae, scaling_factor=0.13025),
    text=SD15.text,
    text_2=VIT_BIGG,
    text_layer=2,
    text_norm=False,
    zero_empty_negative=True,
    prediction="eps",
    schedule=SD15.schedule,
    native_size=1024,
    defaults=FamilyDefaults(num_steps=25, guidance_scale=6.0, sampler="dpmpp_2m", schedule="karras"),
    scheduler=LEADING,
)
