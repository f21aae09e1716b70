"""Converts a hint (control image) to the tensor that a ControlNet takes."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

HOLE = -1.0  # what ControlNets for inpainting learned to fill


def hint_pixels(hint: Image.Image) -> Tensor:
    """A hint as `preprocess` gives it -> float32 [1, 3, H, W] in [0, 1], and -1 in all channels where it is clear."""
    channels = torch.from_numpy(np.array(hint.convert("RGBA"), dtype=np.float32)).permute(2, 0, 1)[None]
    return torch.where(channels[:, 3:] == 0, HOLE, channels[:, :3] / 255)
