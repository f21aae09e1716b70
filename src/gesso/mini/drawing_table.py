"""The table of an object memory: the drawings of all objects as the autoencoder sees them, with their outline."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from gesso.models.object_memory import MemoryConfig
from gesso.models.vae import AutoencoderKL
from gesso.world.drawings import Drawings

ALPHA_SIDE = 2  # rows and columns of a patch that its transparency is measured in
ALPHA_CHANNELS = ALPHA_SIDE**2
BATCH = 32


@torch.no_grad()
def encode_drawings(vae: AutoencoderKL, drawings: Drawings, config: MemoryConfig) -> Tensor:
    """-> float32 [N, looks, patches, latent channels + ALPHA_CHANNELS] on the autoencoder's device

    Each drawing on white, at a size that gives one place of the latents for each patch: its latents as the UNet takes
    them, and how much of each quarter of the patch is covered, from -1 to 1. Raises ValueError for other sizes.
    """
    side, pixels = math.isqrt(config.patches), torch.from_numpy(drawings.pixels)
    looks, count = pixels.shape[:2]
    channels = vae.config.latent_channels + ALPHA_CHANNELS
    if (looks, count, side**2, channels) != (config.looks, config.objects, config.patches, config.memory_channels):
        raise ValueError(f"{count} objects in {looks} looks, {channels} numbers a patch; expected {config}")
    size = side * vae.config.downscale
    device = vae.quant_conv.weight.device
    encoded = []
    for part in pixels.flatten(0, 1).split(BATCH):
        rgba = part.to(device).permute(0, 3, 1, 2).float() / 255
        rgba = F.interpolate(rgba, size=(size, size), mode="bilinear", antialias=True).clamp(0, 1)
        colour, alpha = rgba[:, :3], rgba[:, 3:]
        on_white = (colour + (1 - alpha)) * 2 - 1
        latents = vae.encode(on_white.to(memory_format=torch.channels_last)).mean.float()
        covered = F.pixel_unshuffle(F.adaptive_avg_pool2d(alpha, side * ALPHA_SIDE), ALPHA_SIDE) * 2 - 1
        encoded.append(torch.cat([latents, covered], dim=1).flatten(2).transpose(1, 2))
    return torch.cat(encoded).unflatten(0, (looks, count)).transpose(0, 1).contiguous()
