"""Finding a job by its id, in its record or on its stream."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from redis.exceptions import ResponseError

from penstock.errors import PenstockError
from penstock.event import UNKNOWN_SOURCE, parse_identity
from penstock.jobs.ids import time_of
from penstock.jobs.record import Job, JobState, decode
from penstock.keys import DEAD_LETTERS, Keys
from penstock.redis.connection import AsyncRedis
from penstock.redis.scripts import Script
from penstock.topology import Topology

_entry = Script("penstock.jobs", "find_entry", read_only=True)
_SEARCHED = 3_000  # entries looked through for an id that does not say where its entry lies
_SKEW_MS = 2_000  # how far the clocks of a gateway and of Redis may be apart


class AmbiguousJob(PenstockError):
    """Several events have this id, each of another source."""

    def __init__(self, job_id: str, sources: Sequence[str]) -> None:
        self.sources = sources
        super().__init__(f"{len(sources)} sources have an event {job_id}: {', '.join(sources)}; say which one is meant")


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

    The commit writes a record once there is an outcome; before that the stream itself tells.

    Raises:
        AmbiguousJob: there are records of several sources, and none was given.
    """
    records = {name.decode(): decode(record) for name, record in (await client.hgetall(keys.job(job_id))).items()}
    jobs = {
        name: job
        for name, job in records.items()
        if source in (None, name) and (tenant is None or job.tenant == tenant)
    }
    if len(jobs) > 1:
        raise AmbiguousJob(job_id, sorted(jobs))
    for job in jobs.values():
        return job
    for stream in topology.work:
        found = await _find_entry(client, keys, stream, job_id, source)
        if found is not None and tenant in (None, found[2]):
            entry_id, event_type, of_tenant = found
            state = await _progress(client, keys, topology, stream, entry_id)
            return Job(state=state, type=event_type, tenant=of_tenant or None)
    return None


async def find_dead_letter(client: AsyncRedis, keys: Keys, job_id: str) -> str | None:
    """Return the entry id of the newest dead letter of an event of this id, None if it has none or is long dead.

    Raises:
        redis.exceptions.RedisError: Redis is away.
    """
    found = await _entry(
        client, [keys.stream(DEAD_LETTERS)], [DEAD_LETTERS, job_id, "+", "-", _SEARCHED, "XREVRANGE", UNKNOWN_SOURCE]
    )
    return found[0].decode() if found else None


async def _find_entry(
    client: AsyncRedis, keys: Keys, stream: str, job_id: str, source: str | None
) -> tuple[str, str, str] | None:
    """Return entry, type and tenant of the event of that id, searched for on the server: entries may be large."""
    for command, begin, end in _searches(stream, job_id):
        arguments: list[str | int] = [stream, job_id, begin, end, _SEARCHED, command, UNKNOWN_SOURCE]
        found = await _entry(client, [keys.stream(stream)], [*arguments, *([] if source is None else [source])])
        if found:
            entry_id, event_type, tenant = (text.decode(errors="replace") for text in found)
            return entry_id, event_type, tenant
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


async def _progress(client: AsyncRedis, keys: Keys, topology: Topology, stream: str, entry_id: str) -> JobState:
    for group in topology.workers(stream):
        try:
            if await client.xpending_range(keys.stream(stream), group, entry_id, entry_id, 1):
                return "running"
        except ResponseError:  # the service has never run
            pass
    return "queued"
