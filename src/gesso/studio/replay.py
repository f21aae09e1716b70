"""Make a picture again from its recipe and say how close it comes, and what was not the same."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from PIL import Image

from gesso.pictures.picture_file import pixels_sha256
from gesso.pipelines.picture import OnProgress, Picture
from gesso.pipelines.text_to_image import TextToImage
from gesso.request.recipe import Recipe, changes, check_plugins

TOLERANCE = 2  # grey levels of 255; another number of threads or batch size moves float32 pictures by one at most


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """How a picture compares with itself made again.

    levels  largest difference of a colour value, 0..255; 255 where the sizes differ
    share   of the pixels that differ at all, 0..1
    changed what was not the same, one line each
    edited  the pixels in the file are not those that gesso wrote
    lossy   the file is of a format that changes pixels: kind is of the picture that was drawn, told by its hash, where
            that is the same again; levels and share are of the file
    """

    kind: Literal["identical", "equal", "different"]
    levels: int
    share: float
    changed: tuple[str, ...]
    edited: bool
    lossy: bool = False

    @property
    def line(self) -> str:
        """The verdict in words."""
        if self.kind == "identical" and not (self.lossy and self.levels):
            return "identical"
        amount = f"{self.levels} level{'s' if self.levels > 1 else ''}, in {100 * self.share:.3g} % of the pixels"
        if self.kind == "identical":
            return f"identical as it was drawn (the file's own format changed up to {amount})"
        return f"equal within {amount}" if self.kind == "equal" else f"different: by up to {amount}"


def replay(
    pipeline: TextToImage,
    original: Image.Image,
    recipe: Recipe,
    *,
    tolerance: int = TOLERANCE,
    on_progress: OnProgress | None = None,
    lossy: bool = False,
    image: Image.Image | None = None,
    mask: Image.Image | None = None,
    hints: Sequence[Image.Image] = (),
) -> tuple[Verdict, Picture]:
    """Draw the recipe once more and compare with the original. Raises GessoError as `TextToImage` does.

    lossy: the original comes from a file that does not keep every bit; the hash in its recipe tells what was drawn.

    image, mask, hints: those that the original was drawn from, where the recipe names any; others are refused.
    """
    check_plugins(recipe)
    (picture,) = pipeline(recipe.request, on_progress, image=image, mask=mask, hints=hints)
    edited = not lossy and bool(recipe.pixels_sha256) and pixels_sha256(original) != recipe.pixels_sha256
    changed = tuple(changes(recipe, picture.recipe))
    if lossy:
        verdict = compare(original, picture.image, tolerance, changed)
        same = recipe.pixels_sha256 == picture.recipe.pixels_sha256
        return replace(verdict, kind="identical" if same else verdict.kind, lossy=True), picture
    return compare(original, picture.image, tolerance, changed, edited=edited), picture


def compare(
    before: Image.Image, after: Image.Image, tolerance: int, changed: tuple[str, ...] = (), *, edited: bool = False
) -> Verdict:
    """Two pictures, value by value."""
    if before.size != after.size:
        return Verdict(kind="different", levels=255, share=1.0, changed=changed, edited=edited)
    old, new = (np.asarray(image.convert("RGB"), dtype=np.int16) for image in (before, after))
    gaps = np.abs(old - new).max(axis=2)
    levels, share = int(gaps.max()), float((gaps > 0).mean())
    kind: Literal["identical", "equal", "different"] = (
        "identical" if levels == 0 else "equal" if levels <= tolerance else "different"
    )
    return Verdict(kind=kind, levels=levels, share=share, changed=changed, edited=edited)
