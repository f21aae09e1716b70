"""IP-Adapters on a UNet: each cross-attention also attends to an image prompt, by keys and values of its own.

What the picture adds joins what the text gave, before the output projection (Ye et al. 2023, arXiv:2308.06721,
equation 5). Nothing of the UNet is changed but for hooks, which detaching takes away.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gesso.models.image_prompt import ImagePrompt
from gesso.models.unet import UNet
from gesso.nn.attention import Attention, SpatialTransformer


def cross_attentions(unet: UNet) -> list[Attention]:
    """Every attention to the text, in the order of IP-Adapter files: down, up, middle."""
    levels: list[nn.Module] = [*unet.down, *unet.up]
    transformers = [part for level in levels for part in level.attentions]  # type: ignore[union-attr]
    found: list[Attention] = []
    for transformer in (*transformers, unet.mid.attention):
        assert isinstance(transformer, SpatialTransformer)
        found += [block.cross_attention for block in transformer.blocks]  # type: ignore[misc]
    return found


@dataclass(frozen=True, eq=False)
class PicturePrompt:
    """A picture for one adapter.

    tokens, without  [1, T, C] of the picture, and of none, for the rows that guidance leads away from
    strength         read at each call
    """

    network: ImagePrompt
    tokens: Tensor
    without: Tensor
    strength: Callable[[], float]


class PictureAttachment:
    """Adapters on a UNet: a context manager, within which they are on; it may be entered again and again.

    Tell it the rows of the next call by `rows`. Keys and values of the pictures are computed once and kept.

    Raises ValueError where an adapter is for another number of attentions, or for other widths.
    """

    def __init__(self, unet: UNet, prompts: Sequence[PicturePrompt]) -> None:
        self._attentions, self._prompts = cross_attentions(unet), tuple(prompts)
        widths = [attention.to_q.out_features for attention in self._attentions]
        for prompt in prompts:
            found = [layer.out_features for layer in prompt.network.to_k]
            if found != widths:
                raise ValueError(f"an adapter for {len(found)} attentions, the UNet has {len(widths)}, of other widths")
        self._negative: Tensor | None = None
        self._known: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
        self._queries: dict[int, Tensor] = {}
        self._hooks: list[Any] = []

    def rows(self, negative: Tensor | None) -> None:
        """bool [B]: rows of the next call that guidance leads away from; None: no row."""
        self._negative = negative

    def prepare(self, number: int) -> None:
        """Keys and values of one picture for every attention, so that its network may rest from now on."""
        for place, attention in enumerate(self._attentions):
            self._keys(number, place, attention.to_q.weight)

    def __enter__(self) -> Self:
        for place, attention in enumerate(self._attentions):
            self._hooks.append(attention.to_q.register_forward_hook(self._remember(place)))
            self._hooks.append(attention.to_out.register_forward_pre_hook(self._join(place, attention)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self._queries.clear()

    def _remember(self, place: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            self._queries[place] = output

        return hook

    def _join(self, place: int, attention: Attention) -> Callable[..., tuple[Tensor]]:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor]:
            total, queries = args[0], self._queries.pop(place)
            for number, prompt in enumerate(self._prompts):
                strength = prompt.strength()
                if strength != 0:
                    total = total + strength * self._look(number, place, attention, queries)
            return (total,)

        return hook

    def _look(self, number: int, place: int, attention: Attention, queries: Tensor) -> Tensor:
        """What one picture says to the queries.  [B, N, D] -> [B, N, D]"""
        keys, values = self._keys(number, place, queries)
        which = torch.zeros(len(queries), dtype=torch.int64, device=queries.device)
        if self._negative is not None:
            which = self._negative.to(which)
        q, k, v = (
            t.unflatten(2, (attention.num_heads, -1)).transpose(1, 2) for t in (queries, keys[which], values[which])
        )
        if attention.upcast:
            mixed = F.scaled_dot_product_attention(q.float(), k.float(), v.float()).to(q)
        else:
            mixed = F.scaled_dot_product_attention(q, k, v)
        return mixed.transpose(1, 2).flatten(2)

    def _keys(self, number: int, place: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [2, T, D] of a picture and of none, computed once a run."""
        if (number, place) not in self._known:
            prompt = self._prompts[number]
            both = torch.cat([prompt.tokens, prompt.without])
            layers = (prompt.network.to_k[place], prompt.network.to_v[place])
            keys, values = (layer(both.to(layer.weight)) for layer in layers)  # type: ignore[arg-type]
            self._known[number, place] = keys, values
        keys, values = self._known[number, place]
        return keys.to(like), values.to(like)
