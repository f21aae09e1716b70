"""The refiner of Stable Diffusion XL: runs the last steps after the base model, on the same latents.

Sizes are those of Stability AI's sd_xl_refiner.yaml. Only bigG reads the text; an aesthetic score takes the place of
the target size.
"""

from dataclasses import replace

from gesso.families.sdxl import SDXL, VIT_BIGG
from gesso.models.unet import UNetConfig

SDXL_REFINER = replace(
    SDXL,
    name="sdxl-refiner",
    layout="refiner",
    unet=UNetConfig(
        in_channels=4,
        out_channels=4,
        channels=(384, 768, 1536, 1536),
        attention=(0, 4, 4, 0),
        mid_attention=4,
        num_heads=(6, 12, 24, 24),
        num_res_blocks=2,
        context_dim=1280,
        added_dim=1280 + 5 * 256,
    ),
    text=VIT_BIGG,
    text_2=None,
    zero_empty_negative=False,
)
