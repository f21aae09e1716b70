"""IP-Adapters on a UNet: each cross-attention also attends to an image prompt, by keys and values of its own.

Decoupled cross-attention: the output for the image prompt is added to that for the text, before the output projection
(Ye et al. 2023, arXiv:2308.06721, equation 5). The UNet is changed by hooks alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gesso.models.ip_adapter import IPAdapter
from gesso.models.unet import UNet
from gesso.nn.attention import Attention, SpatialTransformer


def cross_attentions(unet: UNet) -> list[Attention]:
    """Every attention to the text, in the order of IP-Adapter files: down, up, middle."""
    levels: list[nn.Module] = [*unet.down, *unet.up]
    transformers = [part for level in levels for part in level.attentions]  # type: ignore[union-attr]
    attentions: list[Attention] = []
    for transformer in (*transformers, unet.mid.attention):
        assert isinstance(transformer, SpatialTransformer)
        attentions += [block.cross_attention for block in transformer.blocks]  # type: ignore[misc]
    return attentions


@dataclass(frozen=True, eq=False)
class ImagePromptTokens:
    """The tokens of an image prompt for one IP-Adapter.

    tokens  [1, T, C] of the picture
    empty   [1, T, C] of no picture, for the rows of the negative prompt
    """

    network: IPAdapter
    tokens: Tensor
    empty: Tensor


class IPAdapterAttachment:
    """IP-Adapters for a UNet with their image prompts; `use` attaches them for a call.

    Keys and values of the tokens are computed once and cached.
    Raises ValueError for an IP-Adapter for another number of cross-attentions, or for other widths.
    """

    def __init__(self, unet: UNet, prompts: Sequence[ImagePromptTokens]) -> None:
        self.attentions, self._prompts = cross_attentions(unet), tuple(prompts)
        widths = [attention.to_q.out_features for attention in self.attentions]
        for prompt in prompts:
            adapter_widths = [layer.out_features for layer in prompt.network.to_k]
            if adapter_widths != widths:
                raise ValueError(
                    f"IP-Adapter for {len(adapter_widths)} attentions, the UNet has {len(widths)}, of other widths"
                )
        self._known: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}

    def use(self, strengths: Sequence[float], negative: Tensor | None = None) -> "IPAdapterCall":
        """A context manager that attaches them for one call.

        strengths: of each image prompt; negative: bool [B], rows of the negative prompt. None: no row
        """
        return IPAdapterCall(self, tuple(strengths), negative)

    def prepare(self, number: int) -> None:
        """Computes keys and values of one image prompt, so that its IP-Adapter can be offloaded."""
        for place, attention in enumerate(self.attentions):
            self._keys(number, place, attention.to_q.weight)

    def attend(self, number: int, place: int, queries: Tensor, negative: Tensor | None) -> Tensor:
        """Output of one attention for one image prompt.  queries, result [B, N, D]"""
        attention = self.attentions[place]
        keys, values = self._keys(number, place, queries)
        which = torch.zeros(len(queries), dtype=torch.int64, device=queries.device)
        if negative is not None:
            which = negative.to(which)
        q, k, v = (
            t.unflatten(2, (attention.num_heads, -1)).transpose(1, 2) for t in (queries, keys[which], values[which])
        )
        if attention.upcast:
            mixed = F.scaled_dot_product_attention(q.float(), k.float(), v.float()).to(q)
        else:
            mixed = F.scaled_dot_product_attention(q, k, v)
        return mixed.transpose(1, 2).flatten(2)

    def _keys(self, number: int, place: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [2, T, D] of a picture and of no picture, computed once."""
        if (number, place) not in self._known:
            prompt = self._prompts[number]
            both = torch.cat([prompt.tokens, prompt.empty])
            layers = (prompt.network.to_k[place], prompt.network.to_v[place])
            keys, values = (layer(both.to(layer.weight)) for layer in layers)  # type: ignore[arg-type]
            self._known[number, place] = keys, values
        keys, values = self._known[number, place]
        return keys.to(like), values.to(like)


class IPAdapterCall:
    """Image prompts attached to a UNet for one call, or for some of its rows: a context manager."""

    def __init__(
        self,
        attachment: IPAdapterAttachment,
        strengths: tuple[float, ...],
        negative: Tensor | None,
        rows: slice | None = None,
    ) -> None:
        self._attachment, self._strengths, self._negative, self._rows = attachment, strengths, negative, rows
        self._queries: dict[int, Tensor] = {}
        self._hooks: list[Any] = []

    def on(self, rows: slice) -> "IPAdapterCall":
        """The same for some rows of a larger batch."""
        return IPAdapterCall(self._attachment, self._strengths, self._negative, rows)

    def __enter__(self) -> Self:
        for place, attention in enumerate(self._attachment.attentions):
            self._hooks.append(attention.to_q.register_forward_hook(self._remember(place)))
            self._hooks.append(attention.to_out.register_forward_pre_hook(self._join(place)))
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

    def _join(self, place: int) -> Callable[..., tuple[Tensor]]:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor]:
            whole, queries, rows = args[0], self._queries.pop(place), self._rows
            total = whole if rows is None else whole[rows]
            queries = queries if rows is None else queries[rows]
            for number, strength in enumerate(self._strengths):
                if strength != 0:
                    total = total + strength * self._attachment.attend(number, place, queries, self._negative)
            if rows is not None:
                whole = whole.clone()
                whole[rows] = total
                total = whole
            return (total,)

        return hook
