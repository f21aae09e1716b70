"""The default model as a finished file, for trainings that add to it: a LoRA, a ControlNet."""

import copy
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from gesso.errors import GessoError
from gesso.families.base import Family
from gesso.families.parts import ModelParts
from gesso.mini.pools import Captions
from gesso.models.clip import CLIPTextModel
from gesso.models.unet import UNet
from gesso.models.vae import AutoencoderKL
from gesso.scenes.caption import Captioner
from gesso.scenes.vocabulary import Thing

M = TypeVar("M", bound=nn.Module)
OnLog = Callable[[dict[str, float]], None]


class TrainedModel:
    """A model of composed pictures with what its pictures were composed of.

    parts: float32, on the CPU. glyphs: uint8 [number of objects, 128, 128, 4], those of the objects. Raises GessoError
    where the model was trained on other objects.
    """

    def __init__(self, parts: ModelParts, objects: tuple[Thing, ...], glyphs: np.ndarray) -> None:
        if [thing.name for thing in objects] != list(parts.family.objects):
            raise GessoError(
                f"{parts.files[0] if parts.files else parts.family.name}: draws {len(parts.family.objects)} objects, "
                f"the object table has {len(objects)}. This works only with gesso-mini, or another model that gesso "
                "trained, and its own table",
                code="mismatch",
            )
        self.parts, self.objects, self.glyphs = parts, objects, glyphs
        self.captions = Captions(Captioner(objects), parts.tokenizer)

    @property
    def family(self) -> Family:
        return self.parts.family

    def unet(self) -> UNet:
        """A copy to train on, as are the next."""
        return _copied(self.parts.unet)

    def text(self) -> CLIPTextModel:
        return _copied(self.parts.text)

    def vae(self) -> AutoencoderKL:
        assert isinstance(self.parts.vae, AutoencoderKL)  # a TAESD takes its place where the user asks for one alone
        return _copied(self.parts.vae)


def _copied(network: M) -> M:
    return copy.deepcopy(network).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
