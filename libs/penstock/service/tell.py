"""Telling telemetry of handler runs: one process span each, and the spans of what they published."""

from __future__ import annotations

import time
from collections.abc import Sequence

from penstock.event import Event
from penstock.service.context import Context, Effects, Scope
from penstock.service.outcome import Dead, Done, Outcome, Retried
from penstock.telemetry.spans import Span, messaging
from penstock.trace_context import TraceContext

LINKS = "links"
"""Field of an event whose causes lie in other traces: their traceparents, separated by spaces."""
_MOST_LINKS = 128  # the SDK's own bound


def tell_run(context: Context, outcome: Outcome, scope: Scope) -> None:
    """Tell of the run of a handler on one event."""
    telemetry, stream, event, trace = scope.telemetry, context.stream, context.event, context.trace
    error = _error(outcome)
    telemetry.processed(context.elapsed, stream=stream, group=scope.service, error=error)
    if not trace.sampled:
        return
    more: dict[str, str | float] = {
        "messaging.consumer.group.name": scope.service,
        "messaging.message.id": event.id,
        "messaging.redis.event_type": event.type,
        "messaging.redis.attempt": context.attempt,
        "messaging.redis.queue_wait": round(context.queued, 6),
    }
    if error:
        more["error.type"] = error
    sender = (event.trace,) if event.trace.span_id else ()
    telemetry.record(
        Span(
            name=f"process {stream}",
            kind="consumer",
            context=trace,
            parent=event.trace.span_id,
            start=context.started_at,
            end=time.time_ns(),
            attributes=messaging("process", "process", stream, **more),
            links=sender + links_of(event),
            error=_message(outcome),
        )
    )
    _tell_sent(scope, context.effects)


def tell_batch(scope: Scope, stream: str, events: Sequence[Event], effects: Effects, started_at: int) -> None:
    """Tell of the run of a batch handler: a trace of its own, with links to those of its events."""
    telemetry = scope.telemetry
    now = time.time_ns()
    telemetry.processed((now - started_at) / 1e9, stream=stream, group=scope.service, error=None)
    if not telemetry.enabled:
        return
    links = tuple(event.trace for event in events if event.trace.sampled and event.trace.span_id)[:_MOST_LINKS]
    if links:
        more: dict[str, str | float] = {
            "messaging.consumer.group.name": scope.service,
            "messaging.batch.message_count": len(events),
        }
        telemetry.record(
            Span(
                name=f"process {stream}",
                kind="consumer",
                context=TraceContext.new().child().keep(),
                parent="",
                start=started_at,
                end=now,
                attributes=messaging("process", "process", stream, **more),
                links=links,
            )
        )
    _tell_sent(scope, effects)


def links_of(event: Event) -> tuple[TraceContext, ...]:
    """Return the traces that an event says it comes from besides its own."""
    given = event.extra.get(LINKS, "").split()[:_MOST_LINKS]
    return tuple(trace for trace in map(TraceContext.parse, given) if trace is not None)


def _tell_sent(scope: Scope, effects: Effects) -> None:
    for sent in effects.spans:
        scope.telemetry.record(sent)


def _error(outcome: Outcome) -> str | None:
    match outcome:
        case Done():
            return None
        case Retried(snoozed=True):
            return None
        case Retried(error=error):
            return error.partition(":")[0]
        case Dead(reason=reason):
            return reason


def _message(outcome: Outcome) -> str | None:
    return None if isinstance(outcome, Done) or _error(outcome) is None else outcome.error
