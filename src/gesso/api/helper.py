"""The server's end of the helper, see `gesso.serving.helping`: starts it when something is asked, and asks."""

import json
import logging
import os
import select
import subprocess
import sys
import time
from contextlib import suppress
from threading import Lock
from typing import Any

from gesso.api.problems import HttpError, sentence

log = logging.getLogger(__name__)

MAX_WAITING = 8  # requests that wait for their turn


class Helper:
    """One helper process, which does one thing at a time. Any thread may ask.

    It starts with the first question, which takes seconds, and ends when nothing is asked for some minutes.
    """

    def __init__(self) -> None:
        self._turn, self._counting = Lock(), Lock()
        self._waiting = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False

    def ask(self, task: str, *, seconds: float = 120.0, **values: Any) -> Any:
        """What the task returns. Blocks.  seconds: it may take

        Raises HttpError: what the task raised; 503 overloaded where it takes too long, or too many wait.
        """
        with self._counting:
            if self._waiting >= MAX_WAITING:
                raise _overloaded(f"{self._waiting} others wait for the same; try again later")
            self._waiting += 1
        try:
            with self._turn:
                line = json.dumps({"task": task, **values}).encode() + b"\n"
                reply = self._exchange(line, time.monotonic() + seconds)
        finally:
            with self._counting:
                self._waiting -= 1
        if "error" in reply:
            raise _refusal(reply["error"])
        return reply["done"]

    def close(self) -> None:
        """End the process, whatever it does."""
        self._closed = True
        self._end()

    def _exchange(self, line: bytes, until: float) -> dict[str, Any]:
        for is_last in (False, True):
            process = self._started()
            assert process.stdin is not None and process.stdout is not None
            try:
                process.stdin.write(line)
                process.stdin.flush()
                return dict(json.loads(_line(process.stdout.fileno(), until)))
            except TimeoutError:
                self._end()
                raise _overloaded("it takes too long") from None
            except (OSError, EOFError, ValueError):
                self._end()
                if is_last:  # once it may have ended just now since it had nothing to do
                    break
        log.error("the helper ended while it was asked something")
        raise HttpError(500, "internal", sentence("internal"))

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is not None:
            self._end()
        if self._process is None:
            if self._closed:
                raise _overloaded("the server stops")
            words = (sys.executable, "-m", "gesso.serving.helping")
            self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        return self._process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()


def _line(handle: int, until: float) -> bytes:
    """One line. Raises TimeoutError, and EOFError where there is none."""
    got = bytearray()
    while not got.endswith(b"\n"):
        left = until - time.monotonic()
        if left <= 0 or not select.select([handle], [], [], left)[0]:
            raise TimeoutError
        part = os.read(handle, 65536)
        if not part:
            raise EOFError
        got += part
    return bytes(got)


def _refusal(error: dict[str, Any]) -> HttpError:
    code = str(error["code"])
    status = {"disk_full": 507, "internal": 500, "name_taken": 409}.get(code, 400)
    detail = error["message"] if error["is_shown"] else sentence(code)
    field = "prompt" if error["is_prompt"] and error["field"] is None else error["field"]
    return HttpError(status, code, detail, field=field)


def _overloaded(why: str) -> HttpError:
    return HttpError(503, "overloaded", why, headers={"Retry-After": "5"})
