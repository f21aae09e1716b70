"""What a network call is told besides the noisy latents: text, added vector, pictures, a noise level."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Protocol

import torch
from torch import Tensor

from gesso.adapters.ip_adapter import PictureAttachment


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
        ours, theirs = first._parts(), second._parts()
        if ours.keys() != theirs.keys():
            raise ValueError(f"conditioning of {', '.join(ours)} does not join one of {', '.join(theirs)}")
        return Conditioning(**{name: torch.cat([part, theirs[name]]) for name, part in ours.items()})

    def _parts(self) -> dict[str, Tensor]:
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: part for name, part in found.items() if part is not None}


@dataclass(frozen=True, eq=False)
class Influence:
    """What networks that steer add to a UNet in one call; see `models.unet.UNet.forward`.

    control   to each skip, and last to the middle
    features  to each level on the way down, and perhaps to the middle
    pictures  IP-Adapters that are on while it is called
    """

    control: Sequence[Tensor] | None = None
    features: Sequence[Tensor] | None = None
    pictures: PictureAttachment | None = None

    def __add__(self, other: "Influence") -> "Influence":
        """Both together."""
        control, features = _sum(self.control, other.control), _sum(self.features, other.features)
        return Influence(control, features, self.pictures or other.pictures)


def _sum(first: Sequence[Tensor] | None, second: Sequence[Tensor] | None) -> Sequence[Tensor] | None:
    if first is None or second is None:
        return first if second is None else second
    return [a + b for a, b in zip(first, second, strict=True)]


class Steer(Protocol):
    """What is asked before each call of a UNet."""

    def __call__(self, z: Tensor, timestep: Tensor, told: Conditioning) -> Influence:
        """z [B, C, h, w] without the channels beside the latents, timestep [B], told of B rows -> for these rows"""
