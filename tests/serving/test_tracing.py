"""A request is followed from the server through the queue to the worker: in traces of OpenTelemetry, and in the log."""

import logging
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from gesso.errors import GessoError
from gesso.serving.tracing import Span, Tracing, known_parent, open_tracing, trace_id
from serving.drawing_server import working
from serving.otlp import Receiver, receiving
from serving.served import CAR, client, context, problem

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"
SECRET = "a very secret teapot"
JOB = {"request": {"prompt": SECRET, "seed": 7, "num_steps": 2}}


def wait_for(condition: Any, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


NONE = [
    *(
        None,
        "",
        "x",
        f"{TRACEPARENT}-00",
        TRACEPARENT.upper(),
        TRACEPARENT.replace("00-", "ff-", 1),
        f"{TRACEPARENT}\n",
    ),
    *(f"00-{'0' * 32}-{PARENT}-01", f"00-{TRACE}-{'0' * 16}-01", f"{TRACEPARENT}, {TRACEPARENT}"),
]


@pytest.mark.parametrize("text", NONE)
def test_what_is_no_traceparent_is_ignored(text: str | None) -> None:
    assert known_parent(text) is None and trace_id(None) is None
    assert known_parent(TRACEPARENT) == TRACEPARENT and trace_id(TRACEPARENT) == TRACE


def test_without_tracing_a_trace_is_passed_on_unchanged() -> None:
    tracing = Tracing()
    with tracing.span("a", parent=TRACEPARENT, job="x") as span:
        span.set(status="done")
        assert span.traceparent == TRACEPARENT and not tracing.is_on
    span.end("failed")
    assert tracing.start("b").traceparent is None
    tracing.close()


def test_spans_belong_to_each_other_and_are_told_how_they_ended() -> None:
    memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
    exporter = memory.InMemorySpanExporter()
    tracing = open_tracing(None, "worker", exporter)
    with tracing.span("outer", parent=TRACEPARENT, kind="server", route="/v1/jobs", model=None) as outer:
        with tracing.span("inner", parent=outer.traceparent):
            pass
        late = tracing.start("late", parent=outer.traceparent, at=1000.5)
        late.end(at=1002.0)
        late.end("twice")  # counts for nothing
        with pytest.raises(GessoError), tracing.span("broken", parent=outer.traceparent):
            raise GessoError(SECRET, code="not_finite")
        outer.rename("POST /v1/jobs")
    tracing.close()
    spans = {span.name: span for span in exporter.get_finished_spans()}
    assert set(spans) == {"POST /v1/jobs", "inner", "late", "broken"}
    outer_span = spans["POST /v1/jobs"]
    assert f"{outer_span.context.trace_id:032x}" == TRACE and f"{outer_span.parent.span_id:016x}" == PARENT
    assert outer.traceparent == f"00-{TRACE}-{outer_span.context.span_id:016x}-01"
    assert dict(outer_span.attributes) == {"http.route": "/v1/jobs"} and outer_span.kind.name == "SERVER"
    for name in ("inner", "late", "broken"):
        assert spans[name].parent.span_id == outer_span.context.span_id
    assert (spans["late"].start_time, spans["late"].end_time) == (1_000_500_000_000, 1_002_000_000_000)
    assert (
        spans["broken"].status.status_code.name == "ERROR" and spans["broken"].attributes["error.type"] == "not_finite"
    )
    assert SECRET not in str([span.to_json() for span in spans.values()])


def test_what_the_variables_of_opentelemetry_say_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "drawing")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
    exporter = memory.InMemorySpanExporter()
    tracing = open_tracing(None, "server", exporter)
    tracing.start("unseen").end()
    with tracing.span("seen", parent=TRACEPARENT):
        pass
    tracing.close()
    (span,) = exporter.get_finished_spans()
    found = span.resource.attributes
    assert (found["service.name"], found["deployment.environment"]) == ("drawing", "test")
    assert span.name == "seen" and found["gesso.component"] == "server"


def test_without_the_extra_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(GessoError) as error:
        open_tracing("http://127.0.0.1:4318", "server")
    assert error.value.code == "missing_extra" and "gesso[otel]" in error.value.message
    assert not open_tracing(None, "server").is_on  # off needs nothing


@pytest.mark.parametrize("url", ["127.0.0.1:4318", "ftp://x", "http://", "http://a b", "http://a?b"])
def test_an_address_that_is_none(url: str) -> None:
    pytest.importorskip("opentelemetry.sdk")
    with pytest.raises(GessoError) as error:
        open_tracing(url, "server")
    assert error.value.field == "traces" and url in error.value.message


