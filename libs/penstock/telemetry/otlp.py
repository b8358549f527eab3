"""OTLP: spans and measurements to any OpenTelemetry receiver, configured by the standard's OTEL_* variables.

Exporting happens in the SDK's own threads. A receiver that is away or slow costs the queue's overflow,
never a service's time.
"""

from __future__ import annotations

import logging
import math
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata

import structlog
from opentelemetry import trace as api
from opentelemetry.context import attach
from opentelemetry.sdk.metrics.export import MetricExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    INVALID_SPAN_CONTEXT,
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from penstock.errors import ConfigurationError
from penstock.telemetry.current import current
from penstock.telemetry.measures import Measures
from penstock.telemetry.otlp_measures import MeasuresExport
from penstock.telemetry.spans import Attributes, Span, broker_of
from penstock.telemetry.variables import Protocol, forget_empty, sampled_share
from penstock.telemetry.writable import WritableSpans
from penstock.trace_context import TraceContext

_KINDS = {
    "internal": SpanKind.INTERNAL,
    "server": SpanKind.SERVER,
    "client": SpanKind.CLIENT,
    "producer": SpanKind.PRODUCER,
    "consumer": SpanKind.CONSUMER,
}
_SCOPE = InstrumentationScope("penstock", metadata.version("penstock"))
_LONGEST_FLUSH = 3.0  # seconds
_log = structlog.get_logger("penstock.telemetry")


class Otlp:
    """Sends what a process tells to an OTLP receiver: spans, measures, or both."""

    def __init__(
        self,
        service: str,
        redis_url: str,
        *,
        traces: Protocol | None,
        metrics: Protocol | None,
        is_guest: bool = False,
    ) -> None:
        """Read OTEL_*, which has the last word on the resource, too: `service` is the service.name otherwise.

        Raises:
            ConfigurationError: a variable asks for what is not there.
        """
        forget_empty()
        _say_seldom()
        resource = Resource.create(
            {
                "service.name": service,
                "service.namespace": "penstock",
                "service.version": metadata.version("penstock"),
                "service.instance.id": f"{socket.gethostname()}-{os.getpid()}",
                **OTELResourceDetector().detect().attributes,
            }
        )
        broker = broker_of(redis_url)
        spans = SpanExport(_span_exporter(traces), resource, broker) if traces else None
        if spans and not is_guest:
            spans.serve_api()
        self.measures = Measures(spans)
        """Where this process counts what it does."""
        self._ends = [spans.shutdown] if spans else []
        if metrics:
            export = MeasuresExport(self.measures, _metric_exporter(metrics), resource, _SCOPE, broker)
            self._ends.append(export.shutdown)

    def shutdown(self) -> None:
        """Send what is queued, for a few seconds at most, whatever the receiver does."""
        threads = [threading.Thread(target=end, daemon=True) for end in self._ends]
        for thread in threads:
            thread.start()
        until = time.monotonic() + _LONGEST_FLUSH
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))


