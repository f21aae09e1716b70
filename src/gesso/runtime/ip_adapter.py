"""IP-Adapter and its CLIP image encoder, ready to turn a picture into the tokens of an image prompt."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gesso.models.clip_vision import MEAN, STD, CLIPVisionModel
from gesso.models.ip_adapter import IPAdapter
from gesso.runtime.residency import Component, onloaded


@dataclass(frozen=True, eq=False)
class LoadedImageEncoder:
    """CLIP's image encoder.  file: where its weights came from"""

    network: CLIPVisionModel
    component: Component
    file: Path


@dataclass(frozen=True, eq=False)
class LoadedIPAdapter:
    """An IP-Adapter.  file: where its weights came from"""

    network: IPAdapter
    component: Component
    file: Path

    def fits(self, encoder: CLIPVisionModel) -> bool:
        """Whether the output of an image encoder has the width that the adapter takes."""
        config = encoder.config
        width = config.projection_dim if self.network.config.kind == "base" else config.dim
        return width == self.network.config.encoder_dim

    def tokens(self, encoder: LoadedImageEncoder, image: Image.Image, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Tokens of the picture, and of no picture as the adapter was trained: [1, T, C] each.

        Both networks are in memory during the call alone. Raises ModelFileError for weights that are not finite.
        """
        with torch.inference_mode():
            with onloaded(encoder.component, dtype):
                pixels = clip_pixels(image, encoder.network.config.image_size).to(encoder.component.device, dtype)
                features, no_features = image_features(encoder.network, pixels, self.network.config.kind)
            with onloaded(self.component, dtype):
                return self.network(features), self.network(no_features)


def image_features(encoder: CLIPVisionModel, pixels: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """The encoder's output for a picture, and for no picture, that an adapter of that kind takes."""
    if kind == "base":
        projected = encoder(pixels).projected
        return projected, torch.zeros_like(projected)
    return encoder(pixels).penultimate, encoder(torch.zeros_like(pixels)).penultimate


def clip_pixels(image: Image.Image, side: int) -> Tensor:
    """A picture preprocessed for CLIP: float32 [1, 3, side, side].

    The shorter side resized by PIL's bicubic filter, centre crop, normalised.
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