def test_a_job_is_one_trace_from_the_request_to_the_stored_picture(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The real exporter, over HTTP; server and worker each with their own."""
    caplog.set_level(logging.INFO, "gesso")
    with receiving() as receiver:
        with context(tmp_path, threads=1, device="cpu", traces=receiver.address) as made, working(made):
            with client(made) as asking:
                headers = {"traceparent": TRACEPARENT, "X-Request-Id": "my-request"}
                answer = asking.post("/v1/jobs", json=JOB, headers=headers)
                assert answer.status_code == 202 and answer.headers["x-request-id"] == "my-request"
                job = answer.json()["id"]
                problem(asking.post("/v1/jobs", json={"request": {}}, headers=headers), 400, "invalid_field")
                asking.get("/healthz", headers=headers)
            wait_for(lambda: made.store.get(job).status.is_final)
        wait_for(lambda: {"draw job", "POST /v1/jobs"} <= receiver.trace(TRACE).keys())
        check_trace(receiver, job)
    told = {record.getMessage(): record for record in caplog.records if getattr(record, "job", None) == job}
    for message in ("job accepted", next(message for message in told if message.startswith("done after"))):
        assert (told[message].request_id, told[message].trace) == ("my-request", TRACE)  # type: ignore[attr-defined]
    requests = [record for record in caplog.records if record.getMessage() == "request"]
    assert {record.trace for record in requests} == {TRACE}  # type: ignore[attr-defined]


def check_trace(receiver: Receiver, job: str) -> None:
    spans = receiver.trace(TRACE)
    requests = [span for span in receiver.spans if span.name == "POST /v1/jobs"]
    assert {span.values["http.response.status_code"] for span in requests} == {202, 400}
    assert all(span.parent == PARENT and span.kind == "server" for span in requests)
    accepted, drawn = spans["accept jobs"], spans["draw job"]
    request = next(span for span in requests if span.id == accepted.parent)
    assert request.values["http.route"] == "/v1/jobs" and request.values["gesso.request_id"] == "my-request"
    assert accepted.kind == "producer" and drawn.kind == "consumer"
    assert drawn.parent == accepted.id == spans["wait in queue"].parent
    for name in ("load model", "draw picture", "store picture"):
        assert spans[name].parent == drawn.id, name
        assert drawn.begin <= spans[name].begin <= spans[name].end <= drawn.end, name
    assert spans["wait in queue"].end <= drawn.begin + 2_000_000_000
    assert drawn.values["gesso.job"] == job and drawn.values["gesso.request_id"] == "my-request"
    assert (drawn.values["gesso.status"], drawn.values["gesso.attempt"]) == ("done", 1)
    assert {span.resource["gesso.component"] for span in spans.values()} == {"server", "worker"}
    assert {span.resource["service.name"] for span in spans.values()} == {"gesso"}
    assert "healthz" not in str(receiver.spans) and SECRET not in str(receiver.spans)


def test_a_collector_that_is_away_costs_nothing(tmp_path: Path) -> None:
    pytest.importorskip("opentelemetry.sdk")
    begin = time.monotonic()
    with context(tmp_path, traces="http://127.0.0.1:9") as made, client(made) as asking:
        for _ in range(3):
            assert asking.post("/v1/jobs", json=CAR).status_code == 202
    assert time.monotonic() - begin < 20


def test_a_job_keeps_its_request_without_tracing(tmp_path: Path) -> None:
    with context(tmp_path) as made, client(made) as asking:
        job = asking.post("/v1/jobs", json=CAR, headers={"traceparent": TRACEPARENT, "X-Request-Id": "r1"}).json()["id"]
        assert made.store.get(job).origin == {"request_id": "r1", "traceparent": TRACEPARENT}
        asking.post(f"/v1/jobs/{job}/cancel")
        again = asking.post(f"/v1/jobs/{job}/retry", headers={"X-Request-Id": "r2"}).json()["id"]
        assert made.store.get(again).origin == {"request_id": "r2"}
        many = asking.post("/v1/batches", json={"jobs": [CAR, CAR]}, headers={"X-Request-Id": "r3"}).json()
        ids = [one["id"] for one in asking.get(f"/v1/jobs?batch={many['id']}").json()["jobs"]]
        assert len(ids) == 2 and {made.store.get(id).origin["request_id"] for id in ids} == {"r3"}


def test_a_span_that_is_none_says_nothing() -> None:
    span = Span(None)
    span.set(job="x")
    span.rename("y")
    span.end()
    assert span.traceparent is None