class SpanExport:
    """Sends spans: those that services record, and those that handlers make through OpenTelemetry's own API."""

    enabled = True

    def __init__(self, exporter: SpanExporter, resource: Resource, broker: Attributes) -> None:
        """Start sending; `broker` are the attributes of messaging spans that say which Redis it is.

        Raises:
            ConfigurationError: there is no such sampler.
        """
        self._resource = resource
        self._broker = broker
        self._least_kept = round(sampled_share() * 2**64)
        self._provider = TracerProvider(
            resource=resource, shutdown_on_exit=False
        )  # its sampler is the one that OTEL_* names
        self._processor = BatchSpanProcessor(WritableSpans(exporter))
        self._provider.add_span_processor(self._processor)
        self.shutdown = self._provider.shutdown
        """Send what is queued."""

    def serve_api(self) -> None:
        """Send also what handlers make through OpenTelemetry's own API, below the spans of their runs."""
        api.set_tracer_provider(self._provider)
        attach(set_span_in_context(_InHand()))  # every task and thread from here on begins with it

    def begin(self, trace: TraceContext) -> TraceContext:
        """Decide whether a trace that begins here is sampled; return it with that decision.

        As OpenTelemetry's TraceIdRatioBased has it, by the last 64 bits of the id; the SDK's sampler makes objects
        for each decision, and what is asked here is always of the root.
        """
        return trace.keep() if int(trace.trace_id[16:], 16) < self._least_kept else trace

    def record(self, span: Span) -> None:
        """Queue a finished span for export."""
        attributes = span.attributes
        if "messaging.system" in attributes:
            attributes = {**attributes, **self._broker}
        self._processor.on_end(
            ReadableSpan(
                span.name,
                context=_sdk_context(span.context),
                parent=_sdk_context(TraceContext(span.context.trace_id, span.parent)) if span.parent else None,
                resource=self._resource,
                attributes=attributes,
                links=[Link(_sdk_context(link)) for link in span.links],
                kind=_KINDS[span.kind],
                status=Status(StatusCode.UNSET) if span.error is None else Status(StatusCode.ERROR, span.error),
                start_time=span.start,
                end_time=span.end,
                instrumentation_scope=_SCOPE,
            )
        )


class _InHand(NonRecordingSpan):
    """The span of whatever event is in hand where it is asked for.

    Spans that a handler makes through OpenTelemetry's own API are its children. Looked up when there is one: few
    handlers make any, and to activate a span for each event costs as much as half of its handling.
    """

    def __init__(self) -> None:
        super().__init__(INVALID_SPAN_CONTEXT)

    def get_span_context(self) -> SpanContext:
        """Return the context of the span of the handler's run; an invalid one where none runs."""
        in_hand = current.get()
        if in_hand is None:
            return INVALID_SPAN_CONTEXT
        return _sdk_context(in_hand.trace, sampled=in_hand.trace.sampled)


class _Seldom(logging.Handler):
    """Says once a minute that exporting fails, instead of once for each batch."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._said = -math.inf

    def emit(self, record: logging.LogRecord) -> None:
        if time.monotonic() - self._said > 60:
            self._said = time.monotonic()
            _log.warning("telemetry is not getting through", reason=record.getMessage())


def _say_seldom() -> None:
    logger = logging.getLogger("opentelemetry")
    logger.propagate = False
    logger.handlers = [_Seldom()]


def _span_exporter(protocol: Protocol) -> SpanExporter:
    if protocol == "grpc":
        with _told_if_missing("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"):
            from opentelemetry.exporter.otlp.proto.grpc import trace_exporter  # noqa: PLC0415
        return trace_exporter.OTLPSpanExporter()
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415

    return OTLPSpanExporter()


def _metric_exporter(protocol: Protocol) -> MetricExporter:
    if protocol == "grpc":
        with _told_if_missing("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL"):
            from opentelemetry.exporter.otlp.proto.grpc import metric_exporter  # noqa: PLC0415
        return metric_exporter.OTLPMetricExporter()
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter  # noqa: PLC0415

    return OTLPMetricExporter()


@contextmanager
def _told_if_missing(variable: str) -> Iterator[None]:
    try:
        yield
    except ImportError:
        variable = variable if os.environ.get(variable) else "OTEL_EXPORTER_OTLP_PROTOCOL"
        raise ConfigurationError(
            f"environment: {variable}=grpc needs an extra: pip install 'penstock[otlp-grpc]'"
        ) from None


def _sdk_context(trace: TraceContext, *, sampled: bool = True) -> SpanContext:
    """Convert a context; those of recorded spans are sampled, whatever was decided before they failed."""
    return SpanContext(
        int(trace.trace_id, 16), int(trace.span_id or "0", 16), is_remote=False, trace_flags=TraceFlags(sampled)
    )
