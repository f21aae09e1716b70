"""ControlNet Union: one ControlNet for several kinds of hints; the kind is an input (xinsir 2024).

Shapes as in `models.controlnet`; K kinds, T task_dim.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gesso.models.clip import CLIPLayer
from gesso.models.controlnet import ControlNet, ControlNetConfig
from gesso.nn.embedding import EmbeddingMLP, sinusoid

NUM_HEADS = 8  # of its transformer, in every release


@dataclass(frozen=True, kw_only=True)
class UnionConfig(ControlNetConfig):
    """num_kinds, kind_dim: kinds, and width of the sinusoid of each; task_dim, num_layers: of the transformer"""

    num_kinds: int
    kind_dim: int
    task_dim: int
    num_layers: int


class UnionControlNet(ControlNet):
    """A ControlNet with the kind of the hint as an input; a summary of the whole hint is added at every position.

    Its authors' transformer looks along the batch, not from the hint to the latents. All rows of a call have the same
    hint here, so there is one token, which sees itself.
    """

    def __init__(self, config: UnionConfig) -> None:
        super().__init__(config)
        self.union = config
        first = config.unet.channels[0]
        self.kind_embed = EmbeddingMLP(config.num_kinds * config.kind_dim, 4 * first)
        self.tasks = nn.Parameter(torch.empty(config.num_kinds, config.task_dim))
        width = config.task_dim
        self.layers = nn.ModuleList(
            CLIPLayer(width, NUM_HEADS, 4 * width, "quick_gelu", causal=False) for _ in range(config.num_layers)
        )
        self.to_hint = nn.Linear(config.task_dim, first)

    def forward(  # type: ignore[override]  # it needs the kind of hint
        self, x: Tensor, timestep: Tensor, context: Tensor, hint: Tensor, added: Tensor | None = None, *, kind: int
    ) -> list[Tensor]:
        """As `ControlNet.forward`, for a hint [1, 3, h, w] of a kind, 0 to K - 1."""
        control_type = torch.zeros(self.union.num_kinds, device=x.device)
        control_type[kind] = 1
        kinds = sinusoid(control_type, self.union.kind_dim).flatten().to(x.dtype)
        emb = self.embed(timestep, x.dtype, added) + self.kind_embed(kinds[None])
        encoded = self.hint(hint)
        token = (encoded.mean(dim=(2, 3)) + self.tasks[kind])[:, None]
        for layer in self.layers:
            token = layer(token)
        return self.descend(self.conv_in(x) + encoded + self.to_hint(token[:, 0])[:, :, None, None], emb, context)
