"""A receiver of OpenTelemetry traces, for tests: what a collector listens with, with the real messages over HTTP."""

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest


@dataclass(frozen=True)
class Received:
    """A span as it arrived. Ids in hexadecimal, times in nanoseconds."""

    name: str
    kind: str
    trace: str
    id: str
    parent: str
    begin: int
    end: int
    failed: bool
    values: dict[str, Any]
    resource: dict[str, Any]


class Receiver:
    """What arrived.  address: for --traces"""

    def __init__(self, address: str) -> None:
        self.address, self.spans = address, list[Received]()

    def trace(self, trace: str) -> dict[str, Received]:
        """The spans of a trace by their names; of several of one name, the last."""
        return {span.name: span for span in self.spans if span.trace == trace}


@contextmanager
def receiving() -> Iterator[Receiver]:
    """A receiver that runs. Skips without the messages' definitions, which come with the exporter."""
    messages = pytest.importorskip(
        "opentelemetry.proto.collector.trace.v1.trace_service_pb2", reason="OpenTelemetry is not installed"
    )

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            assert self.path == "/v1/traces" and self.headers["Content-Type"] == "application/x-protobuf"
            for group in messages.ExportTraceServiceRequest.FromString(body).resource_spans:
                resource = _values(group.resource.attributes)
                for scope in group.scope_spans:
                    receiver.spans += [_received(span, resource) for span in scope.spans]
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        receiver = Receiver(f"http://127.0.0.1:{listening.server_port}")
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield receiver
        finally:
            listening.shutdown()
            thread.join()


def _values(attributes: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}


def _received(span: Any, resource: dict[str, Any]) -> Received:
    kinds = ("unspecified", "internal", "server", "client", "producer", "consumer")
    return Received(
        name=span.name,
        kind=kinds[span.kind],
        trace=span.trace_id.hex(),
        id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        begin=span.start_time_unix_nano,
        end=span.end_time_unix_nano,
        failed=span.status.code == 2,
        values=_values(span.attributes),
        resource=resource,
    )
