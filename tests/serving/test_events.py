"""Events of a job over real sockets: numbered, resumed, never lost, and nothing kept for a reader who does not read."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from gesso.api import events
from gesso.api.context import Context
from gesso.api.protocol import StrictProtocol
from serving.served import CAR, client, context, finish, lease, problem, server


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Context]:
    with context(tmp_path_factory.mktemp("events"), rate=10**6, max_streams=20) as opened:
        yield opened


@pytest.fixture(scope="module")
def asking(made: Context) -> Iterator[httpx.Client]:
    with server(made) as url, httpx.Client(base_url=url, timeout=10) as opened:
        yield opened


def submitted(asking: httpx.Client) -> str:
    answer = asking.post("/v1/jobs", json=CAR)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def read(asking: httpx.Client, job: str, last: int | None = None) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Number, type and data of each event, until the stream ends."""
    headers = {} if last is None else {"Last-Event-ID": str(last)}
    with asking.stream("GET", f"/v1/jobs/{job}/events", headers=headers) as answer:
        assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-store" and "content-length" not in answer.headers
        found: dict[str, str] = {}
        for line in answer.iter_lines():
            name, _, value = line.partition(": ")
            if line and name:
                found[name] = value
            elif "data" in found:
                yield int(found["id"]), found["event"], json.loads(found["data"])
                found = {}


@contextmanager
def in_the_background(work: Any) -> Iterator[None]:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    yield
    thread.join(10)
    assert not thread.is_alive()


def test_a_job_is_watched_from_its_beginning_to_its_end(made: Context, asking: httpx.Client) -> None:
    job = submitted(asking)

    def work() -> None:
        time.sleep(0.3)
        held = lease(made)
        for step in range(1, 4):
            made.store.progress(held, {"value": step / 4, "step": step})
            made.store.preview(held, "image/jpeg", b"picture %d" % step)
            time.sleep(0.25)
        made.store.notice(held, {"code": "size_not_native", "message": "small", "field": None, "data": {}})
        finish(made, held)

    with in_the_background(work):
        seen = list(read(asking, job))
    numbers = [number for number, _, _ in seen]
    assert numbers == sorted(set(numbers))
    assert [data["status"] for _, kind, data in seen if kind == "status"] == ["queued", "running", "succeeded"]
    assert [data["step"] for _, kind, data in seen if kind == "progress"] == [1, 2, 3]
    assert [data["content_type"] for _, kind, data in seen if kind == "preview"] == ["image/jpeg"] * 3
    (output,) = (data for _, kind, data in seen if kind == "output")
    assert asking.get(output["url"]).status_code == 200 and output["width"] == 16
    (shown,) = asking.get(f"/v1/jobs/{job}").json()["outputs"]
    assert shown == output | {"notices": shown["notices"]}, "in the words of the job itself"
    assert [data["code"] for _, kind, data in seen if kind == "notice"] == ["size_not_native"]


def test_a_watcher_goes_on_where_it_was_cut_off(made: Context, asking: httpx.Client) -> None:
    job = submitted(asking)
    stream = read(asking, job)
    number, kind, data = next(stream)
    assert (number, kind, data["status"]) == (1, "status", "queued")
    stream.close()
    held = lease(made)
    for step in range(5):
        made.store.progress(held, {"value": 0.1, "step": step})
    made.store.notice(held, {"code": "a", "message": "b", "field": None, "data": {}})
    finish(made, held)
    rest = list(read(asking, job, last=number))
    assert [kind for _, kind, _ in rest] == ["status", "progress", "notice", "output", "status"]
    assert rest[1][2]["step"] == 4, "of progress the newest is enough"
    done = asking.get(f"/v1/jobs/{job}/events", headers={"Last-Event-ID": str(rest[-1][0])})
    assert (done.status_code, done.content) == (204, b""), "a browser does not come back after 204"
    assert len(list(read(asking, job))) == 6, "whoever comes late sees it all"


def test_a_cancelled_job_ends_its_streams(made: Context, asking: httpx.Client) -> None:
    job = submitted(asking)
    with in_the_background(lambda: (time.sleep(0.2), asking.post(f"/v1/jobs/{job}/cancel"))):
        seen = [data.get("status") for _, _, data in read(asking, job)]
    assert seen == ["queued", "canceled"]


