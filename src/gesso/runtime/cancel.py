"""Giving up what is under way: a token that whoever asked holds, and that is looked at before each network call."""

from threading import Event

from gesso.errors import GessoError


class CancelledError(GessoError):
    """The work was cancelled by its token."""

    default_code = "cancelled"

    def __init__(self) -> None:
        super().__init__("cancelled")


class CancelToken:
    """Cancels what it was given to, from any thread, once and for good.

    Drawing looks at it before each call of a network, so it ends within a part of a step, and leaves nothing behind.
    """

    def __init__(self) -> None:
        self._event = Event()

    def cancel(self) -> None:
        """Asks for the end. May be called more than once, also when the work is done already."""
        self._event.set()

    @property
    def is_cancelled(self) -> bool:
        return self._event.is_set()

    def check(self) -> None:
        """Raises CancelledError once it is cancelled."""
        if self.is_cancelled:
            raise CancelledError
