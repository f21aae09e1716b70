"""An IP-Adapter and the image encoder that it needs, ready to turn a picture into tokens; both rest afterwards."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gesso.models.clip_vision import MEAN, STD, CLIPVisionModel
from gesso.models.image_prompt import ImagePrompt
from gesso.runtime.residency import Component, settled


@dataclass(frozen=True, eq=False)
class LoadedImageEncoder:
    """CLIP's image encoder.  file: that it was read from"""

    network: CLIPVisionModel
    component: Component
    file: Path


@dataclass(frozen=True, eq=False)
class LoadedImagePrompt:
    """An IP-Adapter.  file: that it was read from"""

    network: ImagePrompt
    component: Component
    file: Path

    def fits(self, encoder: CLIPVisionModel) -> bool:
        """Whether an encoder gives what the adapter takes."""
        config = encoder.config
        wide = config.projection_dim if self.network.config.kind == "base" else config.dim
        return wide == self.network.config.encoder_dim

    def tokens(self, encoder: LoadedImageEncoder, image: Image.Image, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """What the picture says, and what no picture says, as the adapter was trained: [1, T, C] each.

        Both networks take their memory for the call alone. Raises ModelFileError for numbers that are not finite.
        """
        with torch.inference_mode():
            with settled(encoder.component, dtype):
                pixels = clip_pixels(image, encoder.network.config.image_size).to(encoder.component.device, dtype)
                said, nothing = said_of(encoder.network, pixels, self.network.config.kind)
            with settled(self.component, dtype):
                return self.network(said), self.network(nothing)


def said_of(encoder: CLIPVisionModel, pixels: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """What an encoder says of a picture, and of none, to an adapter of that kind."""
    if kind == "base":
        projected = encoder(pixels).projected
        return projected, torch.zeros_like(projected)
    return encoder(pixels).penultimate, encoder(torch.zeros_like(pixels)).penultimate


def clip_pixels(image: Image.Image, side: int) -> Tensor:
    """A picture as CLIP saw them in training: float32 [1, 3, side, side].

    The shorter side brought to size by PIL's bicubic filter, the middle cut out, normalised.
    """
    rgb = image.convert("RGB")
    short, long = sorted(rgb.size)
    longer = int(side * long / short)
    size = (side, longer) if rgb.width <= rgb.height else (longer, side)
    rgb = rgb.resize(size, Image.Resampling.BICUBIC)
    left, top = (rgb.width - side) // 2, (rgb.height - side) // 2
    levels = np.asarray(rgb.crop((left, top, left + side, top + side)), dtype=np.float32) / 255
    pixels = (torch.from_numpy(levels) - torch.tensor(MEAN)) / torch.tensor(STD)
    return pixels.permute(2, 0, 1)[None].contiguous()
