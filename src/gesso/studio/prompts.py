"""How a model parses prompts, without drawing and without its large networks in memory."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gesso.frontends.front_end import FrontEnd
from gesso.notices import Notice
from gesso.request.request import ResolvedRequest, TextToImageRequest

if TYPE_CHECKING:
    from gesso.pipelines.prompt_reading import ReadRequest
    from gesso.request.finder import Finder
    from gesso.studio.studio import Studio


@dataclass(frozen=True, kw_only=True)
class PromptReading:
    """The prompts of one request.

    request  with the model's defaults, its prompts as the front end wrote them
    reading  pieces, weights, chunks, adapters
    notices  of the front end
    """

    request: ResolvedRequest
    reading: "ReadRequest"
    notices: tuple[Notice, ...] = ()


def read_prompts(
    studio: "Studio",
    request: TextToImageRequest,
    *,
    model: str | Path,
    family: str | None = None,
    front: FrontEnd | None = None,
    finder: "Finder | None" = None,
) -> Iterator[PromptReading]:
    """One reading for each request that the front end makes of this one.

    model, family, finder  as `Studio.open` takes them
    Raises GessoError for what is not there, PromptError and RequestError as drawing does.
    """
    path = studio.resolve(model)
    import torch

    from gesso.families.loading import load_parts
    from gesso.pipelines.defaults import defaults_for
    from gesso.pipelines.prompt_reading import read_request
    from gesso.request.names import with_canonical_names
    from gesso.request.resolving import resolve
    from gesso.runtime.adapter_cache import AdapterCache
    from gesso.runtime.engine import find_model
    from gesso.runtime.model import LoadedModel
    from gesso.runtime.precision import choose_precision

    device = torch.device("cpu")
    parts = load_parts(find_model(path), dtype=None, check=False, family=family)
    loaded = LoadedModel(
        name=Path(model).name, parts=parts, device=device, precision=choose_precision("float32", device)
    )
    cache, finder = AdapterCache(), finder if finder is not None else studio.finder()
    for written in (front or FrontEnd()).requests(with_canonical_names(request), parts.family):
        resolved = resolve(written.request, defaults_for(written.request, parts.family))
        reading = read_request(resolved, loaded, finder, cache)
        yield PromptReading(request=resolved, reading=reading, notices=written.notices)
