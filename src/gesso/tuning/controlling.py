"""Training of a ControlNet on the user's pictures (Zhang et al. 2023, arXiv:2302.05543).

A copy of the UNet's way down learns to look at hints; the UNet and the text encoders stay as they are.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gesso.checkpoints import keymap
from gesso.checkpoints.controlnets import diffusers_rules
from gesso.checkpoints.safetensors_file import write_safetensors
from gesso.errors import GessoError
from gesso.families.base import Family
from gesso.families.control_network import control_unet
from gesso.families.native_control import save_control
from gesso.models.controlnet import ControlNet, ControlNetConfig
from gesso.models.unet import UNet
from gesso.text.chunks import EmbeddingToken
from gesso.training.muon import split_groups
from gesso.tuning.files import DTYPE, check_fits, spec_metadata
from gesso.tuning.hints import Hints
from gesso.tuning.task import TuningTask, checkpoint_blocks

WIDTHS = (16, 32, 96, 256)  # of the hint's encoder, as published


def control_config(family: Family) -> ControlNetConfig:
    """The sizes of a ControlNet for a family: those of the published ones, at the sizes of its UNet and VAE.

    Raises GessoError for a VAE whose pictures have another multiple of the latents' side than 2, 4 or 8.
    """
    halvings = family.vae.downscale.bit_length() - 1
    if 2**halvings != family.vae.downscale or halvings >= len(WIDTHS):
        raise GessoError(
            f"{family.name}: a picture has {family.vae.downscale} times the side of its latents, expected 2, 4 or 8",
            code="unsupported",
            field="model",
        )
    return ControlNetConfig(
        unet=control_unet(family), hint_channels=WIDTHS[: halvings + 1], hint_patch=family.output_scale
    )


class ControlLearner:
    """A ControlNet beside a frozen UNet."""

    trains_text = False
    words: tuple[EmbeddingToken, ...] = ()

    def __init__(self, control: ControlNet, *, muon: bool = False) -> None:
        self.control, self.muon = control, muon
        self.modules: Mapping[str, nn.Module] = {"control": control}

    def groups(self, rate: float, text_rate: float) -> list[dict[str, Any]]:
        if not self.muon:
            return [{"params": list(self.control.parameters()), "lr": rate}]
        # What begins at zero has no direction yet that Muon could keep.
        zeros = [self.control.hint.conv_out, self.control.zero_mid, *self.control.zero_down]
        return split_groups(self.control, rate, [self.control.conv_in, self.control.hint.conv_in, *zeros])

    def begin_step(self, seed: int, step: int, rows: Sequence[int], count: int) -> None:
        """Nothing in it is random."""


def make_control(family: Family, unet: UNet, generator: torch.Generator) -> ControlNet:
    """A ControlNet that begins as the UNet's way down. generator: of the hint's encoder's start values"""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch.randint(2**62, (), generator=generator).item())
        control = ControlNet(control_config(family))
    control.initialise_from(unet)
    return control.to(next(unet.parameters()).device)


class ControlTask(TuningTask):
    """A `TuningTask` in which a ControlNet looks at the hint of each picture."""

    learner: ControlLearner

    def __init__(self, *args: Any, hints: Hints, checkpointing: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, checkpointing=checkpointing, **kwargs)
        self.hints = hints
        if checkpointing:
            checkpoint_blocks(self.learner.control)

    def networks(self) -> list[nn.Module]:
        return [self.parts.unet, self.learner.control]

    def hints_of(self, places: Sequence[int], flips: Sequence[bool]) -> Tensor:
        return self.hints(places, flips)

    def steering(
        self, x: Tensor, times: Tensor, context: Tensor, added: Tensor | None, hint: Tensor
    ) -> Sequence[Tensor]:
        control = self.learner.control
        dtype = next(control.parameters()).dtype
        residuals: Sequence[Tensor] = control(
            x.to(dtype),
            times,
            context.to(dtype),
            hint.to(self.device, dtype),
            None if added is None else added.to(dtype),
        )
        return residuals


def write_control(
    path: Path,
    control: ControlNet,
    family: Family,
    hint: str,
    about: Mapping[str, str],
    training: Mapping[str, str],
) -> None:
    """Write a ControlNet in half precision: by diffusers' names, or in gesso's own layout for `gesso-mini`.

    hint: the preprocessor of its hints. Raises GessoError for a number that half precision cannot hold.
    """
    check_fits(control.state_dict())
    if family.scheduler is None:
        save_control(path, control, family.name, hint, about, training)
        return
    rules = diffusers_rules(control.config, linear=family.layout != "sd1")
    tensors = keymap.save(
        rules, {name: one.detach().to(DTYPE).contiguous() for name, one in control.state_dict().items()}
    )
    metadata = {"format": "pt", **spec_metadata(family, "controlnet", about), "gesso.hint": hint, **training}
    write_safetensors(path, tensors, metadata, hash_key="modelspec.hash_sha256")
