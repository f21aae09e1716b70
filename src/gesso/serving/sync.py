"""Brings what SQLite has committed to the disk: one fsync for all who wait at the same time.

In WAL mode with synchronous=NORMAL a commit writes its pages at the end of the log and lets others at the database at
once; nothing is torn when the power fails, and the last commits may be missing then. An fsync of the log, begun after
a commit, makes it stay: its pages are in the log, or a checkpoint has moved them into the database and has made these
stay before the log was written over.
"""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from threading import Condition, Thread

log = logging.getLogger(__name__)


class DiskSync:
    """Waiting for the disk, shared by threads.

    path        the log
    checkpoint  moves all of the log into the database, on the disk; raises OSError
    """

    def __init__(self, path: Path, checkpoint: Callable[[], None]) -> None:
        self._path, self._checkpoint = path, checkpoint
        self._changed = Condition()
        self._begun = self._done = 0  # number of the fsync that was begun last, and of the one that ended well last
        self._is_busy = self._is_wanted = self._is_closed = self._has_failed = False
        self._thread: Thread | None = None

    def wait(self) -> None:
        """Return when all that was committed before the call is on the disk. Raises OSError."""
        with self._changed:
            wanted = self._begun + 1  # one that runs already may have begun too early
            while self._done < wanted:
                if self._is_busy:
                    self._changed.wait()
                else:
                    self._run()

    def soon(self) -> None:
        """The same by a thread of its own, within a moment."""
        with self._changed:
            self._is_wanted = True
            if self._thread is None and not self._is_closed:
                self._thread = Thread(target=self._serve, name="disk", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def close(self) -> None:
        """End the thread, after what it was asked for."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(10)

    def _run(self) -> None:
        """One fsync, with the lock given back meanwhile."""
        self._is_busy = True
        self._begun += 1
        number, ended = self._begun, False
        self._changed.release()
        try:
            # The kernel tells of a page that it could not write once, and takes it for written from then on. So after
            # a failure the log itself is believed no more: what is in it has to reach the database.
            if self._has_failed:
                self._checkpoint()
            self._fsync()
            ended = True
        finally:
            self._changed.acquire()
            self._is_busy, self._has_failed = False, not ended
            if ended:
                self._done = number
            self._changed.notify_all()

    def _fsync(self) -> None:
        try:
            handle = os.open(self._path, os.O_RDWR)
        except FileNotFoundError:  # the last connection was closed, and everything is in the database
            return
        try:
            getattr(os, "fdatasync", os.fsync)(handle)
        finally:
            os.close(handle)

    def _serve(self) -> None:
        while True:
            with self._changed:
                while not (self._is_wanted or self._is_closed):
                    self._changed.wait()
                if not self._is_wanted:
                    return
                self._is_wanted = False
            try:
                self.wait()
            except OSError as error:
                log.error("the queue's log does not reach the disk: %s", error)
