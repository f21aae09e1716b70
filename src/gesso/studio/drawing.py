"""Draws orders: applies flags, styles and wildcards to the prompt, and reports progress and notices."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from gesso.errors import GessoError
from gesso.frontends.front_end import FrontEnd, PlainRequest
from gesso.request.checks import check_known
from gesso.request.request import TextToImageRequest
from gesso.studio.events import FinalSize, Noticed, OnEvent, Sampling, ignore
from gesso.studio.sources import Sources

if TYPE_CHECKING:
    from gesso.pipelines.picture import Picture, Progress
    from gesso.pipelines.text_to_image import TextToImage
    from gesso.runtime.cancel import CancelToken
    from gesso.runtime.plan import MemoryPlan
    from gesso.studio.output_names import OutputNames


@dataclass(frozen=True, kw_only=True)
class Order:
    """What to draw.

    request  with the prompt as written; the front end applies flags, wildcards and styles
    sources  the source picture, mask and hints of the request
    """

    request: TextToImageRequest
    sources: Sources = field(default_factory=Sources)
    front: FrontEnd = field(default_factory=FrontEnd)

    @property
    def num_images(self) -> int:
        """The number of pictures. Raises PromptError."""
        return self.front.num_images(self.request)

    def requests(self, pipeline: "TextToImage") -> Iterator[PlainRequest]:
        """The plain requests that draw its pictures, in their order. Raises PromptError."""
        return self.front.requests(self.request, pipeline.model.family)


@dataclass(frozen=True, kw_only=True)
class SavedPicture:
    """A picture in a file.  seconds: that drawing and saving took"""

    path: Path
    picture: "Picture"
    seconds: float


def check_names(request: TextToImageRequest) -> None:
    """Check the names of sampler, schedule and noise, before a model is loaded for nothing. Raises RequestError."""
    from gesso.diffusion.noise import NOISE_SOURCES
    from gesso.request.names import with_canonical_names

    with_canonical_names(request)
    if request.noise is not None:
        check_known("noise", request.noise, NOISE_SOURCES.keys())


def check_words(pipeline: "TextToImage", order: Order) -> None:
    """Raises GessoError for a prompt of which the model knows nothing, where the prompt alone says what to draw.

    A source picture, a hint or a LoRA says more, and so no check is made. Of a run with wildcards the first is checked.
    """
    from gesso.pipelines.vocabulary import check_known

    request, sources = order.request, order.sources
    if sources.image is None and not (sources.hints or request.controls or request.loras or "<" in request.prompt):
        first = next(order.requests(pipeline)).request
        pipeline.resolve(first, **sources.pictures)  # what is wrong with the request is told before
        check_known(pipeline.model, first.prompt, tuple(pipeline.finder.names("embedding")))


def draw(
    pipeline: "TextToImage", order: Order, on_event: OnEvent = ignore, *, cancel: "CancelToken | None" = None
) -> "Iterator[Picture]":
    """Draw the pictures of an order, and yield each as soon as it is finished.

    Flags and sizes are checked at once, the rest as the iterator is read; a notice is reported once. Raises GessoError
    as `TextToImage` does, PromptError for flags and wildcards that cannot be read, CancelledError once it is cancelled.
    """
    requests = order.requests(pipeline)
    first = next(requests)
    _report_size(pipeline, first, order.sources, on_event)
    return _drawn(pipeline, order, chain((first,), requests), on_event, cancel)


def _drawn(
    pipeline: "TextToImage",
    order: Order,
    parts: Iterable[PlainRequest],
    on_event: OnEvent,
    cancel: "CancelToken | None",
) -> "Iterator[Picture]":
    total, done, reported = order.num_images, 0, set[str]()
    for part in parts:

        def progress(state: "Progress", before: int = done) -> None:
            on_event(Sampling(number=before + state.index + 1, total=total, progress=state))

        for picture in pipeline(part.request, progress, **order.sources.arguments, cancel=cancel):
            picture = picture.with_notices(part.notices)
            for notice in dict.fromkeys(picture.notices):
                if notice not in reported:
                    on_event(Noticed(notice=notice))
                    reported.add(notice)
            done += 1
            yield picture


def _report_size(pipeline: "TextToImage", first: PlainRequest, sources: Sources, on_event: OnEvent) -> None:
    from gesso.pipelines.framing import finished_size, size_notice

    resolved = pipeline.resolve(first.request, **sources.pictures)
    size = finished_size(resolved, sources.image)
    if size is not None:
        on_event(FinalSize(width=size[0], height=size[1]))
    if (notice := size_notice(resolved, pipeline.model.family)) is not None:
        on_event(Noticed(notice=notice))


def save_drawn(
    pipeline: "TextToImage",
    order: Order,
    names: "OutputNames",
    *,
    quality: int,
    on_event: OnEvent = ignore,
    cancel: "CancelToken | None" = None,
) -> Iterator[SavedPicture]:
    """Draw an order into files, each written whole as soon as its picture is finished.

    names    from `gesso.studio.output_names.plan`; the ending says which format
    quality  1 to 100, of all formats but PNG
    Raises GessoError as `draw` does, and where a file cannot be written.
    """
    pictures = draw(pipeline, order, on_event, cancel=cancel)
    last = time.perf_counter()
    for done, picture in enumerate(pictures):
        try:
            path = names.save(picture.encode(names.format, quality), picture.recipe)
        except GessoError as error:  # a full disk, perhaps
            if not done:
                raise
            raise GessoError(
                f"{error.message}. The first {done} of {order.num_images} pictures are kept; "
                f"`seed={picture.seed}` draws the same ones again",
                code=error.code,
                data=error.data,
            ) from None
        now = time.perf_counter()
        yield SavedPicture(path=path, picture=picture, seconds=now - last)
        last = time.perf_counter()


def memory_plans(pipeline: "TextToImage", order: Order) -> "dict[str, MemoryPlan]":
    """The memory that an order needs, and what is offloaded, by the names of the models. Draws nothing.

    Raises GessoError where the engine's memory cannot be kept.
    """
    first = next(order.requests(pipeline))
    return pipeline.plans(first.request, **order.sources.arguments)
