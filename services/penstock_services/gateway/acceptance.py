"""Acceptance: from a valid event to the answer that Redis has it.

Who sent it, whose it is and what its id is are set here, whatever the sender said. Whether a sender's id or an
Idempotency-Key is new is decided in the same step that adds the event. So there is no state in between: the 409 that
Idempotency-Key knows for "the first one is still being processed" cannot occur here; of two requests at the same
time, one adds the event and both get its id.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from penstock.event import encode
from penstock.jobs.identities import Identities
from penstock.streams.publish import Deduplication, DuplicateConflict, Published, Publisher
from penstock.telemetry.measures import Measures
from penstock.telemetry.server_spans import ServerSpan
from penstock.telemetry.spans import messaging, span
from penstock.trace_context import LINKS, TraceContext
from penstock.web.problems import Problem

SENDER_ID, DELIVERY = "sender_id", "delivery"
RESERVED = frozenset({SENDER_ID, DELIVERY, LINKS, "attempt"})
"""Fields of an entry that no sender sets: the mesh has its own use for them."""
_QUOTED = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"')  # a string of RFC 9651, 3.3.3
_BARE = re.compile(r"[!#-~][!-~]*")
_LONGEST_KEY = 255
_SAME = "-"  # the digest where the key alone is the identity


class Draft(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A valid event as it was sent. `id` and `source` are the sender's; the id names it among all of that source."""

    type: str
    data: str
    id: str | None = None
    source: str | None = None
    time: str | None = None
    subject: str | None = None
    tenant: str | None = None
    cause: str | None = None
    causesource: str | None = None
    extra: dict[str, str] = {}
    traceparent: str | None = None
    tracestate: str | None = None


class Sender(msgspec.Struct, frozen=True, kw_only=True):
    """Who sent an event: `source` says it to readers, and keeps their ids and keys apart from those of others."""

    source: str
    tenant: str | None = None


class Origin(msgspec.Struct, frozen=True):
    """The span that an event is sent in, and those that it also comes from."""

    trace: TraceContext
    tracestate: str | None = None
    links: tuple[TraceContext, ...] = ()


class Accepted(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="status", tag="accepted"):
    """An event that Redis has, as its sender is answered.

    `trace_id` is absent for a duplicate: the first one has its own. `durability` is there only while Redis is away:
    the event is on the gateway's own disk, and is published, once, when Redis is back.
    """

    job_id: str
    trace_id: str | None = None
    duplicate: bool = False
    durability: Literal["spooled"] | None = None


class AcceptedBatch(msgspec.Struct, frozen=True, kw_only=True, tag_field="status", tag="accepted"):
    """Events that Redis has, in the order in which they were sent."""

    jobs: list[Accepted]


