"""Events of the studio: plain values for a callback that shows, logs or streams them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gesso.notices import Notice

if TYPE_CHECKING:
    from gesso.pipelines.picture import Progress


@dataclass(frozen=True, kw_only=True)
class Loading:
    """A model is about to be loaded, which takes seconds."""

    model: str


@dataclass(frozen=True, kw_only=True)
class FinalSize:
    """The finished pictures have another size than the request asks for or its source has, in pixels."""

    width: int
    height: int


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Sampling steps of a picture are done.

    number    of the picture, from 1; pictures drawn together take turns
    total     pictures in all; in a run, including those already done
    progress  the step, and the clean latents that the network last predicted
    """

    number: int
    total: int
    progress: "Progress"


@dataclass(frozen=True, kw_only=True)
class Noticed:
    """Something that the user should know about a picture.  about: the picture's name in a run; "" without one"""

    notice: Notice
    about: str = ""


Event = Loading | FinalSize | Sampling | Noticed
OnEvent = Callable[[Event], None]


def ignore(event: Event) -> None:
    """An `OnEvent` that does nothing."""


def to_all(callbacks: Sequence[OnEvent]) -> OnEvent:
    """An `OnEvent` that calls each of these in turn."""

    def on_event(event: Event) -> None:
        for callback in callbacks:
            callback(event)

    return on_event
