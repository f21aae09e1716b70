"""A server for tests: in this process and without a worker, whose part the tests play."""

import io
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import httpx
from PIL import Image
from starlette.testclient import TestClient

from gesso.api.context import Context
from gesso.server.app import create_app
from gesso.server.run import address_of, listen, make_server, open_context
from gesso.serving.database import Database
from gesso.serving.jobs import Job, Lease, Output
from gesso.serving.settings import ServeSettings

CAR = {"request": {"prompt": "a red car", "seed": 7, "num_steps": 8}}


def _png() -> bytes:
    buffer = io.BytesIO()
    Image.radial_gradient("L").resize((16, 16)).save(buffer, "PNG")
    return buffer.getvalue()


PNG = _png()


@cache
def empty_database() -> bytes:
    """A database with its tables, which take longer to make than to copy."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "queue.sqlite3"
        Database(path).close()
        return path.read_bytes()


@contextmanager
def context(home: Path, **settings: Any) -> Iterator[Context]:
    """What a server works with. No worker process is started."""
    if not (database := home / "queue.sqlite3").exists():
        database.write_bytes(empty_database())
    with open_context(ServeSettings(home=home, workers=0, **settings)) as made:
        yield made


@contextmanager
def client(made: Context, key: str | None = None, **options: Any) -> Iterator[TestClient]:
    """A client of the application, without sockets."""
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    with TestClient(create_app(made), base_url="http://127.0.0.1:7860", headers=headers, **options) as asking:
        yield asking


@contextmanager
def server(made: Context) -> Iterator[str]:
    """The address of a server with sockets, in a thread."""
    listening = listen(ServeSettings(port=0))
    ready = threading.Event()
    running = make_server(made, ready.set)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        assert ready.wait(10)
        yield address_of(ServeSettings(port=0), listening)
    finally:
        made.is_stopping = True
        running.should_exit = True
        thread.join(15)
        listening.close()
        assert not thread.is_alive()


def lease(made: Context) -> Lease:
    """The next job, held by a worker that the test plays."""
    held = made.store.claim("a test", lease_seconds=60)
    assert held is not None
    return held


def finish(made: Context, held: Lease, data: bytes = PNG) -> Output:
    """A picture of the job, and the job's end."""
    output = Output(
        id=f"{held.job.id}-0",
        index=0,
        content_type="image/png",
        nbytes=len(data),
        width=16,
        height=16,
        digest=made.blobs.put(data),
        seed=7,
        recipe={"request": {"width": 256, "height": 256, "num_steps": 8}, "schema": "gesso.recipe"},
    )
    assert made.store.add_output(held, output)
    assert made.store.finish(held)
    return output


def drawn(made: Context, asking: httpx.Client | TestClient, body: Any = CAR) -> tuple[Job, Output]:
    """A job that was submitted, drawn and finished."""
    answer = asking.post("/v1/jobs", json=body)
    assert answer.status_code == 202, answer.text
    held = lease(made)
    output = finish(made, held)
    return made.store.get(held.job.id), output


def problem(answer: httpx.Response, status: int, code: str, field: str | None = None) -> dict[str, Any]:
    """The problem details of a refusal, which has this status, code and field."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    found: dict[str, Any] = answer.json()
    assert (answer.status_code, found["code"]) == (status, code), found
    assert field is None or found["field"] == field, found
    assert found["status"] == status and found["type"] == f"urn:gesso:error:{code}" and found["title"]
    return found
