"""Prompts become what a family's UNet is told: hidden states of its text model, and a vector where it takes one."""

from dataclasses import dataclass

from torch import Tensor

from gesso.families.parts import Parts
from gesso.text.tokenizer import EncodedTexts


@dataclass(frozen=True, eq=False)
class EncodedPrompt:
    """One prompt.  context [1, L, D], added [1, A] or None for a UNet that takes none

    report: what the tokenizer found: how many tokens, what was cut off, which words it does not know.
    """

    context: Tensor
    added: Tensor | None
    report: EncodedTexts


def encode_prompt(parts: Parts, text: str, *, clip_skip: int, width: int, height: int) -> EncodedPrompt:
    """A prompt through the text model of a family, on the device of its text model.

    clip_skip as A1111 counts: 1 is the last layer; n > 1 is the n-th from the end, with the last norm after it.
    width, height: of the finished picture, in pixels; families with size conditioning are told.
    """
    report = parts.tokenizer.encode_with_report([text])
    encoding = parts.text(report.ids.to(parts.text.position_embedding.weight.device))
    context = encoding.last if clip_skip == 1 else parts.text.norm(encoding.hidden[-clip_skip])
    return EncodedPrompt(context, encoding.pooled if parts.family.unet.added_dim else None, report)
