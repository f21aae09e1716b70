"""The result of a run, a picture with its recipe, and the progress of a run."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gesso.errors import GessoError, as_path, short
from gesso.notices import Notice
from gesso.pictures.infotext import infotext
from gesso.pictures.picture_file import DEFAULT_QUALITY, FORMATS, encode_picture, write_new
from gesso.request.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Progress of picture `index` of `num_images`, counted from 0: `step` of `num_steps` sampling steps are done."""

    index: int
    num_images: int
    step: int
    num_steps: int
    latents: Tensor | None = None  # [1, C, h, w], the clean latents that the network last predicted


OnProgress = Callable[[Progress], None]


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One generated picture, with the recipe that draws it again."""

    image: Image.Image
    recipe: Recipe

    @property
    def seed(self) -> int:
        """The seed of the run; with `index` it decides the noise."""
        return self.recipe.request.seed

    @property
    def index(self) -> int:
        """Which picture of the run this is."""
        return self.recipe.request.first_index

    @property
    def notices(self) -> tuple[Notice, ...]:
        """What the user should know, such as ignored words or a prompt that was too long."""
        return self.recipe.notices

    def with_notices(self, notices: tuple[Notice, ...]) -> "Picture":
        """The same picture with more notices, such as about the template of its prompt."""
        return replace(self, recipe=replace(self.recipe, notices=notices + self.recipe.notices)) if notices else self

    def encode(self, kind: str = "PNG", quality: int = DEFAULT_QUALITY) -> bytes:
        """The picture encoded as PNG, JPEG, WEBP or AVIF, with infotext and recipe inside.

        quality: 1 to 100, for all but PNG. Raises GessoError if the texts are too long for the format.
        """
        return encode_picture(self.image, self.recipe, infotext(self.recipe), kind, quality)

    def to_png(self) -> bytes:
        """The picture as a PNG file with infotext and recipe inside."""
        return self.encode()

    def save(self, path: str | Path, *, quality: int = DEFAULT_QUALITY, overwrite: bool = True) -> Path:
        """Write the picture with infotext and recipe inside -> the path. The file is written whole or not at all.

        path: its extension sets the format: .png, .jpg, .webp, .avif. quality: 1 to 100, for all but PNG.
        Raises GessoError for another extension or if the file cannot be written, FileExistsError unless `overwrite`.
        """
        path = as_path(path, "path")
        if (kind := FORMATS.get(path.suffix.lower())) is None:
            raise GessoError(
                f"{path}: unknown picture format; the name must end in one of {', '.join(FORMATS)}",
                code="unsupported",
                data={"path": str(path)},
            )
        write_new(path, self.encode(kind, quality), overwrite=overwrite)
        return path

    def show(self) -> None:
        """Open the picture in the viewer of this system. In a notebook, end a cell with the picture instead."""
        self.image.show()

    def _repr_png_(self) -> bytes:
        """What a notebook shows; a picture that is saved from there contains its recipe, too."""
        return self.to_png()

    def __repr__(self) -> str:
        size = f"{self.image.width}x{self.image.height}"
        return f"<Picture {size}, seed {self.seed}, index {self.index}: {short(self.recipe.request.prompt)}>"


def to_images(pixels: Tensor, levels: str = "round") -> list[Image.Image]:
    """float [B, 3, H, W] in [-1, 1] -> B pictures of 8 bits.

    Values outside the range are clamped. levels: "round" to the nearest of 256 levels, as in diffusers, or "truncate",
    as in A1111, which makes pictures half a level darker on average.
    """
    exact = ((pixels.float() + 1) * 127.5).clamp(0, 255)
    whole = (exact.round() if levels == "round" else exact).to(torch.uint8)
    arrays: list[np.ndarray] = [row.permute(1, 2, 0).contiguous().cpu().numpy() for row in whole]
    return [Image.fromarray(array) for array in arrays]
