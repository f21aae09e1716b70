"""The text transformer's first training: say roughly what the picture will look like.

Stable Diffusion starts from a text transformer that CLIP taught about pictures. Ours learns the same lesson in minutes:
from a caption's vector, and apart from that from its tokens, two small heads predict the composed picture at low
resolution. Words for things that look alike come to lie together, and the UNet need not memorise each word alone.
The heads are thrown away.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gesso.models.clip import CLIPTextModel
from gesso.nn.attention import Attention
from gesso.scenes.caption import Captioner
from gesso.text.tokenizer import Tokenizer
from gesso.training.pictures import Pictures

SIZE = 32  # pixels a side of what is predicted
PATCH = 4  # pixels a side that one query of the token head answers for


class Heads(nn.Module):
    """Two guesses at the picture: from the pooled vector, and from the token states."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.from_pooled = nn.Sequential(nn.Linear(dim, 512), nn.SiLU(), nn.Linear(512, 3 * SIZE**2))
        self.queries = nn.Parameter(torch.randn((SIZE // PATCH) ** 2, dim))
        self.attention = Attention(dim, num_heads)
        self.mlp = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 512), nn.SiLU(), nn.Linear(512, 3 * PATCH**2))

    def forward(self, last: Tensor, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """last [B, L, D], pooled [B, D] -> two of [B, 3, SIZE, SIZE]"""
        whole = self.from_pooled(pooled).unflatten(1, (3, SIZE, SIZE))
        queries = self.queries.expand(len(last), -1, -1)
        patches = self.mlp(queries + self.attention(queries, last)).transpose(1, 2)
        return whole, F.fold(patches, (SIZE, SIZE), PATCH, stride=PATCH)


class GroundingTask:
    """Squared error of both guesses."""

    def __init__(self, text: CLIPTextModel, tokenizer: Tokenizer, captioner: Captioner, pictures: Pictures) -> None:
        self.text, self.tokenizer, self.captioner, self.pictures = text, tokenizer, captioner, pictures
        self.heads = Heads(text.config.dim, text.config.num_heads)
        self.modules: Mapping[str, nn.Module] = {"text": text, "heads": self.heads}

    def parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        parameters = [*self.text.parameters(), *self.heads.parameters()]
        return [{"params": parameters, "lr": learning_rate}]

    def loss(self, step: int, batch_size: int, seed: int) -> tuple[Tensor, dict[str, float]]:
        whole, patches = self._errors(batch_size, seed, step)
        return whole + patches, {"pooled": float(whole.detach()), "tokens": float(patches.detach())}

    def report(self, modules: Mapping[str, nn.Module]) -> dict[str, float]:
        whole, patches = self._errors(256, 10**9, 0)
        return {"fresh_pooled": float(whole), "fresh_tokens": float(patches)}

    def _errors(self, batch_size: int, *key: int) -> tuple[Tensor, Tensor]:
        scenes = self.pictures.scenes(batch_size, *key)
        pixels = self.pictures.pixels(scenes, SIZE)
        rng = np.random.default_rng((*key, 3))
        encoding = self.text(self.tokenizer.encode([self.captioner(scene, rng) for scene in scenes]))
        whole, patches = self.heads(encoding.last, encoding.pooled)
        return F.mse_loss(whole, pixels), F.mse_loss(patches, pixels)
