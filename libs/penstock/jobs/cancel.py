"""Cancelling a job that waits: one that runs is left alone."""

from __future__ import annotations

import time
from typing import Any

import msgspec

from penstock.errors import NotCancelled
from penstock.event import Event, decode_retry, derived_id, encode, encode_data, identity, parse_identity
from penstock.jobs.find import SEARCHED, find_entry, find_job, places
from penstock.jobs.record import Job, decode
from penstock.keys import Keys
from penstock.redis.connection import AsyncRedis
from penstock.redis.scripts import Script
from penstock.schemas import JobEvent
from penstock.times import rfc3339
from penstock.topology import Topology

_look = Script("penstock.jobs", "standing", read_only=True)
_look_at_scheduled = Script("penstock.jobs", "scheduled", read_only=True)
_cancel = Script("penstock.jobs", "standing")
_cancel_scheduled = Script("penstock.jobs", "scheduled")
_TRIES = 10
_NOT_PUBLISHED = "0-0"  # stands for the entry of an event that has none


class Canceller:
    """Cancels jobs of one mesh: each exactly once, and none that has begun meanwhile."""

    def __init__(self, client: AsyncRedis, keys: Keys, topology: Topology, *, ttl: float) -> None:
        """Records live for `ttl` seconds."""
        self._redis = client
        self._keys = keys
        self._topology = topology
        self._ttl_ms = round(ttl * 1000)

    async def cancel(self, job_id: str, *, source: str | None = None, tenant: str | None = None) -> Job:
        """Cancel a job, unless it is cancelled already; return its record.

        Raises:
            NotCancelled: it runs, it is over, or nothing is known of it.
            AmbiguousEvent: there are jobs of several sources, and none was given.
            redis.exceptions.RedisError: Redis is away; whether it is cancelled, the same call will tell.
        """
        for _ in range(_TRIES):
            job = await find_job(self._redis, self._keys, self._topology, job_id, source=source, tenant=tenant)
            if job is not None and job.state == "cancelled":
                return job
            check_cancellable(job_id, job)
            cancelled = await self._cancel(job_id, source, tenant)
            if cancelled is not None:
                return cancelled
        raise NotCancelled(
            f"job {job_id} could not be cancelled: it lies behind more than are looked through, or never stands still",
            state=job.state if job is not None else None,
        )

    async def _cancel(self, job_id: str, source: str | None, tenant: str | None) -> Job | None:
        """Cancel a job where it waits, None if it is not to be found there now."""
        records = await self._redis.hgetall(self._keys.job(job_id))
        for of_source, record in records.items():
            if source in (None, of_source.decode()) and tenant in (None, decode(record).tenant):
                place = parse_identity(record.partition(b" ")[0].decode())
                return None if place is None else await self._cancel_entry(job_id, of_source.decode(), record, *place)
        for stream in self._topology.work:
            found = await find_entry(self._redis, self._keys, stream, job_id, source)
            if found is not None and tenant in (None, found[2]):
                return await self._cancel_entry(job_id, found[3], b"", stream, found[0])
        return await self._cancel_scheduled(job_id, source, tenant)

    async def _cancel_entry(self, job_id: str, source: str, record: bytes, stream: str, entry_id: str) -> Job | None:
        keys, group = self._keys, self._group(stream)
        where, arguments = places(keys, stream=stream, group=group, entry_id=entry_id)
        found = await _look(self._redis, where, [*arguments, "event"])
        if found[0] == b"running":  # its record is of an attempt before this one
            raise running(job_id)
        if not isinstance(found[-1], list):
            return None
        event, origin = decode_retry(stream, entry_id, found[-1])
        attempts = decode(record).attempts if record else origin.attempt - 1
        job, report = cancelled(event, group, attempts)
        how = self._how(source, record, identity(stream, entry_id), job, report)
        told = keys.job(job_id), keys.checkpoint(group, event.unique_id), *self._told_on(stream)
        done = await _cancel(self._redis, [*where, *told], [*arguments, how])
        return job if done[0] == b"cancelled" else None

    async def _cancel_scheduled(self, job_id: str, source: str | None, tenant: str | None) -> Job | None:
        keys = self._keys
        for stream in self._topology.work:
            arguments: list[str | int] = [job_id, SEARCHED, source or ""]
            found = await _look_at_scheduled(self._redis, [keys.scheduled(stream)], [*arguments, "event"])
            if not found or tenant not in (None, found[1].decode()):
                continue
            event, _ = decode_retry(stream, _NOT_PUBLISHED, found[3])
            job, report = cancelled(event, self._group(stream), 0)
            how = self._how(event.source, b"", identity(stream, _NOT_PUBLISHED), job, report)
            told = keys.job(job_id), *self._told_on(stream)
            where = keys.scheduled(stream), *told
            if await _cancel_scheduled(self._redis, where, [job_id, SEARCHED, event.source, how]):
                return job
        return None

    def _group(self, stream: str) -> str:
        """Return whose work it is; as long as it is nobody's, a group that does not exist."""
        return next(iter(self._topology.workers(stream)), stream)

    def _told_on(self, stream: str) -> list[str]:
        reports = self._topology.reports(stream)
        return [] if reports is None else [self._keys.stream(reports)]

    def _how(self, source: str, record: bytes, entry: str, job: Job, report: list[str]) -> bytes:
        """Return what scripts are told of a job that they are to cancel."""
        told: list[Any] = [source, record.decode(), f"{entry} {encode_data(job)}", self._ttl_ms, report]
        return msgspec.msgpack.encode(told)


def check_cancellable(job_id: str, job: Job | None) -> None:
    """Refuse to cancel what does not wait.

    Raises:
        NotCancelled: with the reason.
    """
    if job is None:
        raise NotCancelled(f"nothing is known of a job {job_id}: it never was, or is over for long", state=None)
    if job.state == "running":
        raise running(job_id)
    if job.is_over:
        raise NotCancelled(f"job {job_id} is {job.state}: it is over", state=job.state)


def running(job_id: str) -> NotCancelled:
    """Return why a job is not cancelled that has begun."""
    return NotCancelled(f"job {job_id} is running: what has begun goes on to its end", state="running")


def cancelled(event: Event, group: str, attempts: int) -> tuple[Job, list[str]]:
    """Return the record of a job that is cancelled after so many attempts, and the fields of what tells of it."""
    job = Job(
        state="cancelled",
        type=event.type,
        attempts=attempts,
        finished_at=rfc3339(time.time()),
        trace_id=event.trace.trace_id,
        tenant=event.tenant,
    )
    report = encode(
        "job.cancelled",
        encode_data(JobEvent(job_id=event.id, job_type=event.type, attempt=attempts)),
        event_id=derived_id(group, event.unique_id, f"job.cancelled#{attempts}"),
        source=group,
        subject=event.subject,
        tenant=event.tenant,
        traceparent=event.trace.child().traceparent,
        tracestate=event.tracestate,
        cause=event.id,
        causesource=event.source,
    )
    return job, report
