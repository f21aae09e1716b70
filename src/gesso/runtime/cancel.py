"""Cancellation: a token that any thread can set, checked before each network call."""

from threading import Event

from gesso.errors import GessoError, short
from gesso.request.checks import RequestError


class CancelledError(GessoError):
    """The work was cancelled by its token."""

    default_code = "cancelled"

    def __init__(self) -> None:
        super().__init__("cancelled")


def as_token(cancel: object) -> "CancelToken | None":
    """What was passed as `cancel`. Raises RequestError for anything but a token or None."""
    if cancel is None or isinstance(cancel, CancelToken):
        return cancel
    raise RequestError(
        "cancel",
        f"`cancel` is {short(cancel)}, expected a CancelToken: pass token = gesso.CancelToken(), and call "
        "token.cancel() from any thread to stop",
    )


class CancelToken:
    """Cancels the work that it is passed to, from any thread, once and for good.

    Generation checks it before each network call, so it ends within a part of a step and leaves nothing behind.
    """

    def __init__(self) -> None:
        self._event = Event()

    def cancel(self) -> None:
        """Cancels. May be called more than once, and after the work is done."""
        self._event.set()

    @property
    def is_cancelled(self) -> bool:
        return self._event.is_set()

    def check(self) -> None:
        """Raises CancelledError if it is cancelled."""
        if self.is_cancelled:
            raise CancelledError
