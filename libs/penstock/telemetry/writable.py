"""Spans as OTLP can write them.

A text with half of a surrogate pair, or a number beyond 64 bits, has no form in protobuf: in a name or an error it
would take the whole batch with it, everybody's spans. They come from whatever handlers meet: names of files, answers
of others, their own spans.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import Link, Status

from penstock.text import shown, writable

_LEAST, _MOST = -(2**63), 2**63 - 1  # OTLP's integers


class WritableSpans(SpanExporter):
    """Hands spans on to an exporter, those that cannot be written in a form that can."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send them."""
        return self._exporter.export([span if _is_plain(span) else _writable_span(span) for span in spans])

    def shutdown(self) -> None:
        """End the exporter."""
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Wait until the exporter has sent all."""
        return self._exporter.force_flush(timeout_millis)


def _is_plain(span: ReadableSpan) -> bool:
    """Whether a span is of ASCII and small numbers alone, as nearly all are: a quick look."""
    attributes: Mapping[str, Any] = span.attributes or {}
    texts = [span.name, span.status.description or "", *attributes]
    for value in attributes.values():
        kind = type(value)
        if kind is str:
            texts.append(value)
        elif kind is int:
            if not _LEAST <= value <= _MOST:
                return False
        elif kind is not float and kind is not bool:
            return False
    return "".join(texts).isascii() and not span.events and not any(link.attributes for link in span.links)


def _writable_span(span: ReadableSpan) -> ReadableSpan:
    """Return the span itself if it can be written as it is: only that tells what the SDK has dropped of it."""
    given = span.name, span.status, span.attributes, span.events, span.links
    name, status, attributes = writable(span.name), _status(span.status), _attributes(given[2])
    events, links = _each(_event, given[3]), _each(_link, given[4])
    if _all_same((name, status, attributes, events, links), given):
        return span
    return ReadableSpan(
        name,
        context=span.context,
        parent=span.parent,
        resource=span.resource,
        attributes=attributes,
        events=events,
        links=links,
        kind=span.kind,
        status=status,
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )


def _status(status: Status) -> Status:
    why = status.description
    return status if why is None or writable(why) is why else Status(status.status_code, writable(why))


def _event(event: Event) -> Event:
    given = event.name, event.attributes
    name, attributes = writable(event.name), _attributes(given[1])
    return event if _all_same((name, attributes), given) else Event(name, attributes, event.timestamp)


def _link(link: Link) -> Link:
    given = link.attributes
    attributes = _attributes(given)
    return link if attributes is given else Link(link.context, attributes)


def _attributes(attributes: Any) -> Any:
    given = [part for item in (attributes or {}).items() for part in item]
    kept = _each(_value, given)
    return attributes if kept is given else dict(zip(kept[::2], kept[1::2], strict=True))


def _value(value: Any) -> Any:
    match value:
        case bool() | float() | bytes() | None:
            return value
        case str():
            return writable(value)
        case int():
            return value if _LEAST <= value <= _MOST else str(value)
        case Mapping():
            return _attributes(value)
        case Sequence():
            return _each(_value, value)
        case _:
            return shown(value)


def _each(change: Callable[[Any], Any], items: Sequence[Any]) -> Sequence[Any]:
    changed = [change(item) for item in items]
    return items if _all_same(changed, items) else changed


def _all_same(some: Sequence[object], others: Sequence[object]) -> bool:
    return all(one is other for one, other in zip(some, others, strict=True))
