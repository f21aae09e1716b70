"""Log messages on the terminal: warnings always, other levels if GESSO_LOG asks for them."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from gesso.errors import GessoError, message_line

VARIABLE = "GESSO_LOG"
LEVELS = ("debug", "info", "warning", "error")


class _ToStderr(logging.Handler):
    """One line a record: "warning: what happened". Below warnings, the module is named, and tracebacks are shown."""

    def emit(self, record: logging.LogRecord) -> None:
        verbose = logging.getLogger("gesso").level < logging.WARNING
        where = f"{record.name}: " if verbose else ""
        print(message_line(f"{record.levelname.lower()}: {where}{record.getMessage()}"), file=sys.stderr)
        if verbose and record.exc_info:
            print(logging.Formatter().formatException(record.exc_info), file=sys.stderr)


@contextmanager
def logged_to_stderr() -> Iterator[None]:
    """Within the block, what gesso logs appears on stderr. Raises GessoError for a GESSO_LOG that is no level."""
    level = os.environ.get(VARIABLE, "").lower() or "warning"
    if level not in LEVELS:
        raise GessoError(f"{VARIABLE}={level[:24]}: expected {', '.join(LEVELS)}", code="invalid_value")
    logger, handler = logging.getLogger("gesso"), _ToStderr()
    before = logger.level
    logger.setLevel(level.upper())
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
