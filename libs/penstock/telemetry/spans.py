"""Spans: what a service did for an event, told after the fact and only if somebody listens.

Names, kinds and attributes follow OpenTelemetry's messaging conventions
(https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/). A span is a plain record made when
its work is over; nothing is created for traces that are not sampled.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

import msgspec

from penstock.text import described
from penstock.trace_context import TraceContext

Kind = Literal["internal", "server", "client", "producer", "consumer"]
Attributes = dict[str, str | int | float | bool]
_MOST_TEXT = 2_000  # characters of an error
_PORT = 6379  # Redis's own


class Span(msgspec.Struct, kw_only=True):
    """One span. `start` and `end` are in nanoseconds since the epoch; `error` is set if the work failed, also to ""."""

    name: str
    kind: Kind
    context: TraceContext
    parent: str
    start: int
    end: int = 0
    attributes: Attributes = {}
    links: tuple[TraceContext, ...] = ()
    error: str | None = None


class Telemetry(Protocol):
    """Where spans go."""

    @property
    def enabled(self) -> bool:
        """Whether anybody listens."""

    def begin(self, trace: TraceContext, /) -> TraceContext:
        """Decide whether a trace that begins here is sampled; return it with that decision."""

    def record(self, span: Span, /) -> None:
        """Take a finished span."""


class NullTelemetry:
    """Nobody listens."""

    enabled = False

    def begin(self, trace: TraceContext, /) -> TraceContext:
        """Leave the trace unsampled."""
        return trace

    def record(self, span: Span, /) -> None:
        """Drop it."""


class Active(msgspec.Struct):
    """A span whose work is under way: add attributes as they become known."""

    context: TraceContext
    attributes: Attributes
    error: str | None = None


@contextmanager
def span(
    telemetry: Telemetry,
    parent: TraceContext,
    name: str,
    *,
    kind: Kind = "internal",
    attributes: Mapping[str, Any] | None = None,
    links: Sequence[TraceContext] = (),
) -> Iterator[Active]:
    """Time what is inside as a child of `parent`; an exception marks it as failed and passes on.

    Who knows better what to say of the failure sets `error` and the attribute error.type first.
    """
    active = Active(parent.child(), dict(attributes or {}))
    start = time.time_ns()
    try:
        yield active
    except BaseException as error:
        if active.error is None:
            active.error = described(error, most=_MOST_TEXT)
        active.attributes.setdefault("error.type", type(error).__name__)
        raise
    finally:
        if parent.sampled:
            telemetry.record(
                Span(
                    name=name,
                    kind=kind,
                    context=active.context,
                    parent=parent.span_id,
                    start=start,
                    end=time.time_ns(),
                    attributes=active.attributes,
                    links=tuple(links),
                    error=active.error,
                )
            )


def messaging(operation: str, kind: str, stream: str, **more: str | float) -> Attributes:
    """Return the attributes that all messaging spans share; `operation` is its name, `kind` its type."""
    return {
        "messaging.system": "redis",
        "messaging.operation.name": operation,
        "messaging.operation.type": kind,
        "messaging.destination.name": stream,
        **more,
    }


def broker_of(redis_url: str) -> Attributes:
    """Return the attributes by which messaging spans and measures name a server; none if it has no address."""
    if not redis_url:
        return {}
    try:
        parts = urlsplit(redis_url)
        if parts.scheme == "unix":
            return {"server.address": parts.path}
        return {"server.address": parts.hostname or "localhost", "server.port": parts.port or _PORT}
    except ValueError:
        return {}


def send_span(trace: TraceContext, stream: str, event_id: str, links: Sequence[TraceContext] = ()) -> Span:
    """Return the span of publishing one event; its context is what the event carries on."""
    now = time.time_ns()
    return Span(
        name=f"send {stream}",
        kind="producer",
        context=trace.child(),
        parent=trace.span_id,
        start=now,
        end=now,
        attributes=messaging("send", "send", stream, **{"messaging.message.id": event_id}),
        links=tuple(links),
    )
