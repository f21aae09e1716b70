"""A server with sockets and a worker that draws with the built-in model, both in this process, for real clients."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from gesso.api.context import Context
from gesso.server.run import worker_options
from gesso.serving.worker import WorkerLoop
from serving.served import context, server


@contextmanager
def drawing_server(home: Path, **settings: Any) -> Iterator[tuple[str, Context]]:
    """Address and context."""
    with context(home, rate=10**6, threads=1, device="cpu", **settings) as made, working(made), server(made) as address:
        yield address, made


def run_page(name: str, address: str) -> dict[str, Any]:
    """Run the Python of a page of docs/ against a server, in the folder of the process. -> its names"""
    page = (Path(__file__).parents[2] / "docs" / name).read_text(encoding="utf-8")
    found = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert found, name
    names: dict[str, Any] = {"print": lambda *_: None}
    for text in found:
        port = address.rpartition(":")[2]
        exec(compile(text.replace("7860", port), name, "exec"), names)
    return names


@contextmanager
def working(made: Context, kind: type[WorkerLoop] = WorkerLoop) -> Iterator[WorkerLoop]:
    """A worker in a thread."""
    (options,) = worker_options(replace(made.settings, workers=1), made.blobs)
    loop = kind("w", replace(options, preview_seconds=0.01), exit=lambda code: None)
    thread = threading.Thread(target=loop.run)
    thread.start()
    try:
        yield loop
    finally:
        loop.stopping.set()
        thread.join()
