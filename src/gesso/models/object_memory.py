"""Object memory: pictures of the objects that a model knows, which a prompt that names them brings along.

A UNet with cross-attention learns each object from captions alone, some thousand pictures of each. Here a prompt's
context has, behind the text, the encoded drawings of the objects that it names, and the UNet learns once for all how
an object that it sees is put into a picture. This is retrieval augmentation (Blattmann et al. 2022, arXiv:2204.11824;
Re-Imagen, Chen et al. 2022, arXiv:2209.14491) with a table in the place of a search; no release of Stable Diffusion
has it. docs/log.md has what it was measured to gain.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

NONE = -1  # the object of a slot that a prompt leaves empty


@dataclass(frozen=True, kw_only=True)
class MemoryConfig:
    """Sizes of an `ObjectMemory`."""

    objects: int  # rows of the table, in the order of the family's objects
    looks: int  # drawings of each
    patches: int  # that a drawing divides into, row by row
    memory_channels: int  # numbers of a patch
    slots: int  # objects that a prompt brings along at most


class ObjectMemory(nn.Module):
    """The context of a prompt with the drawings of its objects behind the text.

    Which of an object's looks counts follows from the pooled text; what a patch belongs to, from the text's vector at
    the object's word. Slots without an object are zeros.
    """

    def __init__(self, config: MemoryConfig, dim: int) -> None:
        super().__init__()
        self.config = config
        shape = (config.objects, config.looks, config.patches, config.memory_channels)
        self.table = nn.Parameter(torch.zeros(shape), requires_grad=False)  # drawings, which no training changes
        self.position = nn.Parameter(nn.init.normal_(torch.empty(config.patches, dim), std=0.5))
        self.slot = nn.Parameter(nn.init.normal_(torch.empty(config.slots, dim), std=0.5))
        self.look = nn.Linear(dim, config.looks)
        self.patch = nn.Linear(config.memory_channels, dim)
        self.word = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, text: Tensor, pooled: Tensor, objects: Tensor, places: Tensor) -> Tensor:
        """text [B, L, D], pooled [B, D], objects int64 [B, slots] (NONE: no object), places int64 [B, slots] of their
        words in the text -> [B, L + slots * patches, D]
        """
        found = objects != NONE
        drawings = self.table[objects.clamp(min=0)]  # [B, slots, looks, patches, channels]
        shares = self.look(pooled).softmax(dim=-1).to(drawings.dtype)
        patches = self.patch(torch.einsum("bl,bslpc->bspc", shares, drawings))
        words = self.word(text.gather(1, places[:, :, None].expand(-1, -1, text.shape[2])))
        tokens = self.norm(patches + self.position + (words + self.slot)[:, :, None]) * found[:, :, None, None]
        return torch.cat([text, tokens.flatten(1, 2).to(text.dtype)], dim=1)
