"""Start a request from the settings in a picture of any tool."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from gesso.errors import GessoError
from gesso.notices import Notice
from gesso.request.request import TextToImageRequest
from gesso.studio.home import model_of_recipe

if TYPE_CHECKING:
    from gesso.library import Library


@dataclass(frozen=True)
class StartingPoint:
    """What a picture gives.

    model    its model, as `Engine.load` takes it; None where the picture names none, or it was not looked for
    notices  what could not be carried over
    """

    request: TextToImageRequest
    model: str | None = None
    notices: tuple[Notice, ...] = ()


def start_from(
    path: Path,
    over: TextToImageRequest,
    *,
    with_image: bool,
    find_model: bool = True,
    library: "Library | None" = None,
) -> StartingPoint:
    """The request of a picture with what `over` sets in its place.

    over        an empty prompt means that of the picture
    with_image  a picture to draw from is given
    find_model  whether the picture's model is wanted; it is looked for by name and hash
    library     None: the user's
    Raises GessoError where the picture carries no settings or no prompt, or its model is not here.
    """
    from gesso.metadata.reading import read_metadata
    from gesso.request.overlay import overlay

    settings = read_metadata(path)
    if not over.prompt.strip():
        over = replace(over, prompt=settings.request.prompt)
    request = overlay(settings.request, over, with_image=with_image)
    if not request.prompt.strip():
        raise GessoError(f"{path}: has no prompt; give one", code="prompt_missing", field="prompt")
    if not find_model or not settings.model:
        return StartingPoint(request, notices=settings.notices)
    names = (settings.model, f"{settings.model}.safetensors")
    digests = [settings.model_hash] if settings.model_hash else []
    models = (model_of_recipe(name, digests, path.parent, library) for name in names)
    model = next((model for model in models if model is not None), None)
    if model is None:
        digest = f" (sha256 {settings.model_hash}...)" if settings.model_hash else ""
        raise GessoError(
            f"{path}: drawn with {settings.model[:100]!r}{digest}, which was not found. Give a model with `model`",
            code="recipe_model_missing",
            field="model",
            data={"name": settings.model, "sha256": settings.model_hash},
        )
    return StartingPoint(request, model, settings.notices)
