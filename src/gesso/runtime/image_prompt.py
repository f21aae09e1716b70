"""An IP-Adapter and the image encoder that it needs, ready to turn a picture into tokens; both rest afterwards."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gesso.models.clip_vision import MEAN, STD, CLIPVisionModel
from gesso.models.image_prompt import ImagePrompt
from gesso.runtime.residency import Component


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
        plain = self.network.config.kind == "base"
        with torch.inference_mode():
            with settled(encoder.component, dtype):
                pixels = clip_pixels(image, encoder.network.config.image_size).to(encoder.component.device, dtype)
                found = encoder.network(pixels)
                if plain:
                    said, nothing = found.projected, torch.zeros_like(found.projected)
                else:
                    said, nothing = found.penultimate, encoder.network(torch.zeros_like(pixels)).penultimate
            with settled(self.component, dtype):
                return self.network(said), self.network(nothing)


@contextmanager
def settled(component: Component, dtype: torch.dtype) -> Iterator[None]:
    """Within the block a network is ready to compute; then it rests."""
    component.settle(dtype)
    try:
        yield
    finally:
        component.rest()


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
