"""New words for a model whose vocabulary is its own: tokens for which the model has no meaning yet."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from gesso.families.parts import ModelParts
from gesso.models.clip import CLIPTextModel
from gesso.text.tokenizer import Tokenizer


def with_words(parts: ModelParts, words: Sequence[str], generator: torch.Generator) -> ModelParts:
    """The model with more words in its vocabulary, and among the objects that it says it can draw.

    words      as `Tokenizer.unknown_words` gives them: the model has none of them, CLIP's byte pairs all
    generator  of their vectors, which are as long as those of other words
    The text encoder is a new one where there is a word; the other networks are those of `parts`.
    """
    if not words:
        return parts
    tokenizer = Tokenizer.from_words((*parts.tokenizer.words, *words), length=parts.tokenizer.length)
    old = parts.text
    config = replace(old.config, vocab_size=tokenizer.size)
    table = old.token_embedding.weight
    with torch.device("meta"):
        text = CLIPTextModel(config)
    weights = dict(old.state_dict())
    if table.device.type == "meta":
        rows = torch.empty(len(words), config.dim, device="meta")
    else:
        drawn = torch.randn(len(words), config.dim, generator=generator)
        rows = (drawn * table.detach().float().std().cpu()).to(table)
    weights["token_embedding.weight"] = torch.cat([table.detach()[: parts.tokenizer.size], rows])
    text.load_state_dict(weights, assign=True)
    objects = {**parts.family.objects, **dict.fromkeys(words, ())} if parts.family.objects else {}
    family = replace(parts.family, text=config, objects=objects)
    return replace(parts, family=family, tokenizer=tokenizer, text=text.train(old.training))
