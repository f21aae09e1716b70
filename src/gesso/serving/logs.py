"""Lines of the log, as the server and its workers write them."""

import json
import logging
import time

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
)  # what a record may have besides


class LogLines(logging.Formatter):
    """One line a record, as text or as a JSON object; a traceback follows a line of text."""

    def __init__(self, as_json: bool) -> None:
        super().__init__()
        self.as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03}Z"
        words = {name: getattr(record, name) for name in WORDS if getattr(record, name, None) is not None}
        message = one_line(record.getMessage())
        trace = self.formatException(record.exc_info) if record.exc_info else ""
        if self.as_json:
            values = {"time": at, "level": record.levelname.lower(), "logger": record.name, "message": message, **words}
            return json.dumps(values | ({"traceback": trace} if trace else {}))
        told = " ".join(f"{name}={value}" for name, value in words.items())
        return f"{at} {record.levelname.lower():<7} {message} {told}".rstrip() + (f"\n{trace}" if trace else "")
