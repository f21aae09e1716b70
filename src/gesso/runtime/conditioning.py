"""What a network call is told besides the noisy latents: text, added vector, pictures, a noise level."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Protocol

import torch
from torch import Tensor

from gesso.adapters.ip_adapter import PictureUse


@dataclass(frozen=True, kw_only=True, eq=False)
class Conditioning:
    """One row a picture. A part that the family's UNet does not take is None.

    context  text, [B, L, D]
    added    vector that joins the time embedding, [B, A]: pooled text (gesso-mini), with sizes (SDXL)
    concat   channels beside the latents, [B, C, h, w]: mask and masked picture (inpainting), picture (InstructPix2Pix,
             x4 upscaler)
    level    int64 [B], noise level of the picture that is enlarged (x4 upscaler)
    guidance [B], the scale that a distilled UNet is told (LCM)
    negative bool [B], rows that guidance leads away from: control networks may leave them alone
    window   int64 [B, 4], where in a larger whole the latents are, see `UNet.forward` (gesso-mini)
    """

    context: Tensor
    added: Tensor | None = None
    concat: Tensor | None = None
    level: Tensor | None = None
    guidance: Tensor | None = None
    negative: Tensor | None = None
    window: Tensor | None = None

    def repeat(self, rows: int) -> "Conditioning":
        """One row -> as many equal ones."""
        return Conditioning(**{name: part.repeat_interleave(rows, 0) for name, part in self._parts().items()})

    def with_picture(self, concat: Tensor, level: Tensor | None = None) -> "Conditioning":
        """The same text about a picture."""
        return replace(self, concat=concat, level=level)

    def marked(self, *, negative: bool) -> "Conditioning":
        """The same, of one side of guidance."""
        return replace(
            self, negative=torch.full((len(self.context),), negative, device=self.context.device, dtype=torch.bool)
        )

    def rows(self, which: slice | Tensor) -> "Conditioning":
        """Some of the rows: a slice, or a bool [B]."""
        return Conditioning(**{name: part[which] for name, part in self._parts().items()})

    def to(self, dtype: torch.dtype) -> "Conditioning":
        """The same in another number format; the noise level stays an integer."""
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

        Where only some say which rows guidance leads away from, the rows of the others count as not.
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
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: part for name, part in found.items() if part is not None}


@dataclass(frozen=True, eq=False)
class Influence:
    """What networks that steer add to a UNet in one call; see `models.unet.UNet.forward`.

    control   to each skip, and last to the middle
    features  to each level on the way down, and perhaps to the middle
    pictures  of IP-Adapters, on while it is called
    """

    control: Sequence[Tensor] | None = None
    features: Sequence[Tensor] | None = None
    pictures: tuple[PictureUse, ...] = ()

    def __add__(self, other: "Influence") -> "Influence":
        """Both together."""
        control, features = _sum(self.control, other.control), _sum(self.features, other.features)
        return Influence(control, features, self.pictures + other.pictures)


def joined_influence(parts: Sequence[tuple[slice, Influence]], num_rows: int) -> Influence:
    """What reaches some rows each of a batch of num_rows; the other rows gain zeros."""
    whole = Influence(pictures=tuple(use.on(rows) for rows, part in parts for use in part.pictures))
    for rows, part in parts:
        control, features = (
            None if tensors is None else [_placed(tensor, rows, num_rows) for tensor in tensors]
            for tensors in (part.control, part.features)
        )
        whole = whole + Influence(control, features)
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


class Steer(Protocol):
    """What is asked before each call of a UNet."""

    def __call__(self, z: Tensor, timestep: Tensor, conditioning: Conditioning) -> Influence:
        """z [B, C, h, w] without the channels beside the latents, timestep [B], conditioning of B rows -> for these"""
