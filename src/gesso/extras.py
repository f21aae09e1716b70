"""Extras: packages that gesso draws without, and what to type to get them."""

import importlib
import logging
import shlex
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from gesso.errors import GessoError


def install_command(extra: str) -> str:
    """What to type so that an extra of gesso is there, for the Python that runs now.

    Its own pip knows that gesso is installed, however that was done, and installs only what is missing. Another pip
    would look for gesso elsewhere. Where it has none, as in the environments of uv, uv's does the same.
    """
    python = shlex.quote(sys.executable) if sys.executable else "python"
    if find_spec("pip") is None:
        return f"uv pip install --python {python} 'gesso[{extra}]'"
    return f"{python} -m pip install 'gesso[{extra}]'"


def missing_words(what: str, package: str, extra: str, error: ImportError | None = None) -> str:
    """A message about a package that something needs. error: why it cannot be imported, where it may be there."""
    broken = error is not None and not isinstance(error, ModuleNotFoundError)
    state = f"cannot be imported ({error})" if broken else "is not installed"
    return f"{what} needs {package}, which {state}. Install it with: {install_command(extra)}"


def missing_extra(
    what: str,
    package: str,
    extra: str,
    error: ImportError | None = None,
    *,
    field: str | None = None,
    data: Mapping[str, Any] | None = None,
) -> GessoError:
    """The error for a package that something needs, with what to type; see `missing_words`."""
    return GessoError(missing_words(what, package, extra, error), code="missing_extra", field=field, data=data)


def import_extra(module: str) -> ModuleType:
    """A module of such a package, without what it logs about others that it would like. Raises ImportError."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        return importlib.import_module(module)
    finally:
        logging.disable(before)
