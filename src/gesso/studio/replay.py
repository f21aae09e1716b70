"""Replay: redraw a picture from its recipe, compare, and list what has changed."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image

from gesso.arguments import check_callable, check_flag, check_number, check_type
from gesso.errors import as_path
from gesso.pictures.picture_file import is_lossless, pixels_sha256, read_picture
from gesso.pipelines.picture import OnProgress, Picture
from gesso.pipelines.text_to_image import TextToImage
from gesso.request.recipe import Recipe, changes, check_plugins, check_tensors
from gesso.studio.events import OnEvent, Sampling, ignore
from gesso.studio.sources import Sources, check_sources
from gesso.studio.studio import EngineOptions, RecipePlaces, Studio

if TYPE_CHECKING:
    from gesso.library import Library
    from gesso.runtime.cancel import CancelToken

log = logging.getLogger(__name__)

TOLERANCE = 2  # grey levels of 255; another number of threads or batch size moves float32 pictures by one at most


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """How a picture compares with its replay.

    levels  largest difference of a colour value, 0..255; 255 where the sizes differ
    share   of the pixels that differ at all, 0..1
    changed inputs that are not the same, one line each
    edited  the pixels of the file were changed after gesso wrote it
    lossy   the file is of a format that changes pixels: kind is of the picture that was drawn, told by its hash, where
            that is the same again; levels and share are of the file
    """

    kind: Literal["identical", "equal", "different"]
    levels: int
    share: float
    changed: tuple[str, ...]
    edited: bool
    lossy: bool = False

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "verdict": self.kind,
            "levels": self.levels,
            "share": self.share,
            "changed": self.changed,
            "edited": self.edited,
        }

    @property
    def line(self) -> str:
        """The verdict in words."""
        if self.kind == "identical" and not (self.lossy and self.levels):
            return "identical"
        amount = f"{self.levels} level{'s' if self.levels > 1 else ''}, in {100 * self.share:.3g} % of the pixels"
        if self.kind == "identical":
            return f"identical as drawn (the lossy file format changed up to {amount})"
        return f"equal within {amount}" if self.kind == "equal" else f"different by up to {amount}"


def replay(
    path: str | Path,
    sources: Sources | None = None,
    places: RecipePlaces | None = None,
    *,
    device: str | None = None,
    dtype: str | None = None,
    threads: int | None = None,
    tolerance: int = TOLERANCE,
    library: "Library | None" = None,
    on_event: OnEvent = ignore,
    cancel: "CancelToken | None" = None,
) -> tuple[Verdict, Picture]:
    """Draw the picture of a file again, with the models and files of its recipe wherever they are now, and compare.

    sources  the pictures that it was drawn from, where it was
    places   where models and files are that are not found by name and hash
    device, dtype, threads  None: those of the recipe, as far as this machine has them
    library  None: the user's
    Raises GessoError where the file is no picture that gesso wrote, and for what is not on this machine.
    """
    path = as_path(path, "path")
    sources, places = sources or Sources(), places or RecipePlaces()
    check_type("sources", sources, Sources, "Sources")
    _check_tolerance(tolerance)
    check_callable("on_event", on_event, "a function of an event")
    original, recipe = read_picture(path)
    check_plugins(recipe, path)
    check_tensors(recipe, path)
    check_sources(recipe, sources.image, sources.mask, sources.hints, path)
    studio = Studio(EngineOptions.of_recipe(recipe, device=device, dtype=dtype, threads=threads), library=library)
    pipeline = studio.open_recipe(recipe, places, near=path.parent, where=path, on_event=on_event)
    verdict, picture = replay_recipe(
        pipeline,
        original,
        recipe,
        tolerance=tolerance,
        on_progress=lambda state: on_event(Sampling(number=1, total=1, progress=state)),
        lossy=not is_lossless(path),
        cancel=cancel,
        **sources.arguments,
    )
    log.info("replayed %r: %s", str(path), verdict.line)
    return verdict, picture


def replay_recipe(
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
    cancel: "CancelToken | None" = None,
) -> tuple[Verdict, Picture]:
    """Draw the recipe once more and compare with the original. Raises GessoError as `TextToImage` does.

    lossy: the original comes from a file that does not keep every bit; the hash in its recipe tells what was drawn.

    image, mask, hints: those that the original was drawn from, where the recipe names any; others are refused.
    """
    check_type("pipeline", pipeline, TextToImage, "a pipeline, such as Studio().open_recipe(recipe)")
    check_type("original", original, Image.Image, "a PIL picture, the first that read_picture gives")
    check_type("recipe", recipe, Recipe, "a Recipe, the second that read_picture gives")
    check_flag("lossy", lossy)
    _check_tolerance(tolerance)
    check_plugins(recipe)
    check_tensors(recipe)
    (picture,) = pipeline(recipe.request, on_progress, image=image, mask=mask, hints=hints, cancel=cancel)
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


def _check_tolerance(tolerance: object) -> None:
    check_number("tolerance", tolerance, "a number of grey levels, such as 2")
