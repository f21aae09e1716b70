"""Lines of the log, as the server and its workers write them."""

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from threading import Lock

from gesso.errors import one_line

WORDS = (
    "request_id",
    "method",
    "route",
    "status",
    "ms",
    "client",
    "key",
    "job",
    "trace",
    "prompt",
)  # what a record may have besides
SAID_SECONDS = 10.0  # between two lines of `NowAndThen`


def know_no_threads() -> None:
    """Leave out of records what no line of ours says: the place in the code, thread and process. To find that takes
    longer than all the rest."""
    logging._srcfile = None  # as the documentation of logging has it, "Optimization"
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


@contextmanager
def logged(as_json: bool) -> Iterator[None]:
    """Within the block, the server's log goes to stderr, a line for each request."""
    know_no_threads()
    handler = logging.StreamHandler()
    handler.setFormatter(LogLines(as_json))
    loggers = [logging.getLogger(name) for name in ("gesso", "uvicorn", "opentelemetry")]
    before = [(logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    levels = (min(logging.INFO, loggers[0].level or logging.INFO), logging.WARNING, logging.WARNING)
    for logger, level in zip(loggers, levels, strict=True):
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)
    try:
        yield
    finally:
        for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)


class NowAndThen:
    """Lines of one kind that may come by the thousand: one in some seconds is written, the others are counted.

    Any thread may use it.
    """

    def __init__(self, log: logging.Logger, level: int) -> None:
        self._log, self._level = log, level
        self._next, self._more, self._lock = 0.0, 0, Lock()

    def tell(self, message: str, **words: object) -> None:
        """Write a line, or count it. words: what the record has besides, see `WORDS`."""
        with self._lock:
            now = time.monotonic()
            if now < self._next:
                self._more += 1
                return
            more = f" ({self._more} more of that kind before)" if self._more else ""
            self._next, self._more = now + SAID_SECONDS, 0
        self._log.log(self._level, "%s%s", message, more, extra=words)


@lru_cache(maxsize=4)
def _second(at: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at))


class LogLines(logging.Formatter):
    """One line a record, as text or as a JSON object; a traceback follows a line of text."""

    def __init__(self, as_json: bool) -> None:
        super().__init__()
        self.as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        at = f"{_second(int(record.created))}.{int(record.msecs):03}Z"
        words = {name: getattr(record, name) for name in WORDS if getattr(record, name, None) is not None}
        message = one_line(record.getMessage())
        trace = self.formatException(record.exc_info) if record.exc_info else ""
        if self.as_json:
            values = {"time": at, "level": record.levelname.lower(), "logger": record.name, "message": message, **words}
            return json.dumps(values | ({"traceback": trace} if trace else {}))
        told = " ".join(f"{name}={json.dumps(value) if name == 'prompt' else value}" for name, value in words.items())
        return f"{at} {record.levelname.lower():<7} {message} {told}".rstrip() + (f"\n{trace}" if trace else "")
