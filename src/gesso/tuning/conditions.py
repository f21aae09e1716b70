"""What the UNet is told beside the noisy latents: encoded captions and, for SDXL, sizes."""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor

from gesso.families.encoding import Reading, Sizes, encode_prompt, zeros_like
from gesso.families.parts import ModelParts
from gesso.nn.embedding import sinusoid
from gesso.text.chunks import EmbeddingToken
from gesso.text.prompt import WeightedText
from gesso.tuning.learners import text_networks
from gesso.tuning.survey import Found

MAX_KEPT = 1024  # captions whose encoding is kept


class Conditions:
    """Encodes captions as prompts are encoded at drawing: one chunk of tokens, no brackets or weights.

    trained  something in the text encoders learns, so nothing is kept and gradients flow
    words    that stand for vectors which are attached to the text encoders
    """

    def __init__(self, parts: ModelParts, *, trained: bool = False, words: Sequence[EmbeddingToken] = ()) -> None:
        self.parts, self.trained, self.words = parts, trained, tuple(words)
        self._kept: OrderedDict[str, tuple[Tensor, Tensor | None]] = OrderedDict()

    def __call__(self, captions: Sequence[str], sizes: Sequence[Sizes]) -> tuple[Tensor, Tensor | None]:
        """Captions and sizes of a batch -> context [B, L, D], added [B, A] or None."""
        encoded = [self._encoded(caption) for caption in captions]
        context = torch.cat([states for states, _ in encoded])
        if encoded[0][1] is None:
            return context, None
        family = self.parts.family
        rows = []
        for (_, pooled), size in zip(encoded, sizes, strict=True):
            assert pooled is not None
            if not family.num_sizes:
                rows.append(pooled)
                continue
            values = torch.tensor(size.values(family), device=pooled.device)
            rows.append(torch.cat([pooled, sinusoid(values, family.size_dim).flatten()[None].to(pooled)], dim=1))
        return context, torch.cat(rows)

    def _encoded(self, caption: str) -> tuple[Tensor, Tensor | None]:
        if self.trained and torch.is_grad_enabled():
            return self._encode(caption)
        if not self.trained and caption in self._kept:
            self._kept.move_to_end(caption)
            return self._kept[caption]
        with torch.no_grad():
            encoded = self._encode(caption)
        if not self.trained:
            self._kept[caption] = encoded
            if len(self._kept) > MAX_KEPT:
                self._kept.popitem(last=False)
        return encoded

    def put_away(self, captions: Sequence[str]) -> None:
        """Encode all captions that will be asked for, and give back what the text encoders take: nothing else is known.

        The text encoders must not learn, and captions be no more than are kept.
        """
        for caption in captions:
            self._encoded(caption)
        for network in text_networks(self.parts.networks).values():
            network.to("meta")

    def _encode(self, caption: str) -> tuple[Tensor, Tensor | None]:
        family = self.parts.family
        text = known_caption(self.parts, caption, self.words)
        encoded = encode_prompt(
            self.parts,
            (WeightedText(text),),
            clip_skip=family.clip_skip,
            width=family.native_size,
            height=family.native_size,
            reading=Reading(max_chunks=1, embeddings=self.words),
        )
        if not caption and family.zero_empty_negative:
            encoded = zeros_like(family, encoded)
        if encoded.added is None:
            return encoded.context, None
        pooled = encoded.added[:, : encoded.added.shape[1] - family.num_sizes * family.size_dim]
        return encoded.context, pooled


def known_caption(parts: ModelParts, caption: str, words: Sequence[EmbeddingToken] = ()) -> str:
    """A caption without the words that a learned vocabulary does not know, which drawing leaves out too."""
    return parts.tokenizer.known_text(caption, keep=[word.name for word in words])


def unknown_words(parts: ModelParts, captions: Sequence[str], keep: Sequence[str] = ()) -> list[str]:
    """Words of captions that the model's vocabulary does not have, without those to keep; none for CLIP's."""
    found = (word for caption in captions for word in parts.tokenizer.unknown_words(caption, keep=keep))
    return list(dict.fromkeys(found))


def is_cut(parts: ModelParts, caption: str) -> bool:
    """Whether the end of a caption is beyond what one chunk of tokens holds."""
    return len(parts.tokenizer.tokens(known_caption(parts, caption))) > parts.tokenizer.length - 2


def sizes_of(one: Found, *, flip: bool) -> Sizes:
    """What SDXL is told about a picture: its size before, where the crop begins, and its size now; in pixels."""
    placed, scale = one.framing, one.scale
    width, height = one.size
    left = placed.scaled[0] - placed.bucket[0] - placed.left if flip else placed.left
    target = placed.bucket[1] * scale, placed.bucket[0] * scale
    return Sizes(original=(height, width), crop=(placed.top * scale, left * scale), target=target)
