"""Prompts become what a family's UNet is told: hidden states of its text model, and a vector where it takes one.

Which states: SD 1 the last layer's, with the last norm; SD 2 those of the layer before, with the norm; SDXL those of
the layer before, without a norm, of both towers side by side (768 and 1280 wide). The vector of SDXL is the second
tower's pooled text, projected, beside sinusoids of sizes (Podell et al. 2023, arXiv:2307.01952, section 2.2).
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gesso.families.base import Family
from gesso.families.parts import Parts
from gesso.models.clip import CLIPTextModel, TextEncoding
from gesso.nn.embedding import sinusoid
from gesso.text.tokenizer import EncodedTexts

# What Stability AI's refiner was asked for and away from.
AESTHETIC_SCORE, NEGATIVE_AESTHETIC_SCORE = 6.0, 2.5


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What SDXL is told about the picture, in pixels: (height, width) of the photograph it would have come from, rows
    and columns cut off above and left, (height, width) of the picture. The refiner is told a score instead of the last.
    """

    original: tuple[int, int]
    crop: tuple[int, int] = (0, 0)
    target: tuple[int, int]
    aesthetic_score: float = AESTHETIC_SCORE

    def values(self, family: Family) -> tuple[float, ...]:
        """As many numbers as the family is told: 0, 6 or 5."""
        last = (self.aesthetic_score,) if family.is_refiner else self.target
        return (*self.original, *self.crop, *last) if family.num_sizes else ()


@dataclass(frozen=True, eq=False)
class EncodedPrompt:
    """One prompt.  context [1, L, D], added [1, A] or None for a UNet that takes none

    report: what the tokenizer found: how many tokens, what was cut off, which words it does not know.
    """

    context: Tensor
    added: Tensor | None
    report: EncodedTexts


def encode_prompt(
    parts: Parts,
    text: str,
    *,
    clip_skip: int,
    width: int,
    height: int,
    negative: bool = False,
    sizes: Sizes | None = None,
    skip_everywhere: bool = False,
) -> EncodedPrompt:
    """A prompt through the text models of a family, on the device of its first.

    clip_skip        as A1111 counts: 1 is the layer that the model was trained with, n > 1 is n - 1 layers earlier
    skip_everywhere  it moves the layer of SD 2 and SDXL, too, as the diffusers library does; A1111 leaves them alone
    width, height    of the finished picture, in pixels; families with size conditioning are told
    negative         the prompt tells what the picture should not be: the refiner is told a low score
    sizes            another thing to tell than that the picture has its size and was not cropped
    `zeros_like` is what SDXL is told instead of an empty negative prompt.
    """
    family = parts.family
    skip = clip_skip - 1 if skip_everywhere or family.layout == "sd1" else 0
    report = parts.tokenizer.encode_with_report([text])
    first = _encode(parts.text, report.ids)
    context = _states(family, parts.text, first, skip)
    if parts.text_2 is None:
        last = first
    else:
        tokenizer = parts.tokenizer_2 or parts.tokenizer
        last = _encode(parts.text_2, tokenizer.encode([text]))
        context = torch.cat([context, _states(family, parts.text_2, last, skip).to(context)], dim=-1)
    if not family.unet.added_dim:
        return EncodedPrompt(context, None, report)
    if not family.num_sizes:  # gesso-mini is told its pooled text
        return EncodedPrompt(context, last.pooled, report)
    if sizes is None:
        score = NEGATIVE_AESTHETIC_SCORE if negative else AESTHETIC_SCORE
        sizes = Sizes(original=(height, width), target=(height, width), aesthetic_score=score)
    return EncodedPrompt(context, _added(family, last, sizes), report)


def zeros_like(family: Family, encoded: EncodedPrompt) -> EncodedPrompt:
    """What SDXL is told in place of an empty negative prompt: zeros for its states and its pooled text, the sizes kept.

    That is how it was trained; `Family.zero_empty_negative` says where tools do so.
    """
    context = torch.zeros_like(encoded.context)
    if encoded.added is None or not family.num_sizes:
        return replace(encoded, context=context)
    added = encoded.added.clone()
    added[:, : added.shape[1] - family.num_sizes * family.size_dim] = 0
    return replace(encoded, context=context, added=added)


def _encode(model: CLIPTextModel, ids: Tensor) -> TextEncoding:
    encoding: TextEncoding = model(ids.to(model.position_embedding.weight.device))
    return encoding


def _states(family: Family, model: CLIPTextModel, encoding: TextEncoding, skip: int) -> Tensor:
    layer = family.text_layer + skip
    if layer == 1 and family.text_norm:
        return encoding.last
    hidden = encoding.hidden[max(-layer, -len(encoding.hidden))]
    return model.norm(hidden) if family.text_norm else hidden


def _added(family: Family, encoding: TextEncoding, sizes: Sizes) -> Tensor:
    if encoding.projected is None:
        raise ValueError(f"the text model of {family.name!r} has no projection, which its UNet is told")
    values = torch.tensor(sizes.values(family), device=encoding.pooled.device)
    told = sinusoid(values, family.size_dim).flatten()[None]  # float32: of numbers about 1024
    return torch.cat([encoding.projected, told.to(encoding.projected)], dim=1)
