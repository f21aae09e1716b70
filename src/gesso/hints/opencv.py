"""Imports OpenCV, an optional dependency (the extra `hints`)."""

from types import ModuleType

from gesso.errors import GessoError
from gesso.extras import install_command


def opencv(what: str) -> ModuleType:
    """The module cv2, which `what` needs. Raises GessoError, with the way to install it, if it is missing."""
    try:
        import cv2
    except ImportError as error:
        raise GessoError(
            f"{what} needs OpenCV, which is not available ({error}). Try: {install_command('hints')}",
            code="missing_extra",
        ) from error
    return cv2
