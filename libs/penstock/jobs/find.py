"""Finding a job by its id, in its record or on its stream."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import msgspec

from penstock.errors import AmbiguousEvent
from penstock.event import UNKNOWN_SOURCE, parse_identity
from penstock.jobs.ids import time_of
from penstock.jobs.progress import advanced, decode_progress
from penstock.jobs.record import Job, decode
from penstock.keys import DEAD_LETTERS, Keys
from penstock.redis.connection import AsyncRedis
from penstock.redis.scripts import Script
from penstock.text import number
from penstock.times import entry_ms, rfc3339
from penstock.topology import Topology

_entry = Script("penstock.jobs", "find_entry", read_only=True)
_standing = Script("penstock.jobs", "standing", read_only=True)
_scheduled = Script("penstock.jobs", "scheduled", read_only=True)
SEARCHED = 3_000  # entries looked through, of each stream, for what does not say where it lies
_SKEW_MS = 2_000  # how far the clocks of a gateway and of Redis may be apart


class _Wanted(NamedTuple):
    job_id: str
    source: str | None
    tenant: str | None


async def find_job(
    client: AsyncRedis,
    keys: Keys,
    topology: Topology,
    job_id: str,
    *,
    source: str | None = None,
    tenant: str | None = None,
) -> Job | None:
    """Return what became of the job, or None if nothing is known of it (or nothing of this source, or tenant).

    The commit writes a record once there is an outcome. Before that, and where none is left, the streams tell. A job
    that is due later has its time as `next_attempt_at`.
    While it runs there is its progress, if its handler says any.

    Raises:
        AmbiguousEvent: there are records of several sources, and none was given.
    """
    known = await find_record(client, keys, job_id, source, tenant)
    if known is not None:
        return known
    asked = client, keys, topology, _Wanted(job_id, source, tenant)
    # What is found at neither place may have gone from the second to the first meanwhile.
    return await _find_published(*asked) or await _find_scheduled(*asked) or await _find_published(*asked)


async def _find_published(client: AsyncRedis, keys: Keys, topology: Topology, wanted: _Wanted) -> Job | None:
    """Return the job as its stream tells of it."""
    job_id, source, tenant = wanted
    for stream in topology.work:
        found = await find_entry(client, keys, stream, job_id, source)
        if found is not None and tenant in (None, found[2]):
            entry_id, event_type, of_tenant, of_source = found
            job = Job(state="queued", type=event_type, tenant=of_tenant or None)
            for group in topology.workers(stream):  # one at most, in a sound mesh
                job = await _look(client, keys, job, stream=stream, group=group, entry_id=entry_id)
            if job.state == "running":
                job = _advanced(job, await client.hget(keys.progress_of(job_id), of_source))
            # What is over since we looked for its record has one now: the commit writes both.
            return (await find_record(client, keys, job_id, source, tenant) if job.is_over else None) or job
    return None


async def _find_scheduled(client: AsyncRedis, keys: Keys, topology: Topology, wanted: _Wanted) -> Job | None:
    """Return the job if it is yet to be published."""
    job_id, source, tenant = wanted
    for stream in topology.work:
        arguments: list[str | int] = [job_id, SEARCHED, source or ""]
        found = await _scheduled(client, [keys.scheduled(stream)], arguments)
        if found:
            event_type, of_tenant, due = (text.decode(errors="replace") for text in found)
            if tenant in (None, of_tenant):
                due_at = rfc3339(float(due) / 1000)
                return Job(state="queued", type=event_type, tenant=of_tenant or None, next_attempt_at=due_at)
    return None


async def find_record(
    client: AsyncRedis, keys: Keys, job_id: str, source: str | None, tenant: str | None = None
) -> Job | None:
    """Return the record of the job, None if there is none yet, or no more.

    Raises:
        AmbiguousEvent: there are records of several sources, and none was given.
        redis.exceptions.RedisError: Redis is away.
    """
    async with client.pipeline(transaction=False) as pipeline:
        pipeline.hgetall(keys.job(job_id))
        pipeline.hgetall(keys.progress_of(job_id))
        stored, said = await pipeline.execute()
    return recorded(stored, said, job_id, source, tenant)


def recorded(
    stored: Mapping[bytes, bytes], said: Mapping[bytes, bytes], job_id: str, source: str | None, tenant: str | None
) -> Job | None:
    """Return the job that is meant of those that have records, or progress, under one id, by source.

    Raises:
        AmbiguousEvent: there are records of several sources, and none was given.
    """
    records = {name.decode(): _advanced(decode(record), said.get(name)) for name, record in stored.items()}
    jobs = {
        name: job
        for name, job in records.items()
        if source in (None, name) and (tenant is None or job.tenant == tenant)
    }
    if len(jobs) > 1:
        raise AmbiguousEvent(job_id, sorted(jobs))
    return next(iter(jobs.values()), None)


def _advanced(job: Job, said: bytes | None) -> Job:
    return job if said is None else advanced(job, decode_progress(said))


async def find_dead_letter(client: AsyncRedis, keys: Keys, job_id: str, *, source: str | None = None) -> str | None:
    """Return the entry id of the newest dead letter of an event of this id (and source), None if none is found.

    Raises:
        redis.exceptions.RedisError: Redis is away.
    """
    arguments: list[str | int] = [DEAD_LETTERS, job_id, "+", "-", SEARCHED, "XREVRANGE", UNKNOWN_SOURCE]
    found = await _entry(client, [keys.stream(DEAD_LETTERS)], [*arguments, *([] if source is None else [source])])
    return found[0].decode() if found else None


async def find_entry(
    client: AsyncRedis, keys: Keys, stream: str, job_id: str, source: str | None
) -> tuple[str, str, str, str] | None:
    """Return entry, type, tenant and source of the event of that id, found on the server: entries may be large.

    Raises:
        redis.exceptions.RedisError: Redis is away.
    """
    for command, begin, end in _searches(stream, job_id):
        arguments: list[str | int] = [stream, job_id, begin, end, SEARCHED, command, UNKNOWN_SOURCE]
        found = await _entry(client, [keys.stream(stream)], [*arguments, *([] if source is None else [source])])
        if found:
            entry_id, event_type, tenant, of_source = (text.decode(errors="replace") for text in found)
            return entry_id, event_type, tenant, of_source
    return None


def _searches(stream: str, job_id: str) -> Iterator[tuple[str, str, str]]:
    """Yield where to look, the likeliest first: where the id says, from when it was made on, among the newest."""
    place = parse_identity(job_id)
    if place is not None and place[0] == stream:
        yield "XREVRANGE", place[1], place[1]
        return
    made_at = time_of(job_id)
    if made_at is not None:
        yield "XRANGE", str(max(0, made_at - _SKEW_MS)), "+"
    yield "XREVRANGE", "+", "-"


async def _look(client: AsyncRedis, keys: Keys, job: Job, *, stream: str, group: str, entry_id: str) -> Job:
    """Return the job as it stands with one group."""
    reply = await _standing(client, *places(keys, stream=stream, group=group, entry_id=entry_id))
    match [reply[0].decode(), *reply[1:]]:
        case ["dead", reason, error, attempts, finished_at]:
            return msgspec.structs.replace(
                job,
                state="dead",
                reason=reason.decode(errors="replace"),
                error=error.decode(errors="replace"),
                attempts=number(attempts.decode(errors="replace")),
                finished_at=finished_at.decode(errors="replace"),
            )
        case ["retrying", attempt]:
            return msgspec.structs.replace(job, state="retrying", attempts=attempt - 1)
        case [state]:
            return msgspec.structs.replace(job, state=state)
    raise AssertionError(reply)


def places(keys: Keys, *, stream: str, group: str, entry_id: str) -> tuple[list[str], list[str | int]]:
    """Return keys and arguments for standing.lua to look where a group stands with an entry."""
    parked = keys.retry(stream, group), keys.delayed(stream, group)
    found = [keys.stream(stream), *parked, keys.stream(DEAD_LETTERS), keys.replayed, keys.cancelled(stream)]
    begun = entry_ms(entry_id)
    since = begun if begun < time.time() * 1000 - _SKEW_MS else 0  # an id may be of a time to come
    return found, [group, entry_id, stream, since, SEARCHED]
