"""From a picture of any tool to its settings: `read_metadata`."""

import logging
from pathlib import Path

from gesso.errors import GessoError, as_path
from gesso.metadata.a1111 import from_infotext
from gesso.metadata.carriers import PictureTexts, read_texts
from gesso.metadata.comfyui import from_graph, from_workflow
from gesso.metadata.draw_things import XMP, from_xmp, is_draw_things
from gesso.metadata.easy_diffusion import from_easy_diffusion, is_easy_diffusion
from gesso.metadata.foreign_json import from_object, is_json, object_in
from gesso.metadata.invokeai import from_dream, from_invokeai, from_invokeai_2
from gesso.metadata.novelai import from_novelai, is_novelai
from gesso.metadata.picture_metadata import PictureMetadata
from gesso.pictures.infotext_reading import read_infotext
from gesso.pictures.picture_file import RECIPE_KEYWORD
from gesso.request.recipe import Recipe

# Tools whose pictures are read, with those that write like them.
READ_TOOLS = (
    *("gesso", "A1111", "ComfyUI", "SwarmUI", "Fooocus", "InvokeAI", "NovelAI", "Easy Diffusion", "Draw Things"),
    *("SD.Next", "stable-diffusion.cpp"),
)

log = logging.getLogger(__name__)


def read_metadata(path: str | Path) -> PictureMetadata:
    """Read the settings stored in a picture of gesso or another tool, as a request; `READ_TOOLS` names them.

    path  a PNG, JPEG, WebP or AVIF file. Pixels are decoded only to find a text hidden in them
    Raises GessoError where it is no such picture, or carries no settings that can be read.
    """
    path = as_path(path, "path")
    texts = read_texts(path)
    metadata = settings_of(texts)
    if metadata is None:
        raise GessoError(
            f"{path}: no settings that gesso reads (of {', '.join(READ_TOOLS)}); its texts: {_kinds(texts)}",
            code="no_settings",
            data={"path": str(path)},
        )
    log.debug("read settings of %s from %r", metadata.tool, str(path))
    return metadata


def _kinds(picture: PictureTexts) -> str:
    """The texts of a file by name, those that are JSON of an unknown tool with their fields."""
    shown = []
    for name, text in sorted(picture.texts.items()):
        fields = object_in(text)
        shown.append(f"{name} (JSON with {', '.join(map(str, fields))[:80]})" if fields is not None else name)
    return ", ".join(shown)[:200] or "none"


def settings_of(picture: PictureTexts) -> PictureMetadata | None:
    """The settings among the texts of a file; None where no tool's are there. Raises GessoError for damaged ones."""
    try:
        return _settings(picture)
    except GessoError as error:
        raise GessoError(
            f"{picture.path}: {error.message}", code=error.code, field=error.field, data=error.data
        ) from error


def _settings(picture: PictureTexts) -> PictureMetadata | None:
    texts = picture.texts
    if RECIPE_KEYWORD in texts:
        return _from_recipe(Recipe.from_json(texts[RECIPE_KEYWORD]))
    for keyword, read in (
        ("invokeai_metadata", from_invokeai),
        ("sd-metadata", from_invokeai_2),
        ("Dream", from_dream),
    ):
        if keyword in texts:
            return read(texts[keyword])
    if is_novelai(texts):
        return from_novelai(texts)
    if (
        "parameters" in texts
        and (metadata := _from_text(texts["parameters"], alone=picture.format == "PNG")) is not None
    ):
        return metadata
    if is_easy_diffusion(texts):
        return from_easy_diffusion(texts)
    if texts.get("prompt", "").lstrip().startswith("{"):  # else the words of some tool
        return from_graph(
            texts["prompt"],
            width=picture.width,
            height=picture.height,
            name=picture.path.stem,
            workflow=texts.get("workflow", ""),
        )
    if "workflow" in texts:
        return _from_workflow(texts["workflow"], picture)
    if is_draw_things(texts.get(XMP, "")):
        return from_xmp(texts[XMP])
    for keyword in ("Comment", "comment", "Description"):
        if keyword in texts and (metadata := _from_text(texts[keyword], alone=False)) is not None:
            return metadata
    return None


def _from_text(text: str, *, alone: bool) -> PictureMetadata | None:
    """The settings in a text: JSON of a tool, or an infotext.

    alone  whether a prompt alone is settings, as in a PNG; in other places it may be anybody's comment
    """
    stored = object_in(text)
    if stored is not None:
        return from_object(stored)
    infotext = read_infotext(text)
    if not infotext.pairs and (is_json(text) or not (alone or infotext.negative_prompt)):
        return None
    return from_infotext(infotext)


def _from_workflow(text: str, picture: PictureTexts) -> PictureMetadata:
    try:
        return from_workflow(text, width=picture.width, height=picture.height, name=picture.path.stem)
    except GessoError as error:
        message = "has ComfyUI's workflow without the graph itself (text chunk 'prompt')"
        raise GessoError(
            f"{message}: {error.message}. Save the picture from ComfyUI again",
            code=error.code,
            field=error.field,
            data=error.data,
        ) from error


def _from_recipe(recipe: Recipe) -> PictureMetadata:
    return PictureMetadata(
        tool="gesso",
        request=recipe.request,
        model=recipe.model,
        model_hash=recipe.model_hash,
        recipe=recipe,
        notices=recipe.notices,
    )
