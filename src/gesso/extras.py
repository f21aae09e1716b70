"""Extras: packages that gesso draws without, and what to type to get them."""

import importlib
import logging
import shlex
import sys
from importlib.util import find_spec
from types import ModuleType


def install_command(extra: str) -> str:
    """What to type so that an extra of gesso is there, for the Python that runs now.

    Its own pip knows that gesso is installed, however that was done, and installs only what is missing. Another pip
    would look for gesso elsewhere. Where it has none, as in the environments of uv, uv's does the same.
    """
    python = shlex.quote(sys.executable) if sys.executable else "python"
    if find_spec("pip") is None:
        return f"uv pip install --python {python} 'gesso[{extra}]'"
    return f"{python} -m pip install 'gesso[{extra}]'"


def import_extra(module: str) -> ModuleType:
    """A module of such a package, without what it logs about others that it would like. Raises ImportError."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        return importlib.import_module(module)
    finally:
        logging.disable(before)
