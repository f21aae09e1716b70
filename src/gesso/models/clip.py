"""CLIP's text transformer (Radford et al. 2021, arXiv:2103.00020, section 2.4), as Stable Diffusion uses it.

OpenAI's ViT-L/14 (SD 1, SDXL) and OpenCLIP's ViT-H/14 (SD 2) and ViT-bigG/14 (SDXL; Cherti et al. 2022,
arXiv:2212.07143) are the same network at other sizes.

Shapes: B batch, L tokens, D width.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gesso.models.object_memory import MemoryConfig, ObjectMemory
from gesso.nn.attention import Attention

Activation = Literal["quick_gelu", "gelu"]  # OpenAI's CLIP: quick_gelu; OpenCLIP: gelu


@dataclass(frozen=True, kw_only=True)
class CLIPTextConfig:
    vocab_size: int
    max_length: int  # tokens with begin and end, 77 in every release
    dim: int
    num_layers: int
    num_heads: int
    mlp_dim: int
    activation: Activation
    eos_id: int  # the pooled vector is read at the first of these
    projection_dim: int | None = None  # width of the space shared with pictures; None: the model has no projection
    memory: MemoryConfig | None = None  # of gesso-mini; families.encoding puts it behind the text


def quick_gelu(x: Tensor) -> Tensor:
    """OpenAI's sigmoid approximation of the GELU."""
    return x * torch.sigmoid(1.702 * x)


class CLIPLayer(nn.Module):
    """Self-attention and a two-layer perceptron, each around a skip.  x [B, L, D] -> [B, L, D]

    causal: each place sees itself and those before it, as in text; patches of a picture all see each other.
    """

    def __init__(self, dim: int, num_heads: int, mlp_dim: int, activation: Activation, *, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.norm1 = nn.LayerNorm(dim)
        self.attention = Attention(dim, num_heads, bias=True)
        self.norm2 = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, mlp_dim)
        self.fc2 = nn.Linear(mlp_dim, dim)
        self.activation = quick_gelu if activation == "quick_gelu" else F.gelu

    def forward(self, x: Tensor, visible: Tensor | None = None) -> Tensor:
        x = x + self.attention(self.norm1(x), causal=self.causal, visible=visible)
        return x + self.fc2(self.activation(self.fc1(self.norm2(x))))


@dataclass(frozen=True)
class TextEncoding:
    """What the transformer makes of a batch of token ids."""

    hidden: tuple[Tensor, ...]  # the embedding, then each layer's output, before the last norm: each [B, L, D]
    last: Tensor  # [B, L, D] the last layer's output after the norm
    pooled: Tensor  # [B, D] `last` at the end-of-text token
    projected: Tensor | None = None  # [B, projection_dim] `pooled` in the space shared with pictures


class CLIPTextModel(nn.Module):
    """Token ids to hidden states and a pooled vector."""

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.dim)
        self.position_embedding = nn.Embedding(config.max_length, config.dim)
        self.layers = nn.ModuleList(
            CLIPLayer(config.dim, config.num_heads, config.mlp_dim, config.activation, causal=True)
            for _ in range(config.num_layers)
        )
        self.norm = nn.LayerNorm(config.dim)
        width = config.projection_dim
        self.projection = nn.Linear(config.dim, width, bias=False) if width else None
        self.memory = ObjectMemory(config.memory, config.dim) if config.memory else None

    def forward(self, ids: Tensor, visible: Tensor | None = None) -> TextEncoding:
        """ids [B, L] int64, L at most `max_length` -> TextEncoding. Raises ValueError for a longer L.

        visible: bool [B, L], tokens that others may look at; None: all, padding among them, as in training.
        """
        if ids.shape[1] > self.config.max_length:
            raise ValueError(f"{ids.shape[1]} tokens, the text encoder takes at most {self.config.max_length}")
        x = self.token_embedding(ids) + self.position_embedding.weight[: ids.shape[1]]
        hidden = [x]
        for layer in self.layers:
            x = layer(x, visible)
            hidden.append(x)
        last = self.norm(x)
        end = (ids == self.config.eos_id).int().argmax(dim=1)  # argmax gives the first of equals
        pooled = last[torch.arange(len(ids), device=ids.device), end]
        projected = None if self.projection is None else self.projection(pooled)
        return TextEncoding(hidden=tuple(hidden), last=last, pooled=pooled, projected=projected)
