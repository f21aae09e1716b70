"""Loading, told to whoever listens: an event before and after, and a line in the log."""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from torch import nn

from gesso.events import EventStream, ModelLoaded, ModelLoading

log = logging.getLogger(__name__)

T = TypeVar("T")


def reported(
    events: EventStream,
    kind: str,
    name: str,
    load: Callable[[], T],
    nbytes: Callable[[T], int],
    family: Callable[[T], str] = lambda loaded: "",
) -> T:
    """What `load` gives, with the events `ModelLoading` and `ModelLoaded` around it. Raises what `load` raises.

    nbytes, family  what the second event says of what was loaded
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
    """Bytes of the weights of networks, in the dtypes that they have now."""
    return sum(tensor.nbytes for network in networks for tensor in network.state_dict().values())
