"""CLIP's image encoder (Radford et al. 2021, arXiv:2103.00020; ViT: Dosovitskiy et al. 2020, arXiv:2010.11929).

IP-Adapters encode image prompts with it: OpenCLIP's ViT-H/14 for SD 1.5 and most of SDXL, ViT-bigG/14 for the rest.
B batch, N patches and one more, D width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gesso.models.clip import Activation, CLIPLayer

# Of the pictures that CLIP was trained on, in [0, 1].
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, kw_only=True)
class CLIPVisionConfig:
    image_size: int  # pixels a side
    patch_size: int
    dim: int
    num_layers: int
    num_heads: int
    mlp_dim: int
    activation: Activation
    projection_dim: int


@dataclass(frozen=True, eq=False)
class ImageEncoding:
    """hidden: states before the first layer and after each, [B, N, D]; projected [B, projection_dim]"""

    hidden: tuple[Tensor, ...]
    projected: Tensor

    @property
    def penultimate(self) -> Tensor:
        """States of the layer before the last, [B, N, D]."""
        return self.hidden[-2]


class CLIPVisionModel(nn.Module):
    """Pixels to states and a vector."""

    def __init__(self, config: CLIPVisionConfig) -> None:
        super().__init__()
        self.config = config
        patches = (config.image_size // config.patch_size) ** 2
        self.class_embedding = nn.Parameter(nn.init.normal_(torch.empty(config.dim)))
        self.patch_embedding = nn.Conv2d(3, config.dim, config.patch_size, stride=config.patch_size, bias=False)
        self.position_embedding = nn.Embedding(patches + 1, config.dim)
        self.norm_in = nn.LayerNorm(config.dim)
        self.layers = nn.ModuleList(
            CLIPLayer(config.dim, config.num_heads, config.mlp_dim, config.activation, causal=False)
            for _ in range(config.num_layers)
        )
        self.norm = nn.LayerNorm(config.dim)
        self.projection = nn.Linear(config.dim, config.projection_dim, bias=False)

    def forward(self, pixels: Tensor) -> ImageEncoding:
        """pixels [B, 3, image_size, image_size], normalised by MEAN and STD. Raises ValueError for another size."""
        side = self.config.image_size
        if tuple(pixels.shape[1:]) != (3, side, side):
            raise ValueError(f"pixels {list(pixels.shape)}, expected [B, 3, {side}, {side}]")
        patches = self.patch_embedding(pixels).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(len(pixels), 1, -1).to(patches)
        x = self.norm_in(torch.cat([first, patches], dim=1) + self.position_embedding.weight)
        hidden = [x]
        for layer in self.layers:
            x = layer(x)
            hidden.append(x)
        return ImageEncoding(tuple(hidden), self.projection(self.norm(x[:, 0])))
