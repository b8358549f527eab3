"""What is in flight here: the event or request, and the span, that the code running now belongs to."""

from __future__ import annotations

import sys
from contextvars import ContextVar
from typing import Protocol

import msgspec

from penstock.event import Event
from penstock.trace_context import TraceContext


class InHand(Protocol):
    """What a log line wants to know of the handler that writes it."""

    @property
    def event(self) -> Event:
        """The event being handled."""

    @property
    def trace(self) -> TraceContext:
        """The span of this run of the handler."""


class Parent(msgspec.Struct, frozen=True):
    """The span that what is published belongs below, and what its sender's own tracing wants to be passed on."""

    trace: TraceContext
    tracestate: str | None = None

    @classmethod
    def of(cls, traceparent: str | None, tracestate: str | None) -> Parent | None:
        """Return what a sender says in its headers; None if it names no trace."""
        trace = TraceContext.parse(traceparent)
        return cls(trace, tracestate if tracestate and tracestate.isascii() else None) if trace else None


current: ContextVar[InHand | None] = ContextVar("penstock_current", default=None)
request: ContextVar[Parent | None] = ContextVar("penstock_request", default=None)
"""Where what the request brings about belongs that is answered now."""


def parent() -> Parent | None:
    """Return where what is published now belongs: a handler's run, a span of OpenTelemetry's, or a request."""
    running = current.get()
    if running is not None:
        return Parent(running.trace, running.event.tracestate)
    otel = sys.modules.get("opentelemetry.trace")  # whoever has a span has imported it
    if otel is not None and (context := otel.get_current_span().get_span_context()).is_valid:
        trace = TraceContext(f"{context.trace_id:032x}", f"{context.span_id:016x}", f"{int(context.trace_flags):02x}")
        return Parent(trace, context.trace_state.to_header() or None)
    return request.get()
