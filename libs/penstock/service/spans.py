"""Spans and measures of handler runs: one process span each, beside the spans of what they published.

They go with the run's effects and are recorded once those are settled: a run whose commit was refused, or that
has to be repeated, has not happened.
"""

from __future__ import annotations

import time

from penstock.event import Event
from penstock.service.context import BatchContext, Context
from penstock.service.effects import Scope
from penstock.service.outcome import Dead, Done, Outcome, Retried
from penstock.telemetry.spans import Span, messaging
from penstock.trace_context import LINKS, TraceContext, parse_links

_MOST_LINKS = 128  # the SDK's own bound


def record_run(context: Context, outcome: Outcome, scope: Scope) -> None:
    """Record the run of a handler on one event."""
    telemetry, stream, event = scope.telemetry, context.stream, context.event
    error = None if type(outcome) is Done else _error(outcome)
    telemetry.processed(context.elapsed, stream=stream, group=scope.service, error=error)
    if not telemetry.enabled or not context.trace.sampled:
        return
    trace = context.trace
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
    context.effects.spans.append(
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


def record_batch(context: BatchContext, scope: Scope, stream: str) -> None:
    """Record the run of a batch handler: one event's in its trace, several in a trace that links to theirs."""
    telemetry, events, started_at = scope.telemetry, context.events, context.started_at
    now = time.time_ns()
    telemetry.processed((now - started_at) / 1e9, stream=stream, group=scope.service, error=None)
    if context.trace.sampled:
        more: dict[str, str | float] = {
            "messaging.consumer.group.name": scope.service,
            "messaging.batch.message_count": len(events),
        }
        if len(events) == 1:
            more["messaging.message.id"] = events[0].id
        context.effects.spans.append(
            Span(
                name=f"process {stream}",
                kind="consumer",
                context=context.trace,
                parent=events[0].trace.span_id if len(events) == 1 else "",
                start=started_at,
                end=now,
                attributes=messaging("process", "process", stream, **more),
                links=tuple(
                    link for event in events[:_MOST_LINKS] for link in (event.trace, *links_of(event)) if link.span_id
                )[:_MOST_LINKS],
            )
        )


def links_of(event: Event) -> tuple[TraceContext, ...]:
    """Return the traces that an event says it comes from besides its own."""
    return parse_links(event.extra.get(LINKS))


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
