"""Traces of OpenTelemetry: what happened to one request, from the server through the queue to the worker.

A span is known elsewhere by its traceparent (https://www.w3.org/TR/trace-context/), which the client may send and the
row of a job keeps. Where tracing is off, what came from the client goes on unchanged, and nothing is imported.

Spans name routes, jobs, models and codes of errors; never prompts, names of files or anything else a client wrote.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from threading import Thread
from typing import TYPE_CHECKING, Any, Literal

from gesso import __version__
from gesso.errors import GessoError
from gesso.extras import missing_extra

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

SEND_SECONDS = 5.0  # that a collector may take to answer
STOP_SECONDS = 3.0  # that the last spans may take, when the process ends
_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")

Kind = Literal["internal", "server", "producer", "consumer"]
Value = str | int | float | bool


def known_parent(text: str | None) -> str | None:
    """A traceparent that a client sent, if it is one."""
    match = _TRACEPARENT.fullmatch(text or "")
    return match[0] if match and set(match[1]) != {"0"} and set(match[2]) != {"0"} else None


def trace_id(parent: str | None) -> str | None:
    """The trace that a traceparent belongs to, for the log."""
    return parent.split("-")[1] if parent else None


class Span:
    """Something that takes time.

    traceparent  by which others name it as what they belong to; None: no trace
    """

    def __init__(self, traceparent: str | None, span: Any = None) -> None:
        self.traceparent, self._span = traceparent, span

    def set(self, **values: Value | None) -> None:
        """Say something of it: `method`, `route` and `http_status` under OpenTelemetry's names, the rest under gesso's
        own, as gesso.job. None is not said."""
        if self._span is not None:
            for name, value in _named(values).items():
                self._span.set_attribute(name, value)

    def rename(self, name: str) -> None:
        """Give it another name, that was not known at its beginning."""
        if self._span is not None:
            self._span.update_name(name)

    def end(self, error: str | None = None, at: float | None = None) -> None:
        """It is over. May be called more than once.

        error  code of what it failed with
        at     when, in seconds since the epoch; None: now
        """
        if self._span is None:
            return
        if error is not None:
            from opentelemetry.trace import Status, StatusCode

            self._span.set_attribute("error.type", error)
            self._span.set_status(Status(StatusCode.ERROR, error))
        if self._span.is_recording():
            self._span.end(None if at is None else round(at * 1e9))


class Tracing:
    """Makes spans, and sends them on in the background; makes none without a tracer. Safe from several threads."""

    def __init__(self, provider: Any = None) -> None:
        self._provider = provider
        self._tracer = None if provider is None else provider.get_tracer("gesso", __version__)

    @property
    def is_on(self) -> bool:
        return self._tracer is not None

    def start(
        self,
        name: str,
        *,
        parent: str | None = None,
        kind: Kind = "internal",
        at: float | None = None,
        **values: Value | None,
    ) -> Span:
        """A span that begins now, and ends where its `end` is called.

        parent  traceparent of what it belongs to; None: it begins a trace
        at      when it began, in seconds since the epoch
        values  see `Span.set`
        """
        if self._tracer is None:
            return Span(parent)
        from opentelemetry.trace import SpanKind, set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        propagator = TraceContextTextMapPropagator()
        context = propagator.extract({"traceparent": parent} if parent else {})
        span = self._tracer.start_span(
            name,
            context,
            SpanKind[kind.upper()],
            _named(values),
            start_time=None if at is None else round(at * 1e9),
        )
        carrier: dict[str, str] = {}
        propagator.inject(carrier, set_span_in_context(span))
        return Span(carrier.get("traceparent"), span)

    @contextmanager
    def span(self, name: str, *, parent: str | None = None, kind: Kind = "internal", **values: Any) -> Iterator[Span]:
        """A span around a block. An error passes through, and is noted by its code."""
        span = self.start(name, parent=parent, kind=kind, **values)
        try:
            yield span
        except BaseException as error:
            span.end(getattr(error, "code", type(error).__name__))
            raise
        span.end()

    def close(self) -> None:
        """Send what was not sent yet, for a few seconds at most: a collector that is away keeps nobody."""
        if self._provider is None:
            return
        closing = Thread(target=self._provider.shutdown, name="tracing", daemon=True)
        closing.start()
        closing.join(STOP_SECONDS)


def open_tracing(
    url: str | None, component: Literal["server", "worker"], exporter: "SpanExporter | None" = None
) -> Tracing:
    """Tracing to a collector.

    url        of its OTLP receiver over HTTP, such as http://127.0.0.1:4318; None: off
    component  of gesso that this process is
    exporter   in place of the one that speaks to the collector
    What OpenTelemetry's own variables say holds: OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES, OTEL_TRACES_SAMPLER,
    OTEL_EXPORTER_OTLP_HEADERS and so on. Raises GessoError where the extra is missing.
    """
    if url is None and exporter is None:
        return Tracing()
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise missing_extra("`traces`", "OpenTelemetry", "otel", error, field="traces") from None
    if url is not None and not re.fullmatch(r"https?://[^\s/?#]+(/[^\s?#]*)?", url):
        raise GessoError(
            f"`traces` {url}: expected the address of a collector, such as http://127.0.0.1:4318",
            code="invalid_value",
            field="traces",
        )
    name = str(Resource.create().attributes["service.name"])  # what the variables say
    own = {"gesso.component": component, "service.version": __version__}
    resource = Resource.create({"service.name": "gesso" if name.startswith("unknown_service") else name, **own})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    if exporter is None:
        assert url is not None
        exporter = OTLPSpanExporter(endpoint=f"{url.rstrip('/')}/v1/traces", timeout=SEND_SECONDS)
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=1000))
    return Tracing(provider)


def _named(values: Mapping[str, Value | None]) -> dict[str, Value]:
    return {_NAMES.get(name, f"gesso.{name}"): value for name, value in values.items() if value is not None}


_NAMES = {"method": "http.request.method", "route": "http.route", "http_status": "http.response.status_code"}
