"""A process that has imported everything and has one thread: it forks servers and workers, which are there at once.

    python -m serving.zygote SOCKET

To import torch takes seconds on a busy machine; a test that kills a thousand processes has not got them.
"""

import array
import json
import os
import select
import signal
import socket
import sys
import time
from contextlib import suppress
from io import TextIOWrapper
from typing import Any, BinaryIO


class Forked:
    """A process that a zygote has forked.  stdin: the end of a pipe, of which the process has the other"""

    def __init__(self, zygote: str, what: str, **words: Any) -> None:
        theirs, ours = os.pipe()
        self.stdin: BinaryIO = os.fdopen(ours, "wb", buffering=0)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as asking:
            asking.connect(zygote)
            sent = json.dumps({"what": what, **words}).encode()
            asking.sendmsg([sent], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [theirs]))])
            os.close(theirs)
            self.pid = int(asking.recv(100))
        self._end = os.pidfd_open(self.pid)

    def poll(self) -> int | None:
        return 0 if self.wait(0) else None

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for its end. -> whether it has ended"""
        ended = self._end < 0 or bool(select.select([self._end], [], [], seconds)[0])
        if ended and self._end >= 0:
            os.close(self._end)
            self._end = -1
        return ended

    def kill(self) -> None:
        if self._end >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._end, signal.SIGKILL)
            self.wait()

    def close(self) -> None:
        self.stdin.close()

    def wake(self) -> None:
        with suppress(OSError, ValueError):
            self.stdin.write(b"\n")

    def listen(self) -> bool:
        return False


def wait_for(path: str) -> None:
    """Wait until a zygote listens there."""
    end = time.monotonic() + 120
    while True:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as asking:
                asking.connect(path)
                return
        except OSError:
            assert time.monotonic() < end, "the zygote does not start"
            time.sleep(0.05)


def main() -> None:
    from gesso.serving.options import WorkerOptions
    from gesso.serving.worker import work
    from serving import killed_server

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the children here
    parent = os.getppid()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind(sys.argv[1])
        listening.listen(64)
        listening.settimeout(1.0)
        while os.getppid() == parent:
            try:
                asking, _ = listening.accept()
            except TimeoutError:
                continue
            asking.settimeout(10.0)
            data, fds = b"", list[int]()
            with suppress(OSError):
                data, fds, _, _ = socket.recv_fds(asking, 65536, 1)
            if not data:
                asking.close()
                continue
            asked = json.loads(data)
            if (pid := os.fork()) == 0:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                listening.close()
                asking.close()
                if asked["what"] == "worker":
                    work(asked["name"], WorkerOptions.from_json(asked["options"]), fds[0])
                else:
                    sys.stdin = TextIOWrapper(os.fdopen(fds[0], "rb", buffering=0))
                    killed_server.main(sys.argv[1])
                os._exit(0)
            os.close(fds[0])
            with suppress(OSError):  # who asked was killed meanwhile; a worker sees that, and ends
                asking.send(str(pid).encode())
            asking.close()


if __name__ == "__main__":
    main()
