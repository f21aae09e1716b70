"""`--from PICTURE`: the settings of a picture of any tool as the start of a request."""

from dataclasses import dataclass, replace
from pathlib import Path

from gesso.cli.model_option import model_of_recipe
from gesso.errors import GessoError
from gesso.request.request import TextToImageRequest


@dataclass(frozen=True)
class StartingPoint:
    """What a picture gives.  model: its model, where that is here; notices: what is not the same here"""

    request: TextToImageRequest
    model: str | None = None
    notices: tuple[str, ...] = ()


def start_from(path: Path, given: TextToImageRequest, *, with_image: bool, with_model: bool) -> StartingPoint:
    """The request of a picture with what was given in its place.

    given       from the other options; an empty prompt means that of the picture
    with_image  a picture to draw from is given
    with_model  a model is given, so that the picture's is not looked for
    Raises GessoError where the picture carries no settings, or its model is not here.
    """
    from gesso.metadata.reading import read_metadata
    from gesso.request.overlay import overlay

    found = read_metadata(path)
    if not given.prompt.strip():
        given = replace(given, prompt=found.request.prompt)
    request = overlay(found.request, given, with_image=with_image)
    if not request.prompt.strip():
        raise GessoError(f"{path}: carries no prompt; say what to draw")
    if with_model or not found.model:
        return StartingPoint(request, notices=found.notices)
    names = (found.model, f"{found.model}.safetensors")
    digests = [found.model_hash] if found.model_hash else []
    model = next((here for name in names if (here := model_of_recipe(name, digests, path.parent)) is not None), None)
    if model is None:
        told = f"{found.model[:100]!r}" + (f" (sha256 {found.model_hash}...)" if found.model_hash else "")
        raise GessoError(f"{path}: drawn with {told}, which is not here. Give a model with --model")
    return StartingPoint(request, model, found.notices)
