"""From a picture of any tool to its settings: `read_metadata`."""

import logging
from pathlib import Path

from gesso.errors import GessoError
from gesso.metadata.a1111 import from_infotext
from gesso.metadata.carriers import PictureTexts, read_texts
from gesso.metadata.comfyui import from_graph, from_workflow
from gesso.metadata.invokeai import from_invokeai
from gesso.metadata.novelai import from_novelai
from gesso.metadata.picture_metadata import PictureMetadata
from gesso.pictures.infotext_reading import read_infotext
from gesso.pictures.picture_file import RECIPE_KEYWORD
from gesso.request.recipe import Recipe

log = logging.getLogger(__name__)


def read_metadata(path: str | Path) -> PictureMetadata:
    """Read the settings stored in a picture of gesso, A1111, ComfyUI, InvokeAI or NovelAI, as a request.

    path  a PNG, JPEG, WebP or AVIF file. Its pixels are not decoded
    Raises GessoError where it is no such picture, or carries no settings that can be read.
    """
    path = Path(path)
    texts = read_texts(path)
    metadata = settings_of(texts)
    if metadata is None:
        kinds = ", ".join(sorted(texts.texts)) or "none"
        raise GessoError(
            f"{path}: no settings of gesso, A1111, ComfyUI, InvokeAI or NovelAI; its texts: {kinds[:200]}",
            code="no_settings",
            data={"path": str(path)},
        )
    log.debug("read settings of %s from %r", metadata.tool, str(path))
    return metadata


def settings_of(picture: PictureTexts) -> PictureMetadata | None:
    """The settings among the texts of a file; None where no tool's are there. Raises GessoError for damaged ones."""
    texts = picture.texts
    try:
        if RECIPE_KEYWORD in texts:
            return _from_recipe(Recipe.from_json(texts[RECIPE_KEYWORD]))
        if "invokeai_metadata" in texts:
            return from_invokeai(texts["invokeai_metadata"])
        if texts.get("Software") == "NovelAI" and "Comment" in texts:
            return from_novelai(texts)
        if "parameters" in texts:
            return from_infotext(read_infotext(texts["parameters"]))
        if "prompt" in texts:
            return from_graph(texts["prompt"], width=picture.width, height=picture.height, name=picture.path.stem)
        if "workflow" in texts:
            return _from_workflow(texts["workflow"], picture)
    except GessoError as error:
        raise GessoError(
            f"{picture.path}: {error.message}", code=error.code, field=error.field, data=error.data
        ) from error
    return None


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
