"""Accepting: from a valid event to the answer that Redis has it.

Whether a delivery id, event id or Idempotency-Key is new is decided in the same step that adds the event.
So there is no state in between: the 409 that Idempotency-Key knows for "the first one is still being
processed" cannot occur here; of two requests at the same time, one adds the event and both get its id.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Mapping, Sequence

import msgspec

from penstock.event import identity
from penstock.streams.publish import Deduplication, DuplicateConflict, Published, Publisher
from penstock.telemetry.spans import Attributes, Telemetry, messaging, span
from penstock.trace_context import TraceContext
from penstock.web.problems import Problem

_QUOTED = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"')  # a string of RFC 9651, 3.3.3
_BARE = re.compile(r"[!#-~][!-~]*")
_LONGEST_KEY = 255
_SAME = "-"  # the digest where the key alone is the identity


class Draft(msgspec.Struct, frozen=True):
    """A valid event that is not yet published. `fields` are those of its entry, but for its trace."""

    fields: list[str]
    source: str
    id: str | None = None
    traceparent: str | None = None
    tracestate: str | None = None


class Accepted(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="status", tag="accepted"):
    """An event that Redis has, as its sender is told.

    `trace_id` is absent for a duplicate: the first one has its own.
    """

    job_id: str
    trace_id: str | None = None
    duplicate: bool = False


class AcceptedBatch(msgspec.Struct, frozen=True, kw_only=True, tag_field="status", tag="accepted"):
    """Events that Redis has, in the order in which they were sent."""

    jobs: list[Accepted]


class Acceptance:
    """Publishes drafts to one stream, each once."""

    def __init__(self, publisher: Publisher, stream: str, *, route: str, lifetime: int, telemetry: Telemetry) -> None:
        """Publish what comes in by `route` to `stream`; claims are remembered for `lifetime` seconds."""
        self._publisher = publisher
        self._telemetry = telemetry
        self._about: Attributes = {
            "http.request.method": "POST",
            "http.route": route,
            "http.response.status_code": 202,
        }
        self._span = f"POST {route}"
        self._stream = stream
        self._lifetime = lifetime

    async def accept(self, draft: Draft, headers: Mapping[str, str], once: Sequence[Deduplication] = ()) -> Accepted:
        """Publish a draft, in the sender's trace if it named one, unless it or one of `once` was seen before.

        Raises:
            Unavailable: Redis cannot take it now.
            DuplicateConflict: a key of `once` was used for something else.
        """
        trace, tracestate = _trace(draft, headers)
        if not trace.span_id:
            trace = self._telemetry.begin(trace)
        if draft.id is not None:
            once = [*once, self.once("event", [draft.source, draft.id])]
        with span(self._telemetry, trace, self._span, kind="server", attributes=self._about) as server:
            published = await self._publish(draft.fields, server.context, tracestate, once)
        job_id = draft.id or identity(self._stream, published.entry_id)
        if published.duplicate:
            return Accepted(job_id=job_id, duplicate=True)
        self._telemetry.sent(1, stream=self._stream)
        return Accepted(job_id=job_id, trace_id=trace.trace_id)

    async def _publish(
        self, fields: list[str], server: TraceContext, tracestate: str | None, once: Sequence[Deduplication]
    ) -> Published:
        about = messaging("send", "send", self._stream)
        with span(self._telemetry, server, f"send {self._stream}", kind="producer", attributes=about) as sent:
            fields = [*fields, "traceparent", sent.context.traceparent]
            if tracestate:
                fields += ("tracestate", tracestate)
            return await self._publisher.publish(self._stream, fields, dedupe=once)

    async def accept_all(self, drafts: Sequence[Draft], headers: Mapping[str, str]) -> list[Accepted]:
        """Publish drafts under the request's Idempotency-Key, if it has one.

        The first event's claim decides for all of them, so that the same key with another body adds
        nothing. The others' own claims let a request that was cut off in between be sent again.

        Raises:
            Problem: 400 the key is malformed, 422 it was used with another body.
            Unavailable: Redis cannot take them now.
        """
        key = idempotency_key(headers)
        if key is None:
            return await self._accept_each(drafts, headers)
        digest = hashlib.sha256(msgspec.json.encode([draft.fields for draft in drafts])).hexdigest()
        claims = [self.once("idempotency", [key, index], digest) for index in range(len(drafts))]
        try:
            first = await self._accept_each(drafts[:1], headers, claims[:1])
        except DuplicateConflict:
            raise Problem(422, "this Idempotency-Key was used before, with another body") from None
        return first + await self._accept_each(drafts[1:], headers, claims[1:])

    def once(self, scope: str, key: Sequence[str | int], digest: str = _SAME) -> Deduplication:
        """Return the claim on a key of several parts."""
        return Deduplication(scope, msgspec.json.encode(key).decode(), self._lifetime, digest)

    async def _accept_each(
        self, drafts: Sequence[Draft], headers: Mapping[str, str], claims: Sequence[Deduplication] = ()
    ) -> list[Accepted]:
        each = [[claim] for claim in claims] or [[] for _ in drafts]
        return await asyncio.gather(
            *(self.accept(draft, headers, once) for draft, once in zip(drafts, each, strict=True))
        )


def idempotency_key(headers: Mapping[str, str]) -> str | None:
    """Return the request's Idempotency-Key: a quoted structured string, or bare as many send it.

    Source: draft-ietf-httpapi-idempotency-key-header.

    Raises:
        Problem: 400 it is neither.
    """
    value = headers.get("Idempotency-Key")
    if value is None:
        return None
    quoted = _QUOTED.fullmatch(value)
    key = re.sub(r"\\(.)", r"\1", quoted[1]) if quoted else value
    if not (quoted or _BARE.fullmatch(value)) or not 0 < len(key) <= _LONGEST_KEY:
        raise Problem(400, f'Idempotency-Key: not a string such as "order-42" of at most {_LONGEST_KEY} characters')
    return key


def _trace(draft: Draft, headers: Mapping[str, str]) -> tuple[TraceContext, str | None]:
    """Return the trace the event belongs to: its own, the request's, or a new one."""
    if trace := TraceContext.parse(draft.traceparent):
        return trace, draft.tracestate
    if trace := TraceContext.parse(headers.get("traceparent")):
        tracestate = headers.get("tracestate")
        return trace, tracestate if tracestate and tracestate.isascii() else None
    return TraceContext.new(), None
