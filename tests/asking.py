"""Requests for tests that set fields of several groups: fields by any name that the table has for them."""

from typing import Any, TypeVar

from gesso.request.request import NAMED, TextToImageRequest, with_values

R = TypeVar("R", bound=TextToImageRequest)


def ask(*, prompt: str = "", **named: Any) -> TextToImageRequest:
    """A request: `ask(prompt="a cat", strength=0.5, levels="truncate")`."""
    return changed(TextToImageRequest(prompt=prompt), **named)


def changed(request: R, **named: Any) -> R:
    """The request with other values."""
    return with_values(request, {NAMED[name].path if name in NAMED else name: value for name, value in named.items()})
