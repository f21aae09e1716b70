"""Conditioning of a UNet call: text embeddings, added vector, extra channels; and the residuals of control networks."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Protocol

import torch
from torch import Tensor

from gesso.adapters.ip_adapter import IPAdapterCall


@dataclass(frozen=True, kw_only=True, eq=False)
class Conditioning:
    """One row a picture. A part that the family's UNet does not take is None.

    context  text, [B, L, D]
    added    vector that joins the time embedding, [B, A]: pooled text (gesso-mini), with sizes (SDXL)
    concat   extra input channels, [B, C, h, w]: mask and masked picture (inpainting), picture (InstructPix2Pix,
             x4 upscaler)
    level    int64 [B], noise level of the picture that is upscaled (x4 upscaler)
    guidance [B], guidance scale as an input of a guidance-distilled UNet (LCM)
    negative bool [B], rows of the negative prompt: control networks may skip them
    window   int64 [B, 4], where the latents lie in a larger picture, see `UNet.forward` (gesso-mini)
    """

    context: Tensor
    added: Tensor | None = None
    concat: Tensor | None = None
    level: Tensor | None = None
    guidance: Tensor | None = None
    negative: Tensor | None = None
    window: Tensor | None = None

    def repeat(self, rows: int) -> "Conditioning":
        """One row, repeated."""
        return Conditioning(**{name: part.repeat_interleave(rows, 0) for name, part in self._parts().items()})

    def with_picture(self, concat: Tensor, level: Tensor | None = None) -> "Conditioning":
        """The same text, with the extra channels of a picture."""
        return replace(self, concat=concat, level=level)

    def marked(self, *, negative: bool) -> "Conditioning":
        """The same, marked as rows of the positive or of the negative prompt."""
        return replace(
            self, negative=torch.full((len(self.context),), negative, device=self.context.device, dtype=torch.bool)
        )

    def rows(self, which: slice | Tensor) -> "Conditioning":
        """Some of the rows: a slice, or a bool [B]."""
        return Conditioning(**{name: part[which] for name, part in self._parts().items()})

    def to(self, dtype: torch.dtype) -> "Conditioning":
        """The same in another dtype; the noise level stays an integer."""
        return Conditioning(
            **{name: part.to(dtype) if part.is_floating_point() else part for name, part in self._parts().items()}
        )

    @staticmethod
    def cat(first: "Conditioning", second: "Conditioning") -> "Conditioning":
        """Two batches, one after the other. Raises ValueError where one has a part that the other lacks."""
        return Conditioning.join([first, second])

    @staticmethod
    def join(batches: "Sequence[Conditioning]") -> "Conditioning":
        """Batches one after the other. Raises ValueError where one has a part that another lacks.

        Where only some mark the rows of the negative prompt, the rows of the others count as positive.
        """
        parts = [batch._parts() for batch in batches]
        if any("negative" in each for each in parts):
            for each in parts:
                context = each["context"]
                each.setdefault("negative", torch.zeros(len(context), dtype=torch.bool, device=context.device))
        for each in parts[1:]:
            if each.keys() != parts[0].keys():
                raise ValueError(f"conditioning of {', '.join(parts[0])} does not join one of {', '.join(each)}")
        return Conditioning(**{name: torch.cat([each[name] for each in parts]) for name in parts[0]})

    @property
    def shapes(self) -> tuple[tuple[str, torch.dtype, torch.Size], ...]:
        """Equal for conditioning that `join` can put into one batch."""
        return tuple((name, part.dtype, part.shape[1:]) for name, part in self._parts().items() if name != "negative")

    def _parts(self) -> dict[str, Tensor]:
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: part for name, part in parts.items() if part is not None}


@dataclass(frozen=True, eq=False)
class ControlResiduals:
    """Residuals that control networks add to a UNet in one call; see `models.unet.UNet.forward`.

    control   of ControlNets: added to each skip connection, and last to the middle block
    features  of T2I-Adapters: added to each down level, and perhaps to the middle block
    ip_adapters  context managers: image prompts are on the UNet while they are open
    """

    control: Sequence[Tensor] | None = None
    features: Sequence[Tensor] | None = None
    ip_adapters: tuple[IPAdapterCall, ...] = ()

    def __add__(self, other: "ControlResiduals") -> "ControlResiduals":
        """Both together."""
        control, features = _sum(self.control, other.control), _sum(self.features, other.features)
        return ControlResiduals(control, features, self.ip_adapters + other.ip_adapters)


def joined_residuals(parts: Sequence[tuple[slice, ControlResiduals]], num_rows: int) -> ControlResiduals:
    """Residuals of parts of the rows, joined for a batch of num_rows; zeros elsewhere."""
    whole = ControlResiduals(ip_adapters=tuple(use.on(rows) for rows, part in parts for use in part.ip_adapters))
    for rows, part in parts:
        control, features = (
            None if tensors is None else [_placed(tensor, rows, num_rows) for tensor in tensors]
            for tensors in (part.control, part.features)
        )
        whole = whole + ControlResiduals(control, features)
    return whole


def _placed(tensor: Tensor, rows: slice, num_rows: int) -> Tensor:
    """[B or 1, ...] of some rows -> [num_rows, ...], zeros elsewhere."""
    placed = tensor.new_zeros(num_rows, *tensor.shape[1:])
    placed[rows] = tensor
    return placed


def _sum(first: Sequence[Tensor] | None, second: Sequence[Tensor] | None) -> Sequence[Tensor] | None:
    if first is None or second is None:
        return first if second is None else second
    return [a + b for a, b in zip(first, second, strict=True)]


class ControlFunction(Protocol):
    """Gives the control residuals of a UNet call; called before it."""

    def __call__(self, z: Tensor, timestep: Tensor, conditioning: Conditioning) -> ControlResiduals:
        """z [B, C, h, w] without extra channels, timestep [B], conditioning of B rows -> residuals of these rows"""