class Acceptance:
    """Publishes drafts, each once."""

    def __init__(self, publisher: Publisher, identities: Identities, *, lifetime: int, telemetry: Measures) -> None:
        """Publish what comes in; what was sent is remembered for `lifetime` seconds."""
        self._publisher = publisher
        self._identities = identities
        self._telemetry = telemetry
        self._lifetime = lifetime

    async def accept(
        self,
        stream: str,
        draft: Draft,
        sender: Sender,
        request: ServerSpan,
        *,
        key: Sequence[str | int] = (),
        digest: str = _SAME,
        alone: bool = True,
    ) -> Accepted:
        """Publish a draft, in its own trace or that of `request`, unless its id or `key` was seen before.

        One that is not `alone` in a request whose sender named no trace begins one.

        Raises:
            Problem: 403 it is for another tenant than the sender's.
            Unavailable: Redis cannot take it now; or what redis-py says of it.
            DuplicateConflict: the key was used with another `digest`.
        """
        origin = self._origin(draft, request, alone=alone)
        source = f"{sender.source}/{draft.source}" if draft.source else sender.source
        event_id, once = await self._identify(source, draft.id, [sender.source, *key] if key else [], digest)
        fields = _fields(draft, event_id, source, _tenant(draft, sender))
        published = await self._publish(stream, fields, event_id, origin, once)
        if published.duplicate:
            return Accepted(job_id=event_id, duplicate=True)
        self._telemetry.sent(1, stream=stream)
        durability: Literal["spooled"] | None = "spooled" if published.spooled else None
        return Accepted(job_id=event_id, trace_id=origin.trace.trace_id, durability=durability)

    async def accept_all(
        self,
        stream: str,
        drafts: Sequence[Draft],
        sender: Sender,
        request: ServerSpan,
        headers: Mapping[str, str],
    ) -> list[Accepted]:
        """Publish drafts under the request's Idempotency-Key, if it has one.

        The first event's claim decides for all of them, so that the same key with another body adds
        nothing. The others' own claims let a request that was cut off in between be sent again.

        Raises:
            Problem: 400 the key is malformed, 422 it was used with another body, 403 as for `accept`.
            Unavailable: Redis cannot take them now.
        """
        if not drafts:
            return []
        for draft in drafts:
            _tenant(draft, sender)  # all or none
        key = idempotency_key(headers)
        digest = _SAME if key is None else hashlib.sha256(msgspec.json.encode([stream, drafts])).hexdigest()

        def accept(index: int) -> asyncio.Task[Accepted]:
            claim: list[str | int] = [] if key is None else [key, index]
            alone = len(drafts) == 1
            accepting = self.accept(stream, drafts[index], sender, request, key=claim, digest=digest, alone=alone)
            return asyncio.ensure_future(accepting)

        if key is not None or any(draft.id is not None for draft in drafts):
            await self._identities.prepare()  # those with an id of their own must not fall behind the others
        try:
            first = await accept(0)
        except DuplicateConflict:
            raise Problem(422, "this Idempotency-Key was used before, with another body") from None
        return [first, *await asyncio.gather(*map(accept, range(1, len(drafts))))]

    def _origin(self, draft: Draft, request: ServerSpan, *, alone: bool) -> Origin:
        """Return where the trace of an event comes from: its own, its request's, or a new one."""
        if own := TraceContext.parse(draft.traceparent):
            return Origin(own, draft.tracestate, (request.context,))
        if alone or request.continued:
            return Origin(request.context, request.tracestate)
        return Origin(self._telemetry.begin(TraceContext.new()), None, (request.context,))

    async def _identify(
        self, source: str, own_id: str | None, key: Sequence[str | int], digest: str
    ) -> tuple[str, list[Deduplication]]:
        """Return the id of an event, and what makes it one that was seen before."""
        event_id: str | None = None
        once = []
        if key:
            event_id = await self._identities.same("idempotency", key)
            once.append(self._once("idempotency", key, digest))
        if own_id is not None:
            event_id = await self._identities.same("event", [source, own_id])
            once.append(self._once("event", [source, own_id], _SAME))
        return event_id or self._identities.fresh(), once

    def _once(self, scope: str, key: Sequence[str | int], digest: str) -> Deduplication:
        return Deduplication(scope, msgspec.json.encode(key).decode(), self._lifetime, digest)

    async def _publish(
        self, stream: str, fields: list[str], event_id: str, origin: Origin, once: list[Deduplication]
    ) -> Published:
        about = messaging("send", "send", stream, **{"messaging.message.id": event_id})
        with span(
            self._telemetry, origin.trace, f"send {stream}", kind="producer", attributes=about, links=origin.links
        ) as sent:
            fields = [*fields, "traceparent", sent.context.traceparent]
            if origin.tracestate:
                fields += ("tracestate", origin.tracestate)
            return await self._publisher.publish(stream, fields, dedupe=once)


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


def _fields(draft: Draft, event_id: str, source: str, tenant: str | None) -> list[str]:
    return encode(
        draft.type,
        draft.data,
        event_id=event_id,
        source=source,
        time=draft.time,
        subject=draft.subject,
        tenant=tenant,
        cause=draft.cause,
        causesource=draft.causesource,
        extra={SENDER_ID: draft.id, **draft.extra} if draft.id is not None else draft.extra,
    )


def _tenant(draft: Draft, sender: Sender) -> str | None:
    if sender.tenant is not None and draft.tenant not in (None, sender.tenant):
        raise Problem(403, f"this sender is bound to tenant {sender.tenant}, and the event is for {draft.tenant}")
    return draft.tenant if sender.tenant is None else sender.tenant
