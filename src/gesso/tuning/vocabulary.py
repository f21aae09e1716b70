"""Triggers that a model with a vocabulary of its own does not know: what becomes of them in a training.

Byte pairs, as CLIP's, spell any word. gesso-mini leaves out what it does not know, here as at drawing, so that a
trigger would be no word at all: a LoRA learns it, and a whole model gets one more token.
"""

from pathlib import Path
from typing import Any

from gesso.families.loading import load_parts
from gesso.families.new_words import with_words
from gesso.families.parts import ModelParts
from gesso.training.task import generator_for
from gesso.tuning.settings import TuningSettings


def learns_word(parts: ModelParts, settings: TuningSettings) -> bool:
    """Whether a LoRA learns its trigger as a word: as the settings say, else where the model does not know it."""
    if settings.learn_word is not None:
        return settings.learn_word
    can = settings.kind == "lora" and not set(settings.trigger) & set("/\\\0")
    return can and bool(parts.tokenizer.unknown_words(settings.trigger))


def new_words(parts: ModelParts, settings: TuningSettings) -> list[str]:
    """Words of the trigger that a model which learns as a whole gets into its vocabulary."""
    return parts.tokenizer.unknown_words(settings.trigger) if settings.kind == "full" else []


def named(parts: ModelParts, settings: TuningSettings) -> ModelParts:
    """The model with its new words."""
    return with_words(parts, new_words(parts, settings), generator_for(settings.seed, 0, 3))


def load_named(model: Path, settings: TuningSettings, **how: Any) -> ModelParts:
    """A model by `load_parts`, with its new words."""
    return named(load_parts(model, **how), settings)