def test_a_forgotten_job_ends_its_streams(made: Context, asking: httpx.Client) -> None:
    job = submitted(asking)
    stream = read(asking, job)
    next(stream)
    with made.store.database.writing() as connection:
        connection.exec_driver_sql("DELETE FROM jobs")
    assert list(stream) == []


@pytest.mark.parametrize("number", ["x", "-1", "1.5", "9" * 10, "1 2", "٣"])
def test_the_number_of_an_event_is_a_number(made: Context, asking: httpx.Client, number: str) -> None:
    job = submitted(asking)
    answer = asking.get(f"/v1/jobs/{job}/events", headers={"Last-Event-ID": number.encode()})
    problem(answer, 400, "invalid_field", "Last-Event-ID")
    made.store.cancel(job)


def test_a_silent_stream_shows_that_it_lives(
    made: Context, asking: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "HEARTBEAT", 0.5)
    job = submitted(asking)
    with asking.stream("GET", f"/v1/jobs/{job}/events") as answer:
        lines = (line for line in answer.iter_lines() if line.startswith(":"))
        assert next(lines) == next(lines) == ": still here"
    made.store.cancel(job)


def test_streams_are_counted_and_bounded(made: Context, asking: httpx.Client) -> None:
    job = submitted(asking)
    streams = [asking.stream("GET", f"/v1/jobs/{job}/events") for _ in range(20)]
    for one in streams:
        assert one.__enter__().status_code == 200
    wait(lambda: made.metrics.streams._value.get() == 20)
    answer = asking.get(f"/v1/jobs/{job}/events")
    problem(answer, 503, "overloaded")
    assert answer.headers["retry-after"]
    assert asking.get(f"/v1/jobs/{job}").status_code == 200, "the job itself is still shown"
    for one in streams:
        one.__exit__(None, None, None)
    wait(lambda: made.metrics.streams._value.get() == 0)
    assert asking.head(f"/v1/jobs/{job}/events").status_code == 200
    made.store.cancel(job)


def test_a_reader_who_does_not_read_is_hung_up_on(
    made: Context, asking: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StrictProtocol, "write_timeout", 0.5)
    job = submitted(asking)
    held = lease(made)
    port = asking.base_url.port
    assert port is not None
    with closing(socket.socket()) as wire:
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        wire.connect(("127.0.0.1", port))
        wire.sendall(f"GET /v1/jobs/{job}/events HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        wait(lambda: made.metrics.streams._value.get() == 1)
        end = time.monotonic() + 20
        while made.metrics.streams._value.get() and time.monotonic() < end:
            made.store.preview(held, "image/jpeg", b"x" * 400_000)  # larger than the buffers of the system, soon
            time.sleep(0.12)
        assert made.metrics.streams._value.get() == 0
    finish(made, held)
    seen = list(read(asking, job))
    assert seen[-1][2]["status"] == "succeeded", "everybody else, and whoever comes again, sees the end"


def test_streams_end_when_the_server_stops(tmp_path: Path) -> None:
    with context(tmp_path) as made, server(made) as url, httpx.Client(base_url=url, timeout=10) as asking:
        job = submitted(asking)
        stream = read(asking, job)
        assert next(stream)[1] == "status"
        made.is_stopping = True
        begin = time.monotonic()
        assert list(stream) == [] and time.monotonic() - begin < 3


def test_somebody_elses_events_are_not_there(tmp_path: Path) -> None:
    with context(tmp_path) as made, client(made) as asking:
        anna, ben = ({"Authorization": f"Bearer {made.keys.add(name)[1]}"} for name in ("anna", "ben"))
        job = asking.post("/v1/jobs", json=CAR, headers=anna).json()["id"]
        problem(asking.get(f"/v1/jobs/{job}/events", headers=ben), 404, "not_found")
        problem(asking.get(f"/v1/jobs/{job}/events"), 401, "unauthorized")


def wait(condition: Any, seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def test_who_begins_to_wait_at_a_jobs_end_is_told_of_it(tmp_path: Path) -> None:
    """Somebody else waited for the same job a moment ago, and nothing has changed since."""
    with context(tmp_path) as made, client(made) as asking:
        ended, other = (asking.post("/v1/jobs", json=CAR).json()["id"] for _ in range(2))
        finish(made, lease(made))

        async def wait() -> None:
            hub = events.Hub(made)
            meanwhile = asyncio.create_task(hub.end_of(other, 3))
            for _ in range(2):
                job = await hub.end_of(ended, 2)
                assert job is not None and job.status.is_final
            meanwhile.cancel()

        asyncio.run(wait())
