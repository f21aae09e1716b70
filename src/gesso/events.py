"""Events of an engine: typed, frozen values for subscribers. Imports no torch.

    engine = Engine(on_event=print)                    # everything, from the first load on
    stop = engine.events.subscribe(show, StepDone)     # one kind
    stop()                                             # no more of it

Subscribers are called in the thread that does the work, one after the other, so they should be quick: put the event
into a queue for anything slow. One that raises is logged and disturbs neither the drawing nor the others. To stop a
drawing, cancel it; an exception from a subscriber does not. No event carries a prompt.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import Any, TypeVar, overload

from gesso.notices import Notice

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Event:
    """The base of every event."""


@dataclass(frozen=True, kw_only=True)
class ModelLoading(Event):
    """A file of weights is about to be opened, which takes a moment, or minutes where it must be read whole.

    kind  model, refiner, control, image_prompt, image_encoder, upscaler, lora, embedding
    name  by which it was asked for, without a path
    """

    kind: str
    name: str


@dataclass(frozen=True, kw_only=True)
class ModelLoaded(Event):
    """A file of weights is loaded. One that stays loaded from an earlier request is not reported again.

    kind, name  as in ModelLoading
    family      of a model: sd15, sdxl, ...; "" of anything else
    nbytes      of its weights as they are stored. They may still lie in their file, mapped, and not in memory
    seconds     since ModelLoading
    """

    kind: str
    name: str
    family: str = ""
    nbytes: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class PlanChosen(Event):
    """The memory plan of a picture, if the engine has a memory limit.

    job     number of the pipeline call, from 1 for the engine's first
    model   name of the model
    peak    most bytes used, by the plan
    budget  bytes that may be used
    stay    how weights are offloaded: resident, turns, stream; see `gesso.runtime.residency`
    """

    job: int
    model: str
    peak: int
    budget: int
    stay: str


@dataclass(frozen=True, kw_only=True)
class RecomputedInFloat32(Event):
    """A network gave NaN or infinity in half precision and was computed again in float32.

    job      as in PlanChosen
    index    as in StepDone
    network  unet, vae, upscaler
    notice   the same in words
    """

    job: int
    index: int
    network: str
    notice: Notice


@dataclass(frozen=True, kw_only=True)
class StepDone(Event):
    """A sampling step is done.

    job        as in PlanChosen
    index      index of the picture in its run, which with the seed decides its noise
    step       steps done, from 1
    num_steps  steps in all, of both passes where there are two
    seconds    that this step took
    """

    job: int
    index: int
    step: int
    num_steps: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class PictureDone(Event):
    """A picture is finished.

    job, index     as in StepDone
    seed           of the request
    width, height  in pixels
    seconds        since its drawing began; pictures that are drawn side by side share the time
    notices        what the user should know, as in the recipe
    """

    job: int
    index: int
    seed: int
    width: int
    height: int
    seconds: float
    notices: tuple[Notice, ...] = ()


def _kinds(base: type[Event] = Event) -> list[type[Event]]:
    return [base, *(kind for one in base.__subclasses__() for kind in _kinds(one))]


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 64 else f"{text[:60]}..."


E = TypeVar("E", bound=Event)
Handler = Callable[[E], object]


class EventStream:
    """The event stream of an engine. Any thread may subscribe, unsubscribe and publish."""

    def __init__(self) -> None:
        self._lock = Lock()  # of changes; whoever publishes reads a tuple that is never changed
        self._subscribers: tuple[tuple[Callable[[Any], object], tuple[type[Event], ...]], ...] = ()

    @overload
    def subscribe(self, handler: Handler[Event], /) -> Callable[[], None]: ...
    @overload
    def subscribe(self, handler: Handler[E], kind: type[E], /, *kinds: type[E]) -> Callable[[], None]: ...
    def subscribe(self, handler: Callable[[Any], object], /, *kinds: type[Event]) -> Callable[[], None]:
        """Call `handler` with every event, or with those of these kinds -> a function that ends the subscription.

        That function may be called in the handler, too, and more than once. Raises TypeError for a handler that cannot
        be called, and for a kind that is no class of events.
        """
        if not callable(handler):
            raise TypeError(f"handler is {_shown(handler)}, expected a function of an event")
        names = {one.__name__ for one in _kinds()}
        each: tuple[object, ...] = kinds
        for kind in each:
            if not (isinstance(kind, type) and issubclass(kind, Event)):
                near = f" (did you mean the class {kind}?)" if isinstance(kind, str) and kind in names else ""
                raise TypeError(f"kind is {_shown(kind)}, expected a class of events such as StepDone{near}")
        entry = (handler, kinds or (Event,))
        with self._lock:
            self._subscribers = (*self._subscribers, entry)

        def stop() -> None:
            with self._lock:
                self._subscribers = tuple(other for other in self._subscribers if other is not entry)

        return stop

    def publish(self, event: Event) -> None:
        """Hand an event to its subscribers, in the order in which they came."""
        for handler, kinds in self._subscribers:
            try:
                if isinstance(event, kinds):
                    handler(event)
            except Exception:
                log.exception("a subscriber failed on %s", type(event).__name__)
