"""Events and a log line about the loading of models and adapters."""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from torch import nn

from gesso.events import EventStream, ModelLoaded, ModelLoading

log = logging.getLogger(__name__)

T = TypeVar("T")


def load_with_events(
    events: EventStream,
    kind: str,
    name: str,
    load: Callable[[], T],
    nbytes: Callable[[T], int],
    family: Callable[[T], str] = lambda loaded: "",
) -> T:
    """Calls `load` and publishes `ModelLoading` before it and `ModelLoaded` after it. Raises what `load` raises.

    nbytes, family  functions of what was loaded, for the second event
    """
    events.publish(ModelLoading(kind=kind, name=name))
    begin = time.monotonic()
    loaded = load()
    event = ModelLoaded(
        kind=kind, name=name, family=family(loaded), nbytes=nbytes(loaded), seconds=time.monotonic() - begin
    )
    what = f"{kind} {event.family}".strip()
    log.info("loaded %r (%s): %d bytes, %.2f s", name, what, event.nbytes, event.seconds)
    events.publish(event)
    return loaded


def nbytes_of(*networks: nn.Module) -> int:
    """Bytes of the weights of networks, in their present dtypes."""
    return sum(tensor.nbytes for network in networks for tensor in network.state_dict().values())
