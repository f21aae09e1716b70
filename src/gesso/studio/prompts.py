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


class PromptReader:
    """Reads prompts as one model does. What it has read of the model's files stays, so that a second prompt is quick.

    studio, model, family  as `Studio.open` takes them
    Raises GessoError for a model that is not there.
    """

    def __init__(self, studio: "Studio", model: str | Path, family: str | None = None) -> None:
        path = studio.resolve(model)
        import torch

        from gesso.families.loading import load_parts
        from gesso.runtime.adapter_cache import AdapterCache
        from gesso.runtime.engine import find_model
        from gesso.runtime.model import LoadedModel
        from gesso.runtime.precision import choose_precision

        device = torch.device("cpu")
        parts = load_parts(find_model(path), dtype=None, check=False, family=family)
        self.model = LoadedModel(
            name=Path(model).name, parts=parts, device=device, precision=choose_precision("float32", device)
        )
        self._studio, self._cache = studio, AdapterCache()

    def read(
        self, request: TextToImageRequest, *, front: FrontEnd | None = None, finder: "Finder | None" = None
    ) -> Iterator[PromptReading]:
        """One reading for each request that the front end makes of this one. Raises as `read_prompts` does."""
        from gesso.pipelines.defaults import defaults_for
        from gesso.pipelines.prompt_reading import read_request
        from gesso.request.names import with_canonical_names
        from gesso.request.resolving import resolve

        finder = finder if finder is not None else self._studio.finder()
        for written in (front or FrontEnd()).requests(with_canonical_names(request), self.model.family):
            resolved = resolve(written.request, defaults_for(written.request, self.model.family))
            reading = read_request(resolved, self.model, finder, self._cache)
            yield PromptReading(request=resolved, reading=reading, notices=written.notices)


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
    yield from PromptReader(studio, model, family).read(request, front=front, finder=finder)
