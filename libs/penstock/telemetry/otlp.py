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
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import Decision
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
        attach(set_span_in_context(_InHand()))  # every task and thread from here on begins with it
        self._least_kept = _least_kept()
        self.measures = Measures(self)
        """Where this process counts what it does."""
        self._ends = [self._provider.shutdown]
        if os.environ.get("OTEL_METRICS_EXPORTER") != "none":  # as for receivers of traces alone, such as Jaeger
            export = MeasuresExport(self.measures, metric_exporter, self._resource, _SCOPE)
            self._ends.append(export.shutdown)

    def begin(self, trace: TraceContext) -> TraceContext:
        """Decide whether a trace that begins here is sampled; return it with that decision."""
        if self._least_kept is not None:
            kept = int(trace.trace_id[16:], 16) < self._least_kept
        else:
            decision = self._provider.sampler.should_sample(None, int(trace.trace_id, 16), "penstock")
            kept = decision.decision is Decision.RECORD_AND_SAMPLE
        return trace.keep() if kept else trace

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

    def shutdown(self) -> None:
        """Send what is queued, for a few seconds at most, whatever the receiver does."""
        threads = [threading.Thread(target=end, daemon=True) for end in self._ends]
        for thread in threads:
            thread.start()
        until = time.monotonic() + _LONGEST_FLUSH
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))


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


def _least_kept() -> int | None:
    """Return the bound below which the last 64 bits of a trace id have it kept; None if a plug-in decides.

    Source: OpenTelemetry's specification of TraceIdRatioBased, as the SDK has it; its sampler makes objects for each
    decision, and what is asked here is always of the root.
    """
    name = os.environ.get("OTEL_TRACES_SAMPLER") or "parentbased_always_on"
    share: float
    match name.strip().lower().removeprefix("parentbased_"):
        case "always_on":
            share = 1.0
        case "always_off":
            share = 0.0
        case "traceidratio":
            try:
                share = float(os.environ.get("OTEL_TRACES_SAMPLER_ARG") or 1.0)
            except ValueError:
                share = math.nan
            if not 0 <= share <= 1:
                raise ConfigurationError("environment: OTEL_TRACES_SAMPLER_ARG: give a share from 0 to 1, such as 0.1")
        case _:
            return None
    return round(share * 2**64)


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
