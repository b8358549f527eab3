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
from importlib import metadata
from typing import Any

import structlog
from opentelemetry import trace as api
from opentelemetry.context import attach
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.metrics.view import ExplicitBucketHistogramAggregation, View
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
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
from penstock.telemetry.measures import BUCKETS
from penstock.telemetry.spans import Span
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
    """Sends what services tell to an OTLP receiver."""

    enabled = True

    def __init__(self, service: str) -> None:
        """Read OTEL_*; `service` is the service.name unless OTEL_SERVICE_NAME says otherwise."""
        self._resource = Resource.create(
            {
                "service.name": os.environ.get("OTEL_SERVICE_NAME") or service,
                "service.namespace": "penstock",
                "service.version": metadata.version("penstock"),
                "service.instance.id": f"{socket.gethostname()}-{os.getpid()}",
            }
        )
        _say_seldom()
        span_exporter, metric_exporter = _exporters()
        self._provider = TracerProvider(
            resource=self._resource, shutdown_on_exit=False
        )  # its sampler is the one that OTEL_* names
        self._processor = BatchSpanProcessor(span_exporter)
        self._provider.add_span_processor(self._processor)
        api.set_tracer_provider(self._provider)  # for spans that handlers make through the API
        off = os.environ.get("OTEL_METRICS_EXPORTER") == "none"  # for receivers of traces alone, such as Jaeger
        self._meters = MeterProvider(
            [] if off else [PeriodicExportingMetricReader(metric_exporter)],
            resource=self._resource,
            shutdown_on_exit=False,
            views=[View(instrument_name="*.duration", aggregation=ExplicitBucketHistogramAggregation(BUCKETS))],
        )
        meter = self._meters.get_meter("penstock", _SCOPE.version)
        self._process = meter.create_histogram("messaging.process.duration", unit="s")
        self._operation = meter.create_histogram("messaging.client.operation.duration", unit="s")
        self._consumed = meter.create_counter("messaging.client.consumed.messages", unit="{message}")
        self._sent = meter.create_counter("messaging.client.sent.messages", unit="{message}")

    def begin(self, trace: TraceContext) -> TraceContext:
        """Decide whether a trace that begins here is sampled; return it with that decision."""
        decision = self._provider.sampler.should_sample(None, int(trace.trace_id, 16), "penstock")
        return trace.keep() if decision.decision is Decision.RECORD_AND_SAMPLE else trace

    def record(self, span: Span) -> None:
        """Queue a finished span for export."""
        self._processor.on_end(
            ReadableSpan(
                span.name,
                context=_sdk_context(span.context),
                parent=_sdk_context(TraceContext(span.context.trace_id, span.parent)) if span.parent else None,
                resource=self._resource,
                attributes=span.attributes,
                links=[Link(_sdk_context(link)) for link in span.links],
                kind=_KINDS[span.kind],
                status=Status(StatusCode.ERROR, span.error) if span.error else Status(StatusCode.UNSET),
                start_time=span.start,
                end_time=span.end,
                instrumentation_scope=_SCOPE,
            )
        )

    def activate(self, trace: TraceContext) -> None:
        """Let spans that a handler makes through OpenTelemetry's own API be children of `trace`."""
        attach(set_span_in_context(NonRecordingSpan(_sdk_context(trace, sampled=trace.sampled))))

    def processed(self, seconds: float, *, stream: str, group: str, error: str | None) -> None:
        """Measure one handler run."""
        attributes = _attributes("process", stream, group)
        if error:
            attributes["error.type"] = error
        self._process.record(seconds, attributes)

    def consumed(self, count: int, *, stream: str, group: str) -> None:
        """Count events that were read."""
        self._consumed.add(count, _attributes("receive", stream, group))

    def sent(self, count: int, *, stream: str) -> None:
        """Count events that were published."""
        self._sent.add(count, _attributes("send", stream, ""))

    def operated(self, operation: str, seconds: float) -> None:
        """Measure one call to Redis."""
        self._operation.record(seconds, {"messaging.system": "redis", "messaging.operation.name": operation})

    def shutdown(self) -> None:
        """Send what is queued, for a few seconds at most, whatever the receiver does."""
        threads = [
            threading.Thread(target=provider.shutdown, daemon=True) for provider in (self._provider, self._meters)
        ]
        for thread in threads:
            thread.start()
        until = time.monotonic() + _LONGEST_FLUSH
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))


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


def _exporters() -> tuple[Any, Any]:
    protocol = os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
    if protocol == "http/protobuf":
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter  # noqa: PLC0415
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415

        return OTLPSpanExporter(), OTLPMetricExporter()
    if protocol != "grpc":
        raise ConfigurationError(
            f"environment: OTEL_EXPORTER_OTLP_PROTOCOL: {protocol!r} is not supported; use http/protobuf or grpc"
        )
    try:
        from opentelemetry.exporter.otlp.proto.grpc import metric_exporter, trace_exporter  # noqa: PLC0415
    except ImportError:
        raise ConfigurationError(
            "environment: OTEL_EXPORTER_OTLP_PROTOCOL=grpc needs an extra: pip install 'penstock[otlp-grpc]'"
        ) from None
    return trace_exporter.OTLPSpanExporter(), metric_exporter.OTLPMetricExporter()


def _sdk_context(trace: TraceContext, *, sampled: bool = True) -> SpanContext:
    """Convert a context; those of recorded spans are sampled, whatever was decided before they failed."""
    return SpanContext(
        int(trace.trace_id, 16), int(trace.span_id or "0", 16), is_remote=False, trace_flags=TraceFlags(sampled)
    )


def _attributes(operation: str, stream: str, group: str) -> dict[str, str]:
    attributes = {
        "messaging.system": "redis",
        "messaging.operation.name": operation,
        "messaging.destination.name": stream,
    }
    if group:
        attributes["messaging.consumer.group.name"] = group
    return attributes
