"""Publishing what somebody keeps in a database until it is published: each event exactly once.

Whoever keeps events there publishes some (`publish_kept`), deletes those that are, and then has them forgotten
(`forget`). Dying between any two of these steps loses nothing and doubles nothing, however many do it at once:

- Redis remembers the id of an event for a year, in the step that adds it, so that who publishes it again adds
  nothing: after a crash, or because another one took it as well.
- Once it is deleted, nobody takes it any more but who has it in hand already: a week is enough for him.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from penstock.client.client import Penstock
from penstock.errors import ConfigurationError, InvalidEvent
from penstock.redis.connection import telling_unavailable
from penstock.streams.publish import Deduplication
from penstock.telemetry.current import Parent, request

KEPT: Final = 365 * 86_400  # seconds that an event may lie between being published and being deleted
DELETED: Final = 7 * 86_400  # seconds that one who took it before it was deleted may take to publish it
_SCOPE = "outbox"


class KeptEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event in a database. `id` is its id for good; `data` is JSON; `delay` is in seconds from now.

    Without a `stream` it goes where jobs go.
    """

    id: str
    type: str
    data: str
    stream: str | None = None
    subject: str | None = None
    tenant: str | None = None
    extra: Mapping[str, str] | None = None
    delay: float = 0.0
    traceparent: str | None = None
    tracestate: str | None = None


async def publish_kept(mesh: Penstock, events: Sequence[KeptEvent]) -> list[Exception | None]:
    """Publish events, in their order; return for each None once Redis has it, or why it has not.

    That is ConfigurationError or InvalidEvent where it never will, Unavailable where trying again can help.

    Raises:
        ConfigurationError: the client has a spool, or no Redis, and so could take events that Redis has not.
    """
    if mesh.spools:
        raise ConfigurationError("PENSTOCK_SPOOL_DIR: what is kept in a database goes to Redis, never to a spool")
    if mesh.durability == "process":
        raise ConfigurationError(
            "PENSTOCK_BACKEND=memory: what is kept in a database goes to Redis, never to a process"
        )
    outcomes = await asyncio.gather(*(_publish(mesh, event) for event in events), return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException) and not isinstance(outcome, Exception):
            raise outcome
    return [outcome if isinstance(outcome, Exception) else None for outcome in outcomes]


def is_final(outcome: Exception | None) -> bool:
    """Whether an event can never be published as it is."""
    return isinstance(outcome, ConfigurationError | InvalidEvent)


async def forget(mesh: Penstock, ids: Iterable[str]) -> None:
    """Let go of events that are published, and of which it is certain that they are deleted.

    Raises:
        Unavailable: Redis is away; they are remembered for longer, then.
    """
    with telling_unavailable():
        async with mesh.redis.pipeline(transaction=False) as pipeline:
            for event_id in ids:
                pipeline.expire(mesh.keys.dedupe(_SCOPE, event_id), DELETED)
            await pipeline.execute()


async def _publish(mesh: Penstock, event: KeptEvent) -> None:
    request.set(Parent.of(event.traceparent, event.tracestate))  # each is a task of its own
    stream = event.stream or mesh.stream_for(None)
    mesh.check_stream(stream)
    await mesh.send(
        stream,
        event.type,
        event.data,
        event.id,
        subject=event.subject,
        tenant=event.tenant,
        extra=event.extra,
        delay=event.delay,
        once=[Deduplication(_SCOPE, event.id, KEPT, event.id)],
    )
