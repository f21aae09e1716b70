"""Stable Diffusion 2.0 and 2.1 of 768 pixels: OpenCLIP's ViT-H text encoder, v-prediction.

Sizes are those of Stability AI's v2-inference-v.yaml. Its code computes attention scores in float32 for every SD 2.
"""

from dataclasses import replace

from gesso.families.base import SchedulerConfig
from gesso.families.sd15 import SD15
from gesso.models.clip import CLIPTextConfig
from gesso.models.unet import UNetConfig

# The UNet reads the last layer but one, with the norm of the last; the last layer itself is in the single files only.
VIT_H = CLIPTextConfig(
    vocab_size=49408,
    max_length=77,
    dim=1024,
    num_layers=24,
    num_heads=16,
    mlp_dim=4096,
    activation="gelu",
    eos_id=49407,
    projection_dim=1024,
)

SD21 = replace(
    SD15,
    name="sd21",
    layout="sd2",
    unet=UNetConfig(
        in_channels=4,
        out_channels=4,
        channels=(320, 640, 1280, 1280),
        attention=(1, 1, 1, 0),
        mid_attention=1,
        num_heads=(5, 10, 20, 20),  # 64 wide each
        num_res_blocks=2,
        context_dim=1024,
        upcast_attention=True,
    ),
    text=VIT_H,
    text_layer=2,
    prediction="v",
    native_size=768,
    scheduler=SchedulerConfig(name="DDIMScheduler", timestep_spacing="leading", steps_offset=1),
)
