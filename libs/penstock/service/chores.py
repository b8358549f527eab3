"""What a process does beside its own events: scheduled publications and the bounds of streams."""

from __future__ import annotations

from typing import Any

from penstock.dlq.retention import DeadLetterRetention
from penstock.service.runtime import Runtime, events_key
from penstock.streams.memory import MemoryRelief
from penstock.streams.retention import Retention


async def named(awaitable: Any) -> None:
    """Await it as a coroutine, which is what a task is made of."""
    await awaitable


def scheduled(runtime: Runtime) -> list[tuple[str, str]]:
    """Return where delayed publications to the streams of this service wait, and where they go."""
    keys = runtime.keys
    return [(keys.scheduled(stream), keys.stream(stream)) for stream in runtime.topology.streams_of(runtime.name)]


def trimming(runtime: Runtime) -> list[Any]:
    """Return what keeps the streams of this service within their bounds, and the dead letters if it makes any."""
    settings = runtime.settings
    streams = runtime.topology.streams_of(runtime.name)
    events = events_key(runtime.keys, runtime.topology)
    retention = Retention(runtime.redis, runtime.keys, runtime.topology, streams, events=events)
    relief = MemoryRelief(
        runtime.redis,
        runtime.keys,
        runtime.topology,
        streams,
        service=runtime.name,
        share=settings.memory_share,
        job_ttl=settings.job_ttl if runtime.topology.works(runtime.name) else None,
    )
    if not runtime.spec.consumes:
        return [retention.run(), relief.run()]
    dead_letters = DeadLetterRetention(
        runtime.redis,
        runtime.keys,
        days=settings.dlq_retention_days,
        entries=settings.dlq_max_entries,
        events=events,
    )
    return [retention.run(), dead_letters.run(), relief.run()]
