"""What a process does beside its own events: scheduled publications and the bounds of streams."""

from __future__ import annotations

from typing import Any

from penstock.dlq.retention import DeadLetterRetention
from penstock.keys import DEAD_LETTERS
from penstock.service.runtime import Runtime, events_key
from penstock.streams.memory import MemoryRelief
from penstock.streams.retention import Retention


async def named(awaitable: Any) -> None:
    """Await it as a coroutine, which is what a task is made of."""
    await awaitable


def _streams(runtime: Runtime) -> list[str]:
    """Return the streams that this service reads, publishes to or reports on."""
    spec, topology = runtime.spec, runtime.topology
    reports = {topology.reports(stream) for stream in spec.consumes if runtime.name in topology.workers(stream)}
    return sorted({*spec.consumes, *spec.publishes, *filter(None, reports)} - {DEAD_LETTERS})


def scheduled(runtime: Runtime) -> list[tuple[str, str]]:
    """Return where delayed publications to the streams of this service wait, and where they go."""
    keys = runtime.keys
    return [(keys.scheduled(stream), keys.stream(stream)) for stream in _streams(runtime)]


def trimming(runtime: Runtime) -> list[Any]:
    """Return what keeps the streams of this service, and the dead letters, within their bounds."""
    settings = runtime.settings
    streams = _streams(runtime)
    dead_letters = DeadLetterRetention(
        runtime.redis,
        runtime.keys,
        days=settings.dlq_retention_days,
        entries=settings.dlq_max_entries,
        events=events_key(runtime.keys, runtime.topology),
    )
    events = events_key(runtime.keys, runtime.topology)
    retention = Retention(runtime.redis, runtime.keys, runtime.topology, streams, events=events)
    relief = MemoryRelief(
        runtime.redis, runtime.keys, runtime.topology, share=settings.memory_share, job_ttl=settings.job_ttl
    )
    return [retention.run(), dead_letters.run(), relief.run()]
