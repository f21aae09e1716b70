"""Imports OpenCV, an optional dependency (the extra `hints`)."""

from types import ModuleType

from gesso.extras import missing_extra


def opencv(what: str) -> ModuleType:
    """The module cv2, which `what` needs. Raises GessoError, with the way to install it, if it is missing."""
    try:
        import cv2
    except ImportError as error:
        raise missing_extra(what, "OpenCV", "hints", error) from error
    return cv2
