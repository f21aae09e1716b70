"""Imports OpenCV, an optional dependency (the extra `hints`)."""

from types import ModuleType

from gesso.errors import GessoError


def opencv(what: str) -> ModuleType:
    """The module cv2. Raises GessoError, which says how to install it, where it is missing; `what` needs it."""
    try:
        import cv2
    except ImportError as error:
        raise GessoError(
            f"{what} needs OpenCV, which is not available ({error}). Try: pip install 'gesso[hints]'",
            code="missing_extra",
        ) from error
    return cv2
